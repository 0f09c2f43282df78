/* kernels/cpu/mlp.inc.h: SwiGLU, dropout and AdamW on vectors. */

static void swiglu_span(float *y, const float *g, const float *u, int64_t n) {
    EACH_VECTOR(i, k, n) {
        vf vg = v_get(g + i, k);
        vf silu = v_div(vg, v_add(v_set(1.0f), v_exp(v_neg(vg))));
        v_put(y + i, v_mul(silu, v_get(u + i, k)), k);
    }
}

static void op_swiglu(float *y, const float *g, const float *u, int64_t n) {
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, { swiglu_span(y + at, g + at, u + at, PL_MIN(BLOCK, n - at)); });
}

static void swiglu_bwd_span(float *dg, float *du, const float *dy, const float *g, const float *u, int64_t n) {
    vf one = v_set(1.0f);
    EACH_VECTOR(i, k, n) {
        vf vg = v_get(g + i, k), vu = v_get(u + i, k), d = v_get(dy + i, k);
        vf s = v_div(one, v_add(one, v_exp(v_neg(vg))));
        v_put(du + i, v_mul(d, v_mul(vg, s)), k);
        v_put(dg + i, v_mul(v_mul(d, vu), v_mul(s, v_fma(vg, v_sub(one, s), one))), k);
    }
}

static void op_swiglu_bwd(float *dg, float *du, const float *dy, const float *g, const float *u, int64_t n) {
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK,
            { swiglu_bwd_span(dg + at, du + at, dy + at, g + at, u + at, PL_MIN(BLOCK, n - at)); });
}

/* VW blocks of Philox4x32-10 (base/rng.h pl_philox) at once: counters (hi, first + lane). Even and odd lanes go apart,
 * each a 32-bit word in the low half of 64 bits: products need no shuffling then, and what is above is not read. */
static void philox_vectors(vi out[4], uint64_t key, uint64_t hi, uint64_t first) {
    vi c0[2], c1[2], c2[2], c3[2], m0 = vi_set(0xD2511F53u), m1 = vi_set(0xCD9E8D57u);
    c0[0] = vi_add(vi_set((uint32_t)first), vi_iota());
    c0[1] = vi_shr64(c0[0], 32);
    for (int i = 0; i < 2; i++)
        c1[i] = vi_set((uint32_t)(first >> 32)), c2[i] = vi_set((uint32_t)hi), c3[i] = vi_set((uint32_t)(hi >> 32));
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        UNROLL for (int i = 0; i < 2; i++) {
            vi p0 = vi_mul_even(c0[i], m0), p1 = vi_mul_even(c2[i], m1);
            c0[i] = vi_xor(vi_xor(vi_shr64(p1, 32), c1[i]), vi_set(k0));
            c2[i] = vi_xor(vi_xor(vi_shr64(p0, 32), c3[i]), vi_set(k1));
            c1[i] = p1, c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = vi_low_words(c0[0], c0[1]), out[1] = vi_low_words(c1[0], c1[1]);
    out[2] = vi_low_words(c2[0], c2[1]), out[3] = vi_low_words(c3[0], c3[1]);
}

/* Factors 0 or 1/(1-p) of channels [4 first, 4 (first + VW)). `first` is a multiple of VW, so its lanes do not carry.
 * A word's upper 24 bits are kept where they are >= least = p 2^24, rounded up. */
static void dropout_factors(vf f[4], uint64_t key, uint64_t row, int64_t first, vi below_least, vi kept) {
    vi words[4];
    philox_vectors(words, key, row, (uint64_t)first);
    UNROLL for (int w = 0; w < 4; w++) f[w] = vi_as_vf(vi_select_gt(vi_shr(words[w], 8), below_least, kept, vi_set(0)));
    v_interleave(f);
}

static void op_dropout(float *y, bool accumulate, const float *x, const uint64_t *row_id, uint64_t key, float p,
                       int64_t T, int64_t C) {
    vi kept = vf_as_vi(v_set(1 / (1 - p))), below_least = vi_set((uint32_t)((int32_t)ceil((double)p * 0x1p24) - 1));
    PL_LOOP(T * C > PL_SERIAL_ELEMS / 4, t, T, 1, {
        for (int64_t c = 0; c < C; c += 4 * VW) {
            vf f[4];
            dropout_factors(f, key, row_id[t], c / 4, below_least, kept);
            for (int64_t j = 0; j < 4 && c + j * VW < C; j++) {
                int64_t at = t * C + c + j * VW, k = PL_MIN(VW, C - c - j * VW);
                vf v = v_mul(v_get(x + at, k), f[j]);
                v_put(y + at, accumulate ? v_add(v_get(y + at, k), v) : v, k);
            }
        }
    });
}

typedef struct adamw_scalars {
    vf decay, w1, b2, w2, root2, eps, step, grad_scale;
} adamw_scalars;

static void adamw_span(float *p, const float *g, float *m, float *v, int64_t n, const adamw_scalars *a) {
    EACH_VECTOR(i, k, n) {
        vf gi = v_mul(v_get(g + i, k), a->grad_scale), mi = v_get(m + i, k);
        mi = v_fma(a->w1, v_sub(gi, mi), mi);
        vf vi_ = v_fma(v_mul(a->w2, gi), gi, v_mul(v_get(v + i, k), a->b2));
        vf denominator = v_add(v_div(v_sqrt(vi_), a->root2), a->eps);
        v_put(m + i, mi, k);
        v_put(v + i, vi_, k);
        v_put(p + i, v_add(v_mul(v_get(p + i, k), a->decay), v_div(v_mul(a->step, mi), denominator)), k);
    }
}

static void op_adamw(float *p, const float *g, float *m, float *v, int64_t n, const pl_adamw *a) {
    adamw_scalars s = {
        .decay = v_set((float)(1 - a->lr * a->weight_decay)),
        .w1 = v_set((float)(1 - a->beta1)),
        .b2 = v_set((float)a->beta2),
        .w2 = v_set((float)(1 - a->beta2)),
        .root2 = v_set((float)sqrt(a->bias2)),
        .eps = v_set((float)a->eps),
        .step = v_set((float)(-(a->lr / a->bias1))),
        .grad_scale = v_set((float)a->grad_scale),
    };
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK,
            { adamw_span(p + at, g + at, m + at, v + at, PL_MIN(BLOCK, n - at), &s); });
}

static void add_mlp_ops(pl_ops *ops) {
    ops->swiglu = op_swiglu;
    ops->swiglu_bwd = op_swiglu_bwd;
    ops->dropout = op_dropout;
    ops->adamw = op_adamw;
}
