/* st_header.c: a parser for exactly the JSON that a safetensors header may be. No tree: a header of 100 MB of tiny
 * entries costs what its entries cost, and their number is bounded. */
#include "tensor/st_header.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"

#define MAX_NAME 1024
#define MAX_EXACT ((int64_t)1 << 53) /* beyond, other readers' doubles are not exact */

typedef struct parser {
    const char *s;
    size_t n, i;
    const char *what;
    pl_error *err;
    pl_st_header *h;
    int64_t cap; /* of h->entries */
    bool had_meta;
} parser;

static int wrong(parser *p, const char *message) {
    return PL_FAIL(p->err, PL_E_FORMAT, "%s: safetensors header, byte %zu: %s", p->what, p->i, message);
}

static void skip_space(parser *p) {
    while (p->i < p->n && (p->s[p->i] == ' ' || p->s[p->i] == '\n' || p->s[p->i] == '\r' || p->s[p->i] == '\t')) p->i++;
}

/* Skips white space and takes the byte c if it comes next. */
static bool take(parser *p, char c) {
    skip_space(p);
    if (p->i >= p->n || p->s[p->i] != c) return false;
    p->i++;
    return true;
}

static int expect(parser *p, char c, const char *message) { return take(p, c) ? 0 : wrong(p, message); }

static int hex4(parser *p, uint32_t *v) {
    if (p->n - p->i < 4) return wrong(p, "cut \\u escape");
    *v = 0;
    for (int k = 0; k < 4; k++, p->i++) {
        char c = p->s[p->i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return wrong(p, "bad \\u escape");
        *v = *v * 16 + (uint32_t)digit;
    }
    return 0;
}

static int unicode_escape(parser *p) {
    uint32_t v, low;
    int rc = hex4(p, &v);
    if (rc) return rc;
    if (v >= 0xD800 && v < 0xDC00) {
        if (p->n - p->i < 2 || p->s[p->i] != '\\' || p->s[p->i + 1] != 'u') return wrong(p, "lone surrogate");
        p->i += 2;
        if ((rc = hex4(p, &low)) != 0) return rc;
        if (low < 0xDC00 || low > 0xDFFF) return wrong(p, "lone surrogate");
        v = 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
    }
    char bytes[4];
    size_t k = pl_utf8_encode(bytes, v);
    if (k == 0 || v == 0) return wrong(p, v == 0 ? "NUL in a string" : "lone surrogate");
    return pl_buf_add(&p->h->strings, bytes, k, p->err);
}

static int escape(parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->i >= p->n) return wrong(p, "cut string");
    char c = p->s[p->i++];
    if (c == 'u') return unicode_escape(p);
    const char *at = c ? strchr(from, c) : NULL;
    if (!at) return wrong(p, "bad escape");
    return pl_buf_add(&p->h->strings, &to[at - from], 1, p->err);
}

/* A string, unescaped and NUL-terminated into h->strings; *at is where it starts, *len its length. */
static int string(parser *p, size_t *at, size_t *len) {
    int rc = expect(p, '"', "want a string");
    if (rc) return rc;
    pl_buf *b = &p->h->strings;
    *at = b->len;
    for (;;) {
        size_t start = p->i;
        while (p->i < p->n && p->s[p->i] != '"' && p->s[p->i] != '\\' && (unsigned char)p->s[p->i] >= 0x20) p->i++;
        PL_GO(rc, pl_buf_add(b, p->s + start, p->i - start, p->err));
        if (p->i >= p->n) return wrong(p, "cut string");
        char c = p->s[p->i];
        if (c != '"' && c != '\\') return wrong(p, "control character in a string");
        p->i++;
        if (c == '"') break;
        PL_GO(rc, escape(p));
    }
    *len = b->len - *at;
    rc = pl_buf_add(b, "", 1, p->err);
out:
    return rc;
}

/* A short word without escapes (the keys and dtypes), compared in place. */
static int word(parser *p, const char **s, size_t *len) {
    int rc = expect(p, '"', "want a string");
    if (rc) return rc;
    *s = p->s + p->i;
    while (p->i < p->n && p->s[p->i] != '"' && p->s[p->i] != '\\') p->i++;
    if (p->i >= p->n || p->s[p->i] != '"') return wrong(p, "want a plain string");
    *len = (size_t)(p->s + p->i - *s);
    p->i++;
    return 0;
}

/* A JSON integer in 0..2^53. */
static int integer(parser *p, int64_t *out) {
    skip_space(p);
    size_t start = p->i;
    int64_t v = 0;
    while (p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '9') {
        v = v * 10 + (p->s[p->i] - '0');
        if (v > MAX_EXACT) return wrong(p, "number beyond 2^53");
        p->i++;
    }
    if (p->i == start) return wrong(p, "want an integer >= 0");
    if (p->s[start] == '0' && p->i - start > 1) return wrong(p, "number with a leading zero");
    if (p->i < p->n && (p->s[p->i] == '.' || p->s[p->i] == 'e' || p->s[p->i] == 'E'))
        return wrong(p, "want an integer, not a fraction");
    *out = v;
    return 0;
}

