/* base/base.h: what every file of plumb may use: sizes, checked products, the goto-out macro, allocation.
 * Owns nothing but the allocator's seam. Knows nothing above src/base. */
#ifndef PL_BASE_H
#define PL_BASE_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plumb/error.h"

#define PL_LEN(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))
#define PL_GO(rc, call)                                                                                                \
    do {                                                                                                               \
        (rc) = (call);                                                                                                 \
        if ((rc) != 0) goto out;                                                                                       \
    } while (0)
#define PL_MIN(a, b) ((a) < (b) ? (a) : (b))
#define PL_MAX(a, b) ((a) > (b) ? (a) : (b))
#define PL_UNUSED(x) ((void)(x))

/* Product of counts and an element size in bytes, checked: counts must be >= 0, the product must fit size_t.
 * PL_E_RANGE. */
int pl_bytes2(size_t *out, int64_t n, size_t elem, pl_error *err);
int pl_bytes3(size_t *out, int64_t a, int64_t b, size_t elem, pl_error *err);
/* out = a * b in int64_t for a, b >= 0. PL_E_RANGE. */
int pl_count_mul(int64_t *out, int64_t a, int64_t b, pl_error *err);

/* The one allocator. *out is 64-byte aligned when it comes from pl_alloc or pl_alloc_zero. Release with pl_free.
 * The test build can make the k-th allocation fail and counts live bytes (tests/unit/alloc_hook.h). */
int pl_alloc(void **out, size_t bytes, pl_error *err);
int pl_alloc_zero(void **out, size_t bytes, pl_error *err);
/* Grows or shrinks *p, keeping the common part; on failure *p is as it was. */
int pl_realloc(void **p, size_t old_bytes, size_t new_bytes, pl_error *err);
void pl_free(void *p);
/* Typed shorthands: PL_NEW(&p, n, err) allocates n zeroed elements of *p's type. */
int pl_alloc_array(void **out, int64_t n, size_t elem, pl_error *err);
#define PL_NEW(pp, n, err) pl_alloc_array((void **)(pp), (n), sizeof **(pp), (err))
/* Copies of strings, NUL-terminated, released with pl_free. */
int pl_strdup(char **out, const char *s, pl_error *err);
int pl_strndup(char **out, const char *s, size_t n, pl_error *err);
int pl_asprintf(char **out, pl_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
