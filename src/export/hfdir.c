/* hfdir.c: a model directory for other tools: everything but the weights is copied as it was read, so that what plumb
 * does not know about survives. */
#include "export/hfdir.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json_edit.h"
#include "plumb/log.h"
#include "tensor/dtype.h"

#define MAX_CONFIG_BYTES ((size_t)4 << 20)

static const char *const tokenizer_files[] = {"tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "vocab.txt",
                                              "merges.txt",
                                              "tokenizer.model",
                                              "sentencepiece.bpe.model",
                                              "spiece.model",
                                              "chat_template.jinja",
                                              "chat_template.json"};
#define TEMPLATES "additional_chat_templates"

/* ---- config.json
 * ----------------------------------------------------------------------------------------------------------- */

/* Whether the value says this type already, in whatever words. */
static bool says(const pl_json *value, pl_dtype dtype) {
    pl_dtype t;
    size_t n = 0;
    const char *s = pl_json_string(value, &n);
    return s && pl_dtype_from_torch(&t, s, n) && t == dtype;
}

#define MAX_EDITS 8

/* The text of a config.json with the type and `more` edits; owned, in *b. */
static int edit_config(pl_buf *b, const char *text, size_t n, pl_dtype dtype, const pl_json_edit *more, int64_t nmore,
                       pl_error *err) {
    static const char *const keys[] = {"dtype", "torch_dtype"};
    pl_json_edit edits[MAX_EDITS];
    pl_json *root = NULL;
    char value[32];
    int64_t count = 0;
    int rc = pl_json_parse(&root, text, n, "config.json", err);
    if (rc) return rc;
    snprintf(value, sizeof value, "\"%s\"", pl_dtype_torch_name(dtype));
    for (int64_t i = 0; i < PL_LEN(keys); i++)
        if (!says(pl_json_get(root, keys[i]), dtype)) edits[count++] = (pl_json_edit){keys[i], value, false};
    for (int64_t i = 0; i < nmore && count < MAX_EDITS; i++) edits[count++] = more[i];
    pl_json_free(root);
    return pl_json_text_edit(b, text, n, edits, count, "config.json", err);
}

int pl_hfdir_config_text(char **out, size_t *out_len, const char *text, size_t n, pl_dtype dtype, pl_error *err) {
    pl_buf b = {0};
    int rc = edit_config(&b, text, n, dtype, NULL, 0, err);
    if (rc == 0) {
        *out = b.data;
        *out_len = b.len;
        b = (pl_buf){0};
    }
    pl_buf_release(&b);
    return rc;
}

static int copy_config(const char *from, const char *to, pl_dtype dtype, const pl_json_edit *edits, int64_t nedits,
                       pl_error *err) {
    char *source = NULL, *target = NULL, *text = NULL;
    pl_buf changed = {0};
    size_t n;
    int rc;
    PL_GO(rc, pl_path_join(&source, from, "config.json", err));
    PL_GO(rc, pl_path_join(&target, to, "config.json", err));
    PL_GO(rc, pl_file_read(&text, &n, source, MAX_CONFIG_BYTES, err));
    PL_GO(rc, edit_config(&changed, text, n, dtype, edits, nedits, err));
    rc = pl_file_write(target, changed.data, changed.len, err);
out:
    pl_free(source);
    pl_free(target);
    pl_free(text);
    pl_buf_release(&changed);
    return rc;
}

/* ---- the other files
 * ------------------------------------------------------------------------------------------------------- */

/* A file that is not there is skipped. */
static int copy_file(const char *from, const char *to, const char *name, pl_error *err) {
    char *source = NULL, *target = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&source, from, name, err));
    PL_GO(rc, pl_path_join(&target, to, name, err));
    if (pl_file_exists(source)) rc = pl_file_copy(source, target, err);
out:
    pl_free(source);
    pl_free(target);
    return rc;
}

static int copy_templates(const char *from, const char *to, pl_error *err) {
    char *source = NULL, *target = NULL, **names = NULL;
    int64_t n = 0;
    int rc;
    PL_GO(rc, pl_path_join(&source, from, TEMPLATES, err));
    PL_GO(rc, pl_path_join(&target, to, TEMPLATES, err));
    if (!pl_dir_exists(source)) goto out;
    PL_GO(rc, pl_dir_list(&names, &n, source, err));
    PL_GO(rc, pl_dir_make(target, err));
    for (int64_t i = 0; i < n; i++) PL_GO(rc, copy_file(source, target, names[i], err));
out:
    pl_names_free(names, n);
    pl_free(source);
    pl_free(target);
    return rc;
}

int pl_hfdir_copy_tokenizer(const char *from, const char *to, pl_error *err) {
    for (int64_t i = 0; i < PL_LEN(tokenizer_files); i++) {
        int rc = copy_file(from, to, tokenizer_files[i], err);
        if (rc) return rc;
    }
    return copy_templates(from, to, err);
}

int pl_hfdir_copy(const char *from, const char *to, pl_dtype dtype, pl_error *err) {
    int rc;
    PL_GO(rc, copy_config(from, to, dtype, NULL, 0, err));
    PL_GO(rc, copy_file(from, to, "generation_config.json", err));
    rc = pl_hfdir_copy_tokenizer(from, to, err);
out:
    return rc;
}

