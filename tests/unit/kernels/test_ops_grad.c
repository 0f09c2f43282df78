/* test_ops_grad.c: the backward op of every forward op, by directional finite differences in double, over the double
 * build of the reference; attention against a naive one with an explicit mask; AdamW against numbers of torch. The
 * harness shows that it finds a gradient that is 1 % wrong, and that NaN fails.
 *
 * With f(x) = sum w . op(x) for fixed random w, the backward op given dy = w is the gradient of f. Central differences
 * of step h err by about h^2 f''' + eps |f| / h: 1e-7 relative to the size of the directional derivative is safe at h =
 * 1e-5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/ops.h"

#ifndef PL_REAL_IS_DOUBLE
#error "this test is built over double"
#endif

#define MAX_IN 3

/* One differentiable op: inputs x[0..nx) of sizes n[], output of size ny. */
typedef struct op_case op_case;
struct op_case {
    const char *name;
    int nx;
    int64_t n[MAX_IN], ny;
    void (*fwd)(const op_case *c, real *y, real *const *x);
    /* dx[i] starts as zero */
    void (*bwd)(const op_case *c, real *const *dx, const real *dy, real *const *x);
    int64_t T, C;
    const pl_attn *attn;
};

static pl_ops ops; /* the double reference */
static uint64_t counter;

static real normal(void) {
    double u = pl_rng_unit64(4711, counter++), v = pl_rng_unit64(4711, counter++);
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

static real *normals(int64_t n) {
    real *x = NULL;
    assert_int_equal(PL_NEW(&x, n + 1, NULL), 0);
    for (int64_t i = 0; i < n; i++) x[i] = normal();
    return x;
}

static real sum_product(const real *a, const real *b, int64_t n) {
    real s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static bool agree(double a, double b, double tol) { return fabs(a - b) <= tol * (1e-9 + fabs(a) + fabs(b)); }

/* f(x + step * dir along input i). */
static real value_at(const op_case *c, real *const *x, int i, const real *dir, real step, const real *w) {
    real *moved[MAX_IN], *y = normals(c->ny), *shifted = normals(c->n[i]);
    for (int j = 0; j < c->nx; j++) moved[j] = x[j];
    for (int64_t k = 0; k < c->n[i]; k++) shifted[k] = x[i][k] + step * dir[k];
    moved[i] = shifted;
    c->fwd(c, y, moved);
    real f = sum_product(w, y, c->ny);
    pl_free(y), pl_free(shifted);
    return f;
}

/* Number of inputs whose gradient, times `factor`, disagrees with the finite difference. */
static int check_gradient(const op_case *c, real factor) {
    real *x[MAX_IN], *dx[MAX_IN], *w = normals(c->ny);
    int bad = 0;
    for (int i = 0; i < c->nx; i++) {
        x[i] = normals(c->n[i]), dx[i] = normals(c->n[i]);
        memset(dx[i], 0, (size_t)c->n[i] * sizeof(real));
    }
    c->bwd(c, dx, w, x);
    for (int i = 0; i < c->nx; i++) {
        real *dir = normals(c->n[i]);
        real h = 1e-5, got = factor * sum_product(dx[i], dir, c->n[i]);
        real want = (value_at(c, x, i, dir, h, w) - value_at(c, x, i, dir, -h, w)) / (2 * h);
        bool ok = agree(got, want, 1e-7);
        if (!ok && factor == 1)
            printf("%s: input %d: backward %.12g, finite difference %.12g\n", c->name, i, got, want);
        bad += !ok;
        pl_free(dir);
    }
    for (int i = 0; i < c->nx; i++) pl_free(x[i]), pl_free(dx[i]);
    pl_free(w);
    return bad;
}

static void gradient_is_right(const op_case *c) {
    for (int again = 0; again < 3; again++) {
        assert_int_equal(check_gradient(c, 1), 0);
        assert_int_equal(check_gradient(c, 1.01), c->nx); /* each input's gradient, 1 % wrong, is found */
        assert_int_equal(check_gradient(c, (real)NAN), c->nx);
    }
}

/* --- the ops
 * ------------------------------------------------------------------------------------------------------------------ */
static const int32_t ids[] = {3, 1, 3, 0, 2, 3};
static const int64_t row_list[] = {4, 0, 4, 2};
static const uint64_t row_ids[] = {11, 5, 1ull << 40, 11, 0, 9};
#define EPS_NORM 1e-3

static void norm_fwd(const op_case *c, real *y, real *const *x) {
    ops.rmsnorm(y, NULL, x[0], x[1], EPS_NORM, c->T, c->C);
}
static void norm_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    real *rstd = normals(c->T), *y = normals(c->ny);
    ops.rmsnorm(y, rstd, x[0], x[1], EPS_NORM, c->T, c->C);
    ops.rmsnorm_bwd(dx[0], true, dx[1], dy, x[0], x[1], rstd, c->T, c->C);
    memcpy(y, dx[0], (size_t)c->n[0] * sizeof(real)); /* overwriting gives what adding to zero gives */
    ops.rmsnorm_bwd(dx[0], false, NULL, dy, x[0], x[1], rstd, c->T, c->C);
    assert_memory_equal(y, dx[0], (size_t)c->n[0] * sizeof(real));
    pl_free(rstd), pl_free(y);
}

/* x[1] holds [T, rot/2] angles that are not differentiated here; rot = 4 of D = 6, two heads, stride 13. */
static void rope_angles(real *cosine, real *sine, int64_t T) {
    for (int64_t i = 0; i < T * 2; i++) cosine[i] = cos(0.3 * (double)i), sine[i] = sin(0.3 * (double)i);
}
static void rope_any(const op_case *c, real *y, const real *x, bool inverse) {
    real cosine[64], sine[64];
    rope_angles(cosine, sine, c->T);
    memcpy(y, x, (size_t)c->ny * sizeof(real));
    ops.rope(y, 13, cosine, sine, inverse, c->T, 2, 6, 4);
}
static void rope_fwd(const op_case *c, real *y, real *const *x) { rope_any(c, y, x[0], false); }
static void rope_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    PL_UNUSED(x);
    rope_any(c, dx[0], dy, true);
}

