/* Products with few rows (decoding): against a double product, the same bits for any number of rows, for weights that
 * are stored rounded already or lie in tiles, and for several products at once. At the machine's level, and at that of
 * PLUMB_CPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/convert.h"
#include "kernels/gemm.h"

enum { ROWS = 32, OUT = 83, MOST_K = 3300 };
static const uint64_t seed = 20261122;
static pl_ops ops;
static pl_gemm *gemm;
static float a[ROWS * MOST_K], values[OUT * MOST_K], all[ROWS * OUT], some[ROWS * OUT];
static char weights[3][OUT * MOST_K * 4];
static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16};

static float rounded(float x, bool bf16) { return bf16 ? pl_bf16_to_f32(pl_bf16_from_f32(x)) : x; }

/* All types hold the same numbers, which are bf16 when `exact`. */
static void fill(int64_t k, bool exact) {
    pl_rng_normal(a, ROWS * k, 1.0f, seed, 1);
    pl_rng_normal(values, OUT * k, 0.05f, seed, 2);
    for (int64_t i = 0; i < OUT * k; i++) {
        values[i] = exact ? rounded(values[i], true) : pl_f16_to_f32(pl_f16_from_f32(values[i]));
        if (exact) values[i] = pl_f16_to_f32(pl_f16_from_f32(values[i])); /* a small bf16 may be no f16 */
    }
    for (int t = 0; t < 3; t++) ops.from_real(weights[t], types[t], values, OUT * k);
}

static pl_gemm_call call_of(float *c, int64_t m, int64_t k, bool bf16, int type) {
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .bf16 = bf16,
                          .m = m,
                          .n = OUT,
                          .k = k,
                          .a = a,
                          .lda = k,
                          .b = weights[type],
                          .b_type = types[type],
                          .ldb = k,
                          .c = c,
                          .ldc = OUT};
}

static void run(const pl_gemm_call *c) {
    pl_error err;
    if (pl_gemm_run(gemm, c, &err)) fail_msg("%s", err.text);
}

/* Any order of sums: |error| <= (k + 2) 2^-24 sum |a b|. */
static void check_double(const float *c, int64_t m, int64_t k, bool bf16, int type) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < OUT; j++) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < k; p++) {
                float w;
                ops.to_real(&w, weights[type] + (size_t)(j * k + p) * pl_dtype_bytes(types[type]), types[type], 1);
                double x = (double)rounded(a[i * k + p], bf16) * (double)rounded(w, bf16);
                sum += x;
                size += fabs(x);
            }
            double apart = fabs((double)c[i * OUT + j] - sum), bound = ((double)k + 2) * 0x1p-24 * size;
            if (!(apart <= bound)) fail_msg("row %d, %d: off by %g, at most %g", (int)i, (int)j, apart, bound);
        }
}

static void check_same(const char *what, const float *x, const float *y, int64_t n) {
    if (memcmp(x, y, (size_t)n * sizeof *x) != 0) fail_msg("%s: other bits", what);
}

static void one_length(int64_t k, bool bf16, int type) {
    int64_t few = pl_gemm_few_rows(gemm, bf16, types[type]);
    if (few == 0) return;
    assert_in_range(few, 8, ROWS);
    fill(k, false);
    pl_gemm_call whole = call_of(all, few, k, bf16, type);
    run(&whole);
    check_double(all, few, k, bf16, type);
    for (int64_t m = 1; m < few; m++) {
        pl_gemm_call part = call_of(some, m, k, bf16, type);
        part.a = a + (few - m) * k; /* the last rows */
        run(&part);
        check_same("fewer rows", some, all + (few - m) * OUT, m * OUT);
    }
    memcpy(some, all, sizeof some);
    whole.c = some;
    whole.accumulate = true;
    run(&whole);
    for (int64_t i = 0; i < few * OUT; i++)
        if (!(fabsf(some[i] - 2 * all[i]) <= 1e-6f * (1 + fabsf(all[i])))) /* parts of a long row are added singly */
            fail_msg("adding: element %d", (int)i);
}

static void test_lengths(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 31, 32, 33, 64, 100, 576, 1535, 1537, 3300};
    for (int i = 0; i < PL_LEN(lengths); i++)
        for (int type = 0; type < 3; type++)
            for (int bf16 = 0; bf16 < 2; bf16++) one_length(lengths[i], bf16, type);
}

/* With bf16 operands, weights that were rounded before give the bits of those that are rounded on the way. */
static void test_rounded_before(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++) {
        int64_t few = pl_gemm_few_rows(gemm, true, types[type]);
        if (few == 0) skip();
        assert_int_equal(few, pl_gemm_few_rows(gemm, true, PL_BF16));
        fill(577, false);
        ops.from_real(weights[2], PL_BF16, values, OUT * 577);
        pl_gemm_call stored = call_of(all, few, 577, true, type), before = call_of(some, few, 577, true, 2);
        run(&stored);
        run(&before);
        check_same("rounded before", some, all, few * OUT);
    }
}

