/* kernels/cpu/sample.inc.h: exponentials in double, and the largest of a row of logits, on vectors. */

/* e^x, 0 below -700; x <= 700. x = n ln 2 + r, |r| <= ln 2 / 2, and the series of e^r up to r^12 / 12!, whose error is
 * 2e-16. */
static inline vd vd_exp(vd x) {
    static const double c[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1,           1};
    vd inside = vd_max(vd_set(-700), x), n = vd_round(vd_mul(inside, vd_set(0x1.71547652b82fep+0)));
    vd r = vd_fma(n, vd_set(-0x1.62e42fee00000p-1), inside); /* ln 2 in two parts; n times the first is exact */
    r = vd_fma(n, vd_set(-0x1.a39ef35793c76p-33), r);
    vd e = vd_set(c[0]);
    UNROLL for (int i = 1; i < PL_LEN(c); i++) e = vd_fma(e, r, vd_set(c[i]));
    return vd_zero_below(vd_scale2(e, n), x, vd_set(-700));
}

/* Two vectors of doubles for one of floats. */
typedef struct vd_pair {
    vd low, high;
} vd_pair;

static inline vd_pair exp_pair(const float *z, vd factor, vd top) {
    vf x = v_load(z);
    return (vd_pair){vd_exp(vd_mul(factor, vd_sub(vd_low(x), top))), vd_exp(vd_mul(factor, vd_sub(vd_high(x), top)))};
}

static double op_exp_sum(double *p, const float *z, double factor, float top, int64_t n) {
    vd f = vd_set(factor), t = vd_set((double)top), low = vd_zero(), high = vd_zero();
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vd_pair e = exp_pair(z + i, f, t);
        vd_store(p + i, e.low), vd_store(p + i + VW / 2, e.high);
        low = vd_add(low, e.low), high = vd_add(high, e.high);
    }
    double sum = vd_sum(vd_add(low, high)), last[VW];
    float rest[VW];
    if (i == n) return sum;
    for (int64_t j = 0; j < VW; j++) rest[j] = i + j < n ? z[i + j] : -INFINITY;
    vd_pair e = exp_pair(rest, f, t);
    vd_store(last, e.low), vd_store(last + VW / 2, e.high);
    memcpy(p + i, last, (size_t)(n - i) * sizeof *p);
    return sum + vd_sum(vd_add(e.low, e.high));
}

static int64_t op_select(int32_t *index, const float *z, float least, int64_t n) {
    int64_t found = 0;
    vf limit = v_set(least);
    EACH_VECTOR(i, k, n) {
        unsigned hits = v_mask_bits(v_mask_and(v_le(limit, v_get(z + i, k)), v_mask_n(k)));
        for (; hits; hits &= hits - 1) index[found++] = (int32_t)i + __builtin_ctz(hits);
    }
    return found;
}

static void op_block_max(float *max, const float *z, int64_t n) {
    for (int64_t i = 0; i < n; i += PL_BLOCK_MAX)
        max[i / PL_BLOCK_MAX] = row_max(z + i, PL_MIN(PL_BLOCK_MAX, n - i), -INFINITY);
}

static void add_sample_ops(pl_ops *ops) {
    ops->exp_sum = op_exp_sum;
    ops->select = op_select;
    ops->block_max = op_block_max;
}
