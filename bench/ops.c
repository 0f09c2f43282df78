/* bench/ops.c: speed of every op of kernels/ops.h at every level of this machine, against what the same run measures as
 * its limits: fused multiply-adds for attention, memory for the rest.
 *
 *   bench_ops [--threads N] [--level NAME|best] [--op PREFIX] [--samples N] [--rows N] [--json FILE]
 *
 * --threads 0: as many as OpenMP takes; one thread is timed by its processor time, which other programs disturb less.
 *
 * A line per op and level: the median of at least five samples, their spread, GFLOP/s (attention: two products
 * forward, five backward, of the query-key pairs that are seen), and GB/s of the bytes that the op must move. Arrays
 * have `rows` (default 8,192) times 2,048 elements, 67 MB, several times a cache. "Of triad" is what is read in a
 * second, lines that are fetched to be overwritten included, against a triad over the same arrays beside it: reading is
 * the limit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "kernels/ops.h"
#include "probe.h"
#include "report.h"

#define TOKENS 1024 /* of attention */
#define MAX_ROWS 8192
#define WIDTH 2048
#define ELEMS (d->n * WIDTH)
#define HALF ((int64_t)TOKENS * WIDTH / 2)
#define HEADS 14 /* heads of Qwen2.5-0.5B */
#define KV_HEADS 2
#define HEAD 64
#define MAX_SAMPLES 64

typedef struct bench_data {
    int64_t n;   /* rows of WIDTH */
    float *x[5]; /* ELEMS each, and enough for attention */
    uint16_t *half;
    float *rows; /* MAX_ROWS*HEADS */
    int32_t ids[MAX_ROWS];
    int64_t list[MAX_ROWS];
    uint64_t row_ids[MAX_ROWS];
    pl_attn whole, decode, decode_mha, pairs, pairs_9, pairs_32, far;
} bench_data;

typedef struct bench_op {
    const char *name;
    void (*run)(const pl_ops *ops, bench_data *d);
    double reads, bytes, flops; /* reads > 0: of whole arrays, bytes of each element; else per run */
} bench_op;

/* --- the ops --- */
#define OP(name) static void name(const pl_ops *ops, bench_data *d)
OP(b_add) { ops->add(d->x[0], d->x[1], ELEMS); }
OP(b_axpy) { ops->axpy(d->x[0], 1e-9f, d->x[1], ELEMS); }
OP(b_scale) { ops->scale(d->x[0], 1.0f, ELEMS); }
OP(b_sum_rows) { ops->sum_rows(d->rows, d->x[0], d->n, WIDTH); }
OP(b_sum_squares) { d->rows[0] += (float)ops->sum_squares(d->x[0], ELEMS) * 1e-30f; }
OP(b_from_bf16) { ops->to_real(d->x[0], d->half, PL_BF16, ELEMS); }
OP(b_to_bf16) { ops->from_real(d->half, PL_BF16, d->x[0], ELEMS); }
OP(b_from_f16) { ops->to_real(d->x[0], d->half, PL_F16, ELEMS); }
OP(b_to_f16) { ops->from_real(d->half, PL_F16, d->x[0], ELEMS); }
OP(b_embed) { ops->embed(d->x[0], d->half, PL_BF16, d->ids, d->n, WIDTH); }
OP(b_embed_bwd) { ops->embed_bwd(d->x[0], d->x[1], d->ids, d->n, WIDTH); }
OP(b_gather) { ops->gather_rows(d->x[0], d->x[1], d->list, d->n, WIDTH); }
OP(b_scatter) { ops->scatter_add_rows(d->x[0], d->x[1], d->list, d->n, WIDTH); }
OP(b_rmsnorm) { ops->rmsnorm(d->x[0], d->rows, d->x[1], d->x[2], 1e-5f, d->n, WIDTH); }
OP(b_rmsnorm_bwd) { ops->rmsnorm_bwd(d->x[0], true, NULL, d->x[1], d->x[2], d->x[3], d->rows, d->n, WIDTH); }
OP(b_rmsnorm_1) { ops->rmsnorm(d->x[0], NULL, d->x[1], d->x[2], 1e-5f, 1, WIDTH); }
OP(b_rope) { ops->rope(d->x[0], WIDTH, d->x[1], d->x[2], false, d->n, WIDTH / HEAD, HEAD, HEAD); }
OP(b_swiglu) { ops->swiglu(d->x[0], d->x[1], d->x[2], ELEMS); }
OP(b_swiglu_bwd) { ops->swiglu_bwd(d->x[0], d->x[3], d->x[4], d->x[1], d->x[2], ELEMS); }
OP(b_swiglu_hot) {
    for (int i = 0; i < 64; i++) ops->swiglu(d->x[0], d->x[1], d->x[2], 2048);
}
OP(b_dropout) { ops->dropout(d->x[0], false, d->x[1], d->row_ids, 7, 0.1f, d->n, WIDTH); }
OP(b_head_softmax) { ops->head_softmax(d->x[0], WIDTH, d->n, WIDTH, d->rows, d->x[1]); }
OP(b_head_tile) {
    static pl_head_stat stat[MAX_ROWS];
    for (int64_t i = 0; i < d->n; i++) stat[i] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    ops->head_tile(d->x[1], WIDTH, d->n, WIDTH, 0, stat, false, NULL);
}
OP(b_adamw) {
    static const pl_adamw a = {1e-6, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, 1};
    ops->adamw(d->x[0], d->x[1], d->x[2], d->x[3], ELEMS, &a);
}
OP(b_attn) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->whole); }
OP(b_attn_pairs) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->pairs); }
OP(b_attn_9) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->pairs_9); }
OP(b_attn_32) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->pairs_32); }
OP(b_attn_far) { ops->attn(d->x[0], d->rows, d->x[1], d->x[2], d->x[3], &d->far); }
OP(b_attn_mha) { ops->attn(d->x[0], NULL, d->x[1], d->x[2], d->x[3], &d->decode_mha); }
OP(b_attn_decode) { ops->attn(d->x[0], NULL, d->x[1], d->x[2], d->x[3], &d->decode); }

