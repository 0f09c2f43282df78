/* bench/ops.c: speed of every op of kernels/ops.h at every level of this machine, against what the same run measures as
 * its limits: fused multiply-adds for attention, a copy through memory for the rest.
 *
 *   bench_ops [--threads N] [--level NAME] [--op PREFIX] [--seconds S]
 *
 * A line per op and level: the median of at least five samples, their spread, and GFLOP/s (attention; backward counted
 * as five products, of which it does seven), G elements/s and GB/s of the bytes that the op must move. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "kernels/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TOKENS 1024
#define WIDTH 2048
#define ELEMS ((int64_t)TOKENS * WIDTH)
#define HEADS 14 /* heads of Qwen2.5-0.5B */
#define KV_HEADS 2
#define HEAD 64
#define MAX_SAMPLES 64

typedef struct bench_data {
    float *x[5]; /* ELEMS each */
    uint16_t *half;
    float *rows; /* TOKENS*HEADS */
    int32_t ids[TOKENS];
    int64_t list[TOKENS];
    uint64_t row_ids[TOKENS];
    pl_attn whole, decode, decode_mha, pairs;
} bench_data;

typedef struct bench_op {
    const char *name;
    void (*run)(const pl_ops *ops, bench_data *d);
    double elements, bytes, flops; /* per run */
} bench_op;

/* Wall time; with one thread its CPU time, which other programs on the machine disturb less. */
static double now(void) {
    struct timespec t;
#ifdef _OPENMP
    clock_gettime(omp_get_max_threads() > 1 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
#else
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- the ops
 * --------------------------------------------------------------------------------------------------------------------
 */
#define OP(name) static void name(const pl_ops *ops, bench_data *d)
OP(b_add) { ops->add(d->x[0], d->x[1], ELEMS); }
OP(b_axpy) { ops->axpy(d->x[0], 1e-9f, d->x[1], ELEMS); }
OP(b_scale) { ops->scale(d->x[0], 1.0f, ELEMS); }
OP(b_sum_rows) { ops->sum_rows(d->rows, d->x[0], TOKENS, WIDTH); }
OP(b_sum_squares) { d->rows[0] += (float)ops->sum_squares(d->x[0], ELEMS) * 1e-30f; }
OP(b_from_bf16) { ops->to_real(d->x[0], d->half, PL_BF16, ELEMS); }
OP(b_to_bf16) { ops->from_real(d->half, PL_BF16, d->x[0], ELEMS); }
OP(b_from_f16) { ops->to_real(d->x[0], d->half, PL_F16, ELEMS); }
OP(b_to_f16) { ops->from_real(d->half, PL_F16, d->x[0], ELEMS); }
OP(b_embed) { ops->embed(d->x[0], d->half, PL_BF16, d->ids, TOKENS, WIDTH); }
OP(b_embed_bwd) { ops->embed_bwd(d->x[0], d->x[1], d->ids, TOKENS, WIDTH); }
OP(b_gather) { ops->gather_rows(d->x[0], d->x[1], d->list, TOKENS, WIDTH); }
OP(b_scatter) { ops->scatter_add_rows(d->x[0], d->x[1], d->list, TOKENS, WIDTH); }
OP(b_rmsnorm) { ops->rmsnorm(d->x[0], d->rows, d->x[1], d->x[2], 1e-5f, TOKENS, WIDTH); }
OP(b_rmsnorm_bwd) { ops->rmsnorm_bwd(d->x[0], true, NULL, d->x[1], d->x[2], d->x[3], d->rows, TOKENS, WIDTH); }
OP(b_rmsnorm_1) { ops->rmsnorm(d->x[0], NULL, d->x[1], d->x[2], 1e-5f, 1, WIDTH); }
OP(b_rope) { ops->rope(d->x[0], WIDTH, d->x[1], d->x[2], false, TOKENS, WIDTH / HEAD, HEAD, HEAD); }
OP(b_swiglu) { ops->swiglu(d->x[0], d->x[1], d->x[2], ELEMS); }
OP(b_swiglu_bwd) { ops->swiglu_bwd(d->x[0], d->x[3], d->x[4], d->x[1], d->x[2], ELEMS); }
OP(b_swiglu_hot) {
    for (int i = 0; i < 64; i++) ops->swiglu(d->x[0], d->x[1], d->x[2], 2048);
}
OP(b_dropout) { ops->dropout(d->x[0], false, d->x[1], d->row_ids, 7, 0.1f, TOKENS, WIDTH); }
OP(b_head_softmax) { ops->head_softmax(d->x[0], WIDTH, TOKENS, WIDTH, d->rows, d->x[1]); }
OP(b_head_tile) {
    static pl_head_stat stat[TOKENS];
    for (int i = 0; i < TOKENS; i++) stat[i] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    ops->head_tile(d->x[1], WIDTH, TOKENS, WIDTH, 0, stat, false, NULL);
}
OP(b_adamw) {
    static const pl_adamw a = {1e-6, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, 1};
    ops->adamw(d->x[0], d->x[1], d->x[2], d->x[3], ELEMS, &a);
}
OP(b_attn) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->whole); }
OP(b_attn_pairs) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->pairs); }
OP(b_attn_mha) { ops->attn(d->x[0], NULL, d->x[1], d->x[2], d->x[3], &d->decode_mha); }
OP(b_attn_decode) { ops->attn(d->x[0], NULL, d->x[1], d->x[2], d->x[3], &d->decode); }

