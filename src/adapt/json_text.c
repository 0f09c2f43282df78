/* json_text.c: Python's layout of JSON, so that a rewritten file differs from the one that PEFT wrote only where it
 * must. */
#include "adapt/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static int indent(pl_buf *b, int depth, pl_error *err) { return pl_buf_printf(b, err, "\n%*s", 2 * depth, ""); }

/* The letter of a two-character escape, 0 when there is none. */
static char short_escape(uint32_t c) {
    switch (c) {
    case '"':
    case '\\': return (char)c;
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
    }
}

static int add_char(pl_buf *b, uint32_t c, pl_error *err) {
    char letter = short_escape(c), ascii = (char)c;
    if (letter) return pl_buf_printf(b, err, "\\%c", letter);
    if (c >= 0x20 && c < 0x80) return pl_buf_add(b, &ascii, 1, err);
    if (c < 0x10000) return pl_buf_printf(b, err, "\\u%04x", (unsigned)c);
    c -= 0x10000;
    return pl_buf_printf(b, err, "\\u%04x\\u%04x", (unsigned)(0xD800 + (c >> 10)), (unsigned)(0xDC00 + (c & 0x3FF)));
}

int pl_json_text_string(pl_buf *b, const char *s, size_t n, pl_error *err) {
    int rc = pl_buf_puts(b, "\"", err);
    for (size_t i = 0; i < n && rc == 0;) {
        uint32_t c;
        size_t k = pl_utf8_decode(s + i, n - i, &c);
        rc = add_char(b, k ? c : 0xFFFD, err);
        i += k ? k : 1;
    }
    return rc ? rc : pl_buf_puts(b, "\"", err);
}

typedef struct pair {
    const char *key;
    const pl_json *value;
} pair;

static int by_key(const void *a, const void *b) { return strcmp(((const pair *)a)->key, ((const pair *)b)->key); }

static int add_object(pl_buf *b, const pl_json *v, int depth, pl_error *err) {
    pair *pairs = NULL;
    int64_t n = 0;
    int rc = PL_NEW(&pairs, PL_MAX(pl_json_len(v), 1), err);
    if (rc) return rc;
    for (pl_json_iter it = pl_json_first(v); it.key; it = pl_json_next(it)) pairs[n++] = (pair){it.key, it.value};
    if (depth == 0) qsort(pairs, (size_t)n, sizeof *pairs, by_key);
    PL_GO(rc, pl_buf_puts(b, "{", err));
    for (int64_t i = 0; i < n; i++) {
        if (i) PL_GO(rc, pl_buf_puts(b, ",", err));
        PL_GO(rc, indent(b, depth + 1, err));
        PL_GO(rc, pl_json_text_string(b, pairs[i].key, strlen(pairs[i].key), err));
        PL_GO(rc, pl_buf_puts(b, ": ", err));
        PL_GO(rc, pl_json_text_add(b, pairs[i].value, depth + 1, err));
    }
    if (n) PL_GO(rc, indent(b, depth, err));
    rc = pl_buf_puts(b, "}", err);
out:
    pl_free(pairs);
    return rc;
}

static int add_array(pl_buf *b, const pl_json *v, int depth, pl_error *err) {
    int64_t n = pl_json_len(v);
    int rc = pl_buf_puts(b, "[", err);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        if (i) rc = pl_buf_puts(b, ",", err);
        if (rc == 0) rc = indent(b, depth + 1, err);
        if (rc == 0) rc = pl_json_text_add(b, pl_json_at(v, i), depth + 1, err);
    }
    if (n && rc == 0) rc = indent(b, depth, err);
    return rc ? rc : pl_buf_puts(b, "]", err);
}

int pl_json_text_add(pl_buf *b, const pl_json *v, int depth, pl_error *err) {
    size_t n = 0;
    const char *s;
    switch (pl_json_kind_of(v)) {
    case PL_J_NULL: return pl_buf_puts(b, "null", err);
    case PL_J_BOOL: return pl_buf_puts(b, pl_json_bool(v) ? "true" : "false", err);
    case PL_J_INT: return pl_buf_printf(b, err, "%" PRId64, pl_json_int(v));
    case PL_J_DOUBLE: return pl_buf_json_double(b, pl_json_double(v), err);
    case PL_J_STRING: s = pl_json_string(v, &n); return pl_json_text_string(b, s, n, err);
    case PL_J_ARRAY: return add_array(b, v, depth, err);
    case PL_J_OBJECT: return add_object(b, v, depth, err);
    }
    return PL_FAIL(err, PL_E_INTERNAL, "a JSON value of no kind");
}
