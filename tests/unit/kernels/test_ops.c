/* test_ops.c: every op at every level that this machine has, against the reference: odd shapes, unaligned and guarded
 * buffers, NaN, infinities and denormals, the aliasing that kernels/ops.h allows, 1 to 3 threads. Tolerances: an
 * elementwise result carries a few roundings of its terms; a sum of n terms of size m about n roundings of m. Long
 * ranges of attention are in test_ops_attn.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/convert.h"
#include "unit/kernels/ops_attn.h"
#include "unit/kernels/ops_harness.h"

#define EPS ((double)FLT_EPSILON)
#define TINY 2.4e-38 /* levels may take denormals as zero */

static double tol_sum(int64_t n, double m) { return (2 * (double)n + 16) * EPS * m + TINY; }

static const int64_t lengths[] = {0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 333, 4095, 4096, 4097, 40001};

/* --- elementwise
 * ------------------------------------------------------------------------------------------------------------ */
static void run_add(const pl_ops *ops, void *const *p, const kcase *c) { ops->add(p[0], p[1], c->i[0]); }
static void run_axpy(const pl_ops *ops, void *const *p, const kcase *c) { ops->axpy(p[0], c->r[0], p[1], c->i[0]); }
static void run_scale(const pl_ops *ops, void *const *p, const kcase *c) { ops->scale(p[0], c->r[0], c->i[0]); }
static void run_sumsq(const pl_ops *ops, void *const *p, const kcase *c) {
    *(double *)p[1] = ops->sum_squares(p[0], c->i[0]);
}

static int elementwise(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t l = 0; l < PL_LEN(lengths); l++) {
        for (int which = 0; which < 8; which++) {
            int64_t n = lengths[l];
            bool odd = which >= 4;
            static const char *const names[] = {"add", "axpy", "scale", "sum_squares"};
            kcase c = {.op = names[which % 4], .i = {n}, .r = {0.37f}};
            snprintf(c.shape, sizeof c.shape, "n %lld%s", (long long)n, odd ? ", odd values" : "");
            float *y = buf_normal(&c, "y", n, 1, d);
            if (odd) inject(y, n, true, d);
            if (which % 4 == 3) {
                buf_raw(&c, "sum", K_F64, sizeof(double));
                set_out(&c, 1e-13, 0);
                c.run = run_sumsq;
            } else {
                if (which % 4 == 0) set_out_exact(&c);
                if (which % 4 == 1) set_out(&c, 4 * EPS, 16 * EPS + TINY);
                if (which % 4 == 2) set_out(&c, EPS, TINY);
                float *x = buf_normal(&c, "x", n, 1, d);
                if (odd && which % 4 != 0) inject(x, n, true, d);
                c.run = which % 4 == 0 ? run_add : which % 4 == 1 ? run_axpy : run_scale;
            }
            bad += check_case(&c, ref, ops);
            case_free(&c);
        }
    }
    return bad;
}

/* --- rows
 * -------------------------------------------------------------------------------------------------------------------
 */
static void run_scale_rows(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->scale_rows(p[0], p[1], c->i[0], c->i[1], c->i[2]);
}
static void run_add_bias(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->add_bias(p[0], p[1], c->i[0], c->i[1]);
}
static void run_sum_rows(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->sum_rows(p[0], p[1], c->i[0], c->i[1]);
}
static void run_gather(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->gather_rows(p[0], p[1], p[2], c->i[0], c->i[1]);
}
static void run_scatter(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->scatter_add_rows(p[0], p[1], p[2], c->i[0], c->i[1]);
}
static void run_embed(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->embed(p[0], p[1], (pl_dtype)c->i[3], p[2], c->i[0], c->i[1]);
}
static void run_embed_bwd(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->embed_bwd(p[0], p[1], p[2], c->i[0], c->i[1]);
}

static kcase rows_case(const char *op, int64_t T, int64_t C,
                       void (*run)(const pl_ops *, void *const *, const kcase *)) {
    kcase c = {.op = op, .i = {T, C, C}, .run = run};
    snprintf(c.shape, sizeof c.shape, "T %lld, C %lld", (long long)T, (long long)C);
    return c;
}

static int finish(kcase *c, const pl_ops *ref, const pl_ops *ops) {
    int bad = check_case(c, ref, ops);
    case_free(c);
    return bad;
}

