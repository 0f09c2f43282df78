/* decoder.c: a token's way through the decoder and back. Forward and backward of each part stand side by side.
 *
 *   x0 = embed[ids]
 *   n  = rmsnorm(x0, norm1);  q,k,v = rope(n Wq'), rope(n Wk'), n Wv';  o = attention(q,k,v);  x1 = x0 + o Wo'
 *   n  = rmsnorm(x1, norm2);  g,u = n Wg', n Wu';  x0 of the next layer = x1 + (silu(g) u) Wd'
 *
 * Of the last layer, all but keys and values is made only of rows that somebody reads, which then are the batch of a
 * narrowed pass.
 *
 * What treats rows one by one is a function over some of them, for pl_pass_rows (rows.c), and pointers are to whole
 * buffers there but for what `rows` returns. Attention, and sums over rows, stand between such functions.
 * Owns the order of operations; the buffers come from decoder_plan.c, the linear layers from linear.c. */
#include <string.h>

#include "kernels/loop.h"
#include "model/linear.h"

enum { ANGLES_SERIAL = 512 }; /* cosines and sines that are not worth a parallel region */

/* The pass's first row of x [T,width]. */
static real *rows(const pl_pass *p, real *x, int64_t width) { return x + p->t0 * width; }

/* cos and sin of position * frequency, in float32 as transformers computes them (in its float64 models too). */
static void fill_angles(pl_decoder *d, const pl_forest *f, int64_t first, int64_t end) {
    int64_t half = d->arch->D / 2;
    PL_LOOP((end - first) * half > ANGLES_SERIAL, i, end - first, 1, {
        int64_t t = first + i;
        for (int64_t j = 0; j < half; j++) {
            float angle = (float)f->position[t] * d->inv_freq[j];
            d->cosine[t * half + j] = (real)(float)cos((double)angle);
            d->sine[t * half + j] = (real)(float)sin((double)angle);
        }
    });
}

/* Frequencies may depend on the tree's length. */
static void fill_rope(pl_decoder *d, const pl_forest *f) {
    bool by_tree = d->arch->rope.kind == PL_ROPE_DYNAMIC;
    for (int64_t tree = 0; tree < (by_tree ? f->ntrees : 1); tree++) {
        pl_rope_frequencies(d->inv_freq, d->arch, f->tree_length[tree]);
        fill_angles(d, f, f->tree_first[tree], by_tree ? f->tree_first[tree + 1] : f->T);
    }
}

