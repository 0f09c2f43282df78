/* decoder.c: a token's way through the decoder and back. Forward and backward of each part stand side by side.
 *
 *   x0 = embed[ids]
 *   n  = rmsnorm(x0, norm1);  q,k,v = rope(n Wq'), rope(n Wk'), n Wv';  o = attention(q,k,v);  x1 = x0 + o Wo'
 *   n  = rmsnorm(x1, norm2);  g,u = n Wg', n Wu';  x0 of the next layer = x1 + (silu(g) u) Wd'
 *
 * Owns the order of operations; the buffers come from decoder_plan.c, the linear layers from linear.c. */
#include <string.h>

#include "model/linear.h"

/* cos and sin of position * frequency, in float32 as transformers computes them (in its float64 models too).
 * Frequencies may depend on the tree's length. */
static void fill_rope(pl_decoder *d, const pl_forest *f) {
    int64_t half = d->arch->D / 2;
    for (int64_t tree = 0; tree < f->ntrees; tree++) {
        if (tree == 0 || d->arch->rope.kind == PL_ROPE_DYNAMIC)
            pl_rope_frequencies(d->inv_freq, d->arch, f->tree_length[tree]);
        for (int64_t t = f->tree_first[tree]; t < f->tree_first[tree + 1]; t++)
            for (int64_t i = 0; i < half; i++) {
                float angle = (float)f->position[t] * d->inv_freq[i];
                d->cosine[t * half + i] = (real)(float)cos((double)angle);
                d->sine[t * half + i] = (real)(float)sin((double)angle);
            }
    }
}

static void rope_qk(const pl_decoder *d, int64_t T, real *q, real *k, bool inverse) {
    const pl_arch *a = d->arch;
    d->backend.ops->rope(q, a->H * a->D, d->cosine, d->sine, inverse, T, a->H, a->D, a->D);
    d->backend.ops->rope(k, a->KV * a->D, d->cosine, d->sine, inverse, T, a->KV, a->D, a->D);
}

static pl_attn attention_of(const pl_arch *a, const pl_forest *f) {
    return (pl_attn){.T = f->T,
                     .H = a->H,
                     .KV = a->KV,
                     .D = a->D,
                     .q_stride = a->H * a->D,
                     .kv_stride = a->KV * a->D,
                     .o_stride = a->H * a->D,
                     .scale = (real)(1.0 / sqrt((double)a->D)),
                     .nruns = f->nsegments,
                     .runs = f->runs,
                     .ranges = f->ranges};
}

static void copy(const pl_decoder *d, real *y, const real *x, int64_t n) { d->backend.ops->to_real(y, x, PL_REAL, n); }

static void store_kv(const pl_decoder *d, const pl_layer_acts *s, pl_kv_cache *cache, const int64_t *slots,
                     int64_t layer, int64_t T) {
    int64_t width = d->arch->KV * d->arch->D;
    for (int64_t t = 0; t < T; t++) {
        int64_t at = (layer * cache->capacity + slots[t]) * width;
        copy(d, cache->k + at, s->k + t * width, width);
        copy(d, cache->v + at, s->v + t * width, width);
    }
}

static int attention_forward(const pl_pass *p, int64_t layer, pl_kv_cache *cache, const int64_t *slots, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    const pl_arch *a = d->arch;
    int64_t T = p->f->T;
    int rc;
    d->backend.ops->rmsnorm(d->n, s->rstd1, s->x0, p->w->layers[layer].norm1, (real)a->eps, T, a->C);
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_Q, s->q, d->n, false, err));
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_K, s->k, d->n, false, err));
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_V, s->v, d->n, false, err));
    rope_qk(d, T, s->q, s->k, false);
    pl_attn at = attention_of(a, p->f);
    const real *k = s->k, *v = s->v;
    if (cache) {
        store_kv(d, s, cache, slots, layer, T);
        k = cache->k + layer * cache->capacity * at.kv_stride;
        v = cache->v + layer * cache->capacity * at.kv_stride;
    }
    d->backend.ops->attn(s->o, cache ? NULL : s->lse, s->q, k, v, &at);
    copy(d, s->x1, s->x0, T * a->C);
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_O, s->x1, s->o, true, err));
out:
    return rc;
}

static int attention_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    const pl_arch *a = d->arch;
    const pl_ops *ops = d->backend.ops;
    int64_t T = p->f->T;
    bool below = pl_pass_needs_input_grad(p, layer);
    int rc;
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_O, d->dn, false, d->dx, s->o, err));
    pl_attn at = attention_of(a, p->f);
    ops->attn_bwd(d->dq, d->dk, d->dv, d->delta, d->dn, s->o, s->lse, s->q, s->k, s->v, &at);
    rope_qk(d, T, d->dq, d->dk, true);
    ops->rmsnorm(d->n, NULL, s->x0, p->w->layers[layer].norm1, (real)a->eps, T, a->C);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_Q, below ? d->dn : NULL, false, d->dq, d->n, err));
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_K, below ? d->dn : NULL, true, d->dk, d->n, err));
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_V, below ? d->dn : NULL, true, d->dv, d->n, err));
    if (below)
        ops->rmsnorm_bwd(d->dx, true, p->g ? p->g->layers[layer].norm1 : NULL, d->dn, s->x0, p->w->layers[layer].norm1,
                         s->rstd1, T, a->C);
out:
    return rc;
}

