/* kernels/cpu/vec_avx2.h: the vector vocabulary of the *.inc.h files beside it for AVX2, FMA and F16C: 8 floats.
 * v_max and v_min give the second operand where either is NaN. Partial loads fill with zero. */
#ifndef PL_VEC_H
#define PL_VEC_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/unroll.h"

#define VW 8
#define TILE_ROWS 6 /* register tile of the products in attention: rows x vectors */
#define TILE_VECS 2

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vi lane_numbers(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
static inline vi first_lanes(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane_numbers()); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
static inline void v_store_n(float *p, vf a, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), a); }
static inline vf v_set(float a) { return _mm256_set1_ps(a); }
static inline vf v_zero(void) { return _mm256_setzero_ps(); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a*b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf v_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
static inline float v_hmax(vf a) { /* of numbers */
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
static inline vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral |n| < 252, in two steps: overflow to infinity and gradual underflow */
static inline vf v_scale2(vf a, vf n) {
    vi i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
    vi bias = _mm256_set1_epi32(127);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
/* the order of the additions is fixed */
static inline float v_sum(vf a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* Asks for the cache line of p in the second-level cache. Always inline: gcc takes a function that only asks for one
 * without effect and leaves out calls of it. */
INLINED void v_fetch(const float *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

/* comparisons, false for NaN, and selection: m ? a : b */
static inline vm v_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
static inline vm v_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline vf v_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }
static inline vm v_mask_and(vm a, vm b) { return _mm256_and_ps(a, b); }
static inline vm v_mask_n(int64_t n) { return _mm256_castsi256_ps(first_lanes(n)); }
static inline unsigned v_mask_bits(vm m) { return (unsigned)_mm256_movemask_ps(m); }

/* r[i] lane j <-> r[j] lane i */
static inline void v_transpose(vf r[8]) {
    UNROLL for (int g = 0; g < 8; g += 4) { /* within groups of four rows: lane L of row g + i takes column 4 L + i */
        vf a = _mm256_unpacklo_ps(r[g], r[g + 1]), b = _mm256_unpackhi_ps(r[g], r[g + 1]);
        vf c = _mm256_unpacklo_ps(r[g + 2], r[g + 3]), d = _mm256_unpackhi_ps(r[g + 2], r[g + 3]);
        r[g] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
        r[g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
        r[g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
        r[g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        vf low = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
        r[i] = low;
    }
}

/* lane i: the sum of the lanes of r[i] */
static inline vf v_sums(const vf r[8]) {
    vf h[4], q[2];
    UNROLL for (int i = 0; i < 4; i++) h[i] = _mm256_hadd_ps(r[2 * i], r[2 * i + 1]);
    UNROLL for (int i = 0; i < 2; i++) q[i] = _mm256_hadd_ps(h[2 * i], h[2 * i + 1]);
    return _mm256_add_ps(_mm256_permute2f128_ps(q[0], q[1], 0x20), _mm256_permute2f128_ps(q[0], q[1], 0x31));
}

/* r[0][0] r[1][0] r[2][0] r[3][0] r[0][1] ...: the lanes of four vectors in turns */
static inline void v_interleave(vf r[4]) {
    vf a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    vf c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    vf l0 = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(c))); /* lanes 0 and 4 */
    vf l1 = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
    vf l2 = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
    vf l3 = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
    r[0] = _mm256_permute2f128_ps(l0, l1, 0x20), r[1] = _mm256_permute2f128_ps(l2, l3, 0x20);
    r[2] = _mm256_permute2f128_ps(l0, l1, 0x31), r[3] = _mm256_permute2f128_ps(l2, l3, 0x31);
}

/* doubles: two accumulators take the low and the high half */
typedef __m256d vd;
static inline vd vd_zero(void) { return _mm256_setzero_pd(); }
static inline vd vd_low(vf a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
static inline vd vd_high(vf a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
static inline vd vd_set(double a) { return _mm256_set1_pd(a); }
static inline void vd_store(double *p, vd a) { _mm256_storeu_pd(p, a); }
static inline vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline vd vd_sub(vd a, vd b) { return _mm256_sub_pd(a, b); }
static inline vd vd_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }
static inline vd vd_max(vd a, vd b) { return _mm256_max_pd(a, b); }
static inline vd vd_round(vd a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral |n| < 1022 */
static inline vd vd_scale2(vd a, vd n) {
    __m256i exponent = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n)), _mm256_set1_epi64x(1023));
    return _mm256_mul_pd(a, _mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52)));
}
/* a, 0 where x < limit */
static inline vd vd_zero_below(vd a, vd x, vd limit) { return _mm256_and_pd(a, _mm256_cmp_pd(x, limit, _CMP_GE_OQ)); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline double vd_sum(vd a) {
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

/* 32-bit integers */
static inline vi vi_set(uint32_t a) { return _mm256_set1_epi32((int)a); }
static inline vi vi_iota(void) { return lane_numbers(); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
#define vi_shr(a, n) _mm256_srli_epi32((a), (n))
#define vi_shl(a, n) _mm256_slli_epi32((a), (n))
/* lanes where a > b as signed numbers take x, others y */
static inline vi vi_select_gt(vi a, vi b, vi x, vi y) { return _mm256_blendv_epi8(y, x, _mm256_cmpgt_epi32(a, b)); }
static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline vf vi_as_vf(vi a) { return _mm256_castsi256_ps(a); }
static inline vi vf_as_vi(vf a) { return _mm256_castps_si256(a); }
static inline vf vi_to_vf(vi a) { return _mm256_cvtepi32_ps(a); }
/* 64-bit products of the even (unsigned) lanes; their shift; the low words of even and odd put side by side */
static inline vi vi_mul_even(vi a, vi b) { return _mm256_mul_epu32(a, b); }
#define vi_shr64(a, n) _mm256_srli_epi64((a), (n))
static inline vi vi_low_words(vi even, vi odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA); }

/* 16-bit stored types: 8 elements */
static inline vi v16_widen(const uint16_t *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
static inline void v16_narrow(uint16_t *p, vi a) { /* lanes < 2^16 */
    vi packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}
static inline vf v16_from_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void v16_to_half(uint16_t *p, vf a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#endif
