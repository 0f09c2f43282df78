/* alloc.c: the one place where plumb takes and gives back heap memory, and the checked sizes that go with it.
 * Compiled a second time with PL_ALLOC_HOOK for the tests, which count and fail allocations. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define ALIGN 64

#ifdef PL_ALLOC_HOOK
/* The test build keeps each block's size in a header of ALIGN bytes. Atomic: the data thread allocates too. */
#include <stdatomic.h>
static atomic_llong live_bytes, calls, fail_at = -1;
void pl_test_fail_alloc_at(int64_t k);
int64_t pl_test_live_bytes(void);
int64_t pl_test_alloc_calls(void);
void pl_test_fail_alloc_at(int64_t k) {
    calls = 0;
    fail_at = k;
}
int64_t pl_test_live_bytes(void) { return live_bytes; }
int64_t pl_test_alloc_calls(void) { return calls; }
#endif

static void *take(size_t bytes) {
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (rounded < bytes) return NULL;
    if (rounded == 0) rounded = ALIGN;
#ifdef PL_ALLOC_HOOK
    if (calls++ == fail_at) return NULL;
    if (rounded + ALIGN < rounded) return NULL;
    char *p = aligned_alloc(ALIGN, rounded + ALIGN);
    if (!p) return NULL;
    memcpy(p, &bytes, sizeof bytes);
    live_bytes += (long long)bytes;
    return p + ALIGN;
#else
    return aligned_alloc(ALIGN, rounded);
#endif
}

int pl_alloc(void **out, size_t bytes, pl_error *err) {
    void *p = take(bytes);
    if (!p) return PL_FAIL(err, PL_E_NOMEM, "no memory for %zu bytes", bytes);
    *out = p;
    return 0;
}

int pl_alloc_zero(void **out, size_t bytes, pl_error *err) {
    int rc = pl_alloc(out, bytes, err);
    if (rc == 0) memset(*out, 0, bytes);
    return rc;
}

int pl_realloc(void **p, size_t old_bytes, size_t new_bytes, pl_error *err) {
    void *q = NULL;
    int rc = pl_alloc(&q, new_bytes, err);
    if (rc) return rc;
    if (*p) memcpy(q, *p, PL_MIN(old_bytes, new_bytes));
    pl_free(*p);
    *p = q;
    return 0;
}

void pl_free(void *p) {
    if (!p) return;
#ifdef PL_ALLOC_HOOK
    char *block = (char *)p - ALIGN;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    live_bytes -= (long long)bytes;
    free(block);
#else
    free(p);
#endif
}

int pl_bytes2(size_t *out, int64_t n, size_t elem, pl_error *err) {
    if (n < 0 || __builtin_mul_overflow((size_t)n, elem, out))
        return PL_FAIL(err, PL_E_RANGE, "a size of %" PRId64 " x %zu bytes does not fit", n, elem);
    return 0;
}

int pl_bytes3(size_t *out, int64_t a, int64_t b, size_t elem, pl_error *err) {
    int64_t n = 0;
    int rc = pl_count_mul(&n, a, b, err);
    return rc ? rc : pl_bytes2(out, n, elem, err);
}

int pl_count_mul(int64_t *out, int64_t a, int64_t b, pl_error *err) {
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, out))
        return PL_FAIL(err, PL_E_RANGE, "a size of %" PRId64 " x %" PRId64 " does not fit", a, b);
    return 0;
}

int pl_alloc_array(void **out, int64_t n, size_t elem, pl_error *err) {
    size_t bytes = 0;
    int rc = pl_bytes2(&bytes, n, elem, err);
    return rc ? rc : pl_alloc_zero(out, bytes, err);
}

int pl_strndup(char **out, const char *s, size_t n, pl_error *err) {
    char *p = NULL;
    int rc = pl_alloc((void **)&p, n + 1, err);
    if (rc) return rc;
    memcpy(p, s, n);
    p[n] = 0;
    *out = p;
    return 0;
}

int pl_strdup(char **out, const char *s, pl_error *err) { return pl_strndup(out, s, strlen(s), err); }

int pl_asprintf(char **out, pl_error *err, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    if (n < 0) return PL_FAIL(err, PL_E_INTERNAL, "a text could not be formatted");
    char *p = NULL;
    int rc = pl_alloc((void **)&p, (size_t)n + 1, err);
    if (rc) return rc;
    va_start(ap, format);
    vsnprintf(p, (size_t)n + 1, format, ap);
    va_end(ap);
    *out = p;
    return 0;
}