static int mlp_forward(const pl_pass *p, int64_t layer, real *y, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    const pl_arch *a = d->arch;
    int64_t T = p->f->T;
    int rc;
    d->backend.ops->rmsnorm(d->n, s->rstd2, s->x1, p->w->layers[layer].norm2, (real)a->eps, T, a->C);
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_GATE, s->g, d->n, false, err));
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_UP, s->u, d->n, false, err));
    d->backend.ops->swiglu(d->act, s->g, s->u, T * a->F);
    copy(d, y, s->x1, T * a->C);
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_DOWN, y, d->act, true, err));
out:
    return rc;
}

/* Overwrites g and u with their gradients: each is read once. */
static int mlp_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    const pl_arch *a = d->arch;
    const pl_ops *ops = d->backend.ops;
    int64_t T = p->f->T;
    int rc;
    ops->swiglu(d->act, s->g, s->u, T * a->F);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_DOWN, d->dact, false, d->dx, d->act, err));
    ops->swiglu_bwd(s->g, s->u, d->dact, s->g, s->u, T * a->F);
    ops->rmsnorm(d->n, NULL, s->x1, p->w->layers[layer].norm2, (real)a->eps, T, a->C);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_GATE, d->dn, false, s->g, d->n, err));
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_UP, d->dn, true, s->u, d->n, err));
    ops->rmsnorm_bwd(d->dx, true, p->g ? p->g->layers[layer].norm2 : NULL, d->dn, s->x1, p->w->layers[layer].norm2,
                     s->rstd2, T, a->C);
out:
    return rc;
}

static real *layer_output(const pl_decoder *d, int64_t layer) {
    return layer + 1 < d->arch->L ? d->acts[layer + 1].x0 : d->x_last;
}

static int layer_forward(const pl_pass *p, int64_t layer, pl_kv_cache *cache, const int64_t *slots, pl_error *err) {
    int rc = attention_forward(p, layer, cache, slots, err);
    if (rc == 0) rc = mlp_forward(p, layer, layer_output(p->d, layer), err);
    return rc ? pl_error_context(err, rc, "layer %" PRId64, layer) : 0;
}

static int begin(pl_decoder *d, const pl_weights *w, const pl_forest *f, pl_error *err) {
    if (f->T > d->max_T)
        return PL_FAIL(err, PL_E_INTERNAL, "a batch of %" PRId64 " tokens, room for %" PRId64, f->T, d->max_T);
    fill_rope(d, f);
    d->backend.ops->embed(d->acts[0].x0, w->embed.data, w->embed.type, f->ids, f->T, d->arch->C);
    return 0;
}

static int run_forward(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, pl_kv_cache *cache,
                       const int64_t *slots, pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .f = f};
    int rc = begin(d, w, f, err);
    for (int64_t l = 0; rc == 0 && l < d->arch->L; l++) rc = layer_forward(&p, l, cache, slots, err);
    return rc;
}

int pl_decoder_forward(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, bool keep,
                       pl_error *err) {
    if (keep && !d->training) return PL_FAIL(err, PL_E_STATE, "this decoder keeps nothing for a backward pass");
    return run_forward(d, w, lora, f, NULL, NULL, err);
}

int pl_decoder_infer(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, pl_kv_cache *cache,
                     const int64_t *slots, pl_error *err) {
    return run_forward(d, w, lora, f, cache, slots, err);
}

/* Brings back what the layer did not keep: the same operations on the same input, so the same bits. */
static int layer_recompute(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    int rc = attention_forward(p, layer, NULL, NULL, err);
    if (rc) return rc;
    const pl_layer_acts *s = &d->acts[layer];
    d->backend.ops->rmsnorm(d->n, s->rstd2, s->x1, p->w->layers[layer].norm2, (real)d->arch->eps, p->f->T, d->arch->C);
    rc = pl_linear_forward(p, layer, PL_LIN_GATE, s->g, d->n, false, err);
    return rc ? rc : pl_linear_forward(p, layer, PL_LIN_UP, s->u, d->n, false, err);
}

static int layer_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    int rc = p->d->recompute ? layer_recompute(p, layer, err) : 0;
    if (rc == 0) rc = mlp_backward(p, layer, err);
    if (rc == 0) rc = attention_backward(p, layer, err);
    return rc ? pl_error_context(err, rc, "layer %" PRId64 ", backward", layer) : 0;
}

int pl_decoder_backward(pl_decoder *d, const pl_weights *w, pl_lora *lora, const pl_grads *grads, const pl_forest *f,
                        pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .g = grads, .f = f};
    p.first_trainable = pl_pass_first_trainable(&p);
    int rc = 0;
    for (int64_t l = d->arch->L - 1; rc == 0 && l >= PL_MAX(p.first_trainable, 0); l--) rc = layer_backward(&p, l, err);
    if (rc == 0 && grads && grads->embed) d->backend.ops->embed_bwd(grads->embed, d->dx, f->ids, f->T, d->arch->C);
    return rc;
}

int pl_decoder_find_nonfinite(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f,
                              int64_t *layer, pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .f = f};
    int rc = begin(d, w, f, err);
    int64_t n = f->T * d->arch->C;
    *layer = -1;
    if (rc || !isfinite(d->backend.ops->sum_squares(d->acts[0].x0, n))) return rc;
    for (*layer = 0; rc == 0 && *layer < d->arch->L; ++*layer) {
        rc = layer_forward(&p, *layer, NULL, NULL, err);
        if (rc || !isfinite(d->backend.ops->sum_squares(layer_output(d, *layer), n))) return rc;
    }
    return rc;
}
