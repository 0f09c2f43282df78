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

/* VW blocks of Philox4x32-10 (base/rng.h pl_philox) at once: counters (hi, first + lane). */
static void philox_vectors(vi out[4], uint64_t key, uint64_t hi, uint64_t first) {
    vi c0 = vi_add(vi_set((uint32_t)first), vi_iota()), c1 = vi_set((uint32_t)(first >> 32));
    vi c2 = vi_set((uint32_t)hi), c3 = vi_set((uint32_t)(hi >> 32));
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        vi h0, l0, h1, l1;
        vi_mul_wide(c0, vi_set(0xD2511F53u), &h0, &l0);
        vi_mul_wide(c2, vi_set(0xCD9E8D57u), &h1, &l1);
        c0 = vi_xor(vi_xor(h1, c1), vi_set(k0));
        c1 = l1;
        c2 = vi_xor(vi_xor(h0, c3), vi_set(k1));
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Factors 0 or 1/(1-p) of channels [4 first, 4 (first + VW)). `first` is a multiple of VW, so its lanes do not carry.
 */
static void dropout_factors(float f[4 * VW], uint64_t key, uint64_t row, int64_t first, float p, float kept) {
    vi words[4];
    float by_word[VW];
    philox_vectors(words, key, row, (uint64_t)first);
    for (int w = 0; w < 4; w++) {
        vf unit = v_mul(vi_to_vf(vi_shr(words[w], 8)), v_set(0x1p-24f));
        v_store(by_word, v_select(v_le(v_set(p), unit), v_set(kept), v_zero()));
        for (int lane = 0; lane < VW; lane++) f[lane * 4 + w] = by_word[lane];
    }
}

static void op_dropout(float *y, bool accumulate, const float *x, const uint64_t *row_id, uint64_t key, float p,
                       int64_t T, int64_t C) {
    float kept = 1 / (1 - p);
    PL_LOOP(T * C > PL_SERIAL_ELEMS / 4, t, T, 1, {
        for (int64_t c = 0; c < C; c += 4 * VW) {
            float f[4 * VW], *yt = y + t * C + c;
            const float *xt = x + t * C + c;
            dropout_factors(f, key, row_id[t], c / 4, p, kept);
            EACH_VECTOR(i, k, PL_MIN(4 * VW, C - c)) {
                vf v = v_mul(v_get(xt + i, k), v_load(f + i));
                v_put(yt + i, accumulate ? v_add(v_get(yt + i, k), v) : v, k);
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
