/* kernels/convert.h: one number at a time between float and the 16-bit stored types, in integer arithmetic, so that the
 * result does not depend on the rounding or denormal mode of the thread. */
#ifndef PL_KERNELS_CONVERT_H
#define PL_KERNELS_CONVERT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t pl_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float pl_f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float pl_bf16_to_f32(uint16_t h) { return pl_f32_from_bits((uint32_t)h << 16); }

/* Nearest even; a NaN keeps its sign and upper payload and is made quiet; overflow becomes infinity. */
static inline uint16_t pl_bf16_from_f32(float f) {
    uint32_t u = pl_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float pl_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 0x1fu, fraction = h & 0x3ffu;
    if (exponent == 0x1fu) /* infinity; a NaN is made quiet, as the hardware does */
        return pl_f32_from_bits(sign | 0x7f800000u | (fraction ? 0x400000u | (fraction << 13) : 0u));
    if (exponent != 0) return pl_f32_from_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
    if (fraction == 0) return pl_f32_from_bits(sign);
    uint32_t shift = 0; /* subnormal: fraction * 2^-24; move its leading one to bit 10 */
    while (!(fraction & 0x400u)) fraction <<= 1, shift++;
    return pl_f32_from_bits(sign | ((113u - shift) << 23) | ((fraction & 0x3ffu) << 13));
}

/* u >> shift for 1 <= shift <= 31, rounded to nearest even. */
static inline uint32_t pl_shift_round(uint32_t u, uint32_t shift) {
    uint32_t half = 1u << (shift - 1), rest = u & ((half << 1) - 1), q = u >> shift;
    return q + (rest > half || (rest == half && (q & 1u)));
}

/* Nearest even; overflow becomes infinity; a NaN stays one (quiet). */
static inline uint16_t pl_f16_from_f32(float f) {
    uint32_t u = pl_f32_bits(f), sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 0x1ffu));
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* >= 65520 rounds to infinity */
    if (mag >= 0x38800000u) return (uint16_t)(sign | pl_shift_round(mag - 0x38000000u, 13));
    if (mag < 0x33000000u) return (uint16_t)sign; /* < 2^-25, half of the smallest subnormal */
    return (uint16_t)(sign | pl_shift_round((mag & 0x7fffffu) | 0x800000u, 126u - (mag >> 23)));
}

/* A double as the float next to it with an odd last bit, unless exact: rounding that once more to 16 bits equals
 * rounding the double directly (round to odd). */
static inline float pl_f32_odd_from_f64(double d) {
    float f = (float)d;
    if ((double)f == d || isnan(d)) return f;
    uint32_t u = pl_f32_bits(f);
    if (u & 1u) return f;
    return pl_f32_from_bits(fabs((double)f) > fabs(d) ? u - 1 : u + 1);
}

#endif
