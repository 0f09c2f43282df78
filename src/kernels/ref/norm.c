/* kernels/ref/norm.c: RMSNorm (arXiv:1910.07467) as transformers computes it: y = (x * rstd) * w. */
#include "kernels/ref/ref.h"

void pl_ref_rmsnorm(real *y, real *rstd, const real *x, const real *w, real eps, int64_t T, int64_t C) {
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++) {
        const real *xt = x + t * C;
        double sum = 0;
        for (int64_t c = 0; c < C; c++) sum += (double)xt[c] * (double)xt[c];
        real r = (real)(1 / sqrt(sum / (double)C + (double)eps));
        for (int64_t c = 0; c < C; c++) y[t * C + c] = xt[c] * r * w[c];
        if (rstd) rstd[t] = r;
    }
}

/* With n = x * rstd and g = dy * w: dx = rstd * (g - n * mean(g * n)), dw = sum_t dy * n. */
void pl_ref_rmsnorm_bwd(real *dx, bool accumulate, real *dw, const real *dy, const real *x, const real *w,
                        const real *rstd, int64_t T, int64_t C) {
    if (dw) { /* first: dx may overwrite dy */
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
        for (int64_t c = 0; c < C; c++)
            for (int64_t t = 0; t < T; t++) dw[c] += dy[t * C + c] * (x[t * C + c] * rstd[t]);
    }
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++) {
        const real *xt = x + t * C, *dyt = dy + t * C;
        real *dxt = dx + t * C, r = rstd[t];
        double sum = 0;
        for (int64_t c = 0; c < C; c++) sum += (double)(dyt[c] * w[c]) * (double)(xt[c] * r);
        real mean = (real)(sum / (double)C);
        for (int64_t c = 0; c < C; c++) {
            real d = r * (dyt[c] * w[c] - xt[c] * r * mean);
            dxt[c] = accumulate ? dxt[c] + d : d;
        }
    }
}
