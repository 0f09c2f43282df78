/* kernels/ref/elementwise.c: sums, scalings and biases. */
#include "kernels/ref/ref.h"

void pl_ref_add(real *y, const real *x, int64_t n) {
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void pl_ref_axpy(real *y, real a, const real *x, int64_t n) {
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

void pl_ref_scale(real *y, real a, int64_t n) {
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) y[i] *= a;
}

void pl_ref_scale_rows(real *y, const real *a, int64_t T, int64_t C, int64_t ld) {
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++) {
        if (a[t] == 1) continue;
        for (int64_t c = 0; c < C; c++) y[t * ld + c] *= a[t];
    }
}

void pl_ref_add_bias(real *y, const real *b, int64_t T, int64_t C) {
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) y[t * C + c] += b[c];
}

/* Threads take columns, so that every sum runs over t in order. */
void pl_ref_sum_rows(real *db, const real *dy, int64_t T, int64_t C) {
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t c = 0; c < C; c++)
        for (int64_t t = 0; t < T; t++) db[c] += dy[t * C + c];
}

#define SQ_BLOCK 4096
#define SQ_WAVE 256 /* blocks whose sums wait on the stack */

static double block_sum_squares(const real *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

double pl_ref_sum_squares(const real *x, int64_t n) {
    double total = 0, part[SQ_WAVE];
    int64_t blocks = (n + SQ_BLOCK - 1) / SQ_BLOCK;
    for (int64_t first = 0; first < blocks; first += SQ_WAVE) {
        int64_t count = PL_MIN(SQ_WAVE, blocks - first);
#pragma omp parallel for schedule(static) if (n > 4 * PL_SERIAL_ELEMS)
        for (int64_t b = 0; b < count; b++) {
            int64_t at = (first + b) * SQ_BLOCK;
            part[b] = block_sum_squares(x + at, PL_MIN(SQ_BLOCK, n - at));
        }
        for (int64_t b = 0; b < count; b++) total += part[b];
    }
    return total;
}