static void swiglu_fwd(const op_case *c, real *y, real *const *x) { ops.swiglu(y, x[0], x[1], c->ny); }
static void swiglu_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    ops.swiglu_bwd(dx[0], dx[1], dy, x[0], x[1], c->ny);
}

static void embed_fwd(const op_case *c, real *y, real *const *x) { ops.embed(y, x[0], PL_F64, ids, c->T, c->C); }
static void embed_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    PL_UNUSED(x);
    ops.embed_bwd(dx[0], dy, ids, c->T, c->C);
}

static void gather_fwd(const op_case *c, real *y, real *const *x) { ops.gather_rows(y, x[0], row_list, c->T, c->C); }
static void gather_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    PL_UNUSED(x);
    ops.scatter_add_rows(dx[0], dy, row_list, c->T, c->C);
}

static void bias_fwd(const op_case *c, real *y, real *const *x) {
    memcpy(y, x[0], (size_t)c->ny * sizeof(real));
    ops.add_bias(y, x[1], c->T, c->C);
}
static void bias_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    PL_UNUSED(x);
    ops.add(dx[0], dy, c->ny);
    ops.sum_rows(dx[1], dy, c->T, c->C);
}

static void dropout_fwd(const op_case *c, real *y, real *const *x) {
    ops.dropout(y, false, x[0], row_ids, 99, 0.4, c->T, c->C);
}
static void dropout_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    PL_UNUSED(x);
    ops.dropout(dx[0], true, dy, row_ids, 99, 0.4, c->T, c->C);
}

