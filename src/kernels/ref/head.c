/* kernels/ref/head.c: the vocabulary head's running softmax statistics, tile by tile (arXiv:1805.02867). */
#include "kernels/ref/ref.h"

static void update_row(real *z, int64_t n, int64_t v0, pl_head_stat *s, bool want_exp, real *rescale) {
    real max = s->max;
    int64_t argmax = s->argmax;
    for (int64_t j = 0; j < n; j++) { /* a NaN is never the maximum; it shows in the sums */
        if (z[j] > max || (z[j] == max && v0 + j < argmax)) max = z[j], argmax = v0 + j;
    }
    real base = max == -INFINITY ? 0 : max; /* all -infinity so far: every exp is 0, not NaN */
    real old = r_exp(s->max - base);
    double sum = 0, sum_z = 0, sum2 = 0, total = 0;
    for (int64_t j = 0; j < n; j++) {
        real e = r_exp(z[j] - base);
        sum += (double)e;
        sum2 += (double)e * (double)e;
        sum_z += e == 0 ? 0.0 : (double)e * (double)z[j]; /* 0 * -infinity counts as 0 */
        total += (double)z[j];
        if (want_exp) z[j] = e;
    }
    s->sum = s->sum * old + (real)sum;
    s->sum_z = s->sum_z * old + (real)sum_z;
    s->sum2 = s->sum2 * old * old + (real)sum2;
    s->total += total;
    s->max = max;
    s->argmax = argmax;
    if (want_exp) *rescale = old;
}

void pl_ref_head_tile(real *z, int64_t ld, int64_t R, int64_t n, int64_t v0, pl_head_stat *stat, bool want_exp,
                      real *rescale) {
#pragma omp parallel for schedule(static) if (R * n > PL_SERIAL_ELEMS / 4)
    for (int64_t r = 0; r < R; r++) update_row(z + r * ld, n, v0, stat + r, want_exp, want_exp ? rescale + r : NULL);
}

void pl_ref_head_softmax(real *z, int64_t ld, int64_t R, int64_t n, const real *lse, const real *coef) {
#pragma omp parallel for schedule(static) if (R * n > PL_SERIAL_ELEMS / 4)
    for (int64_t r = 0; r < R; r++)
        for (int64_t j = 0; j < n; j++) z[r * ld + j] = coef[r] * r_exp(z[r * ld + j] - lse[r]);
}
