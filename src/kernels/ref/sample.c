/* kernels/ref/sample.c: what sampling needs of a row of logits. */
#include "kernels/ref/ref.h"

double pl_ref_exp_sum(double *p, const real *z, double factor, real top, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = factor * ((double)z[i] - (double)top);
        p[i] = x < -700 ? 0 : exp(x);
        sum += p[i];
    }
    return sum;
}

int64_t pl_ref_select(int32_t *index, const real *z, real least, int64_t n) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++)
        if (z[i] >= least) index[found++] = (int32_t)i;
    return found;
}

void pl_ref_block_max(real *max, const real *z, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        real *m = max + i / PL_BLOCK_MAX;
        if (i % PL_BLOCK_MAX == 0 || z[i] > *m) *m = z[i];
    }
}