static void attn_bwd(const pl_ops *ops, bench_data *d, const pl_attn *a) {
    float *q = d->x[1], *k = d->x[2], *v = d->x[3]; /* half of each buffer; the gradients take the other halves */
    ops->attn_bwd(q + HALF, k + HALF, v + HALF, d->x[4], d->x[0], d->x[0] + HALF, d->rows, q, k, v, a);
}
OP(b_attn_bwd) { attn_bwd(ops, d, &d->whole); }
OP(b_attn_bwd_pairs) { attn_bwd(ops, d, &d->pairs); }
OP(b_attn_bwd_9) { attn_bwd(ops, d, &d->pairs_9); }
OP(b_attn_bwd_32) { attn_bwd(ops, d, &d->pairs_32); }
OP(b_attn_bwd_far) { attn_bwd(ops, d, &d->far); }

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
#define FAR 8192 /* rows of one head */
#define FAR_PAIRS ((double)FAR * (FAR + 1) / 2)
#define HD ((double)HEADS * HEAD)
#define KV_BYTES (8.0 * KV_HEADS * HEAD * TOKENS)

static const bench_op bench_ops[] = {
    {"add", b_add, 8, 12, 0},
    {"axpy", b_axpy, 8, 12, 0},
    {"scale", b_scale, 4, 8, 0},
    {"sum_rows", b_sum_rows, 4, 4, 0},
    {"sum_squares", b_sum_squares, 4, 4, 0},
    {"bf16 to f32", b_from_bf16, 6, 6, 0},
    {"f32 to bf16", b_to_bf16, 6, 6, 0},
    {"f16 to f32", b_from_f16, 6, 6, 0},
    {"f32 to f16", b_to_f16, 6, 6, 0},
    {"embed bf16", b_embed, 6, 6, 0},
    {"embed_bwd", b_embed_bwd, 8, 12, 0},
    {"gather_rows", b_gather, 8, 8, 0},
    {"scatter_add_rows", b_scatter, 8, 12, 0},
    {"rmsnorm", b_rmsnorm, 8, 8, 0},
    {"rmsnorm_bwd", b_rmsnorm_bwd, 12, 16, 0},
    {"rmsnorm, one row", b_rmsnorm_1, 0, 8.0 * WIDTH, 0},
    {"rope", b_rope, 4, 8, 0},
    {"swiglu", b_swiglu, 12, 12, 0},
    {"swiglu, in cache", b_swiglu_hot, 0, 12.0 * 64 * 2048, 0},
    {"swiglu_bwd", b_swiglu_bwd, 20, 20, 0},
    {"head_tile", b_head_tile, 4, 4, 0},
    {"head_softmax", b_head_softmax, 4, 8, 0},
    {"dropout", b_dropout, 8, 8, 0},
    {"adamw", b_adamw, 16, 28, 0},
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
    {"attn pairs, 9/3", b_attn_9, 0, 0, TREES * 4 * 9.0 * HEAD *TREE_PAIRS},
    {"attn_bwd pairs 9/3", b_attn_bwd_9, 0, 0, TREES * 10 * 9.0 * HEAD *TREE_PAIRS},
    {"attn pairs, 32/8", b_attn_32, 0, 0, 2 * 4 * 32.0 * HEAD *TREE_PAIRS},
    {"attn_bwd pairs32/8", b_attn_bwd_32, 0, 0, 2 * 10 * 32.0 * HEAD *TREE_PAIRS},
    {"attn 8192, 1/1", b_attn_far, 0, 0, 4.0 * HEAD *FAR_PAIRS},
    {"attn_bwd 8192, 1/1", b_attn_bwd_far, 0, 0, 10.0 * HEAD *FAR_PAIRS},
    {"attn, token, MHA", b_attn_mha, 0, KV_BYTES *HEADS / KV_HEADS, 4 * HD *TOKENS},
    {"attn, one token", b_attn_decode, 0, KV_BYTES, 4 * HD *TOKENS},
};

