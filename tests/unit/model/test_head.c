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

/* The terms of the reference that `errors_of_one_percent_show` makes wrong, one after the other. */
typedef enum term {
    LOG_SUM,
    TARGET_LOGIT,
    ENTROPY,
    MEAN_LOGIT,
    SUM_P2,
    SOFTMAX,
    TARGET,
    NORM_DOT,
    NORM_GAIN,
    TERMS
} term;
static double factor[TERMS];

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
    float *norm, *x, *dx, *dw, *dnorm;
    double *c;
    /* the reference, and behind each value how far the head may be from it */
    double *wide;                                /* [V,C] the weights */
    double *z, *z_off, *h, *h_off, *dh, *dh_off; /* [V], [C] of one row */
    double *dz, *dz_off, *dz_size;               /* [V] of one row; dz_size: of the terms that dz is the sum of */
    double *ref_dw, *dw_off, *dw_cut, *dw_cut2;  /* [V,C]; cut: see `cuts` */
    double *ref_dnorm, *dnorm_off, *cut, *cut2;  /* [C] */
    double max, lse, lse_off, rstd, *logit_off;  /* of one row; logit_off [V]: of e^z and of the softmax, relative */
    int64_t wrong;                               /* values out of their bounds */
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

/* --- what rounding may do ------------------------------------------------------------------------------------------
 * To first order: u^2 is left out, beside factors that are rounded up.
 *
 * Sums in f32 of n terms, in any order: off by gamma(n) times the sum of the terms' sizes. n u / (1 - n u) holds always
 * (Higham 2002, 3.1). With errors of independent sign and mean 0, L sqrt(n) u holds but with a probability of
 * 2 n exp(-L^2 / 2) (Higham and Mary 2019, theorem 3.1): at L = 8 1e-10 for a sum of 4096 terms, and less than
 * 1e-3 for all sums here together. It is the smaller from 64 terms on.
 *
 * Operands in bf16: the reference rounds the same value, but the head's own may fall on the other side of a boundary
 * (`operand_off` finds the few that may). What is rounded and is not known to the last digit (exponentials below a
 * maximum that depends on tiles) is off by half a step, V = 2^-8 of itself, with a sign of its own: sums of such terms
 * by V times the sum of their sizes always, and by L V times the root of their squares' sum but with a probability of
 * 2 exp(-L^2 / 2) (Hoeffding 1963). `cuts` takes the smaller. */
#define U 0x1p-24
#define V_BF16 0x1p-8
#define L 8.0
#define EXP_U 3.0 /* relative error of exp and log in u: an ulp is 2 u at most (docs/numerics.md), and libm's */

static double gamma_of(int64_t n) {
    double k = (double)n;
    return fmin(k * U / (1 - k * U), L * sqrt(k) * U);
}

static double operand_off(double v, double off, bool bf16) {
    if (!bf16) return off;
    double at = rounded(v, true);
    return fmax(fabs(rounded(v + off, true) - at), fabs(rounded(v - off, true) - at));
}

static double cuts(double sizes, double squares) { return V_BF16 * fmin(sizes, L * sqrt(squares)); }

static void *room(int64_t n, size_t bytes) {
    void *p = calloc((size_t)n, bytes);
    assert_non_null(p);
    return p;
}

/* The doubles of a bed, and how many. */
#define DOUBLES(b)                                                                                                     \
    {                                                                                                                  \
        {&(b)->wide, V * C}, {&(b)->z, V}, {&(b)->z_off, V}, {&(b)->h, C}, {&(b)->h_off, C}, {&(b)->dh, C},            \
            {&(b)->dh_off, C}, {&(b)->dz, V}, {&(b)->dz_off, V}, {&(b)->dz_size, V}, {&(b)->ref_dw, V * C},            \
            {&(b)->dw_off, V * C}, {&(b)->dw_cut, V * C}, {&(b)->dw_cut2, V * C}, {&(b)->ref_dnorm, C},                \
            {&(b)->dnorm_off, C}, {&(b)->cut, C}, {&(b)->cut2, C}, {&(b)->logit_off, V}, {                             \
            &(b)->c, R + 1                                                                                             \
        }                                                                                                              \
    }
