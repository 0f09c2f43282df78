/* The head against plain sums in double, wherever its work is cut: few rows and many, one thread and several, the
 * vocabulary in whole tiles, with a tail, and in one piece, weights that products take packed and weights that they do
 * not. ctest-label: threads */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "model/head.h"
#include "unit/alloc_hook.h"

enum { SCORED, FROZEN, TRAINED };

typedef struct setting {
    int64_t R, V, C;
    int threads, mode;
    bool bf16;
} setting;

typedef struct bed {
    setting s;
    pl_ops ops;
    pl_gemm *gemm;
    pl_arena arena;
    pl_arch arch;
    pl_head head;
    pl_forest forest;
    pl_target *targets;
    pl_weights w;
    uint16_t *weights; /* [V,C] bf16 */
    float *norm, *x, *dx, *dw;
    double *c;
    /* the reference */
    double *z, *h, *dh; /* [V], [C], [C] of one row */
    double *ref_dw;     /* [V,C] */
} bed;

static double worst, worst_grad;
static uint64_t state = 88172645463325252u;

static double dice(void) { /* -1 .. 1 */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(int64_t)state / 9223372036854775808.0;
}

static float from_bf16(uint16_t v) {
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static double rounded(double v, bool bf16) {
    float f = (float)v;
    uint32_t u;
    if (!bf16) return v;
    memcpy(&u, &f, sizeof u);
    return (double)from_bf16((uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16));
}

static void *room(int64_t n, size_t bytes) {
    void *p = calloc((size_t)n, bytes);
    assert_non_null(p);
    return p;
}

static void open_bed(bed *b, const setting *s) {
    *b = (bed){.s = *s};
    int64_t R = s->R, V = s->V, C = s->C;
#ifdef _OPENMP
    omp_set_num_threads(s->threads);
#endif
    pl_ops_init(&b->ops, pl_cpu_detect());
    assert_int_equal(pl_gemm_new(&b->gemm, pl_cpu_detect(), &b->ops, NULL), 0);
    b->arch = (pl_arch){.V = V, .C = C, .eps = 1e-5, .tied = true};
    b->weights = room(V * C, sizeof *b->weights), b->norm = room(C, sizeof(float));
    b->x = room(R * C, sizeof(float)), b->dx = room(R * C, sizeof(float)), b->dw = room(V * C, sizeof(float));
    b->c = room(R + 1, sizeof(double)), b->targets = room(R + 1, sizeof *b->targets);
    b->z = room(V, sizeof(double)), b->h = room(C, sizeof(double)), b->dh = room(C, sizeof(double));
    b->ref_dw = room(V * C, sizeof(double));
    for (int64_t i = 0; i < V * C; i++) {
        float f = (float)(dice() * 4 / sqrt((double)C));
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        b->weights[i] = (uint16_t)(u >> 16);
    }
    for (int64_t i = 0; i < C; i++) b->norm[i] = (float)(1 + 0.2 * dice());
    for (int64_t i = 0; i < R * C; i++) b->x[i] = (float)dice();
    for (int64_t i = 0; i <= R; i++) { /* the last row has two targets */
        int64_t id = (int64_t)(fabs(dice()) * (double)V);
        b->targets[i] = (pl_target){.token = PL_MIN(i, R - 1), .id = (int32_t)PL_MIN(id, V - 1)};
        b->c[i] = dice();
    }
    b->forest = (pl_forest){.T = R, .trained.T = R, .ntargets = R + 1, .targets = b->targets};
    pl_mat mat = {b->weights, PL_BF16, V, C};
    b->w = (pl_weights){.arch = &b->arch, .embed = mat, .head = mat, .norm = b->norm};
}

static void take_head(bed *b) {
    const setting *s = &b->s;
    pl_backend backend = {&b->ops, b->gemm, s->bf16};
    pl_head_spec spec = {.max_rows = s->R + 7, /* a longer batch than this one */
                         .max_targets = s->R + 9,
                         .training = s->mode != SCORED,
                         .trained = s->mode == TRAINED};
    pl_arena plan;
    pl_error err;
    pl_arena_init_measuring(&plan, "plan");
    assert_int_equal(pl_head_take(&b->head, &b->arch, &backend, &spec, &plan, &err), 0);
    assert_int_equal(pl_arena_init(&b->arena, "test", plan.peak, &err), 0); /* the plan's bytes are enough */
    assert_int_equal(pl_head_take(&b->head, &b->arch, &backend, &spec, &b->arena, &err), 0);
    assert_int_equal(pl_head_prepare(&b->head, &b->w, s->mode == TRAINED, &err), 0);
}

static void close_bed(bed *b) {
    pl_arena_release(&b->arena);
    pl_gemm_free(b->gemm);
    void *all[] = {b->weights, b->norm, b->x, b->dx, b->dw, b->c, b->targets, b->z, b->h, b->dh, b->ref_dw};
    for (int i = 0; i < PL_LEN(all); i++) free(all[i]);
}

static double wt(const bed *b, int64_t v, int64_t j) { return (double)from_bf16(b->weights[v * b->s.C + j]); }

/* Normed row r as products see it, logits, and their largest and log-sum. */
static double reference_row(bed *b, int64_t r, double *max) {
    int64_t V = b->s.V, C = b->s.C;
    const float *x = b->x + r * C;
    double square = 0, sum = 0;
    for (int64_t j = 0; j < C; j++) square += (double)x[j] * (double)x[j];
    double rstd = 1 / sqrt(square / (double)C + 1e-5);
    for (int64_t j = 0; j < C; j++) b->h[j] = rounded((double)x[j] * rstd * (double)b->norm[j], b->s.bf16);
    *max = -INFINITY;
    for (int64_t v = 0; v < V; v++) {
        b->z[v] = 0;
        for (int64_t j = 0; j < C; j++) b->z[v] += b->h[j] * wt(b, v, j);
        *max = fmax(*max, b->z[v]);
    }
    for (int64_t v = 0; v < V; v++) sum += exp(b->z[v] - *max);
    return *max + log(sum);
}

static void check_close(double got, double want, double bar, double *record) {
    double off = fabs(got - want);
    if (!(off <= bar)) fail_msg("%.9g, want %.9g within %.1g", got, want, bar);
    *record = fmax(*record, off / bar);
}

/* Row r: log-probs and statistics; leaves b->z = dlogits and b->dh. A bf16 operand that falls on the other side of a
 * rounding boundary is worth 2^-8 of itself; the sums over C and V hold many, of either sign. */
static void check_row(bed *b, int64_t r) {
    int64_t V = b->s.V, C = b->s.C;
    const pl_head *h = &b->head;
    double max, lse = reference_row(b, r, &max), bar = b->s.bf16 ? 2e-2 : 2e-5, entropy = 0, total = 0, S = 0;
    for (int64_t v = 0; v < V; v++) entropy -= exp(b->z[v] - lse) * (b->z[v] - lse), total += b->z[v];
    check_close((double)h->entropy[r], entropy, bar, &worst);
    check_close(h->mean_logit[r], total / (double)V, bar, &worst);
    for (int64_t i = r; i < (r == b->s.R - 1 ? r + 2 : r + 1); i++) {
        check_close((double)h->logp[i], b->z[b->targets[i].id] - lse, bar, &worst);
        if (h->is_argmax[i] && b->z[b->targets[i].id] < max - bar) fail_msg("target %d is not the argmax", (int)i);
        S += b->c[i];
    }
    for (int64_t v = 0; v < V; v++) b->z[v] = -S * exp(b->z[v] - lse);
    for (int64_t i = r; i < (r == b->s.R - 1 ? r + 2 : r + 1); i++) b->z[b->targets[i].id] += b->c[i];
    for (int64_t j = 0; j < C; j++) {
        b->dh[j] = 0;
        for (int64_t v = 0; v < V; v++) b->dh[j] += b->z[v] * wt(b, v, j);
    }
    for (int64_t v = 0; v < V && b->s.mode == TRAINED; v++)
        for (int64_t j = 0; j < C; j++) b->ref_dw[v * C + j] += b->z[v] * b->h[j];
}

/* dL/dx of row r from b->dh. */
static void check_row_gradient(bed *b, int64_t r) {
    int64_t C = b->s.C;
    const float *x = b->x + r * C;
    double square = 0, dot = 0, bar = b->s.bf16 ? 4e-2 : 1e-5;
    for (int64_t j = 0; j < C; j++) square += (double)x[j] * (double)x[j];
    double rstd = 1 / sqrt(square / (double)C + 1e-5);
    for (int64_t j = 0; j < C; j++) dot += b->dh[j] * (double)b->norm[j] * (double)x[j];
    for (int64_t j = 0; j < C; j++) {
        double want = rstd * (b->dh[j] * (double)b->norm[j] - (double)x[j] * rstd * rstd * dot / (double)C);
        check_close((double)b->dx[r * C + j], want, bar, &worst_grad);
    }
}

static void check_setting(const setting *s) {
    bed b;
    pl_error err;
    open_bed(&b, s);
    take_head(&b);
    pl_grads grads = {.embed = b.dw};
    int step = s->R > 300 ? 37 : 1;           /* rows that are looked at; all of them where dW is */
    for (int again = 0; again < 2; again++) { /* nothing is left over from a batch before */
        assert_int_equal(pl_head_forward(&b.head, &b.w, &b.forest, b.x, s->mode != SCORED, &err), 0);
        memset(b.dw, 0, (size_t)(s->V * s->C) * sizeof *b.dw);
        if (s->mode != SCORED)
            assert_int_equal(
                pl_head_backward(&b.head, &b.w, s->mode == TRAINED ? &grads : NULL, &b.forest, b.c, b.dx, &err), 0);
    }
    for (int64_t r = 0; r < s->R; r++) {
        if (s->mode != TRAINED && r % step && r != s->R - 1) continue;
        check_row(&b, r);
        if (s->mode != SCORED) check_row_gradient(&b, r);
    }
    for (int64_t i = 0; i < s->V * s->C && s->mode == TRAINED; i++)
        check_close((double)b.dw[i], b.ref_dw[i], s->bf16 ? 4e-2 : 2e-5, &worst_grad);
    close_bed(&b);
}

static void agrees_with_double(void **unused) {
    (void)unused;
    static const int64_t rows[] = {1, 20, 150, 530, 1100};
    static const int64_t shapes[][2] = {{1536, 64}, {1353, 64}, {1088, 64}, {1100, 40}, {300, 64}, {7, 8}};
    for (int r = 0; r < PL_LEN(rows); r++)
        for (int i = 0; i < PL_LEN(shapes); i++)
            for (int k = 0; k < 6; k++) {
                setting s = {.R = rows[r], .V = shapes[i][0], .C = shapes[i][1]};
                s.threads = 1 + (k + r + i) % 3, s.mode = k % 3, s.bf16 = k >= 3;
                if (s.R > 600 && (i != 1 || k % 3 == SCORED)) continue; /* the longest: one shape is enough */
                check_setting(&s);
            }
    print_message("worst, of its bound: values %.2f, gradients %.2f\n", worst, worst_grad);
}

/* Sums over the vocabulary are those of the same tiles on every run: equal bytes. */
static void repeats(void **unused) {
    (void)unused;
    for (int threads = 1; threads <= 3; threads++) {
        setting s = {.R = 200, .V = 1353, .C = 64, .threads = threads, .mode = FROZEN};
        bed b;
        pl_error err;
        float first[201], dx[200 * 64];
        open_bed(&b, &s);
        take_head(&b);
        for (int again = 0; again < 3; again++) {
            assert_int_equal(pl_head_forward(&b.head, &b.w, &b.forest, b.x, true, &err), 0);
            assert_int_equal(pl_head_backward(&b.head, &b.w, NULL, &b.forest, b.c, b.dx, &err), 0);
            if (again == 0) memcpy(first, b.head.logp, sizeof first), memcpy(dx, b.dx, sizeof dx);
            assert_memory_equal(first, b.head.logp, sizeof first);
            assert_memory_equal(dx, b.dx, sizeof dx);
        }
        close_bed(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_double), cmocka_unit_test(repeats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