static void rotate(const pl_pass *p, real *x, int64_t heads, bool inverse) {
    const pl_decoder *d = p->d;
    int64_t D = d->arch->D, width = heads * D, half = D / 2;
    const real *cosine = rows(p, p->narrow ? d->read_cosine : d->cosine, half);
    const real *sine = rows(p, p->narrow ? d->read_sine : d->sine, half);
    d->backend.ops->rope(rows(p, x, width), width, cosine, sine, inverse, p->T, heads, D, D);
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

static void copy_rows(const pl_pass *p, real *y, real *x, int64_t width) {
    if (y == x) return; /* the residual stream beside stays in place */
    p->d->backend.ops->to_real(rows(p, y, width), rows(p, x, width), PL_REAL, p->T * width);
}

/* n = rmsnorm(x). rstd NULL: it is known. */
static void norm(const pl_pass *p, real *x, real *rstd, const real *weight) {
    const pl_arch *a = p->d->arch;
    p->d->backend.ops->rmsnorm(rows(p, p->d->n, a->C), rstd ? rstd + p->t0 : NULL, rows(p, x, a->C), weight,
                               (real)a->eps, p->T, a->C);
}

/* dx += the gradient of dn through the norm of x; dw, where the norm is trained, sums over all rows. */
static void norm_backward(const pl_pass *p, real *x, real *rstd, const real *weight, real *dw) {
    const pl_arch *a = p->d->arch;
    p->d->backend.ops->rmsnorm_bwd(rows(p, p->d->dx, a->C), true, dw, rows(p, p->d->dn, a->C), rows(p, x, a->C), weight,
                                   rstd + p->t0, p->T, a->C);
}

/* --- the last layer's rows
 * -----------------------------------------------------------------------------------------------------------
 */

static bool narrows(const pl_pass *p, int64_t layer) { return p->read && layer + 1 == p->d->arch->L; }

/* The pass over the rows that go behind this layer's keys and values. */
static pl_pass behind_keys(const pl_pass *p, int64_t layer) {
    pl_pass part = *p;
    if (!narrows(p, layer)) return part;
    part.f = p->read;
    part.narrow = true;
    return part;
}

/* Of a narrowed pass: y = the read rows of x [T,C], of all tokens. */
static void gather(const pl_pass *p, real *y, const real *x) {
    int64_t C = p->d->arch->C;
    for (int64_t r = p->t0; r < p->t0 + p->T; r++)
        p->d->backend.ops->to_real(y + r * C, x + p->f->read[r] * C, PL_REAL, C);
}

/* x [T,C] in place: its read rows come first. */
static void move_up(const pl_forest *read, real *x, int64_t C) {
    for (int64_t r = 0; r < read->T; r++) memmove(x + r * C, x + read->read[r] * C, (size_t)C * sizeof *x);
}

/* And back, with zeros between them. */
static void move_down(const pl_forest *read, real *x, int64_t T, int64_t C) {
    for (int64_t t = T - 1, r = read->T - 1; t >= 0; t--) {
        if (r >= 0 && read->read[r] == t)
            memmove(x + t * C, x + r-- * C, (size_t)C * sizeof *x);
        else
            memset(x + t * C, 0, (size_t)C * sizeof *x);
    }
}

/* --- attention
 * -----------------------------------------------------------------------------------------------------------------
 */

static void store_kv(const pl_pass *p, const pl_layer_acts *s, int64_t layer) {
    int64_t width = p->d->arch->KV * p->d->arch->D;
    const pl_ops *ops = p->d->backend.ops;
    for (int64_t t = p->t0; t < p->t0 + p->T; t++) {
        int64_t at = (layer * p->cache->capacity + p->slots[t]) * width;
        ops->to_real(p->cache->k + at, s->k + t * width, PL_REAL, width);
        ops->to_real(p->cache->v + at, s->v + t * width, PL_REAL, width);
    }
}

/* The first of a layer's linear layers that read all rows: all of q, k, v, or without q. */
static pl_lin first_of(const pl_pass *p, int64_t layer) { return narrows(p, layer) ? PL_LIN_K : PL_LIN_Q; }

/* x0 -> q, k, v */
static int qkv_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts s = pl_pass_acts(p, layer);
    pl_lin first = first_of(p, layer);
    real *const y[] = {s.q, s.k, s.v};
    norm(p, s.x0, s.rstd1, p->w->layers[layer].norm1);
    int rc = pl_linear_forward_all(p, layer, first, (int)(PL_LIN_V - first) + 1, y + (first - PL_LIN_Q), d->n, err);
    if (rc) return rc;
    if (first == PL_LIN_Q) rotate(p, s.q, d->arch->H, false);
    rotate(p, s.k, d->arch->KV, false);
    if (p->cache) store_kv(p, &s, layer);
    return 0;
}

/* Of a narrowed pass: x0 -> x1 (without attention yet), q. The second stream's rows are in their place already. */
static int query_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts s = pl_pass_acts(p, layer);
    if (!p->beside) gather(p, s.x1, s.x0);
    norm(p, s.x1, NULL, p->w->layers[layer].norm1);
    int rc = pl_linear_forward(p, layer, PL_LIN_Q, s.q, d->n, false, false, err);
    if (rc == 0) rotate(p, s.q, d->arch->H, false);
    return rc;
}