typedef struct doubles {
    double **at;
    int64_t n;
} doubles;

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
    b->dnorm = room(C, sizeof(float)), b->targets = room(R + 1, sizeof *b->targets);
    const doubles all[] = DOUBLES(b);
    for (int i = 0; i < PL_LEN(all); i++) *all[i].at = room(all[i].n, sizeof(double));
    for (int64_t i = 0; i < V * C; i++) {
        float f = (float)(dice() * 4 / sqrt((double)C));
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        b->weights[i] = (uint16_t)(u >> 16);
        b->wide[i] = (double)from_bf16(b->weights[i]);
    }
    for (int64_t i = 0; i < C; i++) b->norm[i] = (float)(1 + 0.2 * dice());
    for (int64_t i = 0; i < R * C; i++) b->x[i] = (float)dice();
    for (int64_t i = 0; i <= R; i++) { /* the last row has two targets */
        int64_t id = (int64_t)(fabs(dice()) * (double)V);
        b->targets[i] = (pl_target){.token = PL_MIN(i, R - 1), .id = (int32_t)PL_MIN(id, V - 1)};
        b->c[i] = dice();
    }
    b->forest = (pl_forest){.T = R, .trained.T = R, .ntargets = R + 1, .targets = b->targets};
    pl_mat mat = {.data = b->weights, .type = PL_BF16, .rows = V, .cols = C};
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
    int64_t R = b->s.R, V = b->s.V, C = b->s.C;
    const doubles all[] = DOUBLES(b);
    for (int i = 0; i < PL_LEN(all); i++) free(*all[i].at);
    pl_arena_release(&b->arena);
    pl_gemm_free(b->gemm);
    free(b->weights), free(b->norm), free(b->x), free(b->dx), free(b->dw), free(b->dnorm), free(b->targets);
}

static void check_close(bed *b, const char *what, double got, double want, double bar, double *record) {
    double off = fabs(got - want);
    if (!(off <= bar) && b->wrong++ == 0) print_message("%s: %.9g, want %.9g within %.1g\n", what, got, want, bar);
    *record = fmax(*record, off / bar);
}

/* Relative error of 1 / sqrt(mean of squares): half that of the sum; then the mean, eps, the root, the division. */
static double rstd_off(const bed *b) { return gamma_of(b->s.C + 1) / 2 + 3 * U; }

/* Normed row r as products see it, and its logits. */
static void reference_logits(bed *b, int64_t r) {
    int64_t C = b->s.C;
    const float *x = b->x + r * C;
    double square = 0;
    for (int64_t j = 0; j < C; j++) square += (double)x[j] * (double)x[j];
    b->rstd = 1 / sqrt(square / (double)C + 1e-5);
    for (int64_t j = 0; j < C; j++) {
        double h = (double)x[j] * b->rstd * (double)b->norm[j], off = fabs(h) * (rstd_off(b) + 2 * U);
        b->h[j] = rounded(h, b->s.bf16);
        b->h_off[j] = operand_off(h, off, b->s.bf16);
    }
    b->max = -INFINITY;
    for (int64_t v = 0; v < b->s.V; v++) {
        const double *w = b->wide + v * C;
        double sum = 0, size = 0, off = 0;
        for (int64_t j = 0; j < C; j++)
            sum += b->h[j] * w[j], size += fabs(b->h[j] * w[j]), off += b->h_off[j] * fabs(w[j]);
        b->z[v] = sum;
        b->z_off[v] = off + gamma_of(C + 1) * size;
        b->max = fmax(b->max, sum);
    }
}

/* The log-sum. A term e^(z - max) is off by its logit's error, by the rounding of z - max, by exp's own error, and by
 * those of the factors exp(max - new max) that it is multiplied with, one for each tile or share before. */
