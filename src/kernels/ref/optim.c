/* kernels/ref/optim.c: AdamW (arXiv:1711.05101) in the order of torch.optim.AdamW on one tensor: decay, lerp of m, v,
 * then the quotient. Scalars are formed in double and rounded once. */
#include "kernels/ref/ref.h"

void pl_ref_adamw(real *p, const real *g, real *m, real *v, int64_t n, const pl_adamw *a) {
    real decay = (real)(1 - a->lr * a->weight_decay), w1 = (real)(1 - a->beta1), b2 = (real)a->beta2;
    real w2 = (real)(1 - a->beta2), root2 = (real)sqrt(a->bias2), eps = (real)a->eps;
    real step = (real)(-(a->lr / a->bias1)), gs = (real)a->grad_scale;
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) {
        real gi = g[i] * gs;
        m[i] = m[i] + w1 * (gi - m[i]);
        v[i] = v[i] * b2 + w2 * gi * gi;
        p[i] = p[i] * decay + step * m[i] / (r_sqrt(v[i]) / root2 + eps);
    }
}
