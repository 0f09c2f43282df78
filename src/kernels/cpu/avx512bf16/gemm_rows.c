/* kernels/cpu/avx512bf16/gemm_rows.c: few-row products by the machine's own dot products of bf16 pairs: twice the
 * multiply-adds of f32, so that eight sequences decode at nearly the speed of one.
 *
 * An output has one sum per lane, and its lanes are added in one order, whatever the number of rows and the stored type
 * of the weights: bits depend on neither. */
#include "kernels/gemm_impl.h"

#if PL_GEMM_HAS_DNNL
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/gemm_rows.inc.h"

#define PAIRS 32 /* bf16 of a vector */
#define AHEAD                                                                                                          \
    16384         /* bytes of weights that are asked for before they are needed, into the second-level cache: into the \
                   * first it is slower than not at all (Zen 4, measured) */
#define PART 1536 /* elements of a row at a time at most: eight rows of them stay in the first-level cache */

#define SUMS 16 /* outputs that are added up together */

/* PAIRS stored elements from element i, rounded to bf16. */
INLINE vi load_pairs(const char *x, int64_t i, pl_dtype type) {
    if (type == PL_BF16) return vi_load(x + 2 * i);
    vf low = load_stored(x, i, type, false), high = load_stored(x, i + VW, type, false);
    if (type == PL_F16) return (vi)_mm512_cvtne2ps_pbh(high, low); /* no f16 is a denormal f32 */
    const vi odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23,
                                    21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(round_bits(vf_as_vi(low)), odd, round_bits(vf_as_vi(high)));
}

/* The same for the n < PAIRS elements that are left, zero behind them. */
INLINE vi load_pairs_n(const char *x, int64_t i, pl_dtype type, int64_t n) {
    uint16_t line[PAIRS] = {0};
    to_bf16(line, x + i * (type == PL_F32 ? 4 : 2), type, n);
    return vi_load(line);
}

INLINE vf dot_pairs(vf sum, vi x, vi y) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y); }

/* out[i * N + j] = row i < M of a with row j < N of b, over k; `ahead`: bytes from a row to the one to ask for. M, N
 * and type are constants where it is inlined. */
INLINE void pairs_block(float out[SUMS], const uint16_t *a, int64_t lda, int M, const char *b, pl_dtype type,
                        int64_t stride, int N, int64_t k, int64_t ahead) {
    vf sum[SUMS];
    int64_t p = 0, size = type == PL_F32 ? 4 : 2;
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) sum[i] = v_zero();
    for (; p + PAIRS <= k; p += PAIRS) {
        vi w[2];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) {
            const char *at = b + j * stride + p * size;
            w[j] = load_pairs(at, 0, type);
            if (N == 1) continue;
            _mm_prefetch(at + ahead, _MM_HINT_T1);
            if (type == PL_F32) _mm_prefetch(at + ahead + 64, _MM_HINT_T1);
        }
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            vi x = vi_load(a + i * lda + p);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++) sum[i * N + j] = dot_pairs(sum[i * N + j], x, w[j]);
        }
    }
#pragma GCC unroll 2
    for (int j = 0; p < k && j < N; j++) {
        vi w = load_pairs_n(b + j * stride, p, type, k - p);
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            vi x = load_pairs_n((const char *)(a + i * lda), p, PL_BF16, k - p);
            sum[i * N + j] = dot_pairs(sum[i * N + j], x, w);
        }
    }
    if (M * N > 2)
        v_store(out, v_sums(sum));
    else
        for (int i = 0; i < M * N; i++) out[i] = v_sum(sum[i]);
}

INLINE void put_block(float *c, int64_t ldc, bool add, const float out[SUMS], int M, int N) {
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) c[i * ldc + j] = (add ? c[i * ldc + j] : 0.0f) + out[i * N + j];
}

/* Elements [k0, k1) of every row. One or two rows of a wait for memory, which likes one sequence; more have their sums
 * in the way of the loads, so the weights are asked for ahead. */
INLINE void pairs_part(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int M, const char *b,
                       pl_dtype type, int64_t stride, int64_t n, int64_t k0, int64_t k1) {
    int64_t size = type == PL_F32 ? 4 : 2, j = 0, ahead = (AHEAD / ((k1 - k0) * size) + 1) * stride;
    float out[SUMS];
    a += k0, b += k0 * size;
    for (; M > 2 && j + 2 <= n; j += 2) {
        pairs_block(out, a, lda, M, b + j * stride, type, stride, 2, k1 - k0, ahead);
        put_block(c + j, ldc, add, out, M, 2);
    }
    for (; j < n; j++) {
        pairs_block(out, a, lda, M, b + j * stride, type, stride, 1, k1 - k0, ahead);
        put_block(c + j, ldc, add, out, M, 1);
    }
}