static void reference_row(bed *b, int64_t r) {
    int64_t V = b->s.V;
    double sum = 0, least = INFINITY, shares = (double)(V / b->head.tile + 1 + b->s.threads);
    reference_logits(b, r);
    for (int64_t v = 0; v < V; v++) sum += exp(b->z[v] - b->max), least = fmin(least, b->z[v]);
    b->lse = b->max + log(sum);
    b->lse_off = gamma_of(V);
    for (int64_t v = 0; v < V; v++) {
        b->logit_off[v] = b->z_off[v] + U * (b->max - b->z[v] + EXP_U) + U * (shares * (EXP_U + 1) + b->max - least);
        b->lse_off += exp(b->z[v] - b->lse) * b->logit_off[v];
    }
}

/* entropy = log-sum + max - sum of p z, where the sum is of p (z - max) and p max, or of p z; and log of sum p^2. */
static void check_statistics(bed *b, int64_t r) {
    int64_t V = b->s.V;
    const pl_head *h = &b->head;
    double log_sum = b->lse - b->max, entropy = 0, total = 0, p2 = 0, mean_off = 0, pz_off = 0, pz_size = 0, p2_off = 0;
    for (int64_t v = 0; v < V; v++) {
        double p = exp(b->z[v] - b->lse), size = p * (fabs(b->z[v]) + fabs(b->max));
        entropy -= p * (b->z[v] - b->lse), total += b->z[v], p2 += p * p;
        mean_off += b->z_off[v];
        pz_size += size, pz_off += size * (b->logit_off[v] + b->lse_off) + p * b->z_off[v];
        p2_off += 2 * p * p * b->logit_off[v];
    }
    double entropy_off = b->lse_off + pz_off + gamma_of(V) * pz_size + 4 * U * (log_sum + pz_size);
    double p2_log_off = p2_off / p2 + gamma_of(V) + 2 * b->lse_off + EXP_U * U * (fabs(log(p2)) + 2 * log_sum);
    check_close(b, "entropy", (double)h->entropy[r], entropy * factor[ENTROPY], entropy_off, &worst);
    check_close(b, "mean logit", h->mean_logit[r], total / (double)V * factor[MEAN_LOGIT], mean_off / (double)V,
                &worst);
    check_close(b, "log sum p^2", (double)h->sum_p2[r], log(p2) * factor[SUM_P2], p2_log_off, &worst);
}

static int64_t targets_end(const bed *b, int64_t r) { return r == b->s.R - 1 ? r + 2 : r + 1; }

/* A target is said to be the largest when it is, whatever its bounds hold. */
static void check_argmax(bed *b, int64_t i) {
    double mine = b->z[b->targets[i].id], off = b->z_off[b->targets[i].id];
    bool may = true, must = true;
    for (int64_t v = 0; v < b->s.V; v++) {
        if (v == b->targets[i].id) continue;
        may = may && mine + off >= b->z[v] - b->z_off[v];
        must = must && mine - off > b->z[v] + b->z_off[v];
    }
    if (b->head.is_argmax[i] ? !may : must) fail_msg("target %d: is_argmax is wrong", (int)i);
}

static void check_targets(bed *b, int64_t r) {
    double log_sum = b->lse - b->max;
    for (int64_t i = r; i < targets_end(b, r); i++) {
        int64_t id = b->targets[i].id;
        double want = factor[TARGET_LOGIT] * b->z[id] - b->max - factor[LOG_SUM] * log_sum;
        double off = b->z_off[id] + b->lse_off + (EXP_U + 1) * U * (b->max - b->z[id] + log_sum);
        check_close(b, "log-prob", (double)b->head.logp[i], want, off, &worst);
        check_argmax(b, i);
    }
}

