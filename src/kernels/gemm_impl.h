/* kernels/gemm_impl.h: what gemm.c shares with its providers. Not for callers of the matrix product. */
#ifndef PL_GEMM_IMPL_H
#define PL_GEMM_IMPL_H

#include <stdatomic.h>

#include "kernels/gemm.h"

#if defined(PLUMB_DNNL) && !defined(PL_REAL_IS_DOUBLE)
#define PL_GEMM_HAS_DNNL 1
#else
#define PL_GEMM_HAS_DNNL 0
#endif

/* gemm_ref.c. Needs no preparation and no scratch but its stack (about 100 KB a thread). Each element of C is summed by
 * one thread in a fixed order, so its bits do not depend on the thread count. */
void pl_gemm_ref_run(const pl_ops *ops, const pl_gemm_call *call);

#if PL_GEMM_HAS_DNNL
/* What one instruction-set level brings along beside oneDNN, single-threaded, over one row or a few. Stored types are
 * F32, F16 and BF16; `round` rounds to bf16, nearest even. Rows need element alignment at most. */
typedef struct pl_gemm_rows {
    void (*to_f32)(float *y, const void *x, pl_dtype type, bool round, int64_t n);
    void (*to_bf16)(uint16_t *y, const void *x, pl_dtype type, int64_t n);
    /* c[i*ldc + j] = or += dot of row i < m <= PL_GEMM_FEW of a and row j < n of b, over k; sums in a fixed order. */
    void (*dots)(float *c, int64_t ldc, bool add, const float *a, int64_t lda, int64_t m, const void *b, pl_dtype type,
                 bool round, int64_t ldb, int64_t n, int64_t k);
    /* Part of a packed B: [n / PL_PACK_ROWS] panels of [depth][PL_PACK_ROWS] elements of 4 bytes, floats (depth = k) or
     * pairs of bf16 with neighbouring k (depth = k / 2), rounded. y: PL_PACK_ROWS rows of B [n,k] fill one panel.
     * dx: PL_PACK_K rows of B [k,n] go to all panels, to each at its start. */
    void (*pack_y)(float *out, const void *b, pl_dtype type, bool pairs, bool round, int64_t ldb, int64_t depth);
    void (*pack_dx)(float *out, const void *b, pl_dtype type, bool pairs, bool round, int64_t ldb, int64_t n,
                    int64_t depth);
} pl_gemm_rows;
#define PL_PACK_ROWS 64
#define PL_PACK_K 32
#define PL_GEMM_FEW 4
/* kernels/cpu/<level>/gemm_rows.c */
extern const pl_gemm_rows pl_gemm_rows_avx2, pl_gemm_rows_avx512, pl_gemm_rows_avx512bf16;
/* dots with native bf16: rows of a in bf16, b rounded to it, m <= PL_GEMM_FEW_PAIRS. kernels/cpu/avx512bf16/gemm_rows.c
 */
#define PL_GEMM_FEW_PAIRS 8
void pl_gemm_dots_pairs(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int64_t m, const void *b,
                        pl_dtype type, int64_t ldb, int64_t n, int64_t k);
/* The same over a tile (gemm.h), with the same bits: PL_GEMM_TILE outputs. And makes one: b [PL_GEMM_TILE, k]. */
void pl_gemm_dots_tile(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int64_t m, const void *b,
                       int64_t k);
void pl_gemm_make_tile(void *out, const void *b, pl_dtype type, int64_t k);
#define PL_GEMM_TILE_K 32 /* k of tiles is a multiple of it */
/* out[j*ldo + i] = a[i*lda + j], rounded to bf16, for i < rows and j < cols, a multiple of 16; zeros for rows <= i <
 * ldo, a multiple of 16. There too. */
void pl_gemm_turn(uint16_t *out, int64_t ldo, const float *a, int64_t lda, int64_t rows, int64_t cols);