static int bias_and_scale_rows(const pl_ops *ref, const pl_ops *ops, int64_t T, int64_t C, dice *d) {
    int bad = 0;
    kcase c = rows_case("scale_rows", T, C, run_scale_rows);
    c.i[2] = C + pick(d, 0, 5);
    buf_normal(&c, "y", T * c.i[2], 1, d);
    set_out_exact(&c);
    float *a = buf_normal(&c, "a", T, 1, d);
    for (int64_t t = 0; t < T; t += 3) a[t] = 1;
    bad += finish(&c, ref, ops);

    c = rows_case("add_bias", T, C, run_add_bias);
    inject(buf_normal(&c, "y", T * C, 1, d), T * C, true, d);
    set_out_exact(&c);
    buf_normal(&c, "b", C, 1, d);
    bad += finish(&c, ref, ops);

    c = rows_case("sum_rows", T, C, run_sum_rows);
    buf_normal(&c, "db", C, 1, d);
    set_out_exact(&c); /* the order of the additions is part of the specification */
    buf_normal(&c, "dy", T * C, 1, d);
    return bad + finish(&c, ref, ops);
}

static int moved_rows(const pl_ops *ref, const pl_ops *ops, int64_t T, int64_t C, dice *d) {
    static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16};
    int64_t V = pick(d, 1, 9);
    int bad = 0;
    for (int which = 0; which < 6; which++) {
        bool table = which < 3;
        kcase c = rows_case("embed", T, C, table ? run_embed : which == 3 ? run_embed_bwd : run_gather);
        if (which > 2) c.op = which == 3 ? "embed_bwd" : which == 4 ? "gather_rows" : "scatter_add_rows";
        if (which == 5) c.run = run_scatter;
        buf_normal(&c, "y", (which == 3 || which == 5 ? V : T) * C, 1, d);
        set_out_exact(&c);
        if (table) {
            c.i[3] = types[which];
            uint16_t *h = buf_raw(&c, "table", K_BYTES, (size_t)(V * C) * (which ? 2 : 4));
            for (int64_t i = 0; i < V * C * (which ? 1 : 2); i++) h[i] = (uint16_t)(roll(d) & 0xbf7f);
        } else {
            buf_normal(&c, "x", (which == 4 ? V : T) * C, 1, d);
        }
        if (which < 4) {
            int32_t *ids = buf_raw(&c, "ids", K_BYTES, (size_t)T * sizeof *ids);
            for (int64_t t = 0; t < T; t++) ids[t] = (int32_t)pick(d, 0, V - 1);
        } else {
            int64_t *rows = buf_raw(&c, "rows", K_BYTES, (size_t)T * sizeof *rows);
            for (int64_t t = 0; t < T; t++) rows[t] = pick(d, 0, V - 1);
        }
        bad += finish(&c, ref, ops);
    }
    return bad;
}

static const int64_t widths[] = {1, 3, 8, 15, 16, 17, 40, 64, 67, 100, 576, 1025};

static int rows(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t w = 0; w < PL_LEN(widths); w++) {
        for (int64_t T = 1; T < 80; T = T * 3 + 1) {
            bad += bias_and_scale_rows(ref, ops, T, widths[w], d);
            bad += moved_rows(ref, ops, T, widths[w], d);
        }
    }
    return bad;
}

/* --- RMSNorm, RoPE
 * ---------------------------------------------------------------------------------------------------------- */
static void run_norm(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->rmsnorm(p[0], c->flag ? NULL : p[1], p[2], p[3], c->r[0], c->i[0], c->i[1]);
}
static void run_norm_bwd(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->rmsnorm_bwd(p[0], c->flag, c->flag2 ? p[1] : NULL, p[2], p[3], p[4], p[5], c->i[0], c->i[1]);
}

static int norm_fwd(const pl_ops *ref, const pl_ops *ops, int64_t T, int64_t C, int variant, dice *d) {
    kcase c = rows_case(variant == 1 ? "rmsnorm in place" : "rmsnorm", T, C, run_norm);
    c.r[0] = 1e-5f, c.flag = variant == 2;
    float *x = buf_normal(&c, variant == 1 ? "x, y" : "y", T * C, 1, d);
    set_out(&c, 16 * EPS + tol_sum(C, 1 / (double)C), TINY);
    if (variant == 3) memset(x, 0, (size_t)(T * C) * sizeof *x);
    buf_normal(&c, "rstd", T, 1, d);
    if (variant != 2) set_out(&c, 16 * EPS + tol_sum(C, 1 / (double)C), 0);
    float *x2 = buf_normal(&c, "x", T * C, 1, d);
    if (variant == 1) alias_last(&c, 0);
    if (variant == 4) inject(x2, T * C, false, d);
    buf_normal(&c, "w", C, 1, d);
    return finish(&c, ref, ops);
}

