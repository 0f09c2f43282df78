/* kernels/cpu/gemm_rows.inc.h: pl_gemm_rows (kernels/gemm_impl.h) over the vector vocabulary of vec_*.h, which is
 * included first.
 *
 * dots: decoding multiplies one to four rows with every weight once, so its time is that of reading the weights. It
 * widens them in registers and keeps several rows of weights in flight. */
#include <string.h>

#include "kernels/convert.h"
#include "kernels/gemm_impl.h"

#define INLINE static inline __attribute__((always_inline))

/* The bits of x rounded to a bf16, low half zero; a NaN stays one, quiet. */
INLINE vi round_bits(vi u) {
    vi odd = vi_and(vi_shr(u, 16), vi_set(1));
    vi rounded = vi_and(vi_add(u, vi_add(odd, vi_set(0x7fff))), vi_set(0xffff0000u));
    vi quiet = vi_and(vi_or(u, vi_set(0x00400000u)), vi_set(0xffff0000u));
    return vi_select_gt(vi_and(u, vi_set(0x7fffffffu)), vi_set(0x7f800000u), quiet, rounded);
}

#ifndef VEC_BF16 /* the machine's own, where it has them */
INLINE void v16_round(uint16_t *p, vf a) { v16_narrow(p, vi_shr(round_bits(vf_as_vi(a)), 16)); }
INLINE vi v_rounded(vf a, vf b) {
    uint16_t line[2 * VW];
    v16_round(line, a);
    v16_round(line + VW, b);
    return vi_load(line);
}
INLINE vi v_rounded_pairs(vf a, vf b) { return vi_or(vi_shr(round_bits(vf_as_vi(a)), 16), round_bits(vf_as_vi(b))); }
#endif

/* VW stored elements from element i as floats. */
INLINE vf load_stored(const void *x, int64_t i, pl_dtype type, bool round) {
    const char *p = (const char *)x + (size_t)i * (type == PL_F32 ? 4 : 2);
    if (type == PL_BF16) return vi_as_vf(vi_shl(v16_widen((const uint16_t *)(const void *)p), 16));
    vf v = type == PL_F16 ? v16_from_half((const uint16_t *)(const void *)p) : v_load((const float *)(const void *)p);
    return round ? vi_as_vf(round_bits(vf_as_vi(v))) : v;
}

/* The same for the n < VW elements that are left, zero behind them. */
INLINE vf load_stored_n(const void *x, int64_t i, pl_dtype type, bool round, int64_t n) {
    size_t size = type == PL_F32 ? 4 : 2;
    uint32_t line[VW] = {0};
    memcpy(line, (const char *)x + (size_t)i * size, (size_t)n * size);
    return load_stored(line, 0, type, round);
}

INLINE void convert_f32(float *y, const void *x, pl_dtype type, bool round, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v_store(y + i, load_stored(x, i, type, round));
    if (i < n) v_store_n(y + i, load_stored_n(x, i, type, round, n - i), n - i);
}

static void to_f32(float *y, const void *x, pl_dtype type, bool round, int64_t n) {
    switch (type) {
    case PL_F32: round ? convert_f32(y, x, PL_F32, true, n) : convert_f32(y, x, PL_F32, false, n); break;
    case PL_F16: round ? convert_f32(y, x, PL_F16, true, n) : convert_f32(y, x, PL_F16, false, n); break;
    default: convert_f32(y, x, PL_BF16, false, n); break;
    }
}

INLINE void convert_bf16(uint16_t *y, const void *x, pl_dtype type, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v16_round(y + i, load_stored(x, i, type, false));
    if (i < n) {
        uint16_t line[VW];
        v16_round(line, load_stored_n(x, i, type, false, n - i));
        memcpy(y + i, line, (size_t)(n - i) * sizeof *y);
    }
}

static void to_bf16(uint16_t *y, const void *x, pl_dtype type, int64_t n) {
    switch (type) {
    case PL_F32: convert_bf16(y, x, PL_F32, n); break;
    case PL_F16: convert_bf16(y, x, PL_F16, n); break;
    default: memcpy(y, x, (size_t)n * sizeof *y); break;
    }
}

/* --- packing (gemm_impl.h) --- */

/* VW elements of a packed B from a row of k. */
INLINE vi row_elements(const char *row, int64_t i, pl_dtype type, bool pairs, bool round) {
    if (!pairs) return vf_as_vi(load_stored(row, i, type, round));
    if (type == PL_BF16) return vi_load(row + 4 * i);
    return v_rounded(load_stored(row, 2 * i, type, false), load_stored(row, 2 * i + VW, type, false));
}

INLINE void pack_panel(float *out, const char *b, pl_dtype type, bool pairs, bool round, int64_t bytes, int64_t depth) {
    for (int64_t j = 0; j < PL_PACK_ROWS; j += VW)
        for (int64_t i = 0; i < depth; i += VW) {
            vf r[VW];
#pragma GCC unroll 16
            for (int l = 0; l < VW; l++) {
                const char *row = b + (j + l) * bytes;
                __builtin_prefetch(row + VW * bytes +
                                   i * (type == PL_F32 && pairs   ? 8
                                        : type == PL_F32 || pairs ? 4
                                                                  : 2));
                r[l] = vi_as_vf(row_elements(row, i, type, pairs, round));
            }
            v_transpose(r);
#pragma GCC unroll 16
            for (int l = 0; l < VW; l++) v_store(out + (i + l) * PL_PACK_ROWS + j, r[l]);
        }
}