static void attn_bwd(const pl_ops *ops, bench_data *d, const pl_attn *a) {
    float *q = d->x[1], *k = d->x[2], *v = d->x[3]; /* half of each buffer; the gradients take the other halves */
    ops->attn_bwd(q + ELEMS / 2, k + ELEMS / 2, v + ELEMS / 2, d->x[4], d->x[0], d->x[0] + ELEMS / 2, d->rows, q, k, v,
                  a);
}
OP(b_attn_bwd) { attn_bwd(ops, d, &d->whole); }
OP(b_attn_bwd_pairs) { attn_bwd(ops, d, &d->pairs); }

/* The six products of an adapter of rank 16 over 256 tokens of a layer 576 -> 1536, as model/linear.c asks for them. */
enum { PT = 256, PIN = 576, POUT = 1536, PR = 16 };
static void product(const pl_ops *ops, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                    const float *b, int64_t b_row, int64_t b_col, int64_t m, int64_t n, int64_t k) {
    pl_product x = {c, a, b, ldc, a_row, a_col, b_row, b_col, m, n, k, 1, true};
    ops->product(&x);
}
OP(b_into_a) { product(ops, d->rows, PR, d->x[0], PIN, 1, d->x[1], 1, PIN, PT, PR, PIN); }
OP(b_out_of_b) { product(ops, d->x[2], POUT, d->x[0], PR, 1, d->x[1], 1, PR, PT, POUT, PR); }
OP(b_into_b) { product(ops, d->rows, PR, d->x[0], POUT, 1, d->x[1], PR, 1, PT, PR, POUT); }
OP(b_out_of_a) { product(ops, d->x[2], PIN, d->x[0], PR, 1, d->x[1], PIN, 1, PT, PIN, PR); }
OP(b_sum_da) { product(ops, d->x[2], PIN, d->x[0], 1, PR, d->x[1], PIN, 1, PR, PIN, PT); }
OP(b_sum_db) { product(ops, d->x[2], PR, d->x[0], 1, POUT, d->x[1], PR, 1, POUT, PR, PT); }

/* Query-key pairs per head: one sequence of TOKENS; trees of 110 -> {40, 49} rows (performance.md's mean pair); one
 * token, TOKENS keys. */
