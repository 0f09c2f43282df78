/* kernels/ops.h: the op table. Every op has a reference version (kernels/ref, written over `real`), which is its
 * specification; each instruction-set level overwrites what it has. Ops work on whole arrays, thread inside with
 * OpenMP, and reduce in an order that does not depend on the number of threads. No op allocates. Arrays are row-major
 * and dense unless a stride is given, need only element alignment, and do not overlap unless the op says "in place". T
 * tokens, C width, H heads, D head size, V vocabulary. */
#ifndef PL_OPS_H
#define PL_OPS_H

#include "base/base.h"
#include "kernels/real.h"

/* Keys that a query sees completely: rows [first, first+count) of k and v. */
typedef struct pl_key_range {
    int64_t first, count;
} pl_key_range;

/* A run of consecutive query rows that share their visible ranges (a segment of the forest, or the new tokens of a
 * sequence that is being generated). Query i of the run (0-based) sees all keys of its ranges, and of its own keys the
 * rows [own_first, own_first + own_past + i]. Training: own_first == q_first and own_past == 0. */
typedef struct pl_attn_run {
    int64_t q_first, q_count;
    int64_t own_first, own_past;
    int64_t range_first, range_count; /* into pl_attn.ranges */
} pl_attn_run;

typedef struct pl_attn {
    int64_t T;                             /* rows of q and o */
    int64_t H, KV, D;                      /* query heads, key/value heads (H % KV == 0), head size (<= 256) */
    int64_t q_stride, kv_stride, o_stride; /* elements between rows of q; of k and v; of o (>= H*D, KV*D, H*D) */
    real scale;                            /* multiplies q.k */
    int64_t nruns;
    const pl_attn_run *runs;
    const pl_key_range *ranges;
} pl_attn;

/* Running statistics of one row of the vocabulary head, updated tile by tile (online softmax, DECISIONS 6). */
typedef struct pl_head_stat {
    real max;       /* running maximum of z; start -INFINITY */
    real sum;       /* sum exp(z - max) */
    real sum_z;     /* sum exp(z - max) * z */
    real sum2;      /* sum exp(2 (z - max)) */
    double total;   /* sum z */
    int64_t argmax; /* smallest id that attains max; start -1 */
} pl_head_stat;

/* AdamW as torch computes it (decoupled decay; bias correction by 1 - beta^t): see kernels/ref/optim.c. */
typedef struct pl_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double bias1, bias2; /* 1 - beta1^t, 1 - beta2^t */
    double grad_scale;   /* multiplies every gradient first (clipping) */
} pl_adamw;

/* C[m,n] = or += alpha A B, with A(i,p) = a[i*a_row + p*a_col] and B(p,j) = b[p*b_row + j*b_col]: a product that is
 * short in one direction (adapters). C does not overlap A or B; with k == 0 the sum is zero. */
typedef struct pl_product {
    real *c;
    const real *a, *b;
    int64_t ldc, a_row, a_col, b_row, b_col;
    int64_t m, n, k;
    real alpha;
    bool accumulate;
} pl_product;

#define PL_BLOCK_MAX 64 /* numbers of a block of block_max */