/* Elements of each part but the last of a row of k. */
INLINE int64_t part_of(int64_t k) {
    int64_t parts = (k + PART - 1) / PART;
    return ((k + parts - 1) / parts + PAIRS - 1) / PAIRS * PAIRS;
}

/* Parts are added up in their order whatever M. */
INLINE void pairs_rows(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int M, const char *b,
                       pl_dtype type, int64_t ldb, int64_t n, int64_t k) {
    int64_t stride = ldb * (type == PL_F32 ? 4 : 2), part = part_of(k), rows = M > 2 ? n : 1;
    for (int64_t j = 0; j < n; j += rows)
        for (int64_t k0 = 0; k0 < k; k0 += part)
            pairs_part(c + j, ldc, add || k0 > 0, a, lda, M, b + j * stride, type, stride, rows, k0,
                       PL_MIN(k0 + part, k));
}

#define EACH_M(M, type)                                                                                                \
    case M:                                                                                                            \
        pairs_rows(c, ldc, add, a, lda, M, b, type, ldb, n, k);                                                        \
        break;

#define PAIRS_OF(name, type)                                                                                           \
    static void name(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int64_t m, const void *b,        \
                     int64_t ldb, int64_t n, int64_t k) {                                                              \
        switch (m) {                                                                                                   \
            EACH_M(1, type)                                                                                            \
            EACH_M(2, type)                                                                                            \
            EACH_M(3, type)                                                                                            \
            EACH_M(4, type)                                                                                            \
            EACH_M(5, type)                                                                                            \
            EACH_M(6, type)                                                                                            \
            EACH_M(7, type)                                                                                            \
        default: pairs_rows(c, ldc, add, a, lda, 8, b, type, ldb, n, k); break;                                        \
        }                                                                                                              \
    }
PAIRS_OF(pairs_f32, PL_F32)
PAIRS_OF(pairs_f16, PL_F16)
PAIRS_OF(pairs_bf16, PL_BF16)