/* dq -> dn; n again, and its x and rstd where nobody needs x1 and rstd2 any more. */
static int query_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    rotate(p, d->dq, d->arch->H, true);
    gather(p, s->x1, s->x0);
    norm(p, s->x1, s->rstd2, p->w->layers[layer].norm1);
    return pl_linear_backward(p, layer, PL_LIN_Q, pl_pass_needs_input_grad(p, layer) ? d->dn : NULL, false, d->dq, d->n,
                              err);
}

/* dq, dk, dv -> dn; n again. */
static int qkv_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    real *dn = pl_pass_needs_input_grad(p, layer) ? d->dn : NULL;
    bool all = first_of(p, layer) == PL_LIN_Q;
    int rc = 0;
    if (all) rotate(p, d->dq, d->arch->H, true);
    rotate(p, d->dk, d->arch->KV, true);
    norm(p, s->x0, NULL, p->w->layers[layer].norm1);
    if (all)
        PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_Q, dn, false, d->dq, d->n, err));
    else if (dn) /* products that add are there */
        memset(rows(p, dn, d->arch->C), 0, (size_t)(p->T * d->arch->C) * sizeof *dn);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_K, dn, true, d->dk, d->n, err));
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_V, dn, true, d->dv, d->n, err));
out:
    return rc;
}

/* q, k, v -> o */
static void attend(const pl_pass *p, int64_t layer) {
    const pl_decoder *d = p->d;
    const pl_layer_acts s = pl_pass_acts(p, layer);
    pl_attn at = attention_of(d->arch, p->f);
    int64_t base = p->cache ? layer * p->cache->capacity * at.kv_stride : 0;
    const real *k = p->cache ? p->cache->k + base : s.k, *v = p->cache ? p->cache->v + base : s.v;
    d->backend.ops->attn(s.o, p->cache ? NULL : s.lse, s.q, k, v, &at);
}

/* d_o -> dq, dk, dv. What no query sees gets no gradient: T rows of dk and dv. */
static void attend_backward(const pl_pass *p, int64_t layer, int64_t T) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    pl_attn at = attention_of(d->arch, p->f);
    if (p->narrow) {
        memset(d->dk, 0, (size_t)(T * at.kv_stride) * sizeof *d->dk);
        memset(d->dv, 0, (size_t)(T * at.kv_stride) * sizeof *d->dv);
    }
    d->backend.ops->attn_bwd(d->dq, d->dk, d->dv, d->delta, d->d_o, s->o, s->lse, s->q, s->k, s->v, &at);
}

/* o -> x1 */
static int out_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_layer_acts s = pl_pass_acts(p, layer);
    if (!p->narrow) copy_rows(p, s.x1, s.x0, p->d->arch->C);
    return pl_linear_forward(p, layer, PL_LIN_O, s.x1, s.o, true, false, err);
}

/* dx -> d_o */
static int out_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    return pl_linear_backward(p, layer, PL_LIN_O, d->d_o, false, d->dx, d->acts[layer].o, err);
}

/* --- MLP
 * -----------------------------------------------------------------------------------------------------------------------
 */

static real *layer_output(const pl_pass *p, int64_t layer) {
    const pl_decoder *d = p->d;
    if (p->beside) return d->x_beside;
    return layer + 1 < d->arch->L ? d->acts[layer + 1].x0 : d->x_last;
}

/* x1 -> g, u */
static int gate_up_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts s = pl_pass_acts(p, layer);
    norm(p, s.x1, s.rstd2, p->w->layers[layer].norm2);
    real *const y[] = {s.g, s.u};
    return pl_linear_forward_all(p, layer, PL_LIN_GATE, PL_LEN(y), y, d->n, err);
}

static void activate(const pl_pass *p, int64_t layer) {
    const pl_decoder *d = p->d;
    const pl_layer_acts s = pl_pass_acts(p, layer);
    int64_t F = d->arch->F;
    d->backend.ops->swiglu(rows(p, d->act, F), rows(p, s.g, F), rows(p, s.u, F), p->T * F);
}

/* g, u -> x0 of the next layer */
static int down_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    real *y = layer_output(p, layer);
    activate(p, layer);
    copy_rows(p, y, pl_pass_acts(p, layer).x1, d->arch->C);
    return pl_linear_forward(p, layer, PL_LIN_DOWN, y, d->act, true, false, err);
}

