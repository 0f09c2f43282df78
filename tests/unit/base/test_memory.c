/* Errors, the allocator, arenas, the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/base.h"
#include "base/utf8.h"
#include "plumb/log.h"
#include "unit/alloc_hook.h"

static void error_text(void **state) {
    PL_UNUSED(state);
    pl_error e;
    assert_int_equal(PL_FAIL(&e, PL_E_SHAPE, "%d rows, want %d", 3, 4), PL_E_SHAPE);
    assert_int_equal(e.code, PL_E_SHAPE);
    assert_non_null(strstr(e.file, "test_memory.c"));
    assert_true(e.line > 0);
    assert_int_equal(pl_error_context(&e, PL_E_SHAPE, "layer %d: %s", 3, "q_proj"), PL_E_SHAPE);
    assert_string_equal(e.text, "layer 3: q_proj: 3 rows, want 4");
    PL_FAIL(&e, PL_E_IO, "again: %s", e.text); /* the old text may be an argument */
    assert_string_equal(e.text, "again: layer 3: q_proj: 3 rows, want 4");
    assert_int_equal(PL_FAIL(NULL, PL_E_IO, "nobody listens"), PL_E_IO);
    assert_int_equal(pl_error_context(NULL, 7, "nobody"), 7);
}

static void error_long(void **state) {
    PL_UNUSED(state);
    pl_error e;
    char text[4000];
    for (size_t i = 0; i + 2 < sizeof text; i += 2) memcpy(text + i, "\xC3\xA9", 3);
    for (int odd = 0; odd < 2; odd++) {
        PL_FAIL(&e, PL_E_IO, "%s%s", odd ? "x" : "", text);
        assert_true(strlen(e.text) < sizeof e.text && strlen(e.text) > sizeof e.text - 8);
        assert_int_equal(pl_utf8_valid(e.text, strlen(e.text)), strlen(e.text));
        pl_error_context(&e, PL_E_IO, "y");
        assert_memory_equal(e.text, "y: ", 3);
        assert_int_equal(pl_utf8_valid(e.text, strlen(e.text)), strlen(e.text));
    }
    PL_FAIL(&e, PL_E_IO, "short");
    pl_error_context(&e, PL_E_IO, "%s", text);
    assert_string_equal(e.text, "short");
}

static void error_names(void **state) {
    PL_UNUSED(state);
    assert_string_equal(pl_error_name(0), "no error");
    assert_string_equal(pl_error_name(-5), "unknown error");
    assert_string_equal(pl_error_hint(999), "");
    for (int code = PL_E_NOMEM; code <= PL_E_INTERNAL; code++) {
        assert_true(strcmp(pl_error_name(code), "unknown error") != 0);
        assert_true(strlen(pl_error_hint(code)) > 5);
    }
}