/* logp of one target per row from tiles of 5 ids, as the head forms it. */
static void head_lse(const op_case *c, real *lse, const real *z) {
    real *copy = normals(c->T * c->C);
    pl_head_stat s[8];
    memcpy(copy, z, (size_t)(c->T * c->C) * sizeof(real));
    for (int64_t t = 0; t < c->T; t++) s[t] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    for (int64_t v = 0; v < c->C; v += 5) ops.head_tile(copy + v, c->C, c->T, PL_MIN(5, c->C - v), v, s, false, NULL);
    for (int64_t t = 0; t < c->T; t++) lse[t] = s[t].max + log(s[t].sum);
    pl_free(copy);
}
static void logp_fwd(const op_case *c, real *y, real *const *x) {
    head_lse(c, y, x[0]);
    for (int64_t t = 0; t < c->T; t++) y[t] = x[0][t * c->C + ids[t]] - y[t];
}
static void logp_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    real lse[8], coef[8];
    head_lse(c, lse, x[0]);
    for (int64_t t = 0; t < c->T; t++) coef[t] = -dy[t];
    memcpy(dx[0], x[0], (size_t)c->n[0] * sizeof(real));
    ops.head_softmax(dx[0], c->C, c->T, c->C, lse, coef);
    for (int64_t t = 0; t < c->T; t++) dx[0][t * c->C + ids[t]] += dy[t];
}

static void attn_fwd(const op_case *c, real *y, real *const *x) { ops.attn(y, NULL, x[0], x[1], x[2], c->attn); }
static void attn_bwd(const op_case *c, real *const *dx, const real *dy, real *const *x) {
    const pl_attn *a = c->attn;
    real *lse = normals(a->T * a->H), *o = normals(c->ny), *delta = normals(a->T * a->H);
    ops.attn(o, lse, x[0], x[1], x[2], a);
    ops.attn_bwd(dx[0], dx[1], dx[2], delta, dy, o, lse, x[0], x[1], x[2], a);
    pl_free(lse), pl_free(o), pl_free(delta);
}

static void test_gradients(void **state) {
    PL_UNUSED(state);
    const op_case cases[] = {
        {"rmsnorm", 2, {4 * 7, 7}, 4 * 7, norm_fwd, norm_bwd, 4, 7, NULL},
        {"rope", 1, {5 * 13}, 5 * 13, rope_fwd, rope_bwd, 5, 13, NULL},
        {"swiglu", 2, {29, 29}, 29, swiglu_fwd, swiglu_bwd, 1, 29, NULL},
        {"embed", 1, {4 * 5}, 6 * 5, embed_fwd, embed_bwd, 6, 5, NULL},
        {"gather_rows", 1, {5 * 9}, 4 * 9, gather_fwd, gather_bwd, 4, 9, NULL},
        {"add_bias", 2, {4 * 5, 5}, 4 * 5, bias_fwd, bias_bwd, 4, 5, NULL},
        {"dropout", 1, {6 * 10}, 6 * 10, dropout_fwd, dropout_bwd, 6, 10, NULL},
        {"head", 1, {6 * 12}, 6, logp_fwd, logp_bwd, 6, 12, NULL},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) gradient_is_right(&cases[i]);
}

/* --- attention
 * ------------------------------------------------------------------------------------------------------------------ */
/* prompt 0..4 -> {5..7, 8..11 -> {12..13, 14}}, a root 15..17 and an empty range */
static const pl_key_range ranges[] = {{0, 5}, {0, 5}, {0, 5}, {8, 4}, {0, 5}, {8, 4}, {3, 0}};
static const pl_attn_run runs[] = {{0, 5, 0, 0, 0, 0},   {5, 3, 5, 0, 0, 1},   {8, 4, 8, 0, 1, 1},
                                   {12, 2, 12, 0, 2, 2}, {14, 1, 14, 0, 4, 2}, {15, 3, 15, 0, 6, 1}};
static const pl_attn forest = {.T = 18,
                               .H = 4,
                               .KV = 2,
                               .D = 5,
                               .q_stride = 20,
                               .kv_stride = 10,
                               .o_stride = 20,
                               .scale = 0.45,
                               .nruns = 6,
                               .runs = runs,
                               .ranges = ranges};

static void test_attention_gradient(void **state) {
    PL_UNUSED(state);
    op_case c = {"attn", 3, {18 * 20, 18 * 10, 18 * 10}, 18 * 20, attn_fwd, attn_bwd, 18, 20, &forest};
    gradient_is_right(&c);
}