/* dL/dz of row r and dL/dh. dz = sum of c - S p is a sum of terms; products add over V. */
static void reference_gradient(bed *b, int64_t r) {
    int64_t V = b->s.V, C = b->s.C;
    double S = 0;
    for (int64_t i = r; i < targets_end(b, r); i++) S += b->c[i];
    for (int64_t v = 0; v < V; v++) {
        double p = fabs(S) * exp(b->z[v] - b->lse);
        b->dz[v] = (S > 0 ? -p : p) * factor[SOFTMAX];
        b->dz_size[v] = p;
        b->dz_off[v] = p * (b->logit_off[v] + b->lse_off + 4 * U);
    }
    for (int64_t i = r; i < targets_end(b, r); i++) {
        int64_t id = b->targets[i].id;
        b->dz[id] += b->c[i] * factor[TARGET];
        b->dz_size[id] += fabs(b->c[i]);
        b->dz_off[id] += 4 * U * (fabs(b->c[i]) + b->dz_size[id]);
    }
    for (int64_t j = 0; j < C; j++) b->dh[j] = b->dh_off[j] = b->cut[j] = b->cut2[j] = 0;
    for (int64_t v = 0; v < V; v++) {
        double off = b->dz_off[v] + gamma_of(V + 2) * b->dz_size[v];
        const double *w = b->wide + v * C;
        for (int64_t j = 0; j < C; j++) {
            double size = b->dz_size[v] * fabs(w[j]);
            b->dh[j] += b->dz[v] * w[j];
            b->dh_off[j] += off * fabs(w[j]);
            b->cut[j] += size, b->cut2[j] += size * size;
        }
    }
    for (int64_t j = 0; j < C && b->s.bf16; j++) b->dh_off[j] += cuts(b->cut[j], b->cut2[j]);
}

/* Adds row r to dL/dW, a sum over rows. */
static void add_outer(bed *b) {
    int64_t V = b->s.V, C = b->s.C;
    for (int64_t v = 0; v < V; v++) {
        double off = b->dz_off[v] + gamma_of(b->s.R + 1) * b->dz_size[v];
        double *dw = b->ref_dw + v * C, *dw_off = b->dw_off + v * C;
        for (int64_t j = 0; j < C; j++) {
            double size = b->dz_size[v] * fabs(b->h[j]);
            dw[j] += b->dz[v] * b->h[j];
            dw_off[j] += off * fabs(b->h[j]) + b->dz_size[v] * b->h_off[j];
            b->dw_cut[v * C + j] += size, b->dw_cut2[v * C + j] += size * size;
        }
    }
}

/* dL/dx of row r from dL/dh, through the norm; adds to dL/dnorm. */
static void check_row_gradient(bed *b, int64_t r) {
    int64_t C = b->s.C;
    const float *x = b->x + r * C;
    double rstd = b->rstd, dot = 0, dot_off = 0, size = 0;
    for (int64_t j = 0; j < C; j++) {
        double nx = (double)b->norm[j] * (double)x[j], gain = (double)x[j] * rstd;
        dot += b->dh[j] * nx, size += fabs(b->dh[j] * nx), dot_off += b->dh_off[j] * fabs(nx);
        b->ref_dnorm[j] += b->dh[j] * gain * factor[NORM_GAIN];
        b->dnorm_off[j] += (b->dh_off[j] + (rstd_off(b) + gamma_of(b->s.R + 2)) * fabs(b->dh[j])) * fabs(gain);
    }
    dot_off += gamma_of(C + 2) * size;
    for (int64_t j = 0; j < C; j++) {
        double straight = b->dh[j] * (double)b->norm[j], back = (double)x[j] * rstd * rstd / (double)C;
        double want = rstd * (straight - back * dot * factor[NORM_DOT]);
        double off = rstd * (b->dh_off[j] * fabs((double)b->norm[j]) + fabs(back) * dot_off +
                             (3 * rstd_off(b) + 6 * U) * (fabs(straight) + fabs(back * dot)));
        check_close(b, "dx", (double)b->dx[r * C + j], want, off, &worst_grad);
    }
}

static void check_weights(bed *b) {
    int64_t C = b->s.C, n = b->s.V * C;
    for (int64_t i = 0; i < n; i++) {
        double off = b->dw_off[i] + (b->s.bf16 ? cuts(b->dw_cut[i], b->dw_cut2[i]) : 0);
        check_close(b, "dW", (double)b->dw[i], b->ref_dw[i], off, &worst_grad);
    }
    for (int64_t j = 0; j < C; j++)
        check_close(b, "dnorm", (double)b->dnorm[j], b->ref_dnorm[j], b->dnorm_off[j], &worst_grad);
}

