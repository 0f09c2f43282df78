/* kernels/ref/mlp.c: SwiGLU (arXiv:2002.05202): y = silu(g) * u. */
#include "kernels/ref/ref.h"

void pl_ref_swiglu(real *y, const real *g, const real *u, int64_t n) {
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS / 4)
    for (int64_t i = 0; i < n; i++) y[i] = g[i] / (1 + r_exp(-g[i])) * u[i];
}

/* silu'(g) = s * (1 + g * (1 - s)), s the sigmoid of g. */
void pl_ref_swiglu_bwd(real *dg, real *du, const real *dy, const real *g, const real *u, int64_t n) {
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS / 4)
    for (int64_t i = 0; i < n; i++) {
        real gi = g[i], ui = u[i], d = dy[i], s = 1 / (1 + r_exp(-gi));
        du[i] = d * (gi * s);
        dg[i] = d * ui * (s * (1 + gi * (1 - s)));
    }
}
