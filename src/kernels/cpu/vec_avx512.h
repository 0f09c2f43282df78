/* kernels/cpu/vec_avx512.h: the vector vocabulary of the *.inc.h files beside it for AVX-512 (F, BW, DQ, VL): 16
 * floats. v_max and v_min give the second operand where either is NaN. Partial loads fill with zero. */
#ifndef PL_VEC_H
#define PL_VEC_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/unroll.h"

#define VW 16
#define TILE_ROWS 8 /* register tile of the products in attention: rows x vectors */
#define TILE_VECS 3

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vm first_lanes(int64_t n) { return (vm)((1u << n) - 1u); } /* 0 <= n <= 16 */
static inline vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
static inline void v_store_n(float *p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
static inline vf v_set(float a) { return _mm512_set1_ps(a); }
static inline vf v_zero(void) { return _mm512_setzero_ps(); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a*b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_neg(vf a) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0x80000000u)));
}
static inline float v_hmax(vf a) { return _mm512_reduce_max_ps(a); } /* of numbers */
static inline vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral n, with overflow to infinity and gradual underflow */
static inline vf v_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
/* the order of the additions is fixed */
static inline float v_sum(vf a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

/* Asks for the cache line of p in the second-level cache. Always inline: gcc takes a function that only asks for one
 * without effect and leaves out calls of it. */
INLINED void v_fetch(const float *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

/* comparisons, false for NaN, and selection: m ? a : b */
static inline vm v_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline vm v_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vf v_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
static inline vm v_mask_and(vm a, vm b) { return a & b; }
static inline vm v_mask_n(int64_t n) { return first_lanes(n); }
static inline unsigned v_mask_bits(vm m) { return m; }

/* r[i] lane j <-> r[j] lane i */
static inline void v_transpose(vf r[16]) {
    UNROLL for (int g = 0; g < 16; g += 4) { /* within groups of four rows: lane L of row g + i takes column 4 L + i */
        vf a = _mm512_unpacklo_ps(r[g], r[g + 1]), b = _mm512_unpackhi_ps(r[g], r[g + 1]);
        vf c = _mm512_unpacklo_ps(r[g + 2], r[g + 3]), d = _mm512_unpackhi_ps(r[g + 2], r[g + 3]);
        r[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        r[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
        r[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
        r[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        vf even = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), odd = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        vf even2 = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88),
           odd2 = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
        r[i] = _mm512_shuffle_f32x4(even, even2, 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        r[12 + i] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
}

/* lane i: the lanes of r[i], added as v_sum does. Blends, which more ports take than shuffles, where one of two will
 * do.
 */
static inline vf v_sums(const vf r[16]) {
    const vi order = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    vf h[8], q[4], p[2];
    UNROLL for (int i = 0; i < 8; i++) h[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, r[2 * i], r[2 * i + 1]),
                                                            _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x4e));
    UNROLL for (int i = 0; i < 4; i++) { /* the second and third of four change places */
        vf crossed = _mm512_mask_blend_ps(0x0f0f, h[2 * i], h[2 * i + 1]);
        q[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, h[2 * i], h[2 * i + 1]),
                             _mm512_shuffle_f32x4(crossed, crossed, 0xb1));
    }
    UNROLL for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_castps_pd(q[2 * i]), b = _mm512_castps_pd(q[2 * i + 1]);
        p[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_mask_blend_pd(0xaa, a, b)),
                             _mm512_castpd_ps(_mm512_shuffle_pd(a, b, 0x55)));
    }
    vf all = _mm512_add_ps(_mm512_shuffle_ps(p[0], p[1], 0x88), _mm512_shuffle_ps(p[0], p[1], 0xdd));
    return _mm512_permutexvar_ps(order, all);
}

/* r[0][0] r[1][0] r[2][0] r[3][0] r[0][1] ...: the lanes of four vectors in turns */
static inline void v_interleave(vf r[4]) {
    vf a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
    vf c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
    vf l0 = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c))); /* lanes 0, 4, 8, 12 */
    vf l1 = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
    vf l2 = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    vf l3 = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    a = _mm512_shuffle_f32x4(l0, l1, 0x44), b = _mm512_shuffle_f32x4(l0, l1, 0xee);
    c = _mm512_shuffle_f32x4(l2, l3, 0x44), d = _mm512_shuffle_f32x4(l2, l3, 0xee);
    r[0] = _mm512_shuffle_f32x4(a, c, 0x88), r[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[2] = _mm512_shuffle_f32x4(b, d, 0x88), r[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

/* doubles: two accumulators take the low and the high half */
typedef __m512d vd;
static inline vd vd_zero(void) { return _mm512_setzero_pd(); }
static inline vd vd_low(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline vd vd_high(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
static inline vd vd_set(double a) { return _mm512_set1_pd(a); }
static inline void vd_store(double *p, vd a) { _mm512_storeu_pd(p, a); }
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
static inline vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
static inline vd vd_max(vd a, vd b) { return _mm512_max_pd(a, b); }
static inline vd vd_round(vd a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral |n| < 1022 */
static inline vd vd_scale2(vd a, vd n) { return _mm512_scalef_pd(a, n); }
/* a, 0 where x < limit */
static inline vd vd_zero_below(vd a, vd x, vd limit) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, limit, _CMP_GE_OQ), a);
}
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline double vd_sum(vd a) {
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/* 32-bit integers */
static inline vi vi_set(uint32_t a) { return _mm512_set1_epi32((int)a); }
static inline vi vi_iota(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
#define vi_shr(a, n) _mm512_srli_epi32((a), (n))
#define vi_shl(a, n) _mm512_slli_epi32((a), (n))
/* lanes where a > b as signed numbers take x, others y */
static inline vi vi_select_gt(vi a, vi b, vi x, vi y) {
    return _mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(a, b), y, x);
}
static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
static inline vf vi_as_vf(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vf_as_vi(vf a) { return _mm512_castps_si512(a); }
static inline vf vi_to_vf(vi a) { return _mm512_cvtepi32_ps(a); }
/* 64-bit products of the even (unsigned) lanes; their shift; the low words of even and odd put side by side */
static inline vi vi_mul_even(vi a, vi b) { return _mm512_mul_epu32(a, b); }
#define vi_shr64(a, n) _mm512_srli_epi64((a), (n))
static inline vi vi_low_words(vi even, vi odd) {
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

/* 16-bit stored types: 16 elements */
static inline vi v16_widen(const uint16_t *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)); }
static inline void v16_narrow(uint16_t *p, vi a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a)); }
static inline vf v16_from_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void v16_to_half(uint16_t *p, vf a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#ifdef __AVX512BF16__
/* Rounded to bf16, nearest even; denormals become zero, as which products of bf16 take them anyway. 16 elements,
 * stored; 32, a then b; and in pairs: word i is (a[i], b[i]). */
#define VEC_BF16 1
static inline void v16_round(uint16_t *p, vf a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
static inline vi v_rounded(vf a, vf b) { return (vi)_mm512_cvtne2ps_pbh(b, a); }
static inline vi v_rounded_pairs(vf a, vf b) {
    const vi order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                      20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, v_rounded(a, b));
}
#endif

#endif