/* [a, b, ...] of at most max integers. */
static int integers(parser *p, int64_t *out, int max, int *n, const char *too_many) {
    int rc = expect(p, '[', "want a list of integers");
    *n = 0;
    if (rc || take(p, ']')) return rc;
    do {
        if (*n == max) return wrong(p, too_many);
        if ((rc = integer(p, &out[*n])) != 0) return rc;
        (*n)++;
    } while (take(p, ','));
    return expect(p, ']', "want , or ]");
}

static int dtype(parser *p, pl_st_entry *e) {
    const char *s;
    size_t len;
    int rc = word(p, &s, &len);
    if (rc || pl_dtype_from_name(&e->dtype, s, len)) return rc;
    return PL_FAIL(p->err, PL_E_UNSUPPORTED, "%s: tensor %.200s: dtype %.*s is not supported", p->what,
                   p->h->strings.data + e->name, (int)PL_MIN(len, 32), s);
}

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 };

/* One member of a tensor's object. */
static int member(parser *p, pl_st_entry *e, int *seen) {
    static const struct {
        const char *key;
        int bit;
    } keys[] = {{"dtype", HAS_DTYPE}, {"shape", HAS_SHAPE}, {"data_offsets", HAS_OFFSETS}};
    const char *s;
    size_t len;
    int rc = word(p, &s, &len), bit = 0, n;
    if (rc) return rc;
    for (int64_t i = 0; i < PL_LEN(keys); i++)
        if (strlen(keys[i].key) == len && memcmp(keys[i].key, s, len) == 0) bit = keys[i].bit;
    if (bit == 0) return wrong(p, "unknown key in a tensor's entry");
    if (*seen & bit) return wrong(p, "duplicate key in a tensor's entry");
    *seen |= bit;
    if ((rc = expect(p, ':', "want :")) != 0) return rc;
    if (bit == HAS_DTYPE) return dtype(p, e);
    if (bit == HAS_SHAPE) return integers(p, e->dims, PL_MAX_DIMS, &e->ndim, "more than 8 dimensions (not supported)");
    int64_t offsets[2];
    if ((rc = integers(p, offsets, 2, &n, "want two offsets")) != 0) return rc;
    if (n != 2) return wrong(p, "want two offsets");
    e->begin = (size_t)offsets[0];
    e->end = (size_t)offsets[1];
    return 0;
}

/* The size of one tensor against its offsets. */
static int check_size(parser *p, const pl_st_entry *e) {
    const char *name = p->h->strings.data + e->name;
    size_t bytes;
    char dims[128];
    pl_dims_text(dims, sizeof dims, e->ndim, e->dims);
    if (e->end < e->begin)
        return PL_FAIL(p->err, PL_E_FORMAT, "%s: tensor %.200s: data ends at %zu before it begins at %zu", p->what,
                       name, e->end, e->begin);
    int rc = pl_tensor_bytes(&bytes, e->dtype, e->ndim, e->dims, p->err);
    if (rc) {
        PL_FAIL(p->err, PL_E_FORMAT, "%s: tensor %.200s: the size of %s %s overflows", p->what, name,
                pl_dtype_name(e->dtype), dims);
        return PL_E_FORMAT;
    }
    if (bytes != e->end - e->begin)
        return PL_FAIL(p->err, PL_E_FORMAT, "%s: tensor %.200s: %zu bytes of data, %s %s needs %zu", p->what, name,
                       e->end - e->begin, pl_dtype_name(e->dtype), dims, bytes);
    return 0;
}

static int grow(parser *p) {
    if (p->h->n < p->cap) return 0;
    if (p->h->n >= PL_ST_MAX_TENSORS)
        return PL_FAIL(p->err, PL_E_RANGE, "%s: more than %d tensors in one file", p->what, PL_ST_MAX_TENSORS);
    int64_t cap = p->cap ? 2 * p->cap : 64;
    int rc = pl_realloc((void **)&p->h->entries, (size_t)p->cap * sizeof(pl_st_entry),
                        (size_t)cap * sizeof(pl_st_entry), p->err);
    if (rc == 0) p->cap = cap;
    return rc;
}

static int tensor(parser *p, size_t name) {
    int rc = grow(p), seen = 0;
    if (rc) return rc;
    pl_st_entry *e = &p->h->entries[p->h->n];
    *e = (pl_st_entry){.name = name};
    if ((rc = expect(p, '{', "want an object that describes a tensor")) != 0) return rc;
    if (!take(p, '}')) {
        do {
            if ((rc = member(p, e, &seen)) != 0) return rc;
        } while (take(p, ','));
        if ((rc = expect(p, '}', "want , or }")) != 0) return rc;
    }
    if (seen != HAS_ALL)
        return PL_FAIL(p->err, PL_E_FORMAT, "%s: tensor %.200s: its entry lacks %s", p->what, p->h->strings.data + name,
                       !(seen & HAS_DTYPE)   ? "dtype"
                       : !(seen & HAS_SHAPE) ? "shape"
                                             : "data_offsets");
    if ((rc = check_size(p, e)) != 0) return rc;
    p->h->n++;
    return 0;
}

