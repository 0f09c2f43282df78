/* kernels/cpu/convert.inc.h: 16-bit stored types to and from float, the same bits as the reference's: bf16 in integers,
 * f16 by the conversion instructions (which ignore the denormal mode for the half's side). */

static inline vf v_from_bf16(const uint16_t *p) { return vi_as_vf(vi_shl(v16_widen(p), 16)); }

/* Nearest even; NaN quiet. The upper halves, one per lane. */
static inline vi bf16_bits(vf a) {
    vi u = vf_as_vi(a), top = vi_shr(u, 16);
    vi rounded = vi_shr(vi_add(u, vi_add(vi_set(0x7fff), vi_and(top, vi_set(1)))), 16);
    return vi_select_gt(vi_and(u, vi_set(0x7fffffff)), vi_set(0x7f800000), vi_or(top, vi_set(0x40)), rounded);
}

#ifndef STORE_BF16
#define STORE_BF16(p, a) v16_narrow((p), bf16_bits(a))
#endif

INLINED vf v_from_stored(const uint16_t *p, bool bf16) { return bf16 ? v_from_bf16(p) : v16_from_half(p); }

static void widen_span(float *y, const uint16_t *x, bool bf16, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v_store(y + i, v_from_stored(x + i, bf16));
    for (; i < n; i++) y[i] = bf16 ? pl_bf16_to_f32(x[i]) : pl_f16_to_f32(x[i]);
}

/* The same; `next`, as long as x, is asked for meanwhile. */
static void widen_span_ahead(float *y, const uint16_t *x, const uint16_t *next, bool bf16, int64_t n) {
    enum { LINE = 32 }; /* elements of a cache line */
    int64_t i = 0;
    for (; i + LINE <= n; i += LINE) {
        v_fetch((const void *)(next + i));
        UNROLL for (int j = 0; j < LINE; j += VW) v_store(y + i + j, v_from_stored(x + i + j, bf16));
    }
    widen_span(y + i, x + i, bf16, n - i);
}

static void narrow_span(uint16_t *y, const float *x, bool bf16, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        if (bf16)
            STORE_BF16(y + i, v_load(x + i));
        else
            v16_to_half(y + i, v_load(x + i));
    }
    for (; i < n; i++) y[i] = bf16 ? pl_bf16_from_f32(x[i]) : pl_f16_from_f32(x[i]);
}

static void op_to_real(float *y, const void *x, pl_dtype type, int64_t n) {
    if (type != PL_F32 && type != PL_F16 && type != PL_BF16) {
        pl_ref_to_real(y, x, type, n);
        return;
    }
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, {
        int64_t k = PL_MIN(BLOCK, n - at);
        if (type == PL_F32)
            memmove(y + at, (const float *)x + at, (size_t)k * sizeof *y);
        else
            widen_span(y + at, (const uint16_t *)x + at, type == PL_BF16, k);
    });
}

static void op_from_real(void *y, pl_dtype type, const float *x, int64_t n) {
    if (type != PL_F32 && type != PL_F16 && type != PL_BF16) {
        pl_ref_from_real(y, type, x, n);
        return;
    }
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, {
        int64_t k = PL_MIN(BLOCK, n - at);
        if (type == PL_F32)
            memmove((float *)y + at, x + at, (size_t)k * sizeof *x);
        else
            narrow_span((uint16_t *)y + at, x + at, type == PL_BF16, k);
    });
}

static void op_embed(float *y, const void *table, pl_dtype type, const int32_t *ids, int64_t T, int64_t C) {
    if (type != PL_F32 && type != PL_F16 && type != PL_BF16) {
        pl_ref_embed(y, table, type, ids, T, C);
        return;
    }
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, {
        int64_t row = ids[t] * C;
        int64_t next = ids[PL_MIN(t + 1, T - 1)] * C;
        if (type == PL_F32)
            copy_span_ahead(y + t * C, (const float *)table + row, (const float *)table + next, C);
        else
            widen_span_ahead(y + t * C, (const uint16_t *)table + row, (const uint16_t *)table + next, type == PL_BF16,
                             C);
    });
}

static void add_convert_ops(pl_ops *ops) {
    ops->to_real = op_to_real;
    ops->from_real = op_from_real;
    ops->embed = op_embed;
}