static void pack_y(float *out, const void *b, pl_dtype type, bool pairs, bool round, int64_t ldb, int64_t depth) {
    int64_t bytes = ldb * (type == PL_F32 ? 4 : 2);
    switch (type) { /* constants for the inlined loops */
    case PL_F32: pack_panel(out, b, PL_F32, pairs, round, bytes, depth); break;
    case PL_F16: pack_panel(out, b, PL_F16, pairs, round, bytes, depth); break;
    default:
        (pairs ? pack_panel(out, b, PL_BF16, true, false, bytes, depth)
               : pack_panel(out, b, PL_BF16, false, false, bytes, depth));
        break;
    }
}

/* VW elements at column j: of one row, or pairs of two rows. */
INLINE vi column_elements(const char *row, int64_t bytes, int64_t j, pl_dtype type, bool pairs, bool round) {
    if (!pairs) return vf_as_vi(load_stored(row, j, type, round));
    vf low = load_stored(row, j, type, false), high = load_stored(row + bytes, j, type, false);
    return type == PL_BF16 ? vi_or(vi_shr(vf_as_vi(low), 16), vf_as_vi(high)) : v_rounded_pairs(low, high);
}

INLINE void pack_columns(float *out, const char *b, pl_dtype type, bool pairs, bool round, int64_t bytes, int64_t n,
                         int64_t depth) {
    int64_t step = pairs ? 2 : 1;
    for (int64_t i = 0; i < PL_PACK_K / step; i++, b += step * bytes, out += PL_PACK_ROWS)
        for (int64_t p = 0; p < n; p += PL_PACK_ROWS)
#pragma GCC unroll 8
            for (int64_t j = 0; j < PL_PACK_ROWS; j += VW)
                v_store(out + p * depth + j, vi_as_vf(column_elements(b, bytes, p + j, type, pairs, round)));
}

static void pack_dx(float *out, const void *b, pl_dtype type, bool pairs, bool round, int64_t ldb, int64_t n,
                    int64_t depth) {
    int64_t bytes = ldb * (type == PL_F32 ? 4 : 2);
    switch (type) {
    case PL_F32: pack_columns(out, b, PL_F32, pairs, round, bytes, n, depth); break;
    case PL_F16: pack_columns(out, b, PL_F16, pairs, round, bytes, n, depth); break;
    default:
        (pairs ? pack_columns(out, b, PL_BF16, true, false, bytes, n, depth)
               : pack_columns(out, b, PL_BF16, false, false, bytes, n, depth));
        break;
    }
}

/* M rows of a with one row of b, which is read once and in order: memory is what this waits for. Four sums for each
 * product, whatever M, so that bits do not depend on it. M, type and round are constants where it is inlined. */
INLINE void dots_one(float *c, int64_t ldc, bool add, const float *a, int64_t lda, int M, const char *b, pl_dtype type,
                     bool round, int64_t k) {
    vf sum[PL_GEMM_FEW][4];
#pragma GCC unroll 4
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[i][j] = v_zero();
    int64_t p = 0;
    for (; p + 4 * VW <= k; p += 4 * VW) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vf w = load_stored(b, p + j * VW, type, round);
#pragma GCC unroll 4
            for (int i = 0; i < M; i++) sum[i][j] = v_fma(v_load(a + i * lda + p + j * VW), w, sum[i][j]);
        }
    }
    for (; p < k; p += VW) {
        int64_t n = PL_MIN(VW, k - p);
        vf w = load_stored_n(b, p, type, round, n);
#pragma GCC unroll 4
        for (int i = 0; i < M; i++) sum[i][0] = v_fma(v_load_n(a + i * lda + p, n), w, sum[i][0]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; i++) {
        float total = v_sum(v_add(v_add(sum[i][0], sum[i][1]), v_add(sum[i][2], sum[i][3])));
        c[i * ldc] = (add ? c[i * ldc] : 0.0f) + total;
    }
}

INLINE void dots_rows(float *c, int64_t ldc, bool add, const float *a, int64_t lda, int M, const char *b, pl_dtype type,
                      bool round, int64_t ldb, int64_t n, int64_t k) {
    int64_t bytes = ldb * (type == PL_F32 ? 4 : 2);
    for (int64_t j = 0; j < n; j++) dots_one(c + j, ldc, add, a, lda, M, b + j * bytes, type, round, k);
}

#define DOTS(name, type, round)                                                                                        \
    static void name(float *c, int64_t ldc, bool add, const float *a, int64_t lda, int64_t m, const void *b,           \
                     int64_t ldb, int64_t n, int64_t k) {                                                              \
        switch (m) {                                                                                                   \
        case 1: dots_rows(c, ldc, add, a, lda, 1, b, type, round, ldb, n, k); break;                                   \
        case 2: dots_rows(c, ldc, add, a, lda, 2, b, type, round, ldb, n, k); break;                                   \
        case 3: dots_rows(c, ldc, add, a, lda, 3, b, type, round, ldb, n, k); break;                                   \
        default: dots_rows(c, ldc, add, a, lda, 4, b, type, round, ldb, n, k); break;                                  \
        }                                                                                                              \
    }
DOTS(dots_f32, PL_F32, false)
DOTS(dots_f32_round, PL_F32, true)
DOTS(dots_f16, PL_F16, false)
DOTS(dots_f16_round, PL_F16, true)
DOTS(dots_bf16, PL_BF16, false)

static void dots(float *c, int64_t ldc, bool add, const float *a, int64_t lda, int64_t m, const void *b, pl_dtype type,
                 bool round, int64_t ldb, int64_t n, int64_t k) {
    switch (type) {
    case PL_F32: (round ? dots_f32_round : dots_f32)(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    case PL_F16: (round ? dots_f16_round : dots_f16)(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    default: dots_bf16(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    }
}