static int norm_bwd(const pl_ops *ref, const pl_ops *ops, int64_t T, int64_t C, int variant, dice *d) {
    kcase c = rows_case(variant == 1 ? "rmsnorm_bwd in place" : "rmsnorm_bwd", T, C, run_norm_bwd);
    c.flag = variant == 2, c.flag2 = variant != 3; /* accumulate; with dw */
    buf_normal(&c, "dx", T * C, 1, d);
    set_out(&c, 8 * EPS, 64 * EPS * 16 + tol_sum(C, 16.0 / (double)C));
    buf_normal(&c, "dw", C, 1, d);
    if (c.flag2) set_out(&c, 0, tol_sum(T, 8));
    buf_normal(&c, "dy", T * C, 1, d);
    if (variant == 1) alias_last(&c, 0);
    float *x = buf_normal(&c, "x", T * C, 1, d);
    if (variant == 4) inject(x, T * C, false, d);
    buf_normal(&c, "w", C, 1, d);
    float *rstd = buf_normal(&c, "rstd", T, 0.1f, d);
    for (int64_t t = 0; t < T; t++) rstd[t] += 1;
    return finish(&c, ref, ops);
}

static int norms(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t w = 0; w < PL_LEN(widths); w++) {
        for (int64_t T = 1; T < 80; T = T * 5 + 1) {
            for (int variant = 0; variant < 5; variant++) {
                bad += norm_fwd(ref, ops, T, widths[w], variant, d);
                bad += norm_bwd(ref, ops, T, widths[w], variant, d);
            }
        }
    }
    return bad;
}

static void run_rope(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->rope(p[0], c->i[1], p[1], p[2], c->flag, c->i[0], c->i[2], c->i[3], c->i[4]);
}

static int ropes(const pl_ops *ref, const pl_ops *ops, dice *d) {
    static const int64_t sizes[] = {2, 6, 16, 34, 64, 80, 96, 128, 256};
    int bad = 0;
    for (int k = 0; k < 60; k++) {
        int64_t T = pick(d, 1, 40), heads = pick(d, 1, 5), D = sizes[pick(d, 0, PL_LEN(sizes) - 1)];
        int64_t rot = coin(d) ? D : pick(d, 0, D / 2) * 2, ld = heads * D + pick(d, 0, 7);
        kcase c = {.op = "rope", .run = run_rope, .i = {T, ld, heads, D, rot}, .flag = coin(d)};
        snprintf(c.shape, sizeof c.shape, "T %d, heads %d, D %d, rot %d, ld %d", (int)T, (int)heads, (int)D, (int)rot,
                 (int)ld);
        float *x = buf_normal(&c, "x", T * ld, 1, d);
        set_out(&c, 0, 4 * EPS * 16 + TINY);
        if (k % 4 == 0) inject(x, T * ld, false, d);
        buf_normal(&c, "cos", T * rot / 2, 1, d);
        buf_normal(&c, "sin", T * rot / 2, 1, d);
        bad += finish(&c, ref, ops);
    }
    return bad;
}

/* --- SwiGLU, head, dropout, AdamW
 * --------------------------------------------------------------------------------------------- */
static void run_swiglu(const pl_ops *ops, void *const *p, const kcase *c) { ops->swiglu(p[0], p[1], p[2], c->i[0]); }
static void run_swiglu_bwd(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->swiglu_bwd(p[0], p[1], p[2], p[3], p[4], c->i[0]);
}

/* Variants: 0 apart, 1 y == g, 2 y == u, 3 odd values, 4 wide range. */
static int swiglu_fwd(const pl_ops *ref, const pl_ops *ops, int64_t n, int variant, dice *d) {
    kcase c = {.op = "swiglu", .i = {n}, .run = run_swiglu};
    snprintf(c.shape, sizeof c.shape, "n %lld, variant %d", (long long)n, variant);
    float s = variant == 4 ? 40.f : 2.f;
    buf_normal(&c, "y", n, s, d);
    set_out(&c, 8 * EPS, TINY * 1e3);
    float *g = buf_normal(&c, "g", n, s, d);
    if (variant == 1) alias_last(&c, 0);
    buf_normal(&c, "u", n, 1, d);
    if (variant == 2) alias_last(&c, 0);
    if (variant == 3) inject(g, n, true, d);
    return finish(&c, ref, ops);
}

/* Variants: 0 apart, 1 dg == g and du == u, 2 dg == g and du == dy, 3 odd values, 4 wide range. */
static int swiglu_bwd(const pl_ops *ref, const pl_ops *ops, int64_t n, int variant, dice *d) {
    kcase c = {.op = "swiglu_bwd", .i = {n}, .run = run_swiglu_bwd};
    snprintf(c.shape, sizeof c.shape, "n %lld, variant %d", (long long)n, variant);
    float s = variant == 4 ? 40.f : 2.f;
    buf_normal(&c, "dg", n, s, d);
    set_out(&c, 8 * EPS, 32 * EPS);
    buf_normal(&c, "du", n, 1, d);
    set_out(&c, 8 * EPS, TINY * 1e3);
    buf_normal(&c, "dy", n, 1, d);
    if (variant == 2) alias_last(&c, 1);
    float *g = buf_normal(&c, "g", n, s, d);
    if (variant == 1 || variant == 2) alias_last(&c, 0);
    buf_normal(&c, "u", n, 1, d);
    if (variant == 1) alias_last(&c, 1);
    if (variant == 3) inject(g, n, false, d);
    return finish(&c, ref, ops);
}

