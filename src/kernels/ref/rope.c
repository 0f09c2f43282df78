/* kernels/ref/rope.c: rotary positions (arXiv:2104.09864) in the half-split form of transformers: dimension i turns
 * with dimension i + rot/2. */
#include "kernels/ref/ref.h"

void pl_ref_rope(real *x, int64_t ld, const real *cosine, const real *sine, bool inverse, int64_t T, int64_t heads,
                 int64_t D, int64_t rot) {
    int64_t half = rot / 2;
#pragma omp parallel for schedule(static) if (T * heads * rot > PL_SERIAL_ELEMS)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < heads; h++) {
            real *a = x + t * ld + h * D, *b = a + half;
            for (int64_t i = 0; i < half; i++) {
                real c = cosine[t * half + i], s = inverse ? -sine[t * half + i] : sine[t * half + i];
                real u = a[i], v = b[i];
                a[i] = u * c - v * s;
                b[i] = v * c + u * s;
            }
        }
    }
}
