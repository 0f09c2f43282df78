/* kernels/gemm.h: matrix products with fp32 accumulation, over weights stored f32, f16 or bf16.
 *
 * Three kinds, named by what they compute in a linear layer Y = X W^T with W [out,in]:
 *   PL_GEMM_Y  : C[m,n] = A[m,k] B[n,k]^T     (m tokens, n = out, k = in,  B = W)
 *   PL_GEMM_DX : C[m,n] = A[m,k] B[k,n]       (m tokens, n = in,  k = out, B = W)
 *   PL_GEMM_DW : C[m,n] = A[k,m]^T B[k,n]     (m = out, n = in, k tokens; A = dY, B = X, both real)
 * A and C are real. B of the first two kinds is stored in b_type; in the third it is real.
 * Slack: the token dimension may be rounded up to a multiple of PL_ROW_SLACK inside: A and C of Y and DX, and A and B
 * of DW, must have that many rows allocated; rows behind the last token are scratch that the call may read and write
 * (and must leave finite).
 *
 * bf16: operands are rounded to bf16 (nearest even), products accumulated in fp32, result fp32. Without native bf16 the
 * rounded operands are multiplied in f32 (same rounding). The provider owns its primitives and conversion scratch: both
 * are made in pl_gemm_prepare, so that pl_gemm_run allocates nothing of ours. Running an unprepared shape prepares it
 * on the way (tests and small tools).
 *
 * A product threads inside, for one caller at a time; or it runs in the calling thread alone with the scratch of a
 * lane: callers of different lanes may run at the same time. */
#ifndef PL_GEMM_H
#define PL_GEMM_H

#include "kernels/ops.h"

#define PL_ROW_SLACK 16
static inline int64_t pl_rows_padded(int64_t rows) { return (rows + PL_ROW_SLACK - 1) / PL_ROW_SLACK * PL_ROW_SLACK; }

typedef enum pl_gemm_kind { PL_GEMM_Y, PL_GEMM_DX, PL_GEMM_DW } pl_gemm_kind;

typedef struct pl_gemm_call {
    pl_gemm_kind kind;
    bool bf16;       /* round the operands to bf16 */
    bool accumulate; /* C += instead of C = */
    int64_t m, n, k;
    const real *a;
    int64_t lda;
    const void *b;
    pl_dtype b_type;
    int64_t ldb;
    real *c;
    int64_t ldc;
    int lane;      /* 0: all threads share the product; from 1: the calling thread alone, with that lane's scratch */
    bool same_a;   /* A is that of the lane's last product (Y, all of it in one block): it need not be rounded again */
    bool same_b;   /* B and k are those of the last product (DW): it need not be rounded again */
    bool b_packed; /* Y and DX: b is what pl_gemm_pack made of B; b_type and ldb say nothing; lda = k, ldc = n */
    bool b_tiles;  /* Y of few rows: b is what pl_gemm_tile made of B; b_type and ldb are those of the rows, in bf16 */
} pl_gemm_call;

#ifndef PL_GEMM_LANE_ROWS
#define PL_GEMM_LANE_ROWS 256 /* tokens of a product of a lane at most */
#endif

typedef struct pl_gemm pl_gemm;

/* level GENERIC: the reference product (plain loops over real, f64 build: the only one). Otherwise oneDNN limited to
 * `level`; the first call in a process fixes oneDNN's level (DECISIONS 17). PL_E_NOMEM, PL_E_INTERNAL. */
int pl_gemm_new(pl_gemm **out, pl_cpu_level level, const pl_ops *ops, pl_error *err);
void pl_gemm_free(pl_gemm *g);
/* Makes what a call of this shape (pointers ignored) needs, for any token count up to the one given; with a lane, for
 * all lanes up to that one. */
int pl_gemm_prepare(pl_gemm *g, const pl_gemm_call *shape, pl_error *err);
int pl_gemm_run(pl_gemm *g, const pl_gemm_call *call, pl_error *err);
/* calls[0..n) with the same A, m, k, kind Y and lane: with few rows the threads meet once, not after each. */
int pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err);
/* Products Y of at most so many rows read the weights once, as they are stored, and without oneDNN; a row's bits then
 * depend neither on the other rows nor on whether weights that are rounded to bf16 are stored so already. */
int64_t pl_gemm_few_rows(const pl_gemm *g, bool bf16, pl_dtype b_type);

/* B [n,k] of such a product in bf16, PL_GEMM_TILE rows after rows, in an order that a machine with native bf16
 * multiplies faster, at the same size and with the same bits. Is there one? */
#define PL_GEMM_TILE 16
bool pl_gemm_has_tiles(const pl_gemm *g, bool bf16, int64_t n, int64_t k);
/* Where there is: out [PL_GEMM_TILE * k] (64-byte aligned) from so many rows of B, stored without gaps. */
void pl_gemm_tile(uint16_t *out, const void *b, pl_dtype type, int64_t k);

/* B of Y and DX laid out, converted and rounded once for many products over a few hundred rows each; otherwise every
 * one of them does that for itself. The layout depends on kind, bf16, n and k.
 * Bytes of the packed B (pointers ignored), a multiple of 64; 0: the provider takes it as it is stored. */
size_t pl_gemm_packed_bytes(const pl_gemm *g, const pl_gemm_call *call);
/* out[i] (64-byte aligned) = B of calls[i], for all i < n <= PL_GEMM_PACKS; threads share the work. */
#define PL_GEMM_PACKS 16
void pl_gemm_pack(pl_gemm *g, void *const *out, const pl_gemm_call *calls, int n);
/* Bytes held: conversion scratch and primitives (measured estimate), for the plan. */
size_t pl_gemm_bytes(const pl_gemm *g);
/* "oneDNN 2.6.3", "reference"; and whether bf16 products run natively. Static text. */
const char *pl_gemm_name(const pl_gemm *g);
bool pl_gemm_native_bf16(const pl_gemm *g);

#endif
