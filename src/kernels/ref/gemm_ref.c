/* kernels/ref/gemm_ref.c: the matrix product as plain blocked loops over `real`: the specification of gemm.h, and the
 * only provider of the double build and of builds without oneDNN.
 *
 * All three kinds are C(i,j) = sum_k a(i,k) b(k,j) with another way to find a and b. Both are packed in small tiles on
 * the stack, which is also where stored types become real and bf16 mode rounds. k is cut in blocks of KB: sums inside a
 * block, then into C. */
#include <string.h>

#include "kernels/gemm_impl.h"

enum { MB = 32, NB = 16, KB = 128, MR = 4 };

typedef struct tiles {
    real a[KB * MB]; /* [k][i] */
    real b[KB * NB]; /* [k][j] */
    real line[KB];
    uint16_t half[KB];
} tiles;

/* n <= KB stored elements, from element `at`, as real, rounded to bf16 if asked. */
static void load(const pl_ops *ops, tiles *t, real *y, const void *x, int64_t at, pl_dtype type, bool bf16, int64_t n) {
    ops->to_real(y, (const char *)x + (size_t)at * pl_dtype_bytes(type), type, n);
    if (bf16 && type != PL_BF16) {
        ops->from_real(t->half, PL_BF16, y, n);
        ops->to_real(y, t->half, PL_BF16, n);
    }
}

/* tile[k*width + i] = x(i0+i, k0+k): x stored [i][k] when by_rows, [k][i] otherwise. Lines shorter than width are
 * filled with 0. */
static void pack(const pl_ops *ops, tiles *t, real *tile, int64_t width, const void *x, pl_dtype type, int64_t ld,
                 bool by_rows, bool bf16, int64_t i0, int64_t ni, int64_t k0, int64_t nk) {
    if (!by_rows) {
        for (int64_t k = 0; k < nk; k++) {
            load(ops, t, tile + k * width, x, (k0 + k) * ld + i0, type, bf16, ni);
            for (int64_t i = ni; i < width; i++) tile[k * width + i] = 0;
        }
        return;
    }
    for (int64_t i = 0; i < ni; i++) {
        load(ops, t, t->line, x, (i0 + i) * ld + k0, type, bf16, nk);
        for (int64_t k = 0; k < nk; k++) tile[k * width + i] = t->line[k];
    }
    for (int64_t i = ni; i < width; i++)
        for (int64_t k = 0; k < nk; k++) tile[k * width + i] = 0;
}

/* MR rows of the tiles' product into C. */
static void multiply(const real *a, const real *b, int64_t nk, real *c, int64_t ldc, int64_t rows, int64_t cols,
                     bool add) {
    real sum[MR][NB] = {{0}};
    for (int64_t k = 0; k < nk; k++)
        for (int r = 0; r < MR; r++)
            for (int j = 0; j < NB; j++) sum[r][j] += a[k * MB + r] * b[k * NB + j];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < cols; j++) c[r * ldc + j] = (add ? c[r * ldc + j] : 0) + sum[r][j];
}

static void multiply_rows(const pl_ops *ops, const pl_gemm_call *g, int64_t i0, int64_t ni) {
    tiles t;
    bool a_rows = g->kind != PL_GEMM_DW, b_rows = g->kind == PL_GEMM_Y;
    pl_dtype b_type = g->kind == PL_GEMM_DW ? PL_REAL : g->b_type;
    for (int64_t k0 = 0; k0 < g->k; k0 += KB) {
        int64_t nk = PL_MIN(KB, g->k - k0);
        pack(ops, &t, t.a, MB, g->a, PL_REAL, g->lda, a_rows, g->bf16, i0, ni, k0, nk);
        for (int64_t j0 = 0; j0 < g->n; j0 += NB) {
            int64_t nj = PL_MIN(NB, g->n - j0);
            pack(ops, &t, t.b, NB, g->b, b_type, g->ldb, b_rows, g->bf16, j0, nj, k0, nk);
            for (int64_t i = 0; i < ni; i += MR)
                multiply(t.a + i, t.b, nk, g->c + (i0 + i) * g->ldc + j0, g->ldc, PL_MIN(MR, ni - i), nj,
                         g->accumulate || k0 > 0);
        }
    }
}

void pl_gemm_ref_run(const pl_ops *ops, const pl_gemm_call *call) {
    if (call->k == 0 && !call->accumulate)
        for (int64_t i = 0; i < call->m; i++) memset(call->c + i * call->ldc, 0, (size_t)call->n * sizeof(real));
#pragma omp parallel for schedule(static)
    for (int64_t i0 = 0; i0 < call->m; i0 += MB) multiply_rows(ops, call, i0, PL_MIN(MB, call->m - i0));
}
