/* kernels/cpu/head.inc.h: the vocabulary head's running softmax on vectors; float sums over a tile in vectors of
 * partial sums, the sum of z in double. */

static float row_max(const float *z, int64_t n, float max) {
    vf m[4] = {v_set(max), v_set(max), v_set(max), v_set(max)};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int j = 0; j < 4; j++) m[j] = v_max(v_load(z + i + j * VW), m[j]); /* a NaN is passed over */
    for (; i + VW <= n; i += VW) m[0] = v_max(v_load(z + i), m[0]);
    max = v_hmax(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
    for (; i < n; i++)
        if (z[i] > max) max = z[i];
    return max;
}

static int64_t first_equal(const float *z, int64_t n, float value) {
    EACH_VECTOR(i, k, n) {
        unsigned hits = v_mask_bits(v_mask_and(v_eq(v_get(z + i, k), v_set(value)), v_mask_n(k)));
        if (hits) return i + __builtin_ctz(hits);
    }
    return n;
}

/* What one pass over a row adds up. sum_x is of e^x x with x = z - base: cut off where e^x is 0, so that 0 * -infinity
 * counts as 0. */
typedef struct row_sums {
    vf sum, sum_x, sum2;
    vd low, high; /* of z */
} row_sums;

static inline vf row_step(row_sums *s, vf z, vf base, vm lanes, bool all) {
    vf x = v_max(v_set(EXP_LEAST), v_sub(z, base)); /* never above 0; the constant first: NaN passes through */
    vf e = v_exp_inside(x);
    if (!all) e = v_select(lanes, e, v_zero()); /* lanes behind the end hold z = 0 */
    s->sum = v_add(s->sum, e);
    s->sum2 = v_fma(e, e, s->sum2);
    s->sum_x = v_fma(e, x, s->sum_x);
    s->low = vd_add(s->low, vd_low(z));
    s->high = vd_add(s->high, vd_high(z));
    return e;
}

static void head_row(float *z, int64_t n, int64_t v0, pl_head_stat *s, bool want_exp, float *rescale) {
    float max = row_max(z, n, s->max);
    if (max > s->max || (max == s->max && v0 < s->argmax)) {
        int64_t at = first_equal(z, n, max);
        if (at < n) s->argmax = max > s->max ? v0 + at : PL_MIN(s->argmax, v0 + at);
    }
    float base = max == -INFINITY ? 0 : max, old = expf(s->max - base);
    vf vbase = v_set(base);
    row_sums a = {v_zero(), v_zero(), v_zero(), vd_zero(), vd_zero()}, b = a;
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf e0 = row_step(&a, v_load(z + i), vbase, v_mask_n(VW), true);
        vf e1 = row_step(&b, v_load(z + i + VW), vbase, v_mask_n(VW), true);
        if (want_exp) v_store(z + i, e0), v_store(z + i + VW, e1);
    }
    for (; i < n; i += VW) {
        int64_t k = PL_MIN(VW, n - i);
        vf e = row_step(&a, v_get(z + i, k), vbase, v_mask_n(k), false);
        if (want_exp) v_put(z + i, e, k);
    }
    float sum = v_sum(v_add(a.sum, b.sum));
    s->sum = s->sum * old + sum;
    s->sum_z = s->sum_z * old + (v_sum(v_add(a.sum_x, b.sum_x)) + base * sum);
    s->sum2 = s->sum2 * old * old + v_sum(v_add(a.sum2, b.sum2));
    s->total += vd_sum(vd_add(vd_add(a.low, a.high), vd_add(b.low, b.high)));
    s->max = max;
    if (want_exp) *rescale = old;
}

static void op_head_tile(float *z, int64_t ld, int64_t R, int64_t n, int64_t v0, pl_head_stat *stat, bool want_exp,
                         float *rescale) {
    PL_LOOP(R * n > PL_SERIAL_ELEMS, r, R, 1,
            { head_row(z + r * ld, n, v0, stat + r, want_exp, want_exp ? rescale + r : NULL); });
}

static void op_head_softmax(float *z, int64_t ld, int64_t R, int64_t n, const float *lse, const float *coef) {
    PL_LOOP(R * n > PL_SERIAL_ELEMS, r, R, 1, {
        vf l = v_set(lse[r]), c = v_set(coef[r]);
        float *zr = z + r * ld;
        EACH_VECTOR(i, k, n) v_put(zr + i, v_mul(c, v_exp(v_sub(v_get(zr + i, k), l))), k);
    });
}

static void add_head_ops(pl_ops *ops) {
    ops->head_tile = op_head_tile;
    ops->head_softmax = op_head_softmax;
}