/* dx -> dn; act and n again; g and u are overwritten by their gradients: each is read once. */
static int mlp_backward(const pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    int64_t F = d->arch->F;
    real *g = rows(p, s->g, F), *u = rows(p, s->u, F);
    int rc;
    activate(p, layer);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_DOWN, d->dact, false, d->dx, d->act, err));
    d->backend.ops->swiglu_bwd(g, u, rows(p, d->dact, F), g, u, p->T * F);
    norm(p, s->x1, NULL, p->w->layers[layer].norm2);
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_GATE, d->dn, false, s->g, d->n, err));
    PL_GO(rc, pl_linear_backward(p, layer, PL_LIN_UP, d->dn, true, s->u, d->n, err));
out:
    return rc;
}

/* --- forward
 * -------------------------------------------------------------------------------------------------------------------
 */

/* From attention to attention: the rest of a layer, and the beginning of the next. */
static int rest_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    int rc = out_forward(p, layer, err);
    if (rc == 0) rc = gate_up_forward(p, layer, err);
    return rc ? rc : down_forward(p, layer, err);
}

static int between_forward(const pl_pass *p, int64_t layer, pl_error *err) {
    int rc = rest_forward(p, layer, err);
    return rc || layer + 1 == p->d->arch->L ? rc : qkv_forward(p, layer + 1, err);
}

static int layer_context(pl_error *err, int rc, int64_t layer, const char *what) {
    return rc ? pl_error_context(err, rc, "layer %" PRId64 "%s", layer, what) : 0;
}

/* Which rows go behind the last layer's keys and values. */
static void begin_narrow(pl_pass *p, pl_forest *read) {
    if (!p->f->narrow) return;
    *read = pl_forest_reads(p->f);
    p->read = read;
}

/* read: room for what the pass borrows. */
static int begin(pl_decoder *d, pl_pass *p, pl_forest *read, pl_error *err) {
    const pl_forest *f = p->f;
    const pl_ops *ops = d->backend.ops;
    int64_t half = d->arch->D / 2;
    if (f->T > d->max_T)
        return PL_FAIL(err, PL_E_INTERNAL, "a batch of %" PRId64 " tokens, room for %" PRId64, f->T, d->max_T);
    if (pl_forest_rows(f) > d->max_read)
        return PL_FAIL(err, PL_E_INTERNAL, "%" PRId64 " rows are read, room for %" PRId64, pl_forest_rows(f),
                       d->max_read);
    begin_narrow(p, read);
    fill_rope(d, f);
    if (p->read) ops->gather_rows(d->read_cosine, d->cosine, f->read, f->nread, half);
    if (p->read) ops->gather_rows(d->read_sine, d->sine, f->read, f->nread, half);
    ops->embed(d->acts[0].x0, p->w->embed.data, p->w->embed.type, f->ids, f->T, d->arch->C);
    pl_noise_add(d->acts[0].x0, &d->noise, f, d->arch->C);
    return 0;
}

/* The second stream starts from the same embeddings; its buffers are those of the backward pass to come, and inside the
 * MLP those of the layer, which the first stream fills after it. */
pl_layer_acts pl_pass_acts(const pl_pass *p, int64_t layer) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *own = &d->acts[layer];
    if (!p->beside) return *own;
    return (pl_layer_acts){.x0 = d->x_beside,
                           .x1 = d->x_beside,
                           .q = d->dq,
                           .k = d->dk,
                           .v = d->dv,
                           .o = d->d_o,
                           .g = own->g,
                           .u = own->u};
}

static void begin_beside(pl_pass *p) {
    pl_pass all = pl_pass_all(p);
    if (p->both) copy_rows(&all, p->d->x_beside, p->d->acts[0].x0, p->d->arch->C);
}

static void attend_both(const pl_pass *p, int64_t layer) {
    pl_pass beside = pl_pass_beside(p);
    if (p->both) attend(&beside, layer);
    attend(p, layer);
}

