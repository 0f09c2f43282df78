/* jsonl.c: one member of each row of a JSON lines file, and JSON text for programs that print. */
#include "plumb/jsonl.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"

#define MAX_LINE_BYTES ((size_t)256 << 20)

struct pl_jsonl {
    pl_lines *lines;
    char *path;
    pl_json *row; /* what was returned last borrows from it */
    int32_t *ids;
    int64_t cap;
};

void pl_jsonl_free(pl_jsonl *j) {
    if (!j) return;
    pl_json_free(j->row);
    pl_lines_free(j->lines);
    pl_free(j->ids);
    pl_free(j->path);
    pl_free(j);
}

int pl_jsonl_open(pl_jsonl **out, const char *path, pl_error *err) {
    pl_jsonl *j = NULL;
    int rc;
    PL_GO(rc, PL_NEW(&j, 1, err));
    PL_GO(rc, pl_strdup(&j->path, path, err));
    PL_GO(rc, pl_lines_open(&j->lines, path, MAX_LINE_BYTES, err));
    *out = j;
    j = NULL;
out:
    pl_jsonl_free(j);
    return rc;
}

static bool is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

/* The member `key` of the next row, of this kind; NULL at the end. */
static int next_member(pl_jsonl *j, const char *key, pl_json_kind kind, const pl_json **out, pl_error *err) {
    const char *line = NULL;
    char *where = NULL;
    size_t len = 0;
    int rc;
    pl_json_free(j->row);
    j->row = NULL;
    *out = NULL;
    do {
        rc = pl_lines_next(j->lines, &line, &len, err);
        if (rc || !line) return rc;
    } while (is_blank(line, len));
    PL_GO(rc, pl_asprintf(&where, err, "%s:%" PRId64, j->path, pl_lines_number(j->lines)));
    PL_GO(rc, pl_json_parse(&j->row, line, len, where, err));
    const pl_json *v = pl_json_get(j->row, key);
    if (pl_json_kind_of(j->row) != PL_J_OBJECT)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: %s; every line must be a JSON object", where,
                     pl_json_kind_name(pl_json_kind_of(j->row)));
    else if (!v)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: the row has no \"%s\"", where, key);
    else if (pl_json_kind_of(v) != kind)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" is %s, want %s", where, key, pl_json_kind_name(pl_json_kind_of(v)),
                     pl_json_kind_name(kind));
    else
        *out = v;
out:
    pl_free(where);
    return rc;
}

int pl_jsonl_next_text(pl_jsonl *j, const char *key, const char **text, size_t *len, pl_error *err) {
    const pl_json *v = NULL;
    int rc = next_member(j, key, PL_J_STRING, &v, err);
    if (rc) return rc;
    *len = 0;
    *text = v ? pl_json_string(v, len) : NULL;
    return 0;
}

int pl_jsonl_next_ids(pl_jsonl *j, const char *key, const int32_t **ids, int64_t *n, pl_error *err) {
    const pl_json *v = NULL;
    int rc = next_member(j, key, PL_J_ARRAY, &v, err);
    if (rc) return rc;
    int64_t count = pl_json_len(v);
    *ids = NULL;
    *n = 0;
    if (!v) return 0;
    if (count >= j->cap) {
        rc = pl_realloc((void **)&j->ids, (size_t)j->cap * sizeof *j->ids, (size_t)(count + 1) * sizeof *j->ids, err);
        if (rc) return rc;
        j->cap = count + 1;
    }
    for (int64_t i = 0; i < count; i++) {
        const pl_json *x = pl_json_at((pl_json *)v, i);
        int64_t id = pl_json_int(x);
        if (pl_json_kind_of(x) != PL_J_INT || id < 0 || id > INT32_MAX)
            return PL_FAIL(err, PL_E_FORMAT, "%s:%" PRId64 ": \"%s\"[%" PRId64 "] is no token id", j->path,
                           pl_lines_number(j->lines), key, i);
        j->ids[i] = (int32_t)id;
    }
    *ids = j->ids;
    *n = count;
    return 0;
}

static int flush(FILE *f, pl_buf *b, int rc, pl_error *err) {
    if (rc == 0 && fwrite(b->data, 1, b->len, f) != b->len) rc = PL_FAIL(err, PL_E_IO, "the text could not be written");
    pl_buf_release(b);
    return rc;
}

int pl_json_print_string(FILE *f, const char *text, size_t len, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_buf_json_string(&b, text, len, err);
    return flush(f, &b, rc, err);
}

int pl_json_print_ids(FILE *f, const int32_t *ids, int64_t n, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_buf_puts(&b, "[", err);
    for (int64_t i = 0; rc == 0 && i < n; i++) rc = pl_buf_printf(&b, err, "%s%" PRId32, i ? "," : "", ids[i]);
    if (rc == 0) rc = pl_buf_puts(&b, "]", err);
    return flush(f, &b, rc, err);
}