static int swiglus(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t l = 0; l < PL_LEN(lengths); l++)
        for (int variant = 0; variant < 5; variant++)
            bad += swiglu_fwd(ref, ops, lengths[l], variant, d) + swiglu_bwd(ref, ops, lengths[l], variant, d);
    return bad;
}

/* Three tiles in a row; the statistics come out as numbers: max, sum, sum_z, sum2, total, argmax. */
static void run_head(const pl_ops *ops, void *const *p, const kcase *c) {
    int64_t R = c->i[0], n = c->i[1], ld = c->i[2];
    pl_head_stat s[16];
    for (int64_t r = 0; r < R; r++) s[r] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    for (int tile = 0; tile < 3; tile++)
        ops->head_tile((float *)p[0] + tile * R * ld, ld, R, n, 100 + (c->flag2 ? 2 - tile : tile) * n, s, c->flag,
                       c->flag ? (float *)p[1] + tile * R : NULL);
    double *const *out = (double *const *)(p + 2);
    for (int64_t r = 0; r < R; r++) {
        out[0][r] = (double)s[r].max, out[1][r] = (double)s[r].sum, out[2][r] = (double)s[r].sum_z;
        out[3][r] = (double)s[r].sum2, out[4][r] = s[r].total, out[5][r] = (double)s[r].argmax;
    }
}

static int head_tiles(const pl_ops *ref, const pl_ops *ops, int64_t R, int64_t n, int variant, dice *d) {
    kcase c = {.op = "head_tile", .i = {R, n, n + pick(d, 0, 3)}, .run = run_head, .flag = variant & 1};
    c.flag2 = variant == 8 && coin(d); /* tiles in descending order: the smaller id of a tie comes last */
    snprintf(c.shape, sizeof c.shape, "R %d, n %d, variant %d", (int)R, (int)n, variant);
    int64_t size = 3 * R * c.i[2];
    float *z = buf_normal(&c, "z", size, variant & 2 ? 30 : 3, d);
    if (c.flag) set_out(&c, 0, 4 * EPS);
    if (variant & 4) inject(z, size, false, d);
    if (variant == 8) /* many ties, and infinities that a mask may have left */
        for (int64_t i = 0; i < size; i++) z[i] = pick(d, 0, 4) ? (float)pick(d, -2, 2) : -INFINITY;
    if (variant == 9)
        for (int64_t i = 0; i < size; i++) z[i] = -INFINITY;
    buf_normal(&c, "rescale", 3 * R, 1, d);
    if (c.flag) set_out(&c, 0, 4 * EPS);
    static const char *const names[] = {"max", "sum", "sum_z", "sum2", "total", "argmax"};
    for (int i = 0; i < 6; i++) {
        buf_raw(&c, names[i], K_F64, (size_t)R * sizeof(double));
        double sum_size = (double)n * (variant & 2 ? 100 : 16);
        set_out(&c, i == 0 || i == 5 ? 0 : 64 * EPS, i == 2 ? 16 * EPS * sum_size : i == 4 ? 1e-13 * sum_size : 0);
    }
    return finish(&c, ref, ops);
}

static void run_softmax(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->head_softmax(p[0], c->i[2], c->i[0], c->i[1], p[1], p[2]);
}

static int heads(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t l = 1; l < PL_LEN(lengths) - 3; l++) {
        for (int variant = 0; variant < 10; variant++)
            bad += head_tiles(ref, ops, pick(d, 1, 16), lengths[l], variant, d);
        int64_t R = pick(d, 1, 16), n = lengths[l];
        kcase c = {.op = "head_softmax", .i = {R, n, n + pick(d, 0, 3)}, .run = run_softmax};
        snprintf(c.shape, sizeof c.shape, "R %d, n %d", (int)R, (int)n);
        float *z = buf_normal(&c, "z", R * c.i[2], 3, d);
        set_out(&c, 16 * EPS, TINY);
        if (l & 1) inject(z, R * c.i[2], false, d);
        buf_normal(&c, "lse", R, 1, d);
        buf_normal(&c, "coef", R, 1, d);
        bad += finish(&c, ref, ops);
    }
    return bad;
}

/* --- sampling */

static void run_exp_sum(const pl_ops *ops, void *const *p, const kcase *c) {
    *(double *)p[2] = ops->exp_sum(p[0], p[1], (double)c->r[0], c->r[1], c->i[0]);
}

static void run_select(const pl_ops *ops, void *const *p, const kcase *c) {
    *(double *)p[2] = (double)ops->select(p[0], p[1], c->r[0], c->i[0]);
}

static void run_block_max(const pl_ops *ops, void *const *p, const kcase *c) { ops->block_max(p[0], p[1], c->i[0]); }

