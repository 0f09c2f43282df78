/* kernels/cpu/vec_exp.inc.h: e^x on vectors. x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r) with q of degree 4
 * (minimax for the relative error, 0.05 ulp), then scaled by 2^n. Measured over samples of all floats: at most 0.98
 * ulp where the result is normal. NaN stays NaN, +infinity and overflow give infinity, -infinity gives 0. */

#define EXP_LEAST (-104.5f) /* e^x is 0 from here on down */

/* EXP_LEAST <= x <= 89 */
static inline vf v_exp_inside(vf x) {
    vf n = v_round(v_mul(x, v_set(1.44269504f)));
    vf r = v_fnma(n, v_set(0x1.62e4p-1f), x); /* ln 2 in two parts; n times the first is exact */
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf q = v_fma(r, v_set(1.381446724e-03f), v_set(8.368780836e-03f));
    q = v_fma(q, r, v_set(4.166839272e-02f));
    q = v_fma(q, r, v_set(1.666651964e-01f));
    q = v_fma(q, r, v_set(4.999999404e-01f));
    q = v_fma(q, v_mul(r, r), r);
    return v_scale2(v_add(q, v_set(1.0f)), n);
}

static inline vf v_exp(vf x) {
    return v_exp_inside(v_min(v_set(89.0f), v_max(v_set(EXP_LEAST), x))); /* constants first: NaN passes through */
}

/* 2^x for attention's probabilities, x <= 127, in 7 operations fewer: base 2 needs no ln 2 in two parts, and 2^r is a
 * polynomial of degree 5 (minimax for the relative error: 9.2e-8; measured: at most 2.03 ulp). NaN stays NaN, results
 * below the smallest normal number are 0 or gradual as the unit is set; -infinity gives 0. */
static inline vf v_exp2(vf x) {
    x = v_max(v_set(-151.0f), x); /* the constant first: NaN passes through */
    vf n = v_round(x), r = v_sub(x, n);
    vf q = v_fma(r, v_set(1.326472731e-03f), v_set(9.671512991e-03f));
    q = v_fma(q, r, v_set(5.550733581e-02f));
    q = v_fma(q, r, v_set(2.402224243e-01f));
    q = v_fma(q, r, v_set(6.931470037e-01f));
    return v_scale2(v_fma(q, r, v_set(1.0f)), n);
}