/* Which key rows query t sees, written down again from the picture above. */
static bool sees(int64_t t, int64_t j) {
    static const int parent[] = {-1, 0, 0, 2, 2, -1}, first[] = {0, 5, 8, 12, 14, 15, 18};
    int seg = 0, of = 0;
    while (t >= first[seg + 1]) seg++;
    while (j >= first[of + 1]) of++;
    if (of == seg) return j <= t;
    for (int up = parent[seg]; up >= 0; up = parent[up])
        if (up == of) return true;
    return false;
}

static void naive_attention(real *o, real *lse, const real *q, const real *k, const real *v, int64_t t, int64_t h) {
    const pl_attn *a = &forest;
    int64_t D = a->D, g = h / (a->H / a->KV);
    double sum = 0, z[18];
    for (int64_t j = 0; j < a->T; j++) {
        z[j] = 0;
        for (int64_t d = 0; d < D; d++) z[j] += a->scale * q[t * 20 + h * D + d] * k[j * 10 + g * D + d];
        if (sees(t, j)) sum += exp(z[j]);
    }
    *lse = log(sum);
    for (int64_t d = 0; d < D; d++) {
        o[d] = 0;
        for (int64_t j = 0; j < a->T; j++)
            if (sees(t, j)) o[d] += exp(z[j]) / sum * v[j * 10 + g * D + d];
    }
}

static void test_attention_naive(void **state) {
    PL_UNUSED(state);
    const pl_attn *a = &forest;
    real *q = normals(a->T * 20), *k = normals(a->T * 10), *v = normals(a->T * 10), *o = normals(a->T * 20);
    real *lse = normals(a->T * a->H);
    ops.attn(o, lse, q, k, v, a);
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t h = 0; h < a->H; h++) {
            real want[5], want_lse;
            naive_attention(want, &want_lse, q, k, v, t, h);
            assert_true(agree(lse[t * a->H + h], want_lse, 1e-13));
            for (int64_t d = 0; d < a->D; d++) assert_true(fabs(o[t * 20 + h * a->D + d] - want[d]) <= 1e-13);
        }
    }
    pl_free(q), pl_free(k), pl_free(v), pl_free(o), pl_free(lse);
}

/* A sequence fed in pieces with its keys in a cache gives what it gives at once. */
static void test_attention_cached(void **state) {
    PL_UNUSED(state);
    const pl_attn_run whole = {0, 9, 0, 0, 0, 0},
                      pieces[] = {{0, 4, 3, 0, 0, 0}, {4, 3, 3, 4, 0, 0}, {7, 2, 0, 0, 0, 1}};
    const pl_key_range before = {3, 7};
    pl_attn a = forest, b;
    a.T = 9, a.nruns = 1, a.runs = &whole, b = a, b.nruns = 3, b.runs = pieces, b.ranges = &before;
    real *q = normals(9 * 20), *k = normals(12 * 10), *v = normals(12 * 10), *o = normals(9 * 20),
         *o2 = normals(9 * 20);
    ops.attn(o, NULL, q, k + 30, v + 30, &a);
    memcpy(k, k + 100, 20 * sizeof(real)); /* the last two keys lie elsewhere: rows 10, 11 at rows 0, 1 */
    memcpy(v, v + 100, 20 * sizeof(real));
    ops.attn(o2, NULL, q, k, v, &b);
    for (int64_t i = 0; i < 9 * 20; i++) assert_true(fabs(o[i] - o2[i]) <= 1e-14);
    pl_free(q), pl_free(k), pl_free(v), pl_free(o), pl_free(o2);
}

/* --- the head's statistics, AdamW
 * ------------------------------------------------------------------------------------------------ */