static void pack_qkv(pl_pass *p, int64_t layer, bool back) {
    pl_pass_unpack(p);
    pl_pass_pack(p, layer, back, first_of(p, layer), PL_LIN_V);
}

/* From o on, and the beginning of the next layer. */
static void pack_between(pl_pass *p, int64_t layer) {
    pl_pass_unpack(p);
    pl_pass_pack(p, layer, false, PL_LIN_O, PL_LIN_DOWN);
    if (layer + 1 < p->d->arch->L) pl_pass_pack(p, layer + 1, false, first_of(p, layer + 1), PL_LIN_V);
}

/* What a narrowed pass begins with. */
static int queries(pl_pass *p, int64_t layer, pl_error *err) {
    if (!p->narrow) return 0;
    if (p->both) move_up(p->f, p->d->x_beside, p->d->arch->C);
    pl_pass_unpack(p);
    pl_pass_pack(p, layer, false, PL_LIN_Q, PL_LIN_Q);
    return pl_pass_rows(p, layer, query_forward, err);
}

/* From attention to the next one. */
static int layer_forward(const pl_pass *whole, int64_t layer, pl_rows_fn *fn, pl_error *err) {
    pl_pass p = behind_keys(whole, layer);
    if (p.f->T == 0) return 0; /* nobody reads anything */
    int rc = queries(&p, layer, err);
    if (rc) return rc;
    attend_both(&p, layer);
    pack_between(&p, layer);
    return pl_pass_rows(&p, layer, fn, err);
}

static int run_forward(pl_decoder *d, pl_pass *p, pl_error *err) {
    pl_forest read;
    int rc = begin(d, p, &read, err);
    if (rc) return rc;
    begin_beside(p);
    pack_qkv(p, 0, false);
    rc = layer_context(err, pl_pass_rows(p, 0, qkv_forward, err), 0, "");
    for (int64_t l = 0; rc == 0 && l < d->arch->L; l++)
        rc = layer_context(err, layer_forward(p, l, between_forward, err), l, "");
    return rc;
}

int pl_decoder_forward(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, bool keep,
                       pl_error *err) {
    if (keep && !d->training) return PL_FAIL(err, PL_E_STATE, "this decoder keeps nothing for a backward pass");
    pl_pass p = {.d = d, .w = w, .lora = lora, .f = f};
    return run_forward(d, &p, err);
}

int pl_decoder_forward_both(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_lora *beside,
                            const pl_forest *f, pl_error *err) {
    if (!d->training) return PL_FAIL(err, PL_E_STATE, "this decoder has no room for a second stream");
    pl_pass p = {.d = d, .w = w, .lora = lora, .both = true, .beside_lora = beside, .f = f};
    return run_forward(d, &p, err);
}

int pl_decoder_infer(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, pl_kv_cache *cache,
                     const int64_t *slots, pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .f = f, .cache = cache, .slots = slots};
    return run_forward(d, &p, err);
}

/* --- backward
 * ------------------------------------------------------------------------------------------------------------------
 */

/* Brings back what the layer did not keep: the same operations on the same input, so the same bits. */
static int out_and_gate_up(const pl_pass *p, int64_t layer, pl_error *err) {
    int rc = out_forward(p, layer, err);
    return rc ? rc : gate_up_forward(p, layer, err);
}

static int layer_recompute(pl_pass *whole, int64_t layer, pl_error *err) {
    pl_pass p = behind_keys(whole, layer);
    int rc;
    pack_qkv(whole, layer, false);
    PL_GO(rc, pl_pass_rows(whole, layer, qkv_forward, err));
    PL_GO(rc, queries(&p, layer, err));
    attend(&p, layer);
    pl_pass_unpack(&p);
    pl_pass_pack(&p, layer, false, PL_LIN_O, PL_LIN_UP);
    PL_GO(rc, pl_pass_rows(&p, layer, out_and_gate_up, err));
out:
    return rc;
}