#define TREES 5
#define WHOLE_PAIRS ((double)TOKENS * (TOKENS + 1) / 2)
#define TREE_PAIRS (110.0 * 111 / 2 + 40 * 110.0 + 40.0 * 41 / 2 + 49 * 110.0 + 49.0 * 50 / 2)
#define HD ((double)HEADS * HEAD)
#define KV_BYTES (8.0 * KV_HEADS * HEAD * TOKENS)

static const bench_op bench_ops[] = {
    {"add", b_add, ELEMS, 12.0 * ELEMS, 0},
    {"axpy", b_axpy, ELEMS, 12.0 * ELEMS, 0},
    {"scale", b_scale, ELEMS, 8.0 * ELEMS, 0},
    {"sum_rows", b_sum_rows, ELEMS, 4.0 * ELEMS, 0},
    {"sum_squares", b_sum_squares, ELEMS, 4.0 * ELEMS, 0},
    {"bf16 to f32", b_from_bf16, ELEMS, 6.0 * ELEMS, 0},
    {"f32 to bf16", b_to_bf16, ELEMS, 6.0 * ELEMS, 0},
    {"f16 to f32", b_from_f16, ELEMS, 6.0 * ELEMS, 0},
    {"f32 to f16", b_to_f16, ELEMS, 6.0 * ELEMS, 0},
    {"embed bf16", b_embed, ELEMS, 6.0 * ELEMS, 0},
    {"embed_bwd", b_embed_bwd, ELEMS, 12.0 * ELEMS, 0},
    {"gather_rows", b_gather, ELEMS, 8.0 * ELEMS, 0},
    {"scatter_add_rows", b_scatter, ELEMS, 12.0 * ELEMS, 0},
    {"rmsnorm", b_rmsnorm, ELEMS, 8.0 * ELEMS, 0},
    {"rmsnorm_bwd", b_rmsnorm_bwd, ELEMS, 16.0 * ELEMS, 0},
    {"rmsnorm, one row", b_rmsnorm_1, WIDTH, 8.0 * WIDTH, 0},
    {"rope", b_rope, ELEMS, 8.0 * ELEMS, 0},
    {"swiglu", b_swiglu, ELEMS, 12.0 * ELEMS, 0},
    {"swiglu, in cache", b_swiglu_hot, 64.0 * 2048, 12.0 * 64 * 2048, 0},
    {"swiglu_bwd", b_swiglu_bwd, ELEMS, 20.0 * ELEMS, 0},
    {"head_tile", b_head_tile, ELEMS, 4.0 * ELEMS, 0},
    {"head_softmax", b_head_softmax, ELEMS, 8.0 * ELEMS, 0},
    {"dropout", b_dropout, ELEMS, 8.0 * ELEMS, 0},
    {"adamw", b_adamw, ELEMS, 28.0 * ELEMS, 0},
    {"x A'", b_into_a, 0, 0, 2.0 * PT *PR *PIN},
    {"low B'", b_out_of_b, 0, 0, 2.0 * PT *PR *POUT},
    {"dy B", b_into_b, 0, 0, 2.0 * PT *PR *POUT},
    {"dlow A", b_out_of_a, 0, 0, 2.0 * PT *PR *PIN},
    {"dlow' x", b_sum_da, 0, 0, 2.0 * PT *PR *PIN},
    {"dy' low", b_sum_db, 0, 0, 2.0 * PT *PR *POUT},
    {"attn 1024", b_attn, 0, 0, 4 * HD *WHOLE_PAIRS},
    {"attn_bwd 1024", b_attn_bwd, 0, 0, 10 * HD *WHOLE_PAIRS},
    {"attn pairs", b_attn_pairs, 0, 0, TREES * 4 * HD *TREE_PAIRS},
    {"attn_bwd pairs", b_attn_bwd_pairs, 0, 0, TREES * 10 * HD *TREE_PAIRS},
    {"attn, token, MHA", b_attn_mha, 0, KV_BYTES *HEADS / KV_HEADS, 4 * HD *TOKENS},
    {"attn, one token", b_attn_decode, 0, KV_BYTES, 4 * HD *TOKENS},
};