/* --- measuring --- */
typedef struct limits {
    probe_kind kind;
    int threads, samples;
    double fma; /* GFLOP/s; 0: none of this level */
} limits;

typedef struct one_call {
    const bench_op *op;
    const pl_ops *ops;
    bench_data *d;
} one_call;

static void run_once(void *arg) {
    one_call *c = arg;
    c->op->run(c->ops, c->d);
}

typedef float floats __attribute__((vector_size(64)));
static void triad(bench_data *d) {
    floats *a = (floats *)d->x[0];
    const floats *b = (const floats *)d->x[1], *c = (const floats *)d->x[2];
    int64_t n = ELEMS / 16;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) a[i] = b[i] + 1e-3f * c[i];
}

static int by_size(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x), memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Over whole arrays: in turns with the triad, because the memory of shared machines changes its speed. *share: the
 * median of read bytes a second / the triad's. */
static probe_samples time_beside_triad(const one_call *c, const limits *l, double *share) {
    double took[MAX_SAMPLES], ratio[MAX_SAMPLES];
    int n = PL_MIN(l->samples, MAX_SAMPLES);
    run_once((void *)c);
    for (int i = 0; i < n; i++) {
        double began = probe_now();
        triad(c->d);
        double middle = probe_now();
        run_once((void *)c);
        took[i] = probe_now() - middle;
        ratio[i] = c->op->reads / took[i] * (middle - began) / 12;
    }
    qsort(took, (size_t)n, sizeof *took, by_size);
    qsort(ratio, (size_t)n, sizeof *ratio, by_size);
    *share = ratio[n / 2];
    return (probe_samples){took[0], took[n / 2], (took[n * 3 / 4] - took[n / 4]) / took[n / 2], n, n};
}

static void report(const bench_op *op, const pl_ops *ops, bench_data *d, const limits *l) {
    double gb = op->bytes * 1e-9 * (op->reads > 0 ? (double)ELEMS : 1), gflop = op->flops * 1e-9, share = 0;
    double peak = l->fma > 0 ? l->fma : 10, guess = fmax(gflop / peak, gb / 20) * peak * 1e9;
    probe_rule rule = {l->kind, l->threads, l->samples, peak, l->threads == 1};
    one_call c = {op, ops, d};
    probe_samples t = op->reads > 0 ? time_beside_triad(&c, l, &share) : probe_time(run_once, &c, guess, &rule);
    report_begin("ops", op->name);
    report_text("level", ops->level);
    report_count("threads", l->threads);
    report_number("us", t.median * 1e6);
    report_number("spread", t.spread / 2);
    report_count("samples", t.taken);
    report_count("quiet_samples", t.good);
    printf("%-18s %-10s %10.1f us +-%3.0f%%", op->name, ops->level, t.median * 1e6, t.spread * 50);
    if (gflop > 0) printf(" %8.1f GFLOP/s", gflop / t.median), report_number("gflops", gflop / t.median);
    if (gflop > 0 && l->fma > 0) {
        printf(" (%2.0f%% of FMA peak)", gflop / t.median / l->fma * 100);
        report_number("of_fma", gflop / t.median / l->fma);
    }
    if (gb > 0) printf(" %7.1f GB/s", gb / t.median), report_number("gb_s", gb / t.median);
    if (op->reads > 0) printf(" (%2.0f%% of triad)", 100 * share), report_number("of_triad", share);
    report_end();
    printf("\n");
    fflush(stdout);
}

/* --- set-up --- */
static const pl_attn_run whole_run = {0, TOKENS, 0, 0, 0, 0}, far_run = {0, FAR, 0, 0, 0, 0},
                         decode_run = {0, 1, 0, TOKENS - 1, 0, 0};
