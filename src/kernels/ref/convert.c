/* kernels/ref/convert.c: conversions between real and the stored float types. */
#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#ifdef PL_REAL_IS_DOUBLE
#define TO_16(x) pl_f32_odd_from_f64(x) /* no double rounding */
#else
#define TO_16(x) (x)
#endif

void pl_ref_to_real(real *y, const void *x, pl_dtype x_type, int64_t n) {
    const uint16_t *h = x;
    const float *f = x;
    const double *d = x;
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) {
        switch (x_type) {
        case PL_F32: y[i] = (real)f[i]; break;
        case PL_F64: y[i] = (real)d[i]; break;
        case PL_F16: y[i] = (real)pl_f16_to_f32(h[i]); break;
        case PL_BF16: y[i] = (real)pl_bf16_to_f32(h[i]); break;
        default: y[i] = (real)NAN; break; /* not a float type: a caller's mistake that must show */
        }
    }
}

void pl_ref_from_real(void *y, pl_dtype y_type, const real *x, int64_t n) {
    uint16_t *h = y;
    float *f = y;
    double *d = y;
#pragma omp parallel for schedule(static) if (n > PL_SERIAL_ELEMS)
    for (int64_t i = 0; i < n; i++) {
        switch (y_type) {
        case PL_F32: f[i] = (float)x[i]; break;
        case PL_F64: d[i] = (double)x[i]; break;
        case PL_F16: h[i] = pl_f16_from_f32(TO_16(x[i])); break;
        case PL_BF16: h[i] = pl_bf16_from_f32(TO_16(x[i])); break;
        default: break;
        }
    }
}