static int metadata(parser *p) {
    int rc = 0;
    if (p->had_meta) return wrong(p, "__metadata__ appears twice");
    p->had_meta = true;
    skip_space(p);
    if (p->n - p->i >= 4 && memcmp(p->s + p->i, "null", 4) == 0) {
        p->i += 4;
        return 0;
    }
    PL_GO(rc, expect(p, '{', "__metadata__: want an object of strings"));
    if (take(p, '}')) return 0;
    PL_GO(rc, PL_NEW(&p->h->meta, 2 * (int64_t)PL_ST_MAX_META, p->err));
    do {
        size_t len, *pair = p->h->meta + 2 * p->h->nmeta;
        if (p->h->nmeta == PL_ST_MAX_META) return wrong(p, "__metadata__: too many entries");
        PL_GO(rc, string(p, &pair[0], &len));
        for (int64_t i = 0; i < p->h->nmeta; i++)
            if (strcmp(p->h->strings.data + p->h->meta[2 * i], p->h->strings.data + pair[0]) == 0)
                return wrong(p, "__metadata__: duplicate key");
        PL_GO(rc, expect(p, ':', "want :"));
        PL_GO(rc, string(p, &pair[1], &len));
        p->h->nmeta++;
    } while (take(p, ','));
    rc = expect(p, '}', "want , or }");
out:
    return rc;
}

bool pl_st_name_ok(const char *name, size_t n) {
    if (n == 0 || n > MAX_NAME) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F) return false;
    return true;
}

static int header(parser *p) {
    int rc = expect(p, '{', "want {");
    if (rc) return rc;
    if (!take(p, '}')) {
        do {
            size_t at, len;
            if ((rc = string(p, &at, &len)) != 0) return rc;
            if (!pl_st_name_ok(p->h->strings.data + at, len))
                return wrong(p, "tensor name that is empty, over 1024 bytes or has control characters");
            if ((rc = expect(p, ':', "want :")) != 0) return rc;
            bool is_meta = strcmp(p->h->strings.data + at, "__metadata__") == 0;
            if ((rc = is_meta ? metadata(p) : tensor(p, at)) != 0) return rc;
        } while (take(p, ','));
        if ((rc = expect(p, '}', "want , or }")) != 0) return rc;
    }
    skip_space(p);
    return p->i == p->n ? 0 : wrong(p, "text after the end of the header");
}

static int by_offset(const void *a, const void *b) {
    const pl_st_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

/* The tensors must cover the data buffer exactly, without gap or overlap. */
static int check_cover(parser *p, size_t data_bytes) {
    pl_st_header *h = p->h;
    size_t at = 0;
    if (h->n > 1) qsort(h->entries, (size_t)h->n, sizeof *h->entries, by_offset);
    for (int64_t i = 0; i < h->n; i++) {
        const pl_st_entry *e = &h->entries[i];
        if (e->begin != at)
            return PL_FAIL(p->err, PL_E_FORMAT, "%s: tensor %.200s: data begins at %zu, %s at %zu", p->what,
                           h->strings.data + e->name, e->begin,
                           e->begin > at ? "a gap after the previous end" : "inside the previous tensor, which ends",
                           at);
        at = e->end;
    }
    if (at > data_bytes)
        return PL_FAIL(p->err, PL_E_FORMAT, "%s: the file is cut: its tensors need %zu bytes of data, it has %zu",
                       p->what, at, data_bytes);
    if (at < data_bytes)
        return PL_FAIL(p->err, PL_E_FORMAT, "%s: %zu bytes after the last tensor", p->what, data_bytes - at);
    return 0;
}

int pl_st_header_parse(pl_st_header *out, const char *text, size_t n, size_t data_bytes, const char *what,
                       pl_error *err) {
    pl_st_header h = {.strings.ceiling = 2 * PL_ST_MAX_HEADER};
    parser p = {.s = text, .n = n, .what = what, .err = err, .h = &h};
    int rc = 0;
    if ((p.i = pl_utf8_valid(text, n)) != n) PL_GO(rc, wrong(&p, "not UTF-8"));
    p.i = 0;
    PL_GO(rc, header(&p));
    PL_GO(rc, check_cover(&p, data_bytes));
    *out = h;
    h = (pl_st_header){0};
out:
    pl_st_header_release(&h);
    return rc;
}

void pl_st_header_release(pl_st_header *h) {
    pl_free(h->entries);
    pl_free(h->meta);
    pl_buf_release(&h->strings);
    *h = (pl_st_header){0};
}
