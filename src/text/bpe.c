/* bpe.c: the BPE model's tables, and from a piece of text to the symbols that merging starts with. */
#include <math.h>
#include <string.h>

#include "text/tok.h"
#include "text/unichar.h"

static const char what[] = "tokenizer.json: model";

/* --- ids
 * -----------------------------------------------------------------------------------------------------------------------
 */
int pl_ids_reserve(pl_ids *ids, int64_t more, pl_error *err) {
    if (ids->cap - ids->n >= more) return 0;
    int64_t cap = ids->n + more + ids->cap / 2;
    size_t bytes;
    int rc = pl_bytes2(&bytes, cap, sizeof *ids->ids, err);
    if (rc == 0) rc = pl_realloc((void **)&ids->ids, (size_t)ids->n * sizeof *ids->ids, bytes, err);
    if (rc == 0) ids->cap = cap;
    return rc;
}

int pl_ids_add(pl_ids *ids, int32_t id, pl_error *err) {
    int rc = pl_ids_reserve(ids, 1, err);
    if (rc == 0) ids->ids[ids->n++] = id;
    return rc;
}

void pl_ids_release(pl_ids *ids) {
    if (!ids) return;
    pl_free(ids->ids);
    *ids = (pl_ids){0};
}

/* --- parsing
 * -------------------------------------------------------------------------------------------------------------------
 */
static int parse_vocab(pl_vocab *v, const pl_json *o, pl_error *err) {
    if (pl_json_kind_of(o) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "%s: \"vocab\" must be an object", what);
    int64_t count = pl_json_len(o), largest = -1;
    size_t bytes = 0;
    for (pl_json_iter it = pl_json_first(o); it.entry; it = pl_json_next(it)) {
        int64_t id = pl_json_int(it.value);
        if (pl_json_kind_of(it.value) != PL_J_INT || id < 0 || id >= PL_VOCAB_MAX_ID)
            return PL_FAIL(err, PL_E_FORMAT, "%s: vocab: \"%.60s\" has no id from 0 to %" PRId64, what, it.key,
                           PL_VOCAB_MAX_ID - 1);
        largest = PL_MAX(largest, id);
        bytes += strlen(it.key);
    }
    int rc = pl_vocab_init(v, count, largest + 1, bytes, err);
    for (pl_json_iter it = pl_json_first(o); rc == 0 && it.entry; it = pl_json_next(it))
        rc = pl_vocab_add(v, it.key, strlen(it.key), pl_json_int(it.value), err);
    return rc ? pl_error_context(err, rc, "%s: vocab", what) : 0;
}

static size_t pair_slot(const pl_bpe *b, uint64_t pair) {
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ (h >> 32)) & b->mask;
}

const pl_merge *pl_bpe_find(const pl_bpe *b, uint32_t left, uint32_t right) {
    uint64_t pair = (uint64_t)left << 32 | right;
    for (size_t i = pair_slot(b, pair);; i = (i + 1) & b->mask) {
        const pl_merge *m = &b->merge[i];
        if (m->pair == pair) return m;
        if (m->pair == UINT64_MAX) return NULL;
    }
}

/* A pair that is listed twice counts where it is listed last. */
static void put_merge(pl_bpe *b, uint64_t pair, uint32_t rank, uint32_t id) {
    size_t i = pair_slot(b, pair);
    while (b->merge[i].pair != pair && b->merge[i].pair != UINT64_MAX) i = (i + 1) & b->mask;
    b->merge[i] = (pl_merge){pair, rank, id};
}

/* The two sides of merge i: "a b" or ["a", "b"]. */
static bool merge_sides(const pl_json *v, const char *side[2], size_t len[2]) {
    if (pl_json_kind_of(v) == PL_J_ARRAY) {
        if (pl_json_len(v) != 2) return false;
        for (int k = 0; k < 2; k++)
            if (!(side[k] = pl_json_string(pl_json_at(v, k), &len[k]))) return false;
        return true;
    }
    size_t n;
    const char *s = pl_json_string(v, &n);
    const char *blank = s ? memchr(s, ' ', n) : NULL;
    if (!blank || memchr(blank + 1, ' ', n - (size_t)(blank + 1 - s))) return false;
    side[0] = s;
    len[0] = (size_t)(blank - s);
    side[1] = blank + 1;
    len[1] = n - len[0] - 1;
    return true;
}