/* --- the limits
 * ----------------------------------------------------------------------------------------------------------------- */
#if defined(__x86_64__)
#define CHAINS 10
#define PROBE(name, isa, type, set, fma, width)                                                                        \
    __attribute__((target(isa))) static double name(double *flops) {                                                   \
        type s[CHAINS], a = set(0.9999f);                                                                              \
        for (int i = 0; i < CHAINS; i++) s[i] = set((float)i);                                                         \
        double start = now();                                                                                          \
        for (int n = 0; n < 1000000; n++) {                                                                            \
            _Pragma("GCC unroll 10") for (int i = 0; i < CHAINS; i++) {                                                \
                s[i] = fma(s[i], a, a);                                                                                \
                __asm__ volatile("" : "+v"(s[i]));                                                                     \
            }                                                                                                          \
        }                                                                                                              \
        *flops = 2.0 * (width)*CHAINS * 1000000;                                                                       \
        return now() - start;                                                                                          \
    }
PROBE(probe_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8)
PROBE(probe_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16)

static double fma_peak(pl_cpu_level level, int threads) {
    double best = 0;
    if (level == PL_CPU_GENERIC) return 0;
    for (int again = 0; again < 5; again++) {
        double rate = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rate)
        {
            double flops = 0, seconds = level == PL_CPU_AVX2 ? probe_avx2(&flops) : probe_avx512(&flops);
            rate += flops / seconds;
        }
        if (rate > best) best = rate;
    }
    PL_UNUSED(threads);
    return best;
}
#else
static double fma_peak(pl_cpu_level level, int threads) {
    PL_UNUSED(level), PL_UNUSED(threads);
    return 0;
}
#endif

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of one run: the median over samples of about 5 ms; *spread = (third - first quartile) / median. */
static double measure(const bench_op *op, const pl_ops *ops, bench_data *d, double seconds, double *spread) {
    double samples[MAX_SAMPLES], start, begin = now();
    int64_t repeat = 1;
    int n = 0;
    op->run(ops, d);
    for (;; repeat *= 2) {
        start = now();
        for (int64_t i = 0; i < repeat; i++) op->run(ops, d);
        if (now() - start > 5e-3) break;
    }
    while (n < 5 || (n < MAX_SAMPLES && now() - begin < seconds)) {
        start = now();
        for (int64_t i = 0; i < repeat; i++) op->run(ops, d);
        samples[n++] = (now() - start) / (double)repeat;
    }
    qsort(samples, (size_t)n, sizeof samples[0], compare_doubles);
    *spread = (samples[n * 3 / 4] - samples[n / 4]) / samples[n / 2];
    return samples[n / 2];
}

static void report(const bench_op *op, const pl_ops *ops, bench_data *d, double seconds, double peak) {
    double spread, t = measure(op, ops, d, seconds, &spread);
    printf("%-18s %-10s %10.1f us +-%3.0f%%", op->name, ops->level, t * 1e6, spread * 50);
    if (op->flops > 0) printf(" %8.1f GFLOP/s", op->flops / t * 1e-9);
    if (op->flops > 0 && peak > 0) printf(" (%2.0f%% of FMA peak)", op->flops / t / peak * 100);
    if (op->elements > 0) printf(" %8.2f G elements/s", op->elements / t * 1e-9);
    if (op->bytes > 0) printf(" %7.1f GB/s", op->bytes / t * 1e-9);
    printf("\n");
    fflush(stdout);
}

/* --- set-up
 * -----------------------------------------------------------------------------------------------------------------------
 */
static const pl_attn_run whole_run = {0, TOKENS, 0, 0, 0, 0}, decode_run = {0, 1, 0, TOKENS - 1, 0, 0};
static pl_attn_run tree_runs[3 * TREES];
static pl_key_range tree_ranges[TREES];

