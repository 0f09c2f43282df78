/* linear.c: matrix products of a linear layer and of its LoRA adapter (arXiv:2106.09685), bracketed through the rank.
 */
#include "model/linear.h"

#include "base/rng.h"

typedef struct shape {
    const pl_mat *w;
    const real *bias;
    int64_t in, out;
    const pl_lora_module *lora; /* NULL: none */
} shape;

static shape shape_of(const pl_pass *p, int64_t layer, pl_lin which) {
    const pl_layer_weights *lw = &p->w->layers[layer];
    shape s = {.w = &lw->w[which], .bias = lw->b[which], .in = lw->w[which].cols, .out = lw->w[which].rows};
    if (p->lora && pl_lora_at(p->lora, layer, which)->a) s.lora = pl_lora_at(p->lora, layer, which);
    return s;
}

static pl_gemm_call weight_y(const pl_pass *p, const shape *s, int64_t T, real *y, const real *x, bool accumulate) {
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = accumulate,
                          .m = T,
                          .n = s->out,
                          .k = s->in,
                          .a = x,
                          .lda = s->in,
                          .b = s->w->data,
                          .b_type = s->w->type,
                          .ldb = s->in,
                          .c = y,
                          .ldc = s->out};
}

static pl_gemm_call weight_dx(const pl_pass *p, const shape *s, int64_t T, real *dx, const real *dy, bool accumulate) {
    return (pl_gemm_call){.kind = PL_GEMM_DX,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = accumulate,
                          .m = T,
                          .n = s->in,
                          .k = s->out,
                          .a = dy,
                          .lda = s->out,
                          .b = s->w->data,
                          .b_type = s->w->type,
                          .ldb = s->in,
                          .c = dx,
                          .ldc = s->in};
}

static pl_gemm_call weight_dw(const pl_pass *p, const shape *s, int64_t T, real *dw, const real *dy, const real *x) {
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = true,
                          .m = s->out,
                          .n = s->in,
                          .k = T,
                          .a = dy,
                          .lda = s->out,
                          .b = x,
                          .b_type = PL_REAL,
                          .ldb = s->in,
                          .c = dw,
                          .ldc = s->in};
}

/* The adapter's products, always fp32: A [r,in], B [out,r]. */
static pl_gemm_call low_of(const shape *s, int64_t T, real *low, const real *x) {
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .m = T,
                          .n = s->lora->r,
                          .k = s->in,
                          .a = x,
                          .lda = s->in,
                          .b = s->lora->a,
                          .b_type = PL_REAL,
                          .ldb = s->in,
                          .c = low,
                          .ldc = s->lora->r};
}

static pl_gemm_call lora_y(const shape *s, int64_t T, real *y, const real *low) {
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .accumulate = true,
                          .m = T,
                          .n = s->out,
                          .k = s->lora->r,
                          .a = low,
                          .lda = s->lora->r,
                          .b = s->lora->b,
                          .b_type = PL_REAL,
                          .ldb = s->lora->r,
                          .c = y,
                          .ldc = s->out};
}

static pl_gemm_call dlow_of(const shape *s, int64_t T, real *dlow, const real *dy) {
    return (pl_gemm_call){.kind = PL_GEMM_DX,
                          .m = T,
                          .n = s->lora->r,
                          .k = s->out,
                          .a = dy,
                          .lda = s->out,
                          .b = s->lora->b,
                          .b_type = PL_REAL,
                          .ldb = s->lora->r,
                          .c = dlow,
                          .ldc = s->lora->r};
}

static pl_gemm_call lora_db(const shape *s, int64_t T, const real *dy, const real *low) {
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .accumulate = true,
                          .m = s->out,
                          .n = s->lora->r,
                          .k = T,
                          .a = dy,
                          .lda = s->out,
                          .b = low,
                          .b_type = PL_REAL,
                          .ldb = s->lora->r,
                          .c = s->lora->db,
                          .ldc = s->lora->r};
}

static pl_gemm_call lora_da(const shape *s, int64_t T, const real *dlow, const real *x) {
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .accumulate = true,
                          .m = s->lora->r,
                          .n = s->in,
                          .k = T,
                          .a = dlow,
                          .lda = s->lora->r,
                          .b = x,
                          .b_type = PL_REAL,
                          .ldb = s->in,
                          .c = s->lora->da,
                          .ldc = s->in};
}

static pl_gemm_call lora_dx(const shape *s, int64_t T, real *dx, const real *dlow, bool accumulate) {
    return (pl_gemm_call){.kind = PL_GEMM_DX,
                          .accumulate = accumulate,
                          .m = T,
                          .n = s->in,
                          .k = s->lora->r,
                          .a = dlow,
                          .lda = s->lora->r,
                          .b = s->lora->a,
                          .b_type = PL_REAL,
                          .ldb = s->in,
                          .c = dx,
                          .ldc = s->in};
}

static uint64_t module_key(const pl_pass *p, int64_t layer, pl_lin which) {
    return pl_rng_mix(p->lora->dropout_key, (uint64_t)(layer * PL_LIN_COUNT + (int64_t)which));
}

/* The adapter's input: x, or x with dropout in d->dropped. */
static const real *adapter_input(const pl_pass *p, int64_t layer, pl_lin which, const real *x, int64_t in) {
    const pl_decoder *d = p->d;
    if (p->lora->dropout == 0) return x;
    d->backend.ops->dropout(d->dropped, false, x, p->f->dropout_id, module_key(p, layer, which), p->lora->dropout,
                            p->f->T, in);
    return d->dropped;
}