static kcase row_case(const char *op, int64_t n, void (*run)(const pl_ops *, void *const *, const kcase *)) {
    kcase c = {.op = op, .i = {n}, .run = run};
    snprintf(c.shape, sizeof c.shape, "n %d", (int)n);
    return c;
}

static void masked_row(kcase *c, int64_t n, float s, dice *d) {
    float *z = buf_normal(c, "z", n, s, d);
    for (int64_t i = 0; i < n; i++)
        if (pick(d, 0, 9) == 0) z[i] = coin(d) ? -INFINITY : -3e38f;
}

static int sampling(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t l = 0; l < PL_LEN(lengths); l++) {
        int64_t n = lengths[l];
        kcase c = row_case("exp_sum", n, run_exp_sum);
        bool wide = coin(d);
        c.r[0] = coin(d) ? 1 : 0.7f, c.r[1] = wide ? 900 : 5;
        buf_raw(&c, "p", K_F64, (size_t)n * sizeof(double));
        set_out(&c, 1e-15, 0); /* some units in the last place */
        masked_row(&c, n, wide ? 200 : 1, d);
        buf_raw(&c, "sum", K_F64, sizeof(double));
        set_out(&c, 1e-15 * (double)(n + 8), 0);
        bad += finish(&c, ref, ops);
        c = row_case("select", n, run_select);
        c.r[0] = coin(d) ? -1 : coin(d) ? 1 : -INFINITY;
        buf_raw(&c, "index", K_BYTES, (size_t)n * sizeof(int32_t));
        set_out_exact(&c);
        masked_row(&c, n, 1, d);
        buf_raw(&c, "count", K_F64, sizeof(double));
        set_out(&c, 0, 0);
        bad += finish(&c, ref, ops);
        c = row_case("block_max", n, run_block_max);
        buf_normal(&c, "max", (n + PL_BLOCK_MAX - 1) / PL_BLOCK_MAX, 1, d);
        set_out(&c, 0, 0);
        masked_row(&c, n, 1, d);
        bad += finish(&c, ref, ops);
    }
    return bad;
}

static void run_dropout(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->dropout(p[0], c->flag, p[1], p[2], 0x1234567890abcdefULL, c->r[0], c->i[0], c->i[1]);
}

static int dropouts(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t w = 0; w < PL_LEN(widths); w++) {
        for (int variant = 0; variant < 4; variant++) { /* apart, in place, accumulate, odd values */
            int64_t T = pick(d, 1, 20), C = widths[w];
            kcase c = rows_case("dropout", T, C, run_dropout);
            c.flag = variant == 2, c.r[0] = coin(d) ? 0.1f : 0.6f;
            buf_normal(&c, "y", T * C, 1, d);
            set_out(&c, 2 * EPS, 16 * EPS);
            float *x = buf_normal(&c, "x", T * C, 1, d);
            if (variant == 1) alias_last(&c, 0);
            if (variant == 3) inject(x, T * C, false, d);
            uint64_t *ids = buf_raw(&c, "row_id", K_BYTES, (size_t)T * sizeof *ids);
            for (int64_t t = 0; t < T; t++) ids[t] = roll(d);
            bad += finish(&c, ref, ops);
        }
    }
    return bad;
}

/* A, B and C with strides; a row or a column of each apart by more than its length. */
static void run_product(const pl_ops *ops, void *const *p, const kcase *c) {
    int64_t m = c->i[0], n = c->i[1], k = c->i[2];
    bool across_a = c->i[3] & 1, across_b = c->i[3] & 2;
    pl_product x = {.c = p[0], .a = p[1], .b = p[2], .ldc = n + 3, .m = m, .n = n, .k = k, .alpha = c->r[0]};
    x.a_row = across_a ? 1 : k + 1, x.a_col = across_a ? m + 2 : 1;
    x.b_row = across_b ? 1 : n + 5, x.b_col = across_b ? k + 1 : 1;
    x.accumulate = c->flag;
    ops->product(&x);
}

static int products(const pl_ops *ref, const pl_ops *ops, dice *d) {
    static const int64_t ms[] = {1, 5, 8, 16, 32, 33, 48, 100},
                         ns[] = {1, 4, 8, 16, 17, 32, 48, 95, 96, 97, 192, 200, 576, 1601},
                         ks[] = {0, 1, 4, 6, 7, 16, 48, 64, 65, 255, 256, 257, 600};
    int bad = 0;
    for (int round = 0; round < 280; round++) {
        int64_t m = ms[pick(d, 0, PL_LEN(ms) - 1)], n = ns[round % PL_LEN(ns)], k = ks[pick(d, 0, PL_LEN(ks) - 1)];
        kcase c = {.op = "product", .i = {m, n, k, pick(d, 0, 3)}, .flag = coin(d), .run = run_product};
        c.r[0] = coin(d) ? 1.0f : 1.7f;
        snprintf(c.shape, sizeof c.shape, "%lld x %lld x %lld, layout %lld%s", (long long)m, (long long)n, (long long)k,
                 (long long)c.i[3], c.flag ? ", added" : "");
        buf_normal(&c, "c", m * (n + 3), 1, d);
        set_out(&c, 4 * EPS, tol_sum(k, 4 * 1.7));
        buf_normal(&c, "a", (m + 2) * (k + 1), 1, d);
        buf_normal(&c, "b", (n + 5) * (k + 1), 1, d);
        bad += finish(&c, ref, ops);
    }
    return bad;
}