static int add_merge(pl_bpe *b, const pl_json *v, uint32_t rank, pl_buf *joined, pl_error *err) {
    const char *side[2];
    size_t len[2], cut = b->prefix ? strlen(b->prefix) : 0;
    if (!merge_sides(v, side, len))
        return PL_FAIL(err, PL_E_FORMAT, "%s: merge %u is neither \"a b\" nor [\"a\", \"b\"]", what, rank);
    int32_t left = pl_vocab_find(&b->vocab, side[0], len[0]), right = pl_vocab_find(&b->vocab, side[1], len[1]);
    if (left < 0 || right < 0 || len[1] < cut)
        return PL_FAIL(err, PL_E_FORMAT, "%s: merge %u: \"%.60s\" is not in the vocabulary", what, rank,
                       left < 0 ? side[0] : side[1]);
    pl_buf_clear(joined);
    int rc = pl_buf_add(joined, side[0], len[0], err);
    if (rc == 0) rc = pl_buf_add(joined, side[1] + cut, len[1] - cut, err);
    if (rc) return rc;
    int32_t id = pl_vocab_find(&b->vocab, joined->data, joined->len);
    if (id < 0)
        return PL_FAIL(err, PL_E_FORMAT, "%s: merge %u makes \"%.60s\", which is not in the vocabulary", what, rank,
                       joined->data);
    put_merge(b, (uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, (uint32_t)id);
    return 0;
}

static int parse_merges(pl_bpe *b, const pl_json *list, pl_error *err) {
    if (pl_json_kind_of(list) != PL_J_ARRAY) return PL_FAIL(err, PL_E_FORMAT, "%s: \"merges\" must be an array", what);
    int64_t n = pl_json_len(list);
    pl_buf joined = {0};
    uint32_t rank = 0;
    int rc = 0;
    if (n >= UINT32_MAX) return PL_FAIL(err, PL_E_RANGE, "%s: %" PRId64 " merges", what, n);
    for (b->mask = 15; (int64_t)b->mask < 2 * n; b->mask = 2 * b->mask + 1) {
    }
    PL_GO(rc, PL_NEW(&b->merge, (int64_t)b->mask + 1, err));
    memset(b->merge, 0xFF, (b->mask + 1) * sizeof *b->merge);
    for (int64_t i = 0; i < n; i++) {
        const char *s = pl_json_string(pl_json_at(list, i), NULL);
        if (s && strncmp(s, "#version", 8) == 0) continue;
        PL_GO(rc, add_merge(b, pl_json_at(list, i), rank++, &joined, err));
    }
out:
    pl_buf_release(&joined);
    return rc;
}

static int parse_string(char **out, const pl_json *o, const char *key, pl_error *err) {
    const char *s = NULL;
    size_t n;
    int rc = pl_json_member_string(o, key, false, &s, &n, what, err);
    if (rc || !s) return rc;
    if (strlen(s) != n) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: \"%s\" with a NUL", what, key);
    return n ? pl_strdup(out, s, err) : 0;
}

static int parse_options(pl_bpe *b, const pl_json *o, pl_error *err) {
    int rc;
    double dropout = 0;
    PL_GO(rc, pl_tok_keys(o,
                          "dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback "
                          "ignore_merges vocab merges",
                          what, err));
    PL_GO(rc, pl_json_member_double(o, "dropout", false, &dropout, what, err));
    if (!(fabs(dropout) <= 0)) {
        rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: dropout", what);
        goto out;
    }
    PL_GO(rc, parse_string(&b->unk, o, "unk_token", err));
    PL_GO(rc, parse_string(&b->prefix, o, "continuing_subword_prefix", err));
    PL_GO(rc, parse_string(&b->suffix, o, "end_of_word_suffix", err));
    PL_GO(rc, pl_json_member_bool(o, "fuse_unk", false, &b->fuse_unk, what, err));
    PL_GO(rc, pl_json_member_bool(o, "byte_fallback", false, &b->byte_fallback, what, err));
    PL_GO(rc, pl_json_member_bool(o, "ignore_merges", false, &b->ignore_merges, what, err));
out:
    return rc;
}

/* Shortcuts into the vocabulary: single characters, byte tokens, the unknown token. */
static int index_vocab(pl_bpe *b, pl_error *err) {
    int rc = PL_NEW(&b->char_id, 0x10000, err);
    if (rc) return rc;
    memset(b->char_id, 0xFF, 0x10000 * sizeof *b->char_id);
    for (int64_t id = 0; id < b->vocab.size; id++) {
        size_t n, len;
        const char *s = pl_vocab_at(&b->vocab, id, &n);
        if (!s || n == 0 || n > 3) continue;
        uint32_t c = pl_char_at(s, n, &len);
        if (len == n) b->char_id[c] = (int32_t)id;
    }
    for (int i = 0; i < 256; i++) {
        const char *hex = "0123456789ABCDEF";
        char name[] = {'<', '0', 'x', hex[i >> 4], hex[i & 15], '>'};
        b->byte_id[i] = pl_vocab_find(&b->vocab, name, sizeof name);
    }
    b->unk_id = b->unk ? pl_vocab_find(&b->vocab, b->unk, strlen(b->unk)) : -1;
    return 0;
}

int pl_bpe_parse(pl_bpe *b, const pl_json *o, pl_error *err) {
    const char *type = "BPE"; /* old files leave it out */
    size_t n;
    int rc;
    if (pl_json_kind_of(o) != PL_J_OBJECT)
        return PL_FAIL(err, PL_E_FORMAT, "tokenizer.json: \"model\" must be an object");
    PL_GO(rc, pl_json_member_string(o, "type", false, &type, &n, what, err));
    if (strcmp(type, "BPE") != 0) {
        rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: type \"%.60s\", only BPE", what, type);
        goto out;
    }
    PL_GO(rc, parse_options(b, o, err));
    PL_GO(rc, parse_vocab(&b->vocab, pl_json_get(o, "vocab"), err));
    PL_GO(rc, index_vocab(b, err));
    PL_GO(rc, parse_merges(b, pl_json_get(o, "merges"), err));