static int run(const pl_pass *p, pl_gemm_call call, pl_error *err) {
    return pl_gemm_run(p->d->backend.gemm, &call, err);
}

int pl_linear_forward(const pl_pass *p, int64_t layer, pl_lin which, real *y, const real *x, bool accumulate,
                      pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_ops *ops = d->backend.ops;
    int64_t T = p->f->T;
    shape s = shape_of(p, layer, which);
    int rc;
    PL_GO(rc, run(p, weight_y(p, &s, T, y, x, accumulate), err));
    if (s.bias) ops->add_bias(y, s.bias, T, s.out);
    if (!s.lora) goto out;
    PL_GO(rc, run(p, low_of(&s, T, d->low, adapter_input(p, layer, which, x, s.in)), err));
    ops->scale(d->low, s.lora->scale, T * s.lora->r);
    PL_GO(rc, run(p, lora_y(&s, T, y, d->low), err));
out:
    return rc ? pl_error_context(err, rc, "%s", pl_lin_path(which)) : 0;
}

/* dB += s dy^T (x A^T); dlow = s dy B; dA += dlow^T x; dx += dlow A, through the dropout mask. */
static int adapter_backward(const pl_pass *p, int64_t layer, pl_lin which, const shape *s, real *dx, const real *dy,
                            const real *x, pl_error *err) {
    const pl_decoder *d = p->d;
    const pl_ops *ops = d->backend.ops;
    int64_t T = p->f->T;
    int rc;
    PL_GO(rc, run(p, dlow_of(s, T, d->dlow, dy), err));
    ops->scale(d->dlow, s->lora->scale, T * s->lora->r);
    if (s->lora->da) {
        const real *in = adapter_input(p, layer, which, x, s->in);
        PL_GO(rc, run(p, low_of(s, T, d->low, in), err));
        ops->scale(d->low, s->lora->scale, T * s->lora->r);
        PL_GO(rc, run(p, lora_db(s, T, dy, d->low), err));
        PL_GO(rc, run(p, lora_da(s, T, d->dlow, in), err));
    }
    if (!dx) goto out;
    if (p->lora->dropout == 0) {
        PL_GO(rc, run(p, lora_dx(s, T, dx, d->dlow, true), err));
        goto out;
    }
    PL_GO(rc, run(p, lora_dx(s, T, d->dropped, d->dlow, false), err));
    ops->dropout(dx, true, d->dropped, p->f->dropout_id, module_key(p, layer, which), p->lora->dropout, T, s->in);
out:
    return rc;
}

int pl_linear_backward(const pl_pass *p, int64_t layer, pl_lin which, real *dx, bool accumulate, const real *dy,
                       const real *x, pl_error *err) {
    int64_t T = p->f->T;
    shape s = shape_of(p, layer, which);
    real *dw = p->g ? p->g->layers[layer].w[which] : NULL, *db = p->g ? p->g->layers[layer].b[which] : NULL;
    int rc = 0;
    if (dx) PL_GO(rc, run(p, weight_dx(p, &s, T, dx, dy, accumulate), err));
    if (dw) PL_GO(rc, run(p, weight_dw(p, &s, T, dw, dy, x), err));
    if (db) p->d->backend.ops->sum_rows(db, dy, T, s.out);
    if (s.lora) PL_GO(rc, adapter_backward(p, layer, which, &s, dx, dy, x, err));
out:
    return rc ? pl_error_context(err, rc, "%s", pl_lin_path(which)) : 0;
}

static bool accumulates_y(pl_lin which) { return which == PL_LIN_O || which == PL_LIN_DOWN; }
static bool accumulates_dx(pl_lin which) { return which == PL_LIN_K || which == PL_LIN_V || which == PL_LIN_UP; }

int pl_linear_prepare(const pl_pass *p, int64_t layer, pl_lin which, bool backward, pl_error *err) {
    pl_gemm *gemm = p->d->backend.gemm;
    int64_t T = p->d->max_T;
    shape s = shape_of(p, layer, which);
    pl_gemm_call calls[8];
    int n = 0, rc = 0;
    calls[n++] = weight_y(p, &s, T, NULL, NULL, accumulates_y(which));
    if (backward) calls[n++] = weight_dx(p, &s, T, NULL, NULL, accumulates_dx(which));
    if (backward && p->g && p->g->layers[layer].w[which]) calls[n++] = weight_dw(p, &s, T, NULL, NULL, NULL);
    if (s.lora) {
        calls[n++] = low_of(&s, T, NULL, NULL);
        calls[n++] = lora_y(&s, T, NULL, NULL);
    }
    for (int i = 0; rc == 0 && i < n; i++) rc = pl_gemm_prepare(gemm, &calls[i], err);
    if (rc || !s.lora || !backward) return rc;
    pl_gemm_call back[] = {dlow_of(&s, T, NULL, NULL), lora_db(&s, T, NULL, NULL), lora_da(&s, T, NULL, NULL),
                           lora_dx(&s, T, NULL, NULL, p->lora->dropout == 0)};
    for (int i = 0; rc == 0 && i < PL_LEN(back); i++) rc = pl_gemm_prepare(gemm, &back[i], err);
    return rc;
}

int64_t pl_pass_first_trainable(const pl_pass *p) {
    if (p->g && p->g->embed) return -1;
    for (int64_t l = 0; l < p->w->arch->L; l++) {
        if (p->g && p->g->layers[l].w[0]) return l;
        for (int i = 0; p->lora && i < PL_LIN_COUNT; i++)
            if (pl_lora_at(p->lora, l, i)->a && pl_lora_at(p->lora, l, i)->da) return l;
    }
    return p->w->arch->L;
}