static void run_adamw(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->adamw(p[0], p[1], p[2], p[3], c->i[0], c->extra);
}

static int adamws(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t l = 0; l < PL_LEN(lengths); l++) {
        for (int variant = 0; variant < 2; variant++) {
            int64_t n = lengths[l];
            pl_adamw a = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1 - 0.9 * 0.9, 1 - 0.999 * 0.999, 0.7};
            kcase c = {.op = "adamw", .i = {n}, .run = run_adamw, .extra = &a};
            snprintf(c.shape, sizeof c.shape, "n %lld%s", (long long)n, variant ? ", odd values" : "");
            buf_normal(&c, "p", n, 1, d);
            set_out(&c, 4 * EPS, 4e-2 * 16 * EPS);
            float *g = buf_normal(&c, "g", n, 1, d);
            if (variant) inject(g, n, false, d);
            buf_normal(&c, "m", n, 1, d);
            set_out(&c, 4 * EPS, 16 * EPS);
            float *v = buf_normal(&c, "v", n, 1, d);
            for (int64_t i = 0; i < n; i++) v[i] *= v[i];
            set_out(&c, 8 * EPS, TINY);
            bad += finish(&c, ref, ops);
        }
    }
    return bad;
}

/* --- conversions
 * -------------------------------------------------------------------------------------------------------------- */
static void run_to_real(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->to_real(p[0], p[1], (pl_dtype)c->i[1], c->i[0]);
}
static void run_from_real(const pl_ops *ops, void *const *p, const kcase *c) {
    ops->from_real(p[0], (pl_dtype)c->i[1], p[1], c->i[0]);
}

/* Every 16-bit pattern; floats of every exponent, ties and their neighbours. All levels give the same bytes. */
static int conversions(const pl_ops *ref, const pl_ops *ops, dice *d) {
    static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16, PL_F64};
    int bad = 0;
    for (int64_t t = 0; t < PL_LEN(types); t++) {
        size_t wide = types[t] == PL_F32 ? 4 : types[t] == PL_F64 ? 8 : 2;
        for (int64_t l = 0; l <= PL_LEN(lengths); l++) {
            int64_t n = l < PL_LEN(lengths) ? lengths[l] : 65536;
            kcase c = {.op = "to_real", .i = {n, types[t]}, .run = run_to_real};
            snprintf(c.shape, sizeof c.shape, "type %d, n %lld", (int)types[t], (long long)n);
            buf_normal(&c, "y", n, 1, d);
            set_out_exact(&c);
            uint16_t *h = buf_raw(&c, "x", K_BYTES, (size_t)n * wide);
            for (int64_t i = 0; i < n * (int64_t)wide / 2; i++) h[i] = (uint16_t)(i * 40503);
            if (types[t] == PL_F64)
                for (int64_t i = 0; i < n; i++) ((double *)(void *)h)[i] = (double)pick(d, -1000000, 1000000) * 1e-3;
            bad += finish(&c, ref, ops);

            c = (kcase){.op = "from_real", .i = {n, types[t]}, .run = run_from_real};
            snprintf(c.shape, sizeof c.shape, "type %d, n %lld", (int)types[t], (long long)n);
            buf_raw(&c, "y", K_BYTES, (size_t)n * wide);
            set_out_exact(&c);
            uint32_t *x = buf_raw(&c, "x", K_BYTES, (size_t)n * 4);
            for (int64_t i = 0; i < n; i++) {
                x[i] = (uint32_t)roll(d);
                if (i % 3) x[i] = (x[i] & 0xffffe000u) + (uint32_t)pick(d, -1, 1) + (i % 3 == 1 ? 0x1000u : 0x8000u);
            }
            bad += finish(&c, ref, ops);
        }
    }
    return bad;
}

/* e^x of a level, seen through head_softmax with coefficient 1 and lse 0, over a sample of all floats: at most 1.2
 * units in the last place where the result is normal; exact limits. */
