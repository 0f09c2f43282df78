/* tokenizer.c: opens a tokenizer and encodes. */
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"
#include "text/tok.h"

#define MAX_FILE ((size_t)1 << 30) /* bytes; the largest tokenizer.json in use has 37 MB */

/* --- opening
 * -------------------------------------------------------------------------------------------------------------------
 */
static int check_top(const pl_json *root, pl_error *err) {
    const char *version = "1.0";
    size_t n;
    if (pl_json_kind_of(root) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "tokenizer.json: want an object");
    int rc = pl_json_member_string(root, "version", false, &version, &n, "tokenizer.json", err);
    if (rc) return rc;
    if (strcmp(version, "1.0") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "tokenizer.json: version \"%.20s\"", version);
    return pl_tok_keys(root,
                       "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model",
                       "tokenizer.json", err);
}

/* The largest id of all, and which added token has which id. */
static int index_added(pl_tokenizer *t, pl_error *err) {
    t->size = t->model.vocab.size;
    for (int64_t i = 0; i < t->added.n; i++) t->size = PL_MAX(t->size, t->added.token[i].id + 1);
    int rc = PL_NEW(&t->added_of, t->size, err);
    if (rc) return rc;
    memset(t->added_of, 0xFF, (size_t)t->size * sizeof *t->added_of);
    for (int64_t i = 0; i < t->added.n; i++) t->added_of[t->added.token[i].id] = (int32_t)i;
    return 0;
}

static int check_around(const pl_tokenizer *t, const int32_t *ids, int64_t n, pl_error *err) {
    for (int64_t i = 0; i < n; i++)
        if (!pl_tokenizer_token(t, ids[i], NULL))
            return PL_FAIL(err, PL_E_FORMAT, "tokenizer.json: post_processor adds id %" PRId32 ", which is no token",
                           ids[i]);
    return 0;
}

/* Text that the model has no token for vanishes, as in HF: worth a word. */
static void warn_of_gaps(const pl_tokenizer *t) {
    const pl_bpe *b = &t->model;
    int missing = 0;
    bool bytes = false;
    for (int i = 0; i < t->pretokenizer.n; i++) bytes = bytes || t->pretokenizer.step[i].kind == PL_PRE_BYTES;
    for (int i = 0; i < t->normalizer.n; i++) bytes = bytes || t->normalizer.step[i].kind == PL_NORM_BYTES;
    if (b->unk || b->prefix || b->suffix) return;
    if (bytes) {
        for (uint32_t c = 0; c < 0x144; c++) missing += pl_char_to_byte(c) >= 0 && b->char_id[c] < 0;
        if (missing == 0) return;
        pl_log(PL_LOG_WARN,
               "tokenizer.json: %d of the 256 bytes have no token and no unk_token: they are dropped from texts",
               missing);
        return;
    }
    for (int i = 0; i < 256; i++) missing += b->byte_id[i] < 0;
    if (!b->byte_fallback || missing)
        pl_log(PL_LOG_WARN, "tokenizer.json: characters without a token are dropped from texts (no unk_token, %s)",
               b->byte_fallback ? "byte tokens missing" : "no byte_fallback");
}

static int parse_parts(pl_tokenizer *t, const pl_json *root, pl_error *err) {
    int rc;
    PL_GO(rc, check_top(root, err));
    PL_GO(rc, pl_bpe_parse(&t->model, pl_json_get(root, "model"), err));
    PL_GO(rc, pl_normalizer_parse(&t->normalizer, pl_json_get(root, "normalizer"), err));
    PL_GO(rc, pl_pretokenizer_parse(&t->pretokenizer, pl_json_get(root, "pre_tokenizer"), err));
    PL_GO(rc, pl_added_parse(&t->added, pl_json_get(root, "added_tokens"), &t->model, &t->normalizer, err));
    PL_GO(rc, pl_postprocessor_parse(&t->post, pl_json_get(root, "post_processor"), err));
    PL_GO(rc, pl_decoder_parse(&t->decoder, pl_json_get(root, "decoder"), err));
    PL_GO(rc, index_added(t, err));
    PL_GO(rc, check_around(t, t->post.before, t->post.n_before, err));
    PL_GO(rc, check_around(t, t->post.after, t->post.n_after, err));
    warn_of_gaps(t);
out:
    return rc;
}

