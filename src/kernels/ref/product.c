/* ref/product.c: C = or += alpha A B, sums over k in double, in order. */
#include "kernels/ref/ref.h"

void pl_ref_product(const pl_product *x) {
    for (int64_t i = 0; i < x->m; i++)
        for (int64_t j = 0; j < x->n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < x->k; p++)
                sum += (double)x->a[i * x->a_row + p * x->a_col] * (double)x->b[p * x->b_row + j * x->b_col];
            real *c = x->c + i * x->ldc + j;
            *c = (x->accumulate ? *c : 0) + (real)((double)x->alpha * sum);
        }
}
