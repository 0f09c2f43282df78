/* buf.c: the growing buffer and the JSON texts written into it. */
#include "base/buf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define DEFAULT_CEILING ((size_t)1 << 30)

void pl_buf_release(pl_buf *b) {
    if (!b) return;
    pl_free(b->data);
    *b = (pl_buf){.ceiling = b->ceiling};
}

void pl_buf_clear(pl_buf *b) {
    b->len = 0;
    if (b->data) b->data[0] = 0;
}

int pl_buf_reserve(pl_buf *b, size_t more, pl_error *err) {
    size_t ceiling = b->ceiling ? b->ceiling : DEFAULT_CEILING, need;
    if (__builtin_add_overflow(b->len, more, &need) || need >= ceiling)
        return PL_FAIL(err, PL_E_RANGE, "a text grows beyond its limit of %zu bytes", ceiling);
    if (need < b->cap) return 0;
    size_t cap = PL_MAX(need + 1, b->cap + b->cap / 2 + 64);
    int rc = pl_realloc((void **)&b->data, b->len, cap, err);
    if (rc == 0) b->cap = cap;
    return rc;
}

int pl_buf_add(pl_buf *b, const void *bytes, size_t n, pl_error *err) {
    int rc = pl_buf_reserve(b, n, err);
    if (rc) return rc;
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int pl_buf_puts(pl_buf *b, const char *s, pl_error *err) { return pl_buf_add(b, s, strlen(s), err); }

int pl_buf_printf(pl_buf *b, pl_error *err, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    if (n < 0) return PL_FAIL(err, PL_E_INTERNAL, "a text could not be formatted");
    int rc = pl_buf_reserve(b, (size_t)n, err);
    if (rc) return rc;
    va_start(ap, format);
    vsnprintf(b->data + b->len, (size_t)n + 1, format, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

static int add_escaped(pl_buf *b, uint32_t c, const char *s, size_t n, pl_error *err) {
    switch (c) {
    case '"': return pl_buf_puts(b, "\\\"", err);
    case '\\': return pl_buf_puts(b, "\\\\", err);
    case '\n': return pl_buf_puts(b, "\\n", err);
    case '\r': return pl_buf_puts(b, "\\r", err);
    case '\t': return pl_buf_puts(b, "\\t", err);
    default: return c < 0x20 ? pl_buf_printf(b, err, "\\u%04x", (unsigned)c) : pl_buf_add(b, s, n, err);
    }
}

int pl_buf_json_string(pl_buf *b, const char *s, size_t n, pl_error *err) {
    int rc = pl_buf_puts(b, "\"", err);
    for (size_t i = 0; rc == 0 && i < n;) {
        uint32_t c;
        size_t k = pl_utf8_decode(s + i, n - i, &c);
        rc = k ? add_escaped(b, c, s + i, k, err) : pl_buf_puts(b, "\xEF\xBF\xBD", err);
        i += k ? k : 1;
    }
    return rc ? rc : pl_buf_puts(b, "\"", err);
}

/* out is d.ddde-XX: adds one to its last digit, away from zero; 9.99 stays. */
static void next_decimal(char *out) {
    char *p = strchr(out, 'e');
    while (p > out && !(p[-1] >= '0' && p[-1] <= '8')) p--;
    if (p == out) return;
    p[-1]++;
    for (; *p != 'e'; p++)
        if (*p == '9') *p = '0';
}

/* The decimal with the fewest digits that reads back as x, d.ddde-XX, into out; returns the number of digits.
 * 15 digits hold every shorter decimal, so that zeros at their end are all that is too much; a denormal holds fewer.
 * Below a power of two the gap is half as wide as above: the nearest decimal may miss it where the next one hits. */
static int shortest(char out[32], double x) {
    int exponent, digits = fabs(x) < 0x1p-1022 ? 1 : 15;
    bool power = fabs(frexp(x, &exponent)) == 0.5;
    for (;; digits++) {
        snprintf(out, 32, "%.*e", digits - 1, x);
        if (strtod(out, NULL) == x || digits == 17) break;
        if (power) next_decimal(out);
        if (power && strtod(out, NULL) == x) break;
    }
    char *e = strchr(out, 'e'), *end = e;
    for (; digits > 1 && end[-1] == '0'; end--) digits--;
    if (end[-1] < '0') end--; /* the point */
    memmove(end, e, strlen(e) + 1);
    return digits;
}

/* Python's repr: exponent form outside [1e-4, 1e16). */
void pl_double_text(char out[32], double x) {
    if (isnan(x)) {
        strcpy(out, "NaN");
        return;
    }
    if (isinf(x)) {
        strcpy(out, x < 0 ? "-Infinity" : "Infinity");
        return;
    }
    int digits = shortest(out, x), exponent = atoi(strchr(out, 'e') + 1);
    if (x == 0 || (exponent >= -4 && exponent < 16)) snprintf(out, 32, "%.*f", PL_MAX(1, digits - 1 - exponent), x);
    for (char *p = out; *p; p++)
        if (*p == ',') *p = '.'; /* a program may have set a locale */
}

int pl_buf_json_double(pl_buf *b, double x, pl_error *err) {
    char text[32];
    pl_double_text(text, x);
    return pl_buf_puts(b, text, err);
}
