/* kernels/cpu/norm.inc.h: RMSNorm and RoPE on vectors. Sums over C in four vectors of partial sums, added in a fixed
 * order: the error of a sum of C terms is that of C / (4 VW) additions. */

/* sum a*b*c over n; c may be NULL (ones). */
static float sum_products(const float *a, const float *b, const float *c, int64_t n) {
    vf s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        for (int j = 0; j < 4; j++) {
            vf x = v_load(a + i + j * VW);
            if (c) x = v_mul(x, v_load(c + i + j * VW));
            s[j] = v_fma(x, v_load(b + i + j * VW), s[j]);
        }
    }
    for (; i < n; i += VW) {
        int64_t k = PL_MIN(VW, n - i);
        vf x = v_get(a + i, k);
        if (c) x = v_mul(x, v_get(c + i, k));
        s[0] = v_fma(x, v_get(b + i, k), s[0]);
    }
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void op_rmsnorm(float *y, float *rstd, const float *x, const float *w, float eps, int64_t T, int64_t C) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, {
        const float *xt = x + t * C;
        float r = 1.0f / sqrtf(sum_products(xt, xt, NULL, C) / (float)C + eps);
        vf vr = v_set(r);
        EACH_VECTOR(i, k, C) v_put(y + t * C + i, v_mul(v_mul(v_get(xt + i, k), vr), v_get(w + i, k)), k);
        if (rstd) rstd[t] = r;
    });
}

/* dw[0 .. n) += sum_t dy * (x * rstd), t in order. */
static void norm_dw(float *dw, const float *dy, const float *x, const float *rstd, int64_t T, int64_t C, int64_t n) {
    for (int64_t t = 0; t < T; t++) {
        vf r = v_set(rstd[t]);
        EACH_VECTOR(i, k, n)
        v_put(dw + i, v_fma(v_get(dy + t * C + i, k), v_mul(v_get(x + t * C + i, k), r), v_get(dw + i, k)), k);
    }
}

static void op_rmsnorm_bwd(float *dx, bool accumulate, float *dw, const float *dy, const float *x, const float *w,
                           const float *rstd, int64_t T, int64_t C) {
    if (dw) { /* first: dx may overwrite dy */
        int64_t slice = slice_of(C);
        PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, slice,
                { norm_dw(dw + c, dy + c, x + c, rstd, T, C, PL_MIN(slice, C - c)); });
    }
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, {
        const float *xt = x + t * C, *dyt = dy + t * C;
        float *dxt = dx + t * C, r = rstd[t];
        vf vr = v_set(r), mean = v_set(r * (r * (sum_products(dyt, xt, w, C) / (float)C)));
        EACH_VECTOR(i, k, C) {
            vf d = v_mul(vr, v_fnma(v_get(xt + i, k), mean, v_mul(v_get(dyt + i, k), v_get(w + i, k))));
            v_put(dxt + i, accumulate ? v_add(v_get(dxt + i, k), d) : d, k);
        }
    });
}

static void rope_head(float *a, const float *cosine, const float *sine, bool inverse, int64_t half) {
    EACH_VECTOR(i, k, half) {
        vf c = v_get(cosine + i, k), s = v_get(sine + i, k), u = v_get(a + i, k), v = v_get(a + half + i, k);
        if (inverse) s = v_neg(s);
        v_put(a + i, v_fnma(v, s, v_mul(u, c)), k);
        v_put(a + half + i, v_fma(u, s, v_mul(v, c)), k);
    }
}

static void op_rope(float *x, int64_t ld, const float *cosine, const float *sine, bool inverse, int64_t T,
                    int64_t heads, int64_t D, int64_t rot) {
    int64_t half = rot / 2;
    PL_LOOP(T * heads * rot > PL_SERIAL_ELEMS, t, T, 1, {
        for (int64_t h = 0; h < heads; h++)
            rope_head(x + t * ld + h * D, cosine + t * half, sine + t * half, inverse, half);
    });
}

static void add_norm_ops(pl_ops *ops) {
    ops->rmsnorm = op_rmsnorm;
    ops->rmsnorm_bwd = op_rmsnorm_bwd;
    ops->rope = op_rope;
}