/* Through the norms; a trained norm sums over all rows, so it stands by itself. */
static int norm1_rows(const pl_pass *p, int64_t layer, pl_error *err) {
    PL_UNUSED(err);
    const pl_layer_acts *s = &p->d->acts[layer];
    norm_backward(p, p->narrow ? s->x1 : s->x0, p->narrow ? s->rstd2 : s->rstd1, p->w->layers[layer].norm1,
                  p->g ? p->g->layers[layer].norm1 : NULL);
    return 0;
}

static int norm2_rows(const pl_pass *p, int64_t layer, pl_error *err) {
    PL_UNUSED(err);
    const pl_layer_acts *s = &p->d->acts[layer];
    norm_backward(p, s->x1, s->rstd2, p->w->layers[layer].norm2, p->g ? p->g->layers[layer].norm2 : NULL);
    return 0;
}

static int norm2_and_out(const pl_pass *p, int64_t layer, pl_error *err) {
    (void)norm2_rows(p, layer, err);
    return out_backward(p, layer, err);
}

static int all_rows(const pl_pass *p, int64_t layer, pl_rows_fn *fn, pl_error *err) {
    pl_pass all = pl_pass_all(p);
    return fn(&all, layer, err);
}

static int back_through_norm2(const pl_pass *p, int64_t layer, pl_error *err) {
    if (!p->g || !p->g->layers[layer].norm2) return pl_pass_rows(p, layer, norm2_and_out, err);
    int rc = all_rows(p, layer, norm2_rows, err);
    return rc ? rc : pl_pass_rows(p, layer, out_backward, err);
}

static int back_through_norm1(const pl_pass *p, int64_t layer, pl_error *err) {
    if (!pl_pass_needs_input_grad(p, layer)) return 0;
    bool trained = p->g && p->g->layers[layer].norm1;
    return trained ? all_rows(p, layer, norm1_rows, err) : pl_pass_rows(p, layer, norm1_rows, err);
}

static void zero(real *x, int64_t n) {
    if (x) memset(x, 0, (size_t)n * sizeof *x);
}

/* Lent gradients of the layer lie in activations of the one above, which nothing reads any more. Those of matrices are
 * then written, not added to (model/linear.c). */
static void begin_lent(const pl_pass *p, int64_t layer) {
    const pl_layer_weights *w = &p->w->layers[layer];
    int64_t C = p->d->arch->C;
    for (int i = 0; i < PL_LIN_COUNT; i++) {
        const pl_lora_module *m = p->lora && p->lora->lent ? pl_lora_at(p->lora, layer, i) : NULL;
        if (m) zero(m->da, m->r * w->w[i].cols), zero(m->db, m->r * w->w[i].rows);
        if (p->g && p->g->lent) zero(p->g->layers[layer].b[i], w->w[i].rows);
    }
    if (!p->g || !p->g->lent) return;
    zero(p->g->layers[layer].norm1, C);
    zero(p->g->layers[layer].norm2, C);
}

/* Of a layer that is not run backward. */
static void zero_lent(const pl_pass *p, int64_t layer) {
    begin_lent(p, layer);
    for (int i = 0; p->g && p->g->lent && i < PL_LIN_COUNT; i++) {
        const pl_mat *w = &p->w->layers[layer].w[i];
        zero(p->g->layers[layer].w[i], w->rows * w->cols);
    }
}

/* dx -> dx behind attention, d_o. */
static int behind_attention_backward(pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    int rc;
    pl_pass_unpack(p);
    pl_pass_pack(p, layer, true, PL_LIN_O, PL_LIN_DOWN);
    PL_GO(rc, pl_pass_rows(p, layer, mlp_backward, err));
    const pl_linear_ends mlp[] = {{PL_LIN_DOWN, d->dx, d->act}, {PL_LIN_GATE, s->g, d->n}, {PL_LIN_UP, s->u, d->n}};
    PL_GO(rc, pl_linear_gradients(p, layer, mlp, PL_LEN(mlp), err));
    PL_GO(rc, back_through_norm2(p, layer, err));
out:
    return rc;
}