static void allocation(void **state) {
    PL_UNUSED(state);
    pl_error e;
    void *p = NULL, *before = (void *)&e;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 100000};
    for (int64_t i = 0; i < PL_LEN(sizes); i++) {
        assert_int_equal(pl_alloc(&p, sizes[i], &e), 0);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 0xA5, sizes[i]);
        assert_int_equal(pl_test_live_bytes(), sizes[i]);
        pl_free(p);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(pl_alloc_zero(&p, 1000, &e), 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(((char *)p)[i], 0);
    memset(p, 7, 1000);
    assert_int_equal(pl_realloc(&p, 1000, 3000, &e), 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(((char *)p)[i], 7);
    pl_test_fail_alloc_at(0);
    before = p;
    assert_int_equal(pl_realloc(&p, 3000, 6000, &e), PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    assert_ptr_equal(p, before);
    assert_int_equal(pl_realloc(&p, 3000, 10, &e), 0);
    assert_int_equal(((char *)p)[9], 7);
    pl_free(p);
    pl_free(NULL);
    p = before;
    assert_int_equal(pl_alloc(&p, SIZE_MAX, &e), PL_E_NOMEM);
    assert_ptr_equal(p, before); /* written only on success */
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void failing_at(void **state) {
    PL_UNUSED(state);
    pl_error e;
    void *p[5] = {NULL};
    pl_test_fail_alloc_at(3);
    for (int i = 0; i < 5; i++) assert_int_equal(pl_alloc(&p[i], 10, &e), i == 3 ? PL_E_NOMEM : 0);
    assert_int_equal(pl_test_alloc_calls(), 5);
    assert_int_equal(pl_test_live_bytes(), 40);
    assert_int_equal(e.code, PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    for (int i = 0; i < 5; i++) pl_free(p[i]);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void sizes(void **state) {
    PL_UNUSED(state);
    pl_error e;
    size_t bytes = 1;
    int64_t n = 1;
    double *array = NULL;
    assert_int_equal(pl_bytes2(&bytes, 10, 8, &e), 0);
    assert_int_equal(bytes, 80);
    assert_int_equal(pl_bytes3(&bytes, 10, 3, 4, &e), 0);
    assert_int_equal(bytes, 120);
    assert_int_equal(pl_bytes3(&bytes, 0, INT64_MAX, 8, &e), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(pl_bytes2(&bytes, -1, 8, &e), PL_E_RANGE);
    assert_int_equal(pl_bytes2(&bytes, INT64_MAX, 4, &e), PL_E_RANGE);
    assert_int_equal(pl_bytes3(&bytes, (int64_t)1 << 40, (int64_t)1 << 40, 1, &e), PL_E_RANGE);
    assert_int_equal(pl_bytes3(&bytes, -1, -1, 1, &e), PL_E_RANGE);
    assert_int_equal(pl_count_mul(&n, 3, -1, &e), PL_E_RANGE);
    assert_int_equal(pl_count_mul(&n, (int64_t)1 << 32, (int64_t)1 << 31, &e), PL_E_RANGE);
    assert_int_equal(pl_count_mul(&n, (int64_t)1 << 31, (int64_t)1 << 31, &e), 0);
    assert_true(n == (int64_t)1 << 62);
    assert_int_equal(PL_NEW(&array, INT64_MAX, &e), PL_E_RANGE);
    assert_int_equal(PL_NEW(&array, 5, &e), 0);
    assert_true(array[4] == 0);
    pl_free(array);
}

static int strings_once(pl_error *e) {
    char *a = NULL, *b = NULL, *c = NULL;
    int rc = pl_strdup(&a, "plumb", e);
    if (rc == 0) rc = pl_strndup(&b, "plumb", 3, e);
    if (rc == 0) rc = pl_asprintf(&c, e, "%s-%s-%d", a, b, 7);
    if (rc == 0) assert_string_equal(c, "plumb-plu-7");
    pl_free(a);
    pl_free(b);
    pl_free(c);
    return rc;
}

static void strings(void **state) {
    PL_UNUSED(state);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc && k < 20; k++) {
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = strings_once(&e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(k, 4);
}

/* The same layout over a measuring arena and over a real one of that size. */
static int lay_out(pl_arena *a, float **x, double **y, pl_error *e) {
    int rc = PL_TAKE(a, x, 5, "x", e);
    if (rc == 0) rc = PL_TAKE(a, y, 9, "y", e);
    if (rc == 0) rc = PL_TAKE(a, x, 1, "x", e);
    return rc;
}

static void arena_plan(void **state) {
    PL_UNUSED(state);
    pl_error e;
    pl_arena plan, real;
    float *x = (float *)&e;
    double *y = (double *)&e;
    pl_arena_init_measuring(&plan, "step");
    assert_int_equal(lay_out(&plan, &x, &y, &e), 0);
    assert_null(x);
    assert_null(y);
    assert_int_equal(plan.peak, 64 + 128 + 64);
    assert_int_equal(plan.ntags, 2);
    assert_int_equal(plan.tags[0].bytes, 128);
    assert_int_equal(pl_arena_init(&real, "step", plan.peak, &e), 0);
    assert_int_equal(lay_out(&real, &x, &y, &e), 0);
    assert_int_equal((uintptr_t)x % 64, 0);
    assert_int_equal((uintptr_t)y % 64, 0);
    for (int i = 0; i < 9; i++) assert_true(y[i] == 0);
    assert_int_equal(lay_out(&real, &x, &y, &e), PL_E_NOMEM);
    assert_non_null(strstr(e.text, "the step arena of 256 bytes has 0 left, x needs 20"));
    pl_arena_touch(&real);
    pl_arena_release(&real);
    pl_arena_release(&real);
    pl_arena_release(NULL);
}

static void arena_rewind(void **state) {
    PL_UNUSED(state);
    pl_error e;
    pl_arena a;
    char *p = NULL, *q = NULL, *r = NULL;
    assert_int_equal(pl_arena_init(&a, "scratch", 1024, &e), 0);
    assert_int_equal(PL_TAKE(&a, &p, 100, "p", &e), 0);
    pl_mark mark = pl_arena_mark(&a);
    assert_int_equal(PL_TAKE(&a, &q, 800, "q", &e), 0);
    memset(q, 1, 800);
    pl_arena_rewind(&a, mark);
    assert_int_equal(PL_TAKE(&a, &r, 10, "r", &e), 0);
    assert_ptr_equal(q, r);
    assert_int_equal(r[0], 1);
    assert_int_equal(a.peak, 128 + 832);
    pl_arena_touch(&a); /* keeps what is there */
    assert_int_equal(r[9], 1);
    r = NULL;
    assert_int_equal(PL_TAKE(&a, &r, -1, "minus", &e), PL_E_RANGE);
    assert_memory_equal(e.text, "minus: ", 7);
    assert_int_equal(pl_arena_take(&a, SIZE_MAX, "all", (void **)&r, &e), PL_E_NOMEM);
    assert_int_equal(pl_arena_take(&a, SIZE_MAX - 64, "all", (void **)&r, &e), PL_E_NOMEM);
    assert_null(r);
    pl_arena_release(&a);
    assert_int_equal(pl_arena_init(&a, "huge", SIZE_MAX / 2, &e), PL_E_NOMEM);
    pl_arena_init_measuring(&a, "huge");
    assert_int_equal(pl_arena_take(&a, SIZE_MAX / 2, "half", (void **)&r, &e), 0);
    assert_int_equal(pl_arena_take(&a, SIZE_MAX / 2 + 100, "rest", (void **)&r, &e), PL_E_NOMEM);
}

/* What is taken between a mark and now, dealt out a second time; what does not fit there comes out of the arena. */
static int lay_out_again(pl_arena *a, char *p[4], pl_error *e) {
    pl_arena again;
    int rc = PL_TAKE(a, &p[0], 10, "first", e);
    pl_mark mark = pl_arena_mark(a);
    if (rc == 0) rc = PL_TAKE(a, &p[1], 192, "inner", e);
    pl_arena_init_again(&again, "again", a, mark);
    if (rc == 0) rc = PL_TAKE_SPARE(&again, a, &p[2], 65, "spare", e);
    if (rc == 0) rc = PL_TAKE_SPARE(&again, a, &p[3], 65, "spare", e);
    return rc ? rc : PL_TAKE_SPARE(NULL, a, &p[0], 1, "spare", e);
}
static void arena_again(void **state) {
    PL_UNUSED(state);
    pl_error e;
    pl_arena plan, real;
    char *p[4], *x;
    pl_arena_init_measuring(&plan, "step");
    assert_int_equal(lay_out_again(&plan, p, &e), 0);
    for (int i = 0; i < 4; i++) assert_null(p[i]);
    assert_int_equal(plan.peak, 64 + 192 + 128 + 64);
    assert_int_equal(pl_arena_init(&real, "step", plan.peak, &e), 0);
    assert_int_equal(lay_out_again(&real, p, &e), 0);
    assert_true(p[1] == real.base + 64);
    assert_true(p[2] == p[1]);
    assert_true(p[3] == p[1] + 192);
    assert_true(p[0] == p[3] + 128);
    assert_int_equal(PL_TAKE_SPARE(&real, &real, &x, 1, "x", &e), PL_E_NOMEM);
    assert_int_equal(PL_TAKE_SPARE(NULL, &real, &x, -1, "x", &e), PL_E_RANGE);
    pl_arena_release(&real);
}
static void arena_tags(void **state) {
    PL_UNUSED(state);
    static char names[60][8];
    pl_error e;
    pl_arena a;
    void *p;
    size_t sum = 0;
    pl_arena_init_measuring(&a, "step");
    for (int i = 0; i < 60; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        assert_int_equal(pl_arena_take(&a, 1, names[i], &p, &e), 0);
    }
    assert_int_equal(a.ntags, PL_ARENA_TAGS);
    for (int i = 0; i < a.ntags; i++) sum += a.tags[i].bytes;
    assert_int_equal(sum, a.used);
}

static void collect(void *user, pl_log_level level, const char *text) {
    snprintf(user, 3000, "%s: %s", pl_log_level_name(level), text);
}

static void log_sink(void **state) {
    PL_UNUSED(state);
    char line[3000] = "", longer[5000];
    pl_log(PL_LOG_INFO, "nobody listens");
    pl_log_set(collect, line);
    pl_log(PL_LOG_WARN, "%d rows", 4);
    assert_string_equal(line, "warning: 4 rows");
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    pl_log(PL_LOG_ERROR, "%s", longer);
    assert_true(strlen(line) > 2000 && strlen(line) < 2100);
    pl_log_set(NULL, NULL);
    line[0] = 0;
    pl_log(PL_LOG_DEBUG, "gone");
    assert_string_equal(line, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_text),  cmocka_unit_test(error_long), cmocka_unit_test(error_names),
        cmocka_unit_test(allocation),  cmocka_unit_test(failing_at), cmocka_unit_test(sizes),
        cmocka_unit_test(strings),     cmocka_unit_test(arena_plan), cmocka_unit_test(arena_rewind),
        cmocka_unit_test(arena_again), cmocka_unit_test(arena_tags), cmocka_unit_test(log_sink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