static int data_make(bench_data *d, pl_error *err) {
    int rc;
    for (int i = 0; i < 5; i++) {
        PL_GO(rc, PL_NEW(&d->x[i], ELEMS, err));
        pl_rng_normal(d->x[i], ELEMS, 1, 11 + (uint64_t)i, 0);
    }
    PL_GO(rc, PL_NEW(&d->half, ELEMS, err));
    PL_GO(rc, PL_NEW(&d->rows, (int64_t)TOKENS * HEADS, err));
    for (int64_t i = 0; i < TOKENS; i++) {
        d->ids[i] = (int32_t)((i * 769) % TOKENS), d->list[i] = (i * 257) % TOKENS, d->row_ids[i] = (uint64_t)i,
        d->rows[i] = 3;
    }
    for (int64_t i = 0; i < ELEMS; i++) d->half[i] = (uint16_t)(0x3c00 + i % 512);
    for (int64_t i = TOKENS; i < (int64_t)TOKENS * HEADS; i++) d->rows[i] = 9;
    for (int64_t i = 0; i < TREES; i++) {
        int64_t row = i * 199;
        tree_ranges[i] = (pl_key_range){row, 110};
        tree_runs[3 * i] = (pl_attn_run){row, 110, row, 0, i, 0};
        tree_runs[3 * i + 1] = (pl_attn_run){row + 110, 40, row + 110, 0, i, 1};
        tree_runs[3 * i + 2] = (pl_attn_run){row + 150, 49, row + 150, 0, i, 1};
    }
    d->whole = (pl_attn){TOKENS,       HEADS,  KV_HEADS, HEAD,       HEADS * HEAD, KV_HEADS * HEAD,
                         HEADS * HEAD, 0.125f, 1,        &whole_run, NULL};
    d->decode = d->whole, d->decode.T = 1, d->decode.runs = &decode_run;
    d->decode_mha = d->decode, d->decode_mha.KV = HEADS, d->decode_mha.kv_stride = HEADS * HEAD;
    d->pairs = d->whole, d->pairs.nruns = PL_LEN(tree_runs), d->pairs.runs = tree_runs, d->pairs.ranges = tree_ranges;
out:
    return rc;
}

static void data_release(bench_data *d) {
    for (int i = 0; i < 5; i++) pl_free(d->x[i]);
    pl_free(d->half), pl_free(d->rows);
}

static const char *option(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

int main(int argc, char **argv) {
    static bench_data d;
    pl_error err = {0};
    const char *level_name = option(argc, argv, "--level"), *filter = option(argc, argv, "--op");
    const char *threads_text = option(argc, argv, "--threads"), *seconds_text = option(argc, argv, "--seconds");
    int threads = threads_text ? atoi(threads_text) : 1;
    double seconds = seconds_text ? atof(seconds_text) : 0.2;
    pl_cpu_level only = PL_CPU_LEVELS;
    if ((level_name && pl_cpu_level_parse(&only, level_name, &err) != 0) || data_make(&d, &err) != 0) {
        fprintf(stderr, "bench_ops: %s\n", err.text);
        return 1;
    }
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    pl_fp_state fp;
    pl_fp_enter(&fp);
    for (int level = 0; level <= (int)pl_cpu_detect(); level++) {
        pl_ops ops;
        if (level_name && level != (int)only) continue;
        pl_ops_init(&ops, (pl_cpu_level)level);
        double peak = fma_peak((pl_cpu_level)level, threads);
        printf("# %s, threads %d, FMA peak %.0f GFLOP/s\n", ops.level, threads, peak * 1e-9);
        for (int64_t i = 0; i < PL_LEN(bench_ops); i++)
            if (!filter || strncmp(bench_ops[i].name, filter, strlen(filter)) == 0)
                report(&bench_ops[i], &ops, &d, seconds, peak);
    }
    pl_fp_leave(&fp);
    data_release(&d);
    return 0;
}