/* What a narrowed pass ends with: dq -> dx of its rows, then of all T tokens. */
static int queries_backward(pl_pass *p, int64_t layer, int64_t T, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    bool further = pl_pass_needs_input_grad(p, layer);
    int rc;
    pl_pass_unpack(p);
    if (further) pl_pass_pack(p, layer, true, PL_LIN_Q, PL_LIN_Q);
    PL_GO(rc, pl_pass_rows(p, layer, query_backward, err));
    const pl_linear_ends ends[] = {{PL_LIN_O, d->dx, s->o}, {PL_LIN_Q, d->dq, d->n}};
    PL_GO(rc, pl_linear_gradients(p, layer, ends, PL_LEN(ends), err));
    PL_GO(rc, back_through_norm1(p, layer, err));
    if (further) move_down(p->f, d->dx, T, d->arch->C);
out:
    return rc;
}

static int layer_backward(pl_pass *p, int64_t layer, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_layer_acts *s = &d->acts[layer];
    pl_pass behind = behind_keys(p, layer);
    int rc = 0, done = behind.narrow ? 2 : 0;
    begin_lent(p, layer);
    if (d->recompute) PL_GO(rc, layer_recompute(p, layer, err));
    PL_GO(rc, behind_attention_backward(&behind, layer, err));
    attend_backward(&behind, layer, p->f->T);
    if (behind.narrow) PL_GO(rc, queries_backward(&behind, layer, p->f->T, err));
    if (pl_pass_needs_input_grad(p, layer)) pack_qkv(p, layer, true);
    PL_GO(rc, pl_pass_rows(p, layer, qkv_backward, err));
    const pl_linear_ends attention[] = {
        {PL_LIN_O, d->dx, s->o}, {PL_LIN_Q, d->dq, d->n}, {PL_LIN_K, d->dk, d->n}, {PL_LIN_V, d->dv, d->n}};
    PL_GO(rc, pl_linear_gradients(p, layer, attention + done, (int)PL_LEN(attention) - done, err));
    PL_GO(rc, back_through_norm1(p, layer, err));
out:
    return layer_context(err, rc, layer, ", backward");
}

int pl_decoder_backward(pl_decoder *d, const pl_weights *w, pl_lora *lora, const pl_grads *grads, const pl_forest *f,
                        pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .g = grads, .f = f};
    pl_forest read;
    int rc = 0;
    begin_narrow(&p, &read);
    p.first_trainable = pl_pass_first_trainable(&p);
    for (int64_t l = d->arch->L - 1; rc == 0 && l >= PL_MAX(p.first_trainable, 0); l--) {
        if (pl_forest_rows(f) > 0)
            rc = layer_backward(&p, l, err);
        else
            zero_lent(&p, l); /* nothing was read: no gradient anywhere */
    }
    if (pl_forest_rows(f) == 0) return rc;
    if (rc == 0 && grads && grads->embed) d->backend.ops->embed_bwd(grads->embed, d->dx, f->ids, f->T, d->arch->C);
    return rc;
}

int pl_decoder_find_nonfinite(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f,
                              int64_t *layer, pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .f = f};
    pl_forest read;
    int rc = begin(d, &p, &read, err);
    int64_t n = f->T * d->arch->C, last = pl_forest_rows(f) * d->arch->C;
    *layer = -1;
    if (rc || !isfinite(d->backend.ops->sum_squares(d->acts[0].x0, n))) return rc;
    for (*layer = 0; rc == 0 && *layer < d->arch->L; ++*layer) {
        pack_qkv(&p, *layer, false);
        rc = pl_pass_rows(&p, *layer, qkv_forward, err);
        if (rc == 0) rc = layer_forward(&p, *layer, rest_forward, err);
        const real *y = layer_output(&p, *layer);
        if (rc || !isfinite(d->backend.ops->sum_squares(y, *layer + 1 < d->arch->L ? n : last))) return rc;
    }
    return rc;
}