out:
    return rc;
}

void pl_bpe_release(pl_bpe *b) {
    pl_vocab_release(&b->vocab);
    pl_free(b->merge);
    pl_free(b->char_id);
    pl_free(b->unk);
    pl_free(b->prefix);
    pl_free(b->suffix);
    *b = (pl_bpe){0};
}

/* --- symbols
 * -------------------------------------------------------------------------------------------------------------------
 */
void pl_bpe_scratch_release(pl_bpe_scratch *s) {
    pl_free(s->symbol);
    pl_free(s->heap);
    pl_buf_release(&s->piece);
    *s = (pl_bpe_scratch){0};
}

/* Room for a symbol per byte: the most that a piece can start with (byte tokens). */
static int reserve_symbols(pl_bpe_scratch *s, int64_t n, pl_error *err) {
    if (n <= s->symbol_cap) return 0;
    int64_t cap = PL_MAX(n, PL_MAX(2 * s->symbol_cap, 64));
    pl_free(s->symbol);
    s->symbol = NULL;
    s->symbol_cap = 0;
    int rc = PL_NEW(&s->symbol, cap, err);
    if (rc == 0) s->symbol_cap = cap;
    return rc;
}

/* The character's string in the vocabulary: with the prefix unless first, with the suffix when last. */
static int char_token(int32_t *id, const char **s, size_t *n, const pl_bpe *b, bool first, bool last, pl_buf *piece,
                      pl_error *err) {
    bool prefix = b->prefix && !first, suffix = b->suffix && last;
    if (prefix || suffix) {
        int rc = 0;
        pl_buf_clear(piece);
        if (prefix) rc = pl_buf_puts(piece, b->prefix, err);
        if (rc == 0) rc = pl_buf_add(piece, *s, *n, err);
        if (rc == 0 && suffix) rc = pl_buf_puts(piece, b->suffix, err);
        if (rc) return rc;
        *s = piece->data;
        *n = piece->len;
    } else if (*n <= 3) {
        size_t len;
        *id = b->char_id[pl_char_at(*s, *n, &len)];
        return 0;
    }
    *id = pl_vocab_find(&b->vocab, *s, *n);
    return 0;
}

static bool has_byte_tokens(const pl_bpe *b, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (b->byte_id[(unsigned char)s[i]] < 0) return false;
    return true;
}

typedef struct starter {
    pl_symbol *symbol;
    int64_t n;
    int64_t unknown; /* unknown tokens that wait: put before the next known one, as HF does it */
} starter;

static void put(starter *w, int32_t id) { w->symbol[w->n++].id = id; }

static int put_unknown(starter *w, const pl_bpe *b, const char *s, size_t n, pl_error *err) {
    if (b->byte_fallback && has_byte_tokens(b, s, n)) {
        for (size_t i = 0; i < n; i++) put(w, b->byte_id[(unsigned char)s[i]]);
        return 0;
    }
    if (!b->unk) return 0; /* HF drops the character; pl_tokenizer_parse has warned of it */
    if (b->unk_id < 0)
        return PL_FAIL(err, PL_E_FORMAT, "%s: unk_token \"%.60s\" is not in the vocabulary", what, b->unk);
    if (w->unknown && !b->fuse_unk) put(w, b->unk_id);
    w->unknown = 1;
    return 0;
}

int pl_bpe_encode(const pl_bpe *b, const char *s, size_t n, pl_bpe_scratch *scratch, pl_ids *out, pl_error *err) {
    if (b->ignore_merges) {
        int32_t id = pl_vocab_find(&b->vocab, s, n);
        if (id >= 0) return pl_ids_add(out, id, err);
    }
    if (n >= INT32_MAX / 8) return PL_FAIL(err, PL_E_RANGE, "a piece of %zu bytes without a place to cut", n);
    size_t longest = (b->prefix ? strlen(b->prefix) : 0) + (b->suffix ? strlen(b->suffix) : 0) + 1;
    int rc = reserve_symbols(scratch, (int64_t)(n * longest), err);
    if (rc) return rc;
    starter w = {.symbol = scratch->symbol};
    for (size_t i = 0, len; i < n; i += len) {
        pl_char_at(s + i, n - i, &len);
        const char *token = s + i;
        size_t token_len = len;
        int32_t id;
        rc = char_token(&id, &token, &token_len, b, i == 0, i + len == n, &scratch->piece, err);
        if (rc == 0 && id < 0) rc = put_unknown(&w, b, token, token_len, err);
        if (rc) return rc;
        if (id < 0) continue;
        if (w.unknown) put(&w, b->unk_id);
        w.unknown = 0;
        put(&w, id);
    }
    if (w.unknown) put(&w, b->unk_id);
    return pl_bpe_merge(b, w.n, scratch, out, err);
}