static void test_head_statistics(void **state) {
    PL_UNUSED(state);
    real *z = normals(3 * 17), sum[3] = {0}, expect[3][5] = {{0}};
    pl_head_stat s[3];
    z[4] = z[9] = 50; /* a tie across tiles */
    for (int r = 0; r < 3; r++) s[r] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    for (int r = 0; r < 3; r++) {
        expect[r][0] = -INFINITY;
        for (int j = 0; j < 17; j++) expect[r][0] = fmax(expect[r][0], z[r * 17 + j]);
        for (int j = 0; j < 17; j++) {
            real e = exp(z[r * 17 + j] - expect[r][0]);
            expect[r][1] += e, expect[r][2] += e * z[r * 17 + j], expect[r][3] += e * e, expect[r][4] += z[r * 17 + j];
        }
    }
    for (int64_t v = 0; v < 17; v += 6) {
        real rescale[3];
        int64_t n = PL_MIN(6, 17 - v);
        ops.head_tile(z + v, 17, 3, n, v, s, true, rescale);
        for (int r = 0; r < 3; r++) {
            sum[r] *= rescale[r];
            for (int64_t j = 0; j < n; j++) sum[r] += z[r * 17 + v + j];
        }
    }
    assert_int_equal(s[0].argmax, 4);
    for (int r = 0; r < 3; r++) {
        assert_true(s[r].max == expect[r][0]);
        assert_true(agree(s[r].sum, expect[r][1], 1e-14) && agree(sum[r], expect[r][1], 1e-14));
        assert_true(agree(s[r].sum_z, expect[r][2], 1e-13) && agree(s[r].sum2, expect[r][3], 1e-14));
        assert_true(agree(s[r].total, expect[r][4], 1e-13));
    }
    pl_free(z);
}

/* torch 2.13, float64: AdamW([1, -2, .5, 0], lr=1e-2, betas=(.9, .95), eps=1e-8, weight_decay=.1), gradients i * [.1,
 * -.2, .3, 1e-9] for i = 1, -2, 3 after multiplication with 0.5; p after three steps. */
static void test_adamw_torch(void **state) {
    PL_UNUSED(state);
    static const double torch_p[] = {0.98726902388861448, -1.9842720219640539, 0.48876752315586702,
                                     -0.00054161421251821824};
    real p[] = {1, -2, .5, 0}, m[4] = {0}, v[4] = {0};
    static const double factors[] = {1, -2, 3};
    for (int t = 1; t <= 3; t++) {
        real g[] = {.1, -.2, .3, 1e-9};
        for (int i = 0; i < 4; i++) g[i] *= factors[t - 1];
        pl_adamw a = {1e-2, .9, .95, 1e-8, .1, 1 - pow(.9, t), 1 - pow(.95, t), .5};
        ops.adamw(p, g, m, v, 4, &a);
    }
    for (int i = 0; i < 4; i++) assert_true(agree(p[i], torch_p[i], 1e-14));
}

/* The share of kept elements is 1 - p within five standard deviations, and the mask does not depend on the cut. */
static void test_dropout_mask(void **state) {
    PL_UNUSED(state);
    enum { T = 64, C = 102 };
    real *x = normals(T * C), *y = normals(T * C);
    uint64_t rows[T];
    for (int t = 0; t < T; t++) rows[t] = (uint64_t)t * 7;
    for (int i = 0; i < T * C; i++) x[i] = 1;
    ops.dropout(y, false, x, rows, 5, 0.3, T, C);
    double kept = 0;
    for (int i = 0; i < T * C; i++) {
        assert_true(y[i] == 0 || fabs(y[i] - 1 / 0.7) <= 1e-15);
        kept += y[i] != 0;
    }
    assert_true(fabs(kept - 0.7 * T * C) <= 5 * sqrt(0.21 * T * C));
    real row[C];
    ops.dropout(row, false, x, rows + 40, 5, 0.3, 1, C);
    assert_memory_equal(row, y + 40 * C, sizeof row);
    pl_free(x), pl_free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),       cmocka_unit_test(test_attention_gradient),
        cmocka_unit_test(test_attention_naive), cmocka_unit_test(test_attention_cached),
        cmocka_unit_test(test_head_statistics), cmocka_unit_test(test_adamw_torch),
        cmocka_unit_test(test_dropout_mask),
    };
    pl_ops_init(&ops, PL_CPU_LEVELS - 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