void pl_gemm_dots_pairs(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int64_t m, const void *b,
                        pl_dtype type, int64_t ldb, int64_t n, int64_t k) {
    switch (type) {
    case PL_F32: pairs_f32(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    case PL_F16: pairs_f16(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    default: pairs_bf16(c, ldc, add, a, lda, m, b, ldb, n, k); break;
    }
}

/* --- tiles ---
 *
 * A tile is PL_GEMM_TILE rows of the weights with their outputs in the lanes: what lane i of a row's sum is above is
 * vector i of sixteen here, and these are added up in the same order, without shuffles. PASSES pairs of them, i and
 * i + 8, are made one after the other; each reads its own pairs of k, which lie in one piece:
 * [part][pass][PAIRS of the part][2][PL_GEMM_TILE] pairs. A row of a is read by broadcast. */

#define PASSES 8
#define TREE 4          /* of v_sums: 8 apart, 4, 2, 1 */
#define TILE_AHEAD 8192 /* as AHEAD; 6 and 12 KB as fast, 4 slower */
#define TILE_ALONE 4    /* so many rows of a leave the processor time to load ahead by itself: faster than asking */

static const unsigned char pass_lane[PASSES] = {0, 4, 2, 6, 1, 5, 3, 7};

/* Vectors i and i + 8 of M rows, and their sum. */
INLINE void tile_pass(vf sum[8], const uint16_t *a, int64_t lda, int M, const char *b, int64_t k) {
    vf other[8];
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) sum[i] = other[i] = v_zero();
    for (int64_t p = 0; p < k; p += PAIRS, b += 128) {
        vi w = vi_load(b), w8 = vi_load(b + 64);
        if (M > TILE_ALONE) {
            _mm_prefetch(b + TILE_AHEAD, _MM_HINT_T1);
            _mm_prefetch(b + TILE_AHEAD + 64, _MM_HINT_T1);
        }
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            uint32_t x, x8;
            memcpy(&x, a + i * lda + p, sizeof x);
            memcpy(&x8, a + i * lda + p + PAIRS / 2, sizeof x8);
            sum[i] = dot_pairs(sum[i], vi_set(x), w);
            other[i] = dot_pairs(other[i], vi_set(x8), w8);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) sum[i] = v_add(sum[i], other[i]);
}

/* One part of a tile: k elements of every row. */
INLINE void tile_part(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int M, const char *b,
                      int64_t k) {
    vf left[TREE][8];
    for (int pass = 0; pass < PASSES; pass++, b += k / PAIRS * 128) {
        int level = 0;
        vf sum[8];
        tile_pass(sum, a + 2 * pass_lane[pass], lda, M, b, k);
        for (; pass >> level & 1; level++) {
#pragma GCC unroll 8
            for (int i = 0; i < M; i++) sum[i] = v_add(left[level][i], sum[i]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) left[level][i] = sum[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) v_store(c + i * ldc, v_add(add ? v_load(c + i * ldc) : v_zero(), left[TREE - 1][i]));
}

INLINE void tile_rows(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int M, const char *b,
                      int64_t k) {
    int64_t part = part_of(k);
    for (int64_t k0 = 0; k0 < k; k0 += part)
        tile_part(c, ldc, add || k0 > 0, a + k0, lda, M, b + k0 * PL_GEMM_TILE * 2, PL_MIN(part, k - k0));
}

#define TILE_M(M)                                                                                                      \
    case M: tile_rows(c, ldc, add, a, lda, M, b, k); break;

void pl_gemm_dots_tile(float *c, int64_t ldc, bool add, const uint16_t *a, int64_t lda, int64_t m, const void *b,
                       int64_t k) {
    switch (m) {
        TILE_M(1)
        TILE_M(2)
        TILE_M(3)
        TILE_M(4)
        TILE_M(5)
        TILE_M(6)
        TILE_M(7)
    default: tile_rows(c, ldc, add, a, lda, 8, b, k); break;
    }
}

/* Elements [p, p + PAIRS) of the rows, turned. */
INLINE void turn_pairs(vf r[VW], const char *b, pl_dtype type, int64_t k, int64_t p) {
#pragma GCC unroll 16
    for (int j = 0; j < VW; j++) r[j] = vi_as_vf(load_pairs(b + j * k * (type == PL_F32 ? 4 : 2), p, type));
    v_transpose(r);
}

INLINE void make_tile(char *out, const char *b, pl_dtype type, int64_t k) {
    int64_t part = part_of(k);
    for (int64_t k0 = 0; k0 < k; k0 += part) {
        int64_t steps = PL_MIN(part, k - k0) / PAIRS;
        for (int64_t step = 0; step < steps; step++) {
            vf r[VW];
            turn_pairs(r, b, type, k, k0 + step * PAIRS);
            for (int pass = 0; pass < PASSES; pass++) {
                char *to = out + (pass * steps + step) * 128;
                v_store((float *)(void *)to, r[pass_lane[pass]]);
                v_store((float *)(void *)(to + 64), r[pass_lane[pass] + 8]);
            }
        }
        out += steps * PAIRS * PL_GEMM_TILE * 2;
    }
}

void pl_gemm_make_tile(void *out, const void *b, pl_dtype type, int64_t k) {
    switch (type) {
    case PL_F32: make_tile(out, b, PL_F32, k); break;
    case PL_F16: make_tile(out, b, PL_F16, k); break;
    default: make_tile(out, b, PL_BF16, k); break;
    }
}

/* VW columns of the rows a, those behind the first `rows` zero. */
INLINE void turn_block(uint16_t *out, int64_t ldo, const float *a, int64_t lda, int64_t rows) {
    vf r[VW];
#pragma GCC unroll 16
    for (int l = 0; l < VW; l++) r[l] = l < rows ? v_load(a + l * lda) : v_zero();
    v_transpose(r);
#pragma GCC unroll 16
    for (int l = 0; l < VW; l++) v16_round(out + l * ldo, r[l]);
}

void pl_gemm_turn(uint16_t *out, int64_t ldo, const float *a, int64_t lda, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < ldo; i += VW)
        for (int64_t j = 0; j < cols; j += VW) {
            if (i + VW <= rows)
                turn_block(out + j * ldo + i, ldo, a + i * lda + j, lda, VW);
            else
                turn_block(out + j * ldo + i, ldo, a + PL_MIN(i, rows) * lda + j, lda, PL_MAX(rows - i, 0));
        }
}

const pl_gemm_rows pl_gemm_rows_avx512bf16 = {to_f32, to_bf16, dots, pack_y, pack_dx};
#endif