/* All whole tiles of b's rows, from each stored type: the bits of the rows, for any number of them, and added to what
 * is there; k of one part and of several. */
static void tiles_of(int64_t k, int type) {
    enum { N = OUT / PL_GEMM_TILE * PL_GEMM_TILE };
    static _Alignas(64) uint16_t tiles[N * MOST_K];
    int64_t few = pl_gemm_few_rows(gemm, true, PL_BF16);
    fill(k, false);
    for (int64_t j = 0; j < N; j += PL_GEMM_TILE)
        pl_gemm_tile(tiles + j * k, weights[type] + (size_t)(j * k) * pl_dtype_bytes(types[type]), types[type], k);
    for (int64_t m = 1; m <= few; m++)
        for (int add = 0; add < 2; add++) {
            pl_gemm_call rows = call_of(all, m, k, true, type), call = call_of(some, m, k, true, 2);
            rows.n = call.n = N;
            rows.accumulate = call.accumulate = add;
            call.b = tiles;
            call.b_tiles = true;
            run(&rows);
            run(&call);
            for (int64_t i = 0; i < m; i++) check_same("tiles", some + i * OUT, all + i * OUT, N);
        }
}

static void test_tiles(void **state) {
    (void)state;
    static const int64_t lengths[] = {32, 64, 576, 1536, 1568, 3296};
    if (!pl_gemm_has_tiles(gemm, true, PL_GEMM_TILE, 32)) skip();
    assert_false(pl_gemm_has_tiles(gemm, true, PL_GEMM_TILE, 48));
    assert_false(pl_gemm_has_tiles(gemm, true, PL_GEMM_TILE - 1, 32));
    assert_false(pl_gemm_has_tiles(gemm, false, PL_GEMM_TILE, 32));
    for (int i = 0; i < PL_LEN(lengths); i++)
        for (int type = 0; type < 3; type++) tiles_of(lengths[i], type);
}

/* Too many rows, another kind or precision, gaps between rows. */
static void test_no_tiles(void **state) {
    (void)state;
    pl_error err;
    for (int bad = 0; bad < 5; bad++) {
        pl_gemm_call c = call_of(all, 4, 64, bad != 0, 2);
        c.n = c.ldc = 2 * PL_GEMM_TILE;
        c.b_tiles = true;
        if (bad == 1) c.m = pl_gemm_few_rows(gemm, true, PL_BF16) + 1;
        if (bad == 2) c.n = 2 * PL_GEMM_TILE - 1;
        if (bad == 3) c.ldb = 65;
        if (bad == 4) c.kind = PL_GEMM_DX, c.n = c.ldb = c.k = c.lda = 64, c.ldc = 64;
        assert_int_equal(pl_gemm_run(gemm, &c, &err), PL_E_INTERNAL);
    }
}

static void test_at_once(void **state) {
    (void)state;
    fill(576, false);
    for (int64_t m = 1; m <= ROWS; m += 15) {
        pl_gemm_call calls[3];
        for (int i = 0; i < 3; i++) {
            calls[i] = call_of(all + i * 20, m, 576, true, 2); /* side by side in c */
            calls[i].n = 20 - i, calls[i].b = weights[2] + i * 576 * 40;
            calls[i].same_a = i > 0;
        }
        pl_error err;
        memset(all, 0, sizeof all);
        memset(some, 0, sizeof some);
        assert_int_equal(pl_gemm_run_all(gemm, calls, 3, &err), 0);
        for (int i = 0; i < 3; i++) calls[i].c = some + i * 20, calls[i].same_a = false, run(&calls[i]);
        check_same("at once", some, all, m * OUT);
    }
    pl_gemm_call bad = call_of(all, 1, 576, true, 2);
    bad.ldc = 3;
    pl_error err;
    assert_int_equal(pl_gemm_run_all(gemm, &bad, 1, &err), PL_E_SHAPE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lengths), cmocka_unit_test(test_rounded_before),
                                       cmocka_unit_test(test_tiles), cmocka_unit_test(test_no_tiles),
                                       cmocka_unit_test(test_at_once)};
    pl_cpu_level level = pl_cpu_detect();
    pl_error err;
    const char *name = getenv("PLUMB_CPU");
    if (name && *name && pl_cpu_level_parse(&level, name, &err)) return 1;
    level = PL_MIN(level, pl_cpu_detect());
    pl_ops_init(&ops, level);
    if (pl_gemm_new(&gemm, level, &ops, &err)) return 1;
    printf("level %s, seed %d\n", pl_cpu_level_name(level), (int)seed);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pl_gemm_free(gemm);
    return failed;
}
