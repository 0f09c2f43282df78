/* base/buf.h: a growing byte buffer with a ceiling; always NUL-terminated behind len once anything was added. */
#ifndef PL_BUF_H
#define PL_BUF_H

#include "base/base.h"

typedef struct pl_buf {
    char *data; /* owned; NULL while empty */
    size_t len, cap;
    size_t ceiling; /* bytes; 0 = 1 GiB. Growing past it is PL_E_RANGE */
} pl_buf;

void pl_buf_release(pl_buf *b);
void pl_buf_clear(pl_buf *b); /* len = 0, keeps the memory */
int pl_buf_reserve(pl_buf *b, size_t more, pl_error *err) __attribute__((warn_unused_result));
int pl_buf_add(pl_buf *b, const void *bytes, size_t n, pl_error *err) __attribute__((warn_unused_result));
int pl_buf_puts(pl_buf *b, const char *s, pl_error *err) __attribute__((warn_unused_result));
int pl_buf_printf(pl_buf *b, pl_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4), warn_unused_result));
/* A JSON string with quotes; bytes that are not UTF-8 become U+FFFD, non-ASCII is not escaped. */
int pl_buf_json_string(pl_buf *b, const char *s, size_t n, pl_error *err) __attribute__((warn_unused_result));
/* The shortest decimal that reads back as the same double, as Python's repr prints it (1.0, 1e-05, NaN, Infinity). */
int pl_buf_json_double(pl_buf *b, double x, pl_error *err) __attribute__((warn_unused_result));
/* The same text into out[32]. */
void pl_double_text(char out[32], double x);

#endif