typedef struct pl_ops {
    const char *level; /* "generic", "avx2", "avx512", "avx512bf16" */

    /* Conversions of n elements between real and a stored float type (F32, F16, BF16; F64 in the double build too).
     * from_real rounds to nearest even; NaN stays NaN; F16 overflow becomes infinity. round_bf16: in place allowed. */
    void (*to_real)(real *y, const void *x, pl_dtype x_type, int64_t n);
    void (*from_real)(void *y, pl_dtype y_type, const real *x, int64_t n);

    /* y += x ; y += a*x ; y *= a ; elementwise over n. */
    void (*add)(real *y, const real *x, int64_t n);
    void (*axpy)(real *y, real a, const real *x, int64_t n);
    void (*scale)(real *y, real a, int64_t n);
    /* y[t,:] *= a[t]; rows of C elements, stride ld. Rows with a[t] == 1 are not touched. */
    void (*scale_rows)(real *y, const real *a, int64_t T, int64_t C, int64_t ld);
    /* y[t,:] += b[:] ; db[:] += sum_t dy[t,:], t in order. */
    void (*add_bias)(real *y, const real *b, int64_t T, int64_t C);
    void (*sum_rows)(real *db, const real *dy, int64_t T, int64_t C);
    /* Sum of squares in double, blocks of 4096 elements summed in order. Any NaN or infinity shows in the result. */
    double (*sum_squares)(const real *x, int64_t n);

    /* y[t,:] = table[ids[t],:] for a stored table [V,C]; dtable[ids[t],:] += dy[t,:], t in order. */
    void (*embed)(real *y, const void *table, pl_dtype type, const int32_t *ids, int64_t T, int64_t C);
    void (*embed_bwd)(real *dtable, const real *dy, const int32_t *ids, int64_t T, int64_t C);
    /* y[i,:] = x[rows[i],:] ; y[rows[i],:] += x[i,:], i in order (rows may repeat). */
    void (*gather_rows)(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C);
    void (*scatter_add_rows)(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C);

    /* RMSNorm: rstd[t] = 1/sqrt(mean x^2 + eps), y = x*rstd*w. y == x is allowed. rstd may be NULL.
     * bwd: dx[t,:] (+)= ..., accumulate says which; dw[:] += sum_t dy*x*rstd in order of t, NULL when w is frozen. dx
     * == dy allowed only without accumulate. */
    void (*rmsnorm)(real *y, real *rstd, const real *x, const real *w, real eps, int64_t T, int64_t C);
    void (*rmsnorm_bwd)(real *dx, bool accumulate, real *dw, const real *dy, const real *x, const real *w,
                        const real *rstd, int64_t T, int64_t C);

    /* RoPE, half-split form, in place over x [T, heads*D] with row stride ld: the first `rot` dims of each head are
     * rotated by the angles whose cos and sin are [T, rot/2]; inverse rotates back (the backward pass). */
    void (*rope)(real *x, int64_t ld, const real *cosine, const real *sine, bool inverse, int64_t T, int64_t heads,
                 int64_t D, int64_t rot);

    /* Attention over key ranges, softmax in real, grouped heads. o [T,H*D]; lse [T,H] (log sum exp of scaled scores;
     * NULL in inference). bwd adds nothing: it overwrites dq (stride q_stride) and dk, dv (stride kv_stride) for all
     * rows that runs mention, reading do (stride o_stride), o and lse; delta [T,H] is scratch of the caller. Training
     * layout only (k rows == q rows). */
    void (*attn)(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a);
    void (*attn_bwd)(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                     const real *q, const real *k, const real *v, const pl_attn *a);

    /* SwiGLU over n: y = silu(g)*u, silu(g) = g/(1+exp(-g)). y == g or y == u allowed.
     * bwd: dg, du from dy; dg == g, du == u and du == dy allowed. */
    void (*swiglu)(real *y, const real *g, const real *u, int64_t n);
    void (*swiglu_bwd)(real *dg, real *du, const real *dy, const real *g, const real *u, int64_t n);

    /* One tile z [R,n] (row stride ld) of vocabulary ids v0 .. v0+n-1: updates stat[r]. want_exp: also overwrites z
     * with exp(z - new max) and gives rescale[r] = exp(old max - new max), by which sums formed with the old maximum
     * must be scaled. */
    void (*head_tile)(real *z, int64_t ld, int64_t R, int64_t n, int64_t v0, pl_head_stat *stat, bool want_exp,
                      real *rescale);
    /* z := coef[r] * exp(z - lse[r]) in place: the softmax part of dlogits when the head is trained. */
    void (*head_softmax)(real *z, int64_t ld, int64_t R, int64_t n, const real *lse, const real *coef);

    /* Sampling, in the calling thread alone; z holds finite numbers and -infinity. exp_sum: p[i] = exp(factor * (z[i] -
     * top)) in double, 0 where that is below e^-700 (factor * (z[i] - top) <= 700), and the sum of them. select: the
     * indices in [0, n) with z >= least in rising order, and how many. block_max: max[b] of the b-th PL_BLOCK_MAX. */
    double (*exp_sum)(double *p, const real *z, double factor, real top, int64_t n);
    int64_t (*select)(int32_t *index, const real *z, real least, int64_t n);
    void (*block_max)(real *max, const real *z, int64_t n);

    /* y = x * mask / (1-p) (or y += when accumulate); mask element (t,c) from Philox(key, row_id[t], c), see
     * kernels/ref/dropout.c. y == x allowed without accumulate. */
    void (*dropout)(real *y, bool accumulate, const real *x, const uint64_t *row_id, uint64_t key, real p, int64_t T,
                    int64_t C);

    /* In the calling thread alone: the caller shares out rows or columns. */
    void (*product)(const pl_product *x);

    void (*adamw)(real *p, const real *g, real *m, real *v, int64_t n, const pl_adamw *a);
} pl_ops;

/* CPU features, as detected and masked. A level implies the ones before it. */
typedef enum pl_cpu_level {
    PL_CPU_GENERIC,
    PL_CPU_AVX2,
    PL_CPU_AVX512,
    PL_CPU_AVX512_BF16,
    PL_CPU_LEVELS
} pl_cpu_level;
pl_cpu_level pl_cpu_detect(void);
const char *pl_cpu_level_name(pl_cpu_level level);
/* "generic", "avx2", "avx512", "avx512bf16" (as in PLUMB_CPU). PL_E_OPTION lists the names. */
int pl_cpu_level_parse(pl_cpu_level *out, const char *name, pl_error *err);

/* Fills the table for min(level, what this build and machine have). */
void pl_ops_init(pl_ops *ops, pl_cpu_level level);
/* One file each: the reference fills everything; the others overwrite what they have. */
void pl_ops_add_ref(pl_ops *ops);
void pl_ops_add_avx2(pl_ops *ops);
void pl_ops_add_avx512(pl_ops *ops);
void pl_ops_add_avx512bf16(pl_ops *ops);

/* Denormals as zero in this thread and in all OpenMP threads; leave restores what enter found (public entry points pair
 * them). */
#define PL_MAX_THREADS 256
typedef struct pl_fp_state {
    int threads;
    uint32_t saved[PL_MAX_THREADS];
} pl_fp_state;
void pl_fp_enter(pl_fp_state *s);
void pl_fp_leave(const pl_fp_state *s);

#endif
