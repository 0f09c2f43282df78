/* hfdir.c: a model directory for other tools: everything but the weights is copied as it was read, so that what plumb
 * does not know about survives. */
#include "export/hfdir.h"

#include <string.h>

#include "base/buf.h"
#include "base/file.h"
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

/* Walks over JSON that pl_json_parse has already taken. */
static size_t skip_string(const char *s, size_t i) {
    for (i++; s[i] != '"'; i++)
        if (s[i] == '\\') i++;
    return i + 1;
}

static size_t skip_space(const char *s, size_t i) { return i + strspn(s + i, " \t\r\n"); }

/* Behind the value at i: to the comma or bracket of its own level that ends it. */
static size_t skip_value(const char *s, size_t i) {
    int depth = 0;
    for (;;) {
        char c = s[i];
        if (c == '"') {
            i = skip_string(s, i);
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) return i;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        i++;
    }
}

static bool is_dtype_key(const char *key, size_t n) {
    return (n == 5 && memcmp(key, "dtype", 5) == 0) || (n == 11 && memcmp(key, "torch_dtype", 11) == 0);
}

/* Whether the value says this type already, in whatever words. */
static bool says(const char *value, size_t n, pl_dtype dtype) {
    pl_dtype t;
    return n > 2 && value[0] == '"' && pl_dtype_from_torch(&t, value + 1, n - 2) && t == dtype;
}

/* Appends s[0..n), an object, with the values of the two keys at its top level replaced. */
static int replace_dtypes(pl_buf *out, const char *s, size_t n, pl_dtype dtype, pl_error *err) {
    size_t kept = 0, i = skip_space(s, 0) + 1; /* s[0..kept) is in out; behind the opening brace */
    int rc = 0;
    for (i = skip_space(s, i); s[i] == '"'; i = skip_space(s, i)) {
        const char *key = s + i + 1;
        i = skip_string(s, i);
        size_t key_len = (size_t)(s + i - 1 - key);
        i = skip_space(s, i) + 1; /* the colon */
        size_t value = skip_space(s, i), end = skip_value(s, value);
        i = end + (s[end] == ',');
        while (end > value && strchr(" \t\r\n", s[end - 1])) end--;
        if (!is_dtype_key(key, key_len) || says(s + value, end - value, dtype)) continue;
        PL_GO(rc, pl_buf_add(out, s + kept, value - kept, err));
        PL_GO(rc, pl_buf_printf(out, err, "\"%s\"", pl_dtype_torch_name(dtype)));
        kept = end;
    }
    rc = pl_buf_add(out, s + kept, n - kept, err);
out:
    return rc;
}

int pl_hfdir_config_text(char **out, size_t *out_len, const char *text, size_t n, pl_dtype dtype, pl_error *err) {
    pl_json *root = NULL;
    pl_buf b = {0};
    char *copy = NULL; /* NUL-terminated, so that the walk needs no bounds */
    int rc;
    PL_GO(rc, pl_json_parse(&root, text, n, "config.json", err));
    if (pl_json_kind_of(root) != PL_J_OBJECT) PL_GO(rc, PL_FAIL(err, PL_E_FORMAT, "config.json: want a JSON object"));
    PL_GO(rc, pl_strndup(&copy, text, n, err));
    PL_GO(rc, replace_dtypes(&b, copy, n, dtype, err));
    *out = b.data;
    *out_len = b.len;
    b = (pl_buf){0};
out:
    pl_json_free(root);
    pl_buf_release(&b);
    pl_free(copy);
    return rc;
}

static int copy_config(const char *from, const char *to, pl_dtype dtype, pl_error *err) {
    char *source = NULL, *target = NULL, *text = NULL, *changed = NULL;
    size_t n, len;
    int rc;
    PL_GO(rc, pl_path_join(&source, from, "config.json", err));
    PL_GO(rc, pl_path_join(&target, to, "config.json", err));
    PL_GO(rc, pl_file_read(&text, &n, source, MAX_CONFIG_BYTES, err));
    PL_GO(rc, pl_hfdir_config_text(&changed, &len, text, n, dtype, err));
    rc = pl_file_write(target, changed, len, err);
out:
    pl_free(source);
    pl_free(target);
    pl_free(text);
    pl_free(changed);
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
    PL_GO(rc, copy_config(from, to, dtype, err));
    PL_GO(rc, copy_file(from, to, "generation_config.json", err));
    rc = pl_hfdir_copy_tokenizer(from, to, err);
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