/* gemm_dnnl.c: oneDNN matmul primitives by exact shape; the only file that knows oneDNN. */
typedef struct pl_dnnl pl_dnnl;
typedef struct pl_dnnl_shape {
    int64_t m, n, k;        /* C[m,n] = or += A[m,k] B[k,n], C f32 */
    int64_t lda, ldb, ldc;  /* row strides of the matrices as they are stored */
    int64_t a_cols, b_cols; /* 1: A is stored [k,m]; B is stored [n,k] */
    int64_t bf16;           /* 1: A and B are bf16; 0: f32 */
    int64_t accumulate;
    int64_t b_packed; /* 1: B is packed (pl_gemm_rows) */
} pl_dnnl_shape;
/* alone: its products run in the calling thread. */
int pl_dnnl_new(pl_dnnl **out, pl_cpu_level level, bool alone, pl_error *err);
void pl_dnnl_free(pl_dnnl *d);
/* Products that oneDNN multiplies by plain loops are slow: a line of the log names the first one that is made. With a
 * `told` (borrowed) that several share, the first of all. */
void pl_dnnl_share_told(pl_dnnl *d, atomic_bool *told);
/* Makes the primitive unless it is there, and multiplies unless c is NULL. */
int pl_dnnl_multiply(pl_dnnl *d, const pl_dnnl_shape *shape, const void *a, const void *b, float *c, pl_error *err);
size_t pl_dnnl_bytes(const pl_dnnl *d);
const char *pl_dnnl_name(const pl_dnnl *d); /* as long as d */
bool pl_dnnl_native_bf16(const pl_dnnl *d);
/* Does this oneDNN multiply a packed B with its fast products, at this level? */
bool pl_dnnl_takes_packed(pl_dnnl *d, bool bf16);

/* gemm_outer.c: DW with native bf16, on all threads. takes: such a call, of these shapes. prepare: for any tokens up to
 * k. */
typedef struct pl_gemm_outer pl_gemm_outer;
int pl_gemm_outer_new(pl_gemm_outer **out, atomic_bool *told, pl_error *err);
void pl_gemm_outer_free(pl_gemm_outer *o);
bool pl_gemm_outer_takes(const pl_gemm_outer *o, const pl_gemm_call *call);
int pl_gemm_outer_prepare(pl_gemm_outer *o, const pl_gemm_call *shape, pl_error *err);
int pl_gemm_outer_run(pl_gemm_outer *o, const pl_gemm_call *call, pl_error *err);
size_t pl_gemm_outer_bytes(const pl_gemm_outer *o);

/* gemm_blocks.c: a call cut into blocks of tokens and tiles of weights, converted where needed, each given to oneDNN;
 * and the products with few rows. */
typedef struct pl_gemm_blocks pl_gemm_blocks;
int pl_gemm_blocks_new(pl_gemm_blocks **out, pl_cpu_level level, bool alone, atomic_bool *told, pl_error *err);
void pl_gemm_blocks_free(pl_gemm_blocks *b);
int pl_gemm_blocks_prepare(pl_gemm_blocks *b, const pl_gemm_call *shape, pl_error *err);
int pl_gemm_blocks_run(pl_gemm_blocks *b, const pl_gemm_call *calls, int n, pl_error *err); /* pl_gemm_run_all */
int64_t pl_gemm_blocks_few(const pl_gemm_blocks *b, bool bf16, pl_dtype type);
size_t pl_gemm_blocks_bytes(const pl_gemm_blocks *b);
const pl_dnnl *pl_gemm_blocks_dnnl(const pl_gemm_blocks *b);
/* Scratch *p of *have bytes has room for rows * cols elements of so many bytes from now on; what it held is lost. */
int pl_gemm_reserve(void **p, size_t *have, int64_t rows, int64_t cols, size_t elem, pl_error *err);
/* gemm.h, pl_gemm_packed_bytes and pl_gemm_pack. */
size_t pl_gemm_blocks_packed_bytes(const pl_gemm_blocks *b, const pl_gemm_call *call);
void pl_gemm_blocks_pack(pl_gemm_blocks *b, void *const *out, const pl_gemm_call *calls, int n);
#endif

#endif
