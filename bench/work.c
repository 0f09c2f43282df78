/* work.c: how much a step has to multiply, and how fast this machine multiplies at the model's shapes. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/gemm_impl.h"
#include "model/head.h"
#include "probe.h"
#include "run.h"

/* Forward and dX of all matrices for shared tokens (dW with all weights), LoRA, four products of C with each head row's
 * vocabulary (six), attention 4 per visible pair forward and 8 backward; a live reference adds a forward pass. */
double bench_counted(const bench_setting *s, const bench_work *w, double *head, double *attention) {
    const bench_shape *m = s->shape;
    double N = bench_linear_elements(m), D = (double)m->C / (double)m->H, kv = D * (double)m->KV, C = (double)m->C,
           F = (double)m->F, L = (double)m->L, V = (double)m->V;
    double sides = L * (2 * (C + C) + 2 * (C + kv) + 3 * (C + F));
    double linear = w->tokens[1] * (4 * N + (s->full ? 2 * N : 6 * BENCH_RANK * sides)) + 2 * N * w->tokens[0];
    *head = (s->full ? 6 : 4) * V * C * w->rows[1] + 2 * V * C * w->rows[0];
    *attention = 12 * C * L * w->pairs[1] + 4 * C * L * w->pairs[0];
    return linear + *head + *attention;
}

/* --- speed of the products --- */
enum { HEAD_ROWS = 256, HEAD_TILE = 4096 }; /* large enough for the speed of a good product */

typedef struct product_run {
    pl_dnnl *dnnl;
    float *a, *b, *c;
} product_run;

/* Seconds: the best of four, or of two long ones, after one that makes the primitive. */
static double time_product(const product_run *p, const pl_dnnl_shape *s) {
    pl_error err;
    double best = 1e9, all = 0;
    for (int i = 0; i < 5 && (i < 3 || all < 0.15); i++) {
        double began = probe_now();
        if (pl_dnnl_multiply(p->dnnl, s, p->a, p->b, p->c, &err)) return NAN;
        double took = probe_now() - began;
        if (i) best = fmin(best, took), all += took;
    }
    return best;
}

/* Forward and dX of the model's matrices over 1024 tokens with operands as oneDNN likes them, weighted by their work.
 */
static void measure_linear(bench_result *r, const bench_setting *s, const product_run *p) {
    const bench_shape *m = s->shape;
    int64_t kv = m->C / m->H * m->KV, T = 1024;
    const int64_t shapes[][3] = {{m->C, m->C, 2}, {kv, m->C, 2}, {m->F, m->C, 2}, {m->C, m->F, 1}};
    double flop = 0, seconds = 0;
    for (int i = 0; i < PL_LEN(shapes); i++)
        for (int back = 0; back < 2; back++) {
            int64_t out = shapes[i][0], in = shapes[i][1], n = back ? in : out, k = back ? out : in;
            pl_dnnl_shape g = {.m = T, .n = n, .k = k, .lda = k, .ldb = in, .ldc = n, .b_cols = !back, .bf16 = s->bf16};
            double t = time_product(p, &g), work = 2.0 * (double)T * (double)n * (double)k;
            flop += work * (double)shapes[i][2];
            seconds += t * (double)shapes[i][2];
            r->gemm_best = fmax(r->gemm_best, work / t);
        }
    r->gemm = fmax(r->gemm, flop / seconds);
}

/* The head's: rows times a tile of the vocabulary, and back: the better of large tiles and those that it takes itself.
 */
static void measure_head(bench_result *r, const bench_setting *s, const product_run *p) {
    const int64_t tiles[] = {HEAD_TILE, PL_HEAD_TILE};
    for (int i = 0; i < PL_LEN(tiles); i++) {
        int64_t rows = HEAD_ROWS, C = s->shape->C, tile = PL_MIN(tiles[i], s->shape->V);
        pl_dnnl_shape forward = {
            .m = rows, .n = tile, .k = C, .lda = C, .ldb = C, .ldc = tile, .b_cols = 1, .bf16 = s->bf16};
        pl_dnnl_shape back = {.m = rows, .n = C, .k = tile, .lda = tile, .ldb = C, .ldc = C, .bf16 = s->bf16};
        double seconds = time_product(p, &forward) + time_product(p, &back);
        r->head_gemm = fmax(r->head_gemm, 4.0 * (double)(rows * C * tile) / seconds);
    }
}

void bench_measure_gemm(bench_result *r, const bench_setting *s) {
    product_run p = {0};
    pl_error err;
    int64_t most = PL_MAX(PL_MAX(s->shape->F, HEAD_TILE), 1024);
    size_t bytes = (size_t)most * (size_t)PL_MAX(s->shape->C, 1024) * 4;
    if (pl_dnnl_new(&p.dnnl, pl_cpu_detect(), false, &err) || pl_alloc_zero((void **)&p.a, bytes, &err) ||
        pl_alloc_zero((void **)&p.b, bytes, &err) || pl_alloc_zero((void **)&p.c, bytes, &err))
        exit(1);
    for (int64_t i = 0; i < (int64_t)(bytes / 4); i++)
        p.a[i] = p.b[i] = s->bf16 ? 0.0078125f : 1.0f + (float)(i % 977) * 1e-3f;
    /* The best of several goes with pauses: now and then a go has one core only (a fifth of the runs
     * of one evening had half of the speed in both of two goes). */
    for (int again = 0; again < 5; again++) {
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        measure_linear(r, s, &p);
        measure_head(r, s, &p);
    }
    pl_dnnl_free(p.dnnl);
    pl_free(p.a), pl_free(p.b), pl_free(p.c);
}
