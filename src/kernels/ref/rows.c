/* kernels/ref/rows.c: moving rows: token embeddings, gather, scatter. Ids and rows are in range (the caller checks them
 * once). Additions give each thread a slice of the columns, so that repeated rows add up in order. */
#include <string.h>

#include "kernels/ref/ref.h"

void pl_ref_embed(real *y, const void *table, pl_dtype type, const int32_t *ids, int64_t T, int64_t C) {
    size_t row_bytes = (type == PL_F64 ? 8u : type == PL_F32 ? 4u : 2u) * (size_t)C;
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++)
        pl_ref_to_real(y + t * C, (const char *)table + (size_t)ids[t] * row_bytes, type, C);
}

#define COLUMNS 64

void pl_ref_embed_bwd(real *dtable, const real *dy, const int32_t *ids, int64_t T, int64_t C) {
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t c0 = 0; c0 < C; c0 += COLUMNS)
        for (int64_t t = 0; t < T; t++)
            for (int64_t c = c0; c < PL_MIN(C, c0 + COLUMNS); c++) dtable[ids[t] * C + c] += dy[t * C + c];
}

void pl_ref_gather_rows(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C) {
#pragma omp parallel for schedule(static) if (n * C > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) memcpy(y + i * C, x + rows[i] * C, (size_t)C * sizeof *y);
}

void pl_ref_scatter_add_rows(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C) {
#pragma omp parallel for schedule(static) if (n * C > PL_SERIAL_ELEMS)
    for (int64_t c0 = 0; c0 < C; c0 += COLUMNS)
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = c0; c < PL_MIN(C, c0 + COLUMNS); c++) y[rows[i] * C + c] += x[i * C + c];
}