/* config, map: NULL or the objects of tokenizer_config.json and special_tokens_map.json. */
static int build(pl_tokenizer **out, const char *json, size_t len, const pl_json *config, const pl_json *map,
                 pl_error *err) {
    int rc;
    pl_json *root = NULL;
    pl_tokenizer *t = NULL;
    PL_GO(rc, PL_NEW(&t, 1, err));
    PL_GO(rc, pl_json_parse(&root, json, len, "tokenizer.json", err));
    PL_GO(rc, parse_parts(t, root, err));
    PL_GO(rc, pl_tokenizer_read_config(t, config, map, err));
    t->hash = pl_hash_bytes(json, len);
    *out = t;
    t = NULL;
out:
    pl_json_free(root);
    pl_tokenizer_free(t);
    return rc;
}

int pl_tokenizer_parse(pl_tokenizer **out, const char *json, size_t len, const char *config, size_t config_len,
                       pl_error *err) {
    pl_json *c = NULL;
    int rc = config ? pl_json_parse(&c, config, config_len, "tokenizer_config.json", err) : 0;
    if (rc == 0) rc = build(out, json, len, c, NULL, err);
    pl_json_free(c);
    return rc;
}

/* The JSON file dir/name; *out stays NULL when there is none. */
static int load_beside(pl_json **out, const char *dir, const char *name, pl_error *err) {
    char *path = NULL;
    int rc = pl_path_join(&path, dir, name, err);
    if (rc == 0 && pl_file_exists(path)) rc = pl_json_load(out, path, MAX_FILE, err);
    pl_free(path);
    return rc;
}

int pl_tokenizer_open(pl_tokenizer **out, const char *model_dir, pl_error *err) {
    int rc;
    char *path = NULL, *json = NULL;
    size_t len;
    pl_json *config = NULL, *map = NULL;
    PL_GO(rc, pl_path_join(&path, model_dir, "tokenizer.json", err));
    if (!pl_dir_exists(model_dir)) PL_GO(rc, pl_dir_missing(model_dir, err));
    if (!pl_file_exists(path)) {
        rc = PL_FAIL(err, PL_E_IO,
                     "%s: no such file (vocab.json with merges.txt and tokenizer.model are not read: save the "
                     "tokenizer with transformers' save_pretrained)",
                     path);
        goto out;
    }
    PL_GO(rc, pl_file_read(&json, &len, path, MAX_FILE, err));
    PL_GO(rc, load_beside(&config, model_dir, "tokenizer_config.json", err));
    PL_GO(rc, load_beside(&map, model_dir, "special_tokens_map.json", err));
    rc = build(out, json, len, config, map, err);
    if (rc) rc = pl_error_context(err, rc, "%s", model_dir);
out:
    pl_json_free(config);
    pl_json_free(map);
    pl_free(json);
    pl_free(path);
    return rc;
}

void pl_tokenizer_free(pl_tokenizer *t) {
    if (!t) return;
    pl_normalizer_release(&t->normalizer);
    pl_pretokenizer_release(&t->pretokenizer);
    pl_bpe_release(&t->model);
    pl_added_release(&t->added);
    pl_postprocessor_release(&t->post);
    pl_decoder_release(&t->decoder);
    pl_free(t->added_of);
    pl_free(t);
}

/* --- encoding
 * ------------------------------------------------------------------------------------------------------------------ */
static int take_normalized(void *user, const pl_added_token *token, pl_span text) {
    pl_encoder *e = user;
    return token ? pl_ids_add(e->out, token->id, e->err) : pl_pretokenizer_apply(e, text);
}

static int take_raw(void *user, const pl_added_token *token, pl_span text) {
    pl_encoder *e = user;
    const pl_tokenizer *t = e->t;
    if (token) return pl_ids_add(e->out, token->id, e->err);
    int rc = pl_normalizer_apply(&text, &t->normalizer, text, e->prefix, &e->norm, e->err);
    return rc ? rc : pl_added_split(&t->added, &t->added.normalized, text, e->as_text, take_normalized, e);
}

