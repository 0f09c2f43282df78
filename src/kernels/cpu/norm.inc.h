/* kernels/cpu/norm.inc.h: RMSNorm and RoPE on vectors. Sums over C in four vectors of partial sums, added in a fixed
 * order: the error of a sum of C terms is that of C / (4 VW) additions. */

#define NORM_LINE 16   /* floats of a cache line */
#define NORM_AHEAD 512 /* floats: how far ahead lines of one array are asked for */

/* sum a*b*c over n; c may be NULL (ones). ahead: lines of a and b behind those that are read are asked for. */
INLINED float sum_products(const float *a, const float *b, const float *c, int64_t n, bool ahead) {
    vf s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        if (ahead) {
            UNROLL for (int j = 0; j < 4 * VW; j += NORM_LINE) {
                v_fetch(a + i + j + NORM_AHEAD);
                v_fetch(b + i + j + NORM_AHEAD);
            }
        }
        UNROLL for (int j = 0; j < 4; j++) {
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

/* Code that exists once: compiled into the serial and the threads' loop each, rows of the two had different bits. */
#define NORM_ONCE static __attribute__((noinline))

/* y = x*r*w; the next row of x, and lines of y before they are written, are asked for meanwhile. */
INLINED void norm_row(float *y, const float *x, const float *w, const float *next, float r, int64_t n) {
    vf vr = v_set(r);
    int64_t i = 0;
    for (; i + NORM_LINE <= n; i += NORM_LINE) {
        v_fetch(next + i);
        v_fetch(y + i + NORM_AHEAD);
        UNROLL for (int j = 0; j < NORM_LINE; j += VW)
            v_store(y + i + j, v_mul(v_mul(v_load(x + i + j), vr), v_load(w + i + j)));
    }
    for (; i < n; i += VW) {
        int64_t k = PL_MIN(VW, n - i);
        v_put(y + i, v_mul(v_mul(v_get(x + i, k), vr), v_get(w + i, k)), k);
    }
}

/* One row; gives rstd. */
NORM_ONCE float norm_one(float *y, const float *x, const float *w, const float *next, float eps, int64_t C) {
    float r = 1.0f / sqrtf(sum_products(x, x, NULL, C, false) / (float)C + eps);
    norm_row(y, x, w, next, r, C);
    return r;
}

static void op_rmsnorm(float *y, float *rstd, const float *x, const float *w, float eps, int64_t T, int64_t C) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, {
        float r = norm_one(y + t * C, x + t * C, w, x + PL_MIN(t + 1, T - 1) * C, eps, C);
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

/* dx = or += r*e with e = dy*w - x*mean */
INLINED void norm_bwd_row(float *dx, bool accumulate, const float *dy, const float *x, const float *w, float r,
                          float mean, int64_t n) {
    vf vr = v_set(r), vmean = v_set(mean);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = v_fnma(v_load(x + i), vmean, v_mul(v_load(dy + i), v_load(w + i)));
        v_store(dx + i, accumulate ? v_fma(vr, e, v_load(dx + i)) : v_mul(vr, e));
    }
    if (i < n) {
        int64_t k = n - i;
        vf e = v_fnma(v_load_n(x + i, k), vmean, v_mul(v_load_n(dy + i, k), v_load_n(w + i, k)));
        v_store_n(dx + i, accumulate ? v_fma(vr, e, v_load_n(dx + i, k)) : v_mul(vr, e), k);
    }
}

NORM_ONCE void norm_bwd_one(float *dx, bool accumulate, const float *dy, const float *x, const float *w, float r,
                            int64_t C) {
    float mean = r * (r * (sum_products(dy, x, w, C, true) / (float)C));
    if (accumulate)
        norm_bwd_row(dx, true, dy, x, w, r, mean, C);
    else
        norm_bwd_row(dx, false, dy, x, w, r, mean, C);
}

static void op_rmsnorm_bwd(float *dx, bool accumulate, float *dw, const float *dy, const float *x, const float *w,
                           const float *rstd, int64_t T, int64_t C) {
    if (dw) { /* first: dx may overwrite dy */
        int64_t slice = slice_of(C);
        PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, slice,
                { norm_dw(dw + c, dy + c, x + c, rstd, T, C, PL_MIN(slice, C - c)); });
    }
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1,
            { norm_bwd_one(dx + t * C, accumulate, dy + t * C, x + t * C, w, rstd[t], C); });
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