static int exponentials(const pl_ops *ref, const pl_ops *ops, dice *d) {
    PL_UNUSED(ref);
    enum { n = 4096 };
    float x[n], y[n];
    const float zero = 0, one = 1;
    double worst = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < n; i++) {
            x[i] = (float)pick(d, -87300000, 88700000) * 1e-6f;
            if (i % 4 == 0) x[i] = pl_f32_from_bits((uint32_t)roll(d)); /* any exponent */
            if (!(fabsf(x[i]) <= 87.3f)) x[i] = 0;
        }
        memcpy(y, x, sizeof x);
        ops->head_softmax(y, n, 1, n, &zero, &one);
        for (int i = 0; i < n; i++) {
            double want = exp((double)x[i]), ulp = ldexp(1, ilogb(want) - 23), error = fabs((double)y[i] - want) / ulp;
            if (!(error <= worst)) worst = error;
        }
    }
    const float ends[] = {-INFINITY, -200, 0, 88.8f, INFINITY, NAN}, want[] = {0, 0, 1, INFINITY, INFINITY, NAN};
    memcpy(y, ends, sizeof ends);
    ops->head_softmax(y, 6, 1, 6, &zero, &one);
    int bad = !(worst <= 1.2);
    for (int i = 0; i < 6; i++) bad += !close_to((double)y[i], (double)want[i], 0, 0);
    printf("%s: exp errs by at most %.3f units in the last place\n", ops->level, worst);
    return bad;
}

/* The reference itself: halves against their definition, and nearest-even against both neighbours. */
static double half_value(uint16_t h, int fraction_bits, int bias) {
    int e = (h & 0x7fff) >> fraction_bits, f = h & ((1 << fraction_bits) - 1);
    double v = e ? ldexp((1 << fraction_bits) + f, e - bias - fraction_bits) : ldexp(f, 1 - bias - fraction_bits);
    return h & 0x8000 ? -v : v;
}

static void test_reference_conversions(void **state) {
    PL_UNUSED(state);
    for (int type = 0; type < 2; type++) {
        int bits = type ? 7 : 10, bias = type ? 127 : 15;
        uint16_t inf = type ? 0x7f80 : 0x7c00;
        for (uint32_t h = 0; h < inf; h++) {
            float f = type ? pl_bf16_to_f32((uint16_t)h) : pl_f16_to_f32((uint16_t)h);
            assert_true((double)f == half_value((uint16_t)h, bits, bias));
            assert_int_equal(type ? pl_bf16_from_f32(f) : pl_f16_from_f32(f), h);
            if (h + 1 == inf) continue;
            double low = half_value((uint16_t)h, bits, bias), high = half_value((uint16_t)(h + 1), bits, bias);
            float middle = (float)((low + high) / 2); /* exact, but for the least bf16 denormals */
            if ((double)middle != (low + high) / 2) continue;
            float around[3] = {nextafterf(middle, 0), middle, nextafterf(middle, INFINITY)};
            for (int i = 0; i < 3; i++) {
                uint16_t want = (uint16_t)(i == 0 || (i == 1 && !(h & 1)) ? h : h + 1);
                assert_int_equal(type ? pl_bf16_from_f32(around[i]) : pl_f16_from_f32(around[i]), want);
                assert_int_equal(type ? pl_bf16_from_f32(-around[i]) : pl_f16_from_f32(-around[i]), want | 0x8000);
            }
        }
        assert_int_equal(type ? pl_bf16_from_f32(INFINITY) : pl_f16_from_f32(INFINITY), inf);
        assert_int_equal(type ? pl_bf16_from_f32(-3.4e38f) : pl_f16_from_f32(-65520.f), inf | 0x8000);
        assert_int_equal(pl_f16_from_f32(65519.f), 0x7bff);
        assert_true(isnan(type ? pl_bf16_to_f32(pl_bf16_from_f32(NAN)) : pl_f16_to_f32(pl_f16_from_f32(NAN))));
    }
    /* 1 + 2^-8 + 2^-40 rounded to float first would be a tie and go down */
    assert_int_equal(pl_bf16_from_f32(pl_f32_odd_from_f64(1 + 0x1p-8 + 0x1p-40)), 0x3f81);
    assert_int_equal(pl_bf16_from_f32((float)(1 + 0x1p-8 + 0x1p-40)), 0x3f80);
}

/* --- the harness itself, the table, denormals
 * ----------------------------------------------------------------------------------- */
static void add_last_wrong(real *y, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += i == n - 1 ? x[i] * 1.000001f : x[i];
}
static void add_too_far(real *y, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
    if (((uintptr_t)(y + n) & 4095) != 0) y[n] = 0;
}
static void scale_hides_nan(real *y, real a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = isnan(y[i]) ? 0 : y[i] * a;
}
#ifdef _OPENMP
static void swiglu_from_threads(real *y, const real *g, const real *u, int64_t n) {
    float by = 1 + 1e-7f * (float)omp_get_max_threads();
    for (int64_t i = 0; i < n; i++) y[i] = g[i] / (1 + expf(-g[i])) * u[i] * by;
}
#endif