static int add_all(pl_ids *out, const int32_t *ids, int64_t n, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < n; i++) rc = pl_ids_add(out, ids[i], err);
    return rc;
}

static void release_encoder(pl_encoder *e) {
    pl_norm_scratch_release(&e->norm);
    for (int i = 0; i < e->t->pretokenizer.n; i++) {
        pl_regex_scratch_release(&e->regex[i]);
        pl_buf_release(&e->buf[i]);
    }
    pl_bpe_scratch_release(&e->bpe);
}

static int check_text(const char *text, size_t len, unsigned flags, pl_error *err) {
    size_t valid = pl_utf8_valid(text, len);
    if (flags > 15 || ((flags & PL_ENCODE_CONTINUE) && (flags & (PL_ENCODE_SPECIAL | PL_ENCODE_LEADING))))
        return PL_FAIL(err, PL_E_OPTION, "encoding flags %u contradict each other", flags);
    if (valid != len)
        return PL_FAIL(err, PL_E_FORMAT, "the text is not UTF-8 at byte %zu (0x%02x)", valid,
                       (unsigned char)text[valid]);
    return 0;
}

int pl_tokenizer_encode(const pl_tokenizer *t, const char *text, size_t len, unsigned flags, pl_ids *out,
                        pl_error *err) {
    int rc = check_text(text, len, flags, err);
    if (rc) return rc;
    int64_t before = out->n;
    pl_encoder e = {.t = t, .out = out, .err = err};
    e.prefix = !(flags & PL_ENCODE_CONTINUE);
    e.as_text = flags & PL_ENCODE_AS_TEXT;
    if (flags & (PL_ENCODE_SPECIAL | PL_ENCODE_LEADING)) PL_GO(rc, add_all(out, t->post.before, t->post.n_before, err));
    PL_GO(rc, pl_added_split(&t->added, &t->added.raw, (pl_span){text, len, true}, e.as_text, take_raw, &e));
    if (flags & PL_ENCODE_SPECIAL) PL_GO(rc, add_all(out, t->post.after, t->post.n_after, err));
out:
    if (rc) out->n = before;
    release_encoder(&e);
    return rc;
}

/* --- tokens
 * --------------------------------------------------------------------------------------------------------------------
 */
int32_t pl_tokenizer_id(const pl_tokenizer *t, const char *token, size_t len) {
    int32_t i = pl_vocab_find(&t->added.by_content, token, len);
    return i >= 0 ? t->added.token[i].id : pl_vocab_find(&t->model.vocab, token, len);
}

const char *pl_tokenizer_token(const pl_tokenizer *t, int32_t id, size_t *len) {
    if (id < 0 || id >= t->size) return NULL;
    if (t->added_of[id] < 0) return pl_vocab_at(&t->model.vocab, id, len);
    const pl_added_token *a = &t->added.token[t->added_of[id]];
    if (len) *len = a->len;
    return a->content;
}

bool pl_tokenizer_is_special(const pl_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && t->added_of[id] >= 0 && t->added.token[t->added_of[id]].special;
}

int64_t pl_tokenizer_vocab_size(const pl_tokenizer *t) { return t->size; }
int32_t pl_tokenizer_bos(const pl_tokenizer *t) { return t->bos; }
int32_t pl_tokenizer_eos(const pl_tokenizer *t) { return t->eos; }
int32_t pl_tokenizer_pad(const pl_tokenizer *t) { return t->pad; }
int32_t pl_tokenizer_unk(const pl_tokenizer *t) { return t->unk; }
const char *pl_tokenizer_hash(const pl_tokenizer *t) { return t->hash.hex; }

const int32_t *pl_tokenizer_leading(const pl_tokenizer *t, int64_t *n) {
    *n = t->post.n_before;
    return t->post.before;
}

const int32_t *pl_tokenizer_trailing(const pl_tokenizer *t, int64_t *n) {
    *n = t->post.n_after;
    return t->post.after;
}