static pl_attn_run tree_runs[3 * TREES];
static pl_key_range tree_ranges[TREES];

/* The same with other heads. */
static pl_attn with_heads(pl_attn a, int64_t H, int64_t KV) {
    a.H = H, a.KV = KV, a.q_stride = a.o_stride = H * HEAD, a.kv_stride = KV * HEAD;
    return a;
}

static int data_make(bench_data *d, pl_error *err) {
    int64_t most = PL_MAX(ELEMS, 2 * HALF);
    for (int i = 0; i < 5; i++) {
        d->x[i] = probe_pages((size_t)most * sizeof(float));
        if (!d->x[i]) return PL_FAIL(err, PL_E_NOMEM, "no memory for arrays of %d rows", (int)d->n);
        pl_rng_normal(d->x[i], most, 1, 11 + (uint64_t)i, 0);
    }
    d->half = probe_pages((size_t)most * sizeof *d->half);
    d->rows = probe_pages(MAX_ROWS * HEADS * sizeof *d->rows);
    if (!d->half || !d->rows) return PL_FAIL(err, PL_E_NOMEM, "no memory for arrays of %d rows", (int)d->n);
    for (int64_t i = 0; i < most; i++) d->half[i] = (uint16_t)(0x3c00 + i % 512);
    for (int64_t i = 0; i < d->n; i++)
        d->ids[i] = (int32_t)((i * 769) % d->n), d->list[i] = (i * 257) % d->n, d->row_ids[i] = (uint64_t)i;
    for (int64_t i = 0; i < (int64_t)MAX_ROWS * HEADS; i++) d->rows[i] = i < TOKENS ? 3 : 9;
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
    d->pairs_9 = with_heads(d->pairs, 9, 3);            /* SmolLM2-135M */
    d->pairs_32 = with_heads(d->pairs, 32, 8);          /* Llama-3.2-1B */
    d->pairs_32.nruns = 2 * 3, d->pairs_32.T = 2 * 199; /* what fits */
    d->far = with_heads(d->whole, 1, 1);
    d->far.T = FAR, d->far.runs = &far_run;
    return 0;
}

static void data_release(bench_data *d) {
    for (int i = 0; i < 5; i++) free(d->x[i]);
    free(d->half), free(d->rows);
}

static const char *option(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

static void run_level(pl_cpu_level level, int threads, int samples, const char *filter, bench_data *d) {
    pl_ops ops;
    limits l = {level == PL_CPU_AVX2 ? PROBE_AVX2_F32 : probe_best_f32(), threads, samples, 0};
    pl_ops_init(&ops, level);
    if (level != PL_CPU_GENERIC) l.fma = probe_peak(l.kind, threads, 0.1);
    printf("# %s, threads %d, FMA peak %.0f GFLOP/s\n", ops.level, threads, l.fma);
    for (int64_t i = 0; i < PL_LEN(bench_ops); i++)
        if (!filter || strncmp(bench_ops[i].name, filter, strlen(filter)) == 0) report(&bench_ops[i], &ops, d, &l);
}

int main(int argc, char **argv) {
    static bench_data d;
    pl_error err = {0};
    const char *level_name = option(argc, argv, "--level"), *filter = option(argc, argv, "--op");
    const char *threads_text = option(argc, argv, "--threads"), *samples_text = option(argc, argv, "--samples");
    const char *rows_text = option(argc, argv, "--rows");
    int threads = threads_text ? atoi(threads_text) : 1, samples = samples_text ? atoi(samples_text) : 7;
    pl_cpu_level only = pl_cpu_detect();
    d.n = rows_text ? PL_MAX(1, PL_MIN(atoi(rows_text), MAX_ROWS)) : MAX_ROWS;
    bool one = level_name != NULL;
    if ((one && strcmp(level_name, "best") != 0 && pl_cpu_level_parse(&only, level_name, &err) != 0) ||
        data_make(&d, &err) != 0) {
        fprintf(stderr, "bench_ops: %s\n", err.text);
        return 1;
    }
#ifdef _OPENMP
    if (threads < 1) threads = omp_get_max_threads();
    omp_set_num_threads(threads);
#endif
    if (threads == 1) probe_use_cpu_time();
    report_open(report_path(argc, argv));
    pl_fp_state fp;
    pl_fp_enter(&fp);
    for (int level = 0; level <= (int)pl_cpu_detect(); level++)
        if (!one || level == (int)only) run_level((pl_cpu_level)level, threads, samples, filter, &d);
    pl_fp_leave(&fp);
    data_release(&d);
    return 0;
}