/* Values out of their bounds. */
static int64_t check_setting(const setting *s) {
    bed b;
    pl_error err;
    open_bed(&b, s);
    take_head(&b);
    pl_grads grads = {.embed = b.dw, .norm = b.dnorm};
    int step = s->R > 300 ? 37 : 1;           /* rows that are looked at; all of them where dW is */
    for (int again = 0; again < 2; again++) { /* nothing is left over from a batch before */
        assert_int_equal(pl_head_forward(&b.head, &b.w, &b.forest, b.x, s->mode != SCORED, &err), 0);
        memset(b.dw, 0, (size_t)(s->V * s->C) * sizeof *b.dw);
        memset(b.dnorm, 0, (size_t)s->C * sizeof *b.dnorm);
        if (s->mode != SCORED)
            assert_int_equal(
                pl_head_backward(&b.head, &b.w, s->mode == TRAINED ? &grads : NULL, &b.forest, b.c, b.dx, &err), 0);
    }
    for (int64_t r = 0; r < s->R; r++) {
        if (s->mode != TRAINED && r % step && r != s->R - 1) continue;
        reference_row(&b, r);
        check_statistics(&b, r);
        check_targets(&b, r);
        if (s->mode == SCORED) continue;
        reference_gradient(&b, r);
        check_row_gradient(&b, r);
        if (s->mode == TRAINED) add_outer(&b);
    }
    if (s->mode == TRAINED) check_weights(&b);
    close_bed(&b);
    return b.wrong;
}

static void right_reference(void) {
    for (int i = 0; i < TERMS; i++) factor[i] = 1;
}

static void agrees_with_double(void **unused) {
    (void)unused;
    static const int64_t rows[] = {1, 20, 150, 530, 1100};
    right_reference();
    static const int64_t shapes[][2] = {{1536, 64}, {1353, 64}, {1088, 64}, {1100, 40}, {300, 64}, {7, 8}};
    for (int r = 0; r < PL_LEN(rows); r++)
        for (int i = 0; i < PL_LEN(shapes); i++)
            for (int k = 0; k < 6; k++) {
                setting s = {.R = rows[r], .V = shapes[i][0], .C = shapes[i][1]};
                s.threads = 1 + (k + r + i) % 3, s.mode = k % 3, s.bf16 = k >= 3;
                if (s.R > 600 && (i != 1 || k % 3 == SCORED)) continue; /* the longest: one shape is enough */
                if (check_setting(&s) != 0)
                    fail_msg("R %d, V %d, C %d, %d threads, mode %d, bf16 %d", (int)s.R, (int)s.V, (int)s.C, s.threads,
                             s.mode, s.bf16);
            }
    print_message("worst, of its bound: values %.2f, gradients %.2f\n", worst, worst_grad);
}

/* The bounds find 1 % in any term of f32, and in bf16 where the term is not small beside the operands' rounding. */
static void errors_of_one_percent_show(void **unused) {
    (void)unused;
    static const char *const names[TERMS] = {"log-sum",
                                             "target logit",
                                             "entropy",
                                             "mean logit",
                                             "log sum p^2",
                                             "softmax in the gradient",
                                             "target in the gradient",
                                             "norm's dot",
                                             "norm's gain"};
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (int i = 0; i < TERMS; i++)
            for (int mode = FROZEN; mode <= TRAINED; mode++) {
                if (mode == FROZEN && i == NORM_GAIN) continue;
                setting s = {.R = 150, .V = 1353, .C = 64, .threads = 2, .mode = mode, .bf16 = bf16};
                right_reference();
                factor[i] = 1.01;
                int64_t wrong = check_setting(&s);
                bool asked = !bf16 || i < SOFTMAX || i == TARGET || (i == SOFTMAX && mode == TRAINED);
                print_message("1 %% of the %s, mode %d, bf16 %d: %d values out of bounds\n", names[i], mode, bf16,
                              (int)wrong);
                if (asked && wrong == 0) fail_msg("not found");
            }
    right_reference();
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_double),
                                       cmocka_unit_test(errors_of_one_percent_show), cmocka_unit_test(repeats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