static void test_harness_can_fail(void **state) {
    PL_UNUSED(state);
    pl_ops ref, wrong;
    dice d = {1, 0};
    pl_ops_add_ref(&ref);
    assert_int_equal(elementwise(&ref, &ref, &d), 0);
    wrong = ref, wrong.level = "planted", wrong.add = add_last_wrong;
    assert_true(elementwise(&ref, &wrong, &d) > 0);
    wrong = ref, wrong.level = "planted", wrong.add = add_too_far;
    assert_true(elementwise(&ref, &wrong, &d) > 0);
    wrong = ref, wrong.level = "planted", wrong.scale = scale_hides_nan;
    assert_true(elementwise(&ref, &wrong, &d) > 0);
#ifdef _OPENMP
    wrong = ref, wrong.level = "planted", wrong.swiglu = swiglu_from_threads;
    assert_true(swiglus(&ref, &wrong, &d) > 0);
#endif
    assert_false(close_to((double)NAN, 1, 1, 1));
    assert_false(close_to(1, (double)NAN, 1, 1));
}

static int at_every_level(int (*check)(const pl_ops *, const pl_ops *, dice *), uint64_t seed) {
    int bad = 0;
    pl_ops ref, ops;
    pl_ops_add_ref(&ref);
    for (int level = 0; level < PL_CPU_LEVELS; level++) {
        if (level > (int)pl_cpu_detect()) {
            printf("%s: this machine has not got it, skipped\n", pl_cpu_level_name((pl_cpu_level)level));
            continue;
        }
        pl_ops_init(&ops, (pl_cpu_level)level);
        dice d = {seed, 0};
        int before = bad;
        bad += check(&ref, &ops, &d);
        if (check != attentions) { /* which is slow by the reference */
            pl_fp_state fp;        /* and with denormals as zero, on both sides */
            pl_fp_enter(&fp);
            bad += check(&ref, &ops, &d);
            pl_fp_leave(&fp);
        }
        if (bad > before) printf("%s: seed %llu\n", ops.level, (unsigned long long)seed);
    }
    return bad;
}

#define LEVEL_TEST(name)                                                                                               \
    static void test_##name(void **state) {                                                                            \
        PL_UNUSED(state);                                                                                              \
        assert_int_equal(at_every_level(name, 20250711), 0);                                                           \
    }
LEVEL_TEST(elementwise)
LEVEL_TEST(rows)
LEVEL_TEST(norms)
LEVEL_TEST(ropes)
LEVEL_TEST(swiglus)
LEVEL_TEST(heads)
LEVEL_TEST(sampling)
LEVEL_TEST(dropouts)
LEVEL_TEST(products)
LEVEL_TEST(adamws)
LEVEL_TEST(conversions)
LEVEL_TEST(attentions)
LEVEL_TEST(exponentials)

static void test_levels(void **state) {
    PL_UNUSED(state);
    for (int i = 0; i < PL_CPU_LEVELS; i++) {
        pl_cpu_level level = PL_CPU_LEVELS;
        pl_ops ops;
        assert_int_equal(pl_cpu_level_parse(&level, pl_cpu_level_name((pl_cpu_level)i), NULL), 0);
        assert_int_equal(level, i);
        pl_ops_init(&ops, level);
        assert_string_equal(ops.level, pl_cpu_level_name(PL_MIN(level, pl_cpu_detect())));
        for (size_t at = 0; at < sizeof ops; at += sizeof(void *)) {
            void *entry;
            memcpy(&entry, (const char *)&ops + at, sizeof entry);
            assert_non_null(entry);
        }
    }
    pl_error err = {0};
    pl_cpu_level level = PL_CPU_AVX2;
    assert_int_equal(pl_cpu_level_parse(&level, "sse9", &err), PL_E_OPTION);
    assert_int_equal(level, PL_CPU_AVX2);
}

static volatile float tiny = 1e-30f; /* not a constant to the compiler */

static int threads_that_flush(int threads) {
    int count = 0;
#pragma omp parallel num_threads(threads) reduction(+ : count)
    count += tiny * 1e-10f == 0;
    PL_UNUSED(threads);
    return count;
}

static void test_fp(void **state) {
    PL_UNUSED(state);
    int threads = 1;
#ifdef _OPENMP
    omp_set_num_threads(3);
    threads = 3;
#endif
    pl_fp_state s, inner;
    assert_int_equal(threads_that_flush(threads), 0);
    pl_fp_enter(&s);
    pl_fp_enter(&inner);
    pl_fp_leave(&inner);
    assert_int_equal(threads_that_flush(threads), threads);
    pl_fp_leave(&s);
    assert_int_equal(threads_that_flush(threads), 0);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* e.g. "*attentions" */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_harness_can_fail),
        cmocka_unit_test(test_reference_conversions),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_fp),
        cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_ropes),
        cmocka_unit_test(test_swiglus),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_dropouts),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_adamws),
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_attentions),
        cmocka_unit_test(test_exponentials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