/* ---- reward models
 * ---------------------------------------------------------------------------------------------------------- */

static bool is_eos(const pl_arch *a, const pl_tokenizer *tok, int32_t id) {
    for (int i = 0; i < a->neos; i++)
        if (a->eos[i] == id) return true;
    return id == pl_tokenizer_eos(tok);
}

static bool names_padding(const char *token) {
    for (const char *c = token; *c; c++)
        if (strncasecmp(c, "pad", 3) == 0) return true;
    return false;
}

/* A token that ends no answer: the tokenizer's own pad unless it is the eos that plumb puts behind answers; else a
 * special token that is no eos of the model: one called so, unk, any other, bos; -1: none. */
static int32_t choose_pad(const pl_arch *a, const pl_tokenizer *tok) {
    int32_t pad = pl_tokenizer_pad(tok), unk = pl_tokenizer_unk(tok), bos = pl_tokenizer_bos(tok), other = -1;
    if (pad >= 0 && pad != pl_tokenizer_eos(tok)) return pad;
    for (int32_t id = 0; id < PL_MIN(pl_tokenizer_vocab_size(tok), a->V); id++) {
        if (!pl_tokenizer_is_special(tok, id) || is_eos(a, tok, id)) continue;
        if (names_padding(pl_tokenizer_token(tok, id, NULL))) return id;
        if (id != bos) other = id;
    }
    if (unk >= 0 && !is_eos(a, tok, unk)) return unk;
    if (other >= 0) return other;
    return bos >= 0 && !is_eos(a, tok, bos) ? bos : -1;
}

void pl_hfdir_classifier_init(pl_hfdir_classifier *c, const pl_arch *a, const pl_tokenizer *tok) {
    int32_t pad = choose_pad(a, tok);
    *c = (pl_hfdir_classifier){
        .architecture = pl_arch_classifier(a), .is_new = a->head == PL_ARCH_NEW_SCORE, .pad = pad};
    if (pad >= 0 && pad != pl_tokenizer_pad(tok)) c->pad_token = pl_tokenizer_token(tok, pad, NULL);
}

/* pad_token of a tokenizer's file that is there in the copy already. */
static int set_pad_token(const char *dir, const char *name, const char *token, bool add, pl_error *err) {
    pl_buf value = {0}, changed = {0};
    char *path = NULL, *text = NULL;
    size_t n;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, name, err));
    if (!pl_file_exists(path)) goto out;
    PL_GO(rc, pl_file_read(&text, &n, path, MAX_CONFIG_BYTES, err));
    PL_GO(rc, pl_buf_json_string(&value, token, strlen(token), err));
    pl_json_edit edit = {"pad_token", value.data, add};
    PL_GO(rc, pl_json_text_edit(&changed, text, n, &edit, 1, path, err));
    rc = pl_file_write(path, changed.data, changed.len, err);
out:
    pl_buf_release(&value);
    pl_buf_release(&changed);
    pl_free(text);
    pl_free(path);
    return rc;
}

int pl_hfdir_copy_classifier(const char *from, const char *to, pl_dtype dtype, const pl_hfdir_classifier *c,
                             pl_error *err) {
    char architectures[96], pad[24];
    snprintf(architectures, sizeof architectures, "[\n    \"%s\"\n  ]", c->architecture);
    snprintf(pad, sizeof pad, c->pad < 0 ? "null" : "%" PRId32, c->pad);
    const pl_json_edit edits[] = {{"architectures", architectures, true},
                                  {"pad_token_id", pad, true},
                                  {"id2label", "{\n    \"0\": \"LABEL_0\"\n  }", true},
                                  {"label2id", "{\n    \"LABEL_0\": 0\n  }", true}};
    int rc;
    PL_GO(rc, copy_config(from, to, dtype, edits, c->is_new ? PL_LEN(edits) : 2, err));
    PL_GO(rc, pl_hfdir_copy_tokenizer(from, to, err));
    if (!c->pad_token) goto out;
    PL_GO(rc, set_pad_token(to, "tokenizer_config.json", c->pad_token, true, err));
    rc = set_pad_token(to, "special_tokens_map.json", c->pad_token, true, err);
out:
    return rc;
}

/* ---- weights
 * --------------------------------------------------------------------------------------------------------------- */

int pl_hfdir_write_weights(const char *dir, const pl_param_spec *params, int64_t n, pl_dtype dtype,
                           pl_tensor_fill *fill, void *user, pl_error *err) {
    char *path = NULL;
    pl_tensor *list = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, "model.safetensors", err));
    PL_GO(rc, PL_NEW(&list, PL_MAX(n, 1), err));
    for (int64_t i = 0; i < n; i++)
        list[i] = (pl_tensor){.name = params[i].name,
                              .dtype = dtype,
                              .ndim = params[i].ndim,
                              .dims = {params[i].rows, params[i].ndim == 2 ? params[i].cols : 0}};
    rc = pl_tensors_write(path, list, n, NULL, 0, fill, user, err);
out:
    pl_free(path);
    pl_free(list);
    return rc;
}
