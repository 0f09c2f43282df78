/* linear.c: matrix products of a linear layer and of its LoRA adapter (arXiv:2106.09685), bracketed through the rank.
 */
#include "model/linear.h"

#include "base/rng.h"
#include "kernels/loop.h"

enum { SHARED_ROWS = 64 }; /* rows of an adapter's product that a thread takes */

typedef struct shape {
    const pl_mat *w;
    const real *bias;
    int64_t in, out;
    const void *packed;         /* NULL: none */
    const pl_lora_module *lora; /* NULL: none */
} shape;

static shape shape_of(const pl_pass *p, int64_t layer, pl_lin which) {
    const pl_layer_weights *lw = &p->w->layers[layer];
    shape s = {.w = &lw->w[which], .bias = lw->b[which], .in = lw->w[which].cols, .out = lw->w[which].rows};
    if (p->lane) s.packed = p->packed[which];
    if (p->lora && pl_lora_at(p->lora, layer, which)->a) s.lora = pl_lora_at(p->lora, layer, which);
    return s;
}

static pl_gemm_call weight_y(const pl_pass *p, const shape *s, real *y, const real *x, bool accumulate) {
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = accumulate,
                          .m = p->T,
                          .n = s->out,
                          .k = s->in,
                          .a = x,
                          .lda = s->in,
                          .b = s->packed ? s->packed : s->w->data,
                          .b_tiles = s->w->tiles,
                          .b_packed = s->packed != NULL,
                          .b_type = s->w->type,
                          .ldb = s->in,
                          .c = y,
                          .ldc = s->out,
                          .lane = p->lane};
}

static pl_gemm_call weight_dx(const pl_pass *p, const shape *s, real *dx, const real *dy, bool accumulate) {
    return (pl_gemm_call){.kind = PL_GEMM_DX,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = accumulate,
                          .m = p->T,
                          .n = s->in,
                          .k = s->out,
                          .a = dy,
                          .lda = s->out,
                          .b = s->packed ? s->packed : s->w->data,
                          .b_packed = s->packed != NULL,
                          .b_type = s->w->type,
                          .ldb = s->in,
                          .c = dx,
                          .ldc = s->in,
                          .lane = p->lane};
}

static uint64_t module_key(const pl_pass *p, int64_t layer, pl_lin which) {
    return pl_rng_mix(p->lora->dropout_key, (uint64_t)(layer * PL_LIN_COUNT + (int64_t)which));
}

/* --- the adapter: A [r,in], B [out,r], always fp32 ------------------------------------------------------------------
 */

/* low [T,r] = scale x A^T, or dlow = scale dy B. */
static pl_product into_rank(const pl_pass *p, const shape *s, real *low, const real *x, bool back) {
    int64_t r = s->lora->r, width = back ? s->out : s->in;
    return (pl_product){.c = low,
                        .ldc = r,
                        .a = x,
                        .a_row = width,
                        .a_col = 1,
                        .b = back ? s->lora->b : s->lora->a,
                        .b_row = back ? r : 1,
                        .b_col = back ? 1 : width,
                        .m = p->T,
                        .n = r,
                        .k = width,
                        .alpha = s->lora->scale};
}

/* y [T,out] += low B^T, or dx (+)= dlow A. */
static pl_product out_of_rank(const pl_pass *p, const shape *s, real *y, const real *low, bool back, bool accumulate) {
    int64_t r = s->lora->r, width = back ? s->in : s->out;
    return (pl_product){.c = y,
                        .ldc = width,
                        .a = low,
                        .a_row = r,
                        .a_col = 1,
                        .b = back ? s->lora->a : s->lora->b,
                        .b_row = back ? width : 1,
                        .b_col = back ? 1 : r,
                        .m = p->T,
                        .n = width,
                        .k = r,
                        .alpha = 1,
                        .accumulate = accumulate};
}

/* Rows of a product are shared out where threads are not yet apart. */
static void multiply(const pl_pass *p, const pl_product *x) {
    const pl_ops *ops = p->d->backend.ops;
    if (p->lane || x->m <= SHARED_ROWS) {
        ops->product(x);
        return;
    }
    PL_LOOP(true, i, x->m, SHARED_ROWS, {
        pl_product part = *x;
        part.a += i * x->a_row;
        part.c += i * x->ldc;
        part.m = PL_MIN(SHARED_ROWS, x->m - i);
        ops->product(&part);
    });
}

/* Row p->t0 of the buffers that hold the input through A, and the gradient through B, of one linear layer. */
static real *low_of(const pl_pass *p, int64_t layer, pl_lin which, int64_t r) {
    real *kept = pl_pass_acts(p, layer).low;
    return kept ? kept + which * p->d->low_stride + p->t0 * r : p->d->low + p->t0 * p->d->max_rank;
}
static real *dlow_of(const pl_pass *p, pl_lin which, int64_t r) {
    return p->d->dlow + which * p->d->low_stride + p->t0 * r;
}

/* The adapter's input: x, or x with dropout in d->dropped. */
static const real *adapter_input(const pl_pass *p, int64_t layer, pl_lin which, const real *x, int64_t in) {
    const pl_decoder *d = p->d;
    if (p->lora->dropout == 0) return x;
    real *y = d->dropped + p->t0 * d->dropped_width;
    d->backend.ops->dropout(y, false, x, p->f->dropout_id + p->t0, module_key(p, layer, which), p->lora->dropout, p->T,
                            in);
    return y;
}

/* --- rows ---------------------------------------------------------------------------------------------------------
 */

/* Bias and adapter's part on top of x W^T; the pass's rows. */
static void add_rest(const pl_pass *p, int64_t layer, pl_lin which, const shape *s, real *y, const real *x) {
    if (s->bias) p->d->backend.ops->add_bias(y, s->bias, p->T, s->out);
    if (!s->lora) return;
    real *low = low_of(p, layer, which, s->lora->r);
    pl_product in = into_rank(p, s, low, adapter_input(p, layer, which, x, s->in), false);
    pl_product out = out_of_rank(p, s, y, low, false, true);
    multiply(p, &in);
    multiply(p, &out);
}

int pl_linear_forward(const pl_pass *p, int64_t layer, pl_lin which, real *y, const real *x, bool accumulate,
                      bool same_x, pl_error *err) {
    shape s = shape_of(p, layer, which);
    x += p->t0 * s.in;
    y += p->t0 * s.out;
    pl_gemm_call call = weight_y(p, &s, y, x, accumulate);
    call.same_a = same_x;
    int rc = pl_gemm_run(p->d->backend.gemm, &call, err);
    if (rc) return pl_error_context(err, rc, "%s", pl_lin_path(which));
    add_rest(p, layer, which, &s, y, x);
    return 0;
}

int pl_linear_forward_all(const pl_pass *p, int64_t layer, pl_lin first, int n, real *const y[], const real *x,
                          pl_error *err) {
    shape s[PL_LIN_COUNT];
    pl_gemm_call calls[PL_LIN_COUNT] = {0};
    for (int i = 0; i < n; i++) {
        s[i] = shape_of(p, layer, first + (pl_lin)i);
        calls[i] = weight_y(p, &s[i], y[i] + p->t0 * s[i].out, x + p->t0 * s[i].in, false);
        calls[i].same_a = i > 0;
    }
    int rc = pl_gemm_run_all(p->d->backend.gemm, calls, n, err);
    if (rc) return pl_error_context(err, rc, "products from %s on", pl_lin_path(first));
    for (int i = 0; i < n; i++)
        add_rest(p, layer, first + (pl_lin)i, &s[i], y[i] + p->t0 * s[i].out, x + p->t0 * s[i].in);
    return 0;
}

/* --- sums over rows: dA [r,in] += dlow^T drop(x), dB [out,r] += dy^T low (which holds the scale)
 * ----------------------
 */

/* Columns [c, c + n) of dA over T rows. */
static void sum_da(const pl_pass *p, const shape *s, real *da, bool accumulate, const real *dlow, const real *x,
                   int64_t c, int64_t n) {
    pl_product g = {.c = da + c,
                    .ldc = s->in,
                    .a = dlow,
                    .a_row = 1,
                    .a_col = s->lora->r,
                    .b = x + c,
                    .b_row = s->in,
                    .b_col = 1,
                    .m = s->lora->r,
                    .n = n,
                    .k = p->T,
                    .alpha = 1,
                    .accumulate = accumulate};
    p->d->backend.ops->product(&g);
}

/* dB^T [r,out] over T rows: of the same shape as dA, along the rows of dy. */
static void sum_db_turned(const pl_pass *p, const shape *s, real *db, bool accumulate, const real *dy,
                          const real *low) {
    pl_product g = {.c = db,
                    .ldc = s->out,
                    .a = low,
                    .a_row = 1,
                    .a_col = s->lora->r,
                    .b = dy,
                    .b_row = s->out,
                    .b_col = 1,
                    .m = s->lora->r,
                    .n = s->out,
                    .k = p->T,
                    .alpha = 1,
                    .accumulate = accumulate};
    p->d->backend.ops->product(&g);
}

/* Rows [c, c + n) of dB over T rows. */
static void sum_db(const pl_pass *p, const shape *s, real *db, bool accumulate, const real *dy, const real *low,
                   int64_t c, int64_t n) {
    pl_product g = {.c = db + c * s->lora->r,
                    .ldc = s->lora->r,
                    .a = dy + c,
                    .a_row = 1,
                    .a_col = s->out,
                    .b = low,
                    .b_row = s->lora->r,
                    .b_col = 1,
                    .m = n,
                    .n = s->lora->r,
                    .k = p->T,
                    .alpha = 1,
                    .accumulate = accumulate};
    p->d->backend.ops->product(&g);
}

/* Elements of dA and dB of the linear layers of a block before `which`. */
static int64_t partial_offset(const pl_pass *p, int64_t layer, pl_lin which) {
    int64_t n = 0;
    for (int i = 0; i < (int)which; i++) n += p->w->layers[layer].w[i].rows + p->w->layers[layer].w[i].cols;
    return n * p->d->max_rank;
}

int64_t pl_linear_sides(const pl_arch *a) {
    int64_t q = a->H * a->D, kv = a->KV * a->D;
    return 2 * (a->C + q) + 2 * (a->C + kv) + 3 * (a->C + a->F);
}

/* A lane's first rows begin its sums. */
static void partial_sums(const pl_pass *p, int64_t layer, pl_lin which, const shape *s, const real *dy, const real *x,
                         const real *low, const real *dlow) {
    real *da = p->d->partial + (p->lane - 1) * p->d->partial_stride + partial_offset(p, layer, which);
    sum_da(p, s, da, !p->first_block, dlow, x, 0, s->in);
    sum_db_turned(p, s, da + s->lora->r * s->in, !p->first_block, dy, low);
}

/* Did the forward pass (or its repetition) leave low? */
static bool has_low(const pl_decoder *d, pl_lin which) { return !d->recompute || which != PL_LIN_DOWN; }

/* dlow = s dy B; dx += dlow A, through the dropout mask. */
static void adapter_backward(const pl_pass *p, int64_t layer, pl_lin which, const shape *s, real *dx, const real *dy,
                             const real *x) {
    const pl_decoder *d = p->d;
    real *low = low_of(p, layer, which, s->lora->r), *dlow = dlow_of(p, which, s->lora->r);
    pl_product back = into_rank(p, s, dlow, dy, true);
    multiply(p, &back);
    if (s->lora->da && (p->lane || !has_low(d, which))) {
        const real *input = adapter_input(p, layer, which, x, s->in);
        pl_product in = into_rank(p, s, low, input, false);
        if (!has_low(d, which)) multiply(p, &in);
        if (p->lane) partial_sums(p, layer, which, s, dy, input, low, dlow);
    }
    if (!dx) return;
    bool dropout = p->lora->dropout > 0;
    real *dropped = dropout ? d->dropped + p->t0 * d->dropped_width : dx;
    pl_product out = out_of_rank(p, s, dropped, dlow, true, !dropout);
    multiply(p, &out);
    if (dropout)
        d->backend.ops->dropout(dx, true, dropped, p->f->dropout_id + p->t0, module_key(p, layer, which),
                                p->lora->dropout, p->T, s->in);
}

int pl_linear_backward(const pl_pass *p, int64_t layer, pl_lin which, real *dx, bool accumulate, const real *dy,
                       const real *x, pl_error *err) {
    shape s = shape_of(p, layer, which);
    dy += p->t0 * s.out;
    x += p->t0 * s.in;
    if (dx) {
        dx += p->t0 * s.in;
        pl_gemm_call call = weight_dx(p, &s, dx, dy, accumulate);
        int rc = pl_gemm_run(p->d->backend.gemm, &call, err);
        if (rc) return pl_error_context(err, rc, "%s", pl_lin_path(which));
    }
    if (s.lora) adapter_backward(p, layer, which, &s, dx, dy, x);
    return 0;
}

/* --- gradients of all rows -----------------------------------------------------------------------------------------
 */

enum { SLICE = 192 }; /* columns of dA or rows of dB that one task sums */

static void adapter_slice(const pl_pass *p, int64_t layer, const pl_linear_ends *e, int64_t slice) {
    shape s = shape_of(p, layer, e->which);
    int64_t r = s.lora->r, of_a = (s.in + SLICE - 1) / SLICE, c = (slice < of_a ? slice : slice - of_a) * SLICE;
    if (slice < of_a)
        sum_da(p, &s, s.lora->da, true, dlow_of(p, e->which, r), p->lora->dropout > 0 ? p->d->dropped : e->x, c,
               PL_MIN(SLICE, s.in - c));
    else
        sum_db(p, &s, s.lora->db, true, e->dy, low_of(p, layer, e->which, r), c, PL_MIN(SLICE, s.out - c));
}

static int64_t adapter_slices(const pl_pass *p, int64_t layer, pl_lin which) {
    shape s = shape_of(p, layer, which);
    return s.lora && s.lora->da ? (s.in + SLICE - 1) / SLICE + (s.out + SLICE - 1) / SLICE : 0;
}

/* All slices of ends[0..n) as one list. */
static void adapter_gradients(const pl_pass *p, int64_t layer, const pl_linear_ends *ends, int n) {
    int64_t first[PL_LIN_COUNT + 1] = {0};
    for (int i = 0; i < n; i++) first[i + 1] = first[i] + adapter_slices(p, layer, ends[i].which);
    PL_LOOP(true, task, first[n], 1, {
        int i = 0;
        while (task >= first[i + 1]) i++;
        adapter_slice(p, layer, &ends[i], task - first[i]);
    });
}

/* y [n,r] += x^T, x [r,n]: a cache line of each row of x at a time. */
static void add_turned(real *y, const real *x, int64_t n, int64_t r) {
    enum { LINE = 16 };
    PL_LOOP(true, first, n, SLICE, {
        int64_t end = PL_MIN(n, first + SLICE);
        for (int64_t from = first; from < end; from += LINE)
            for (int64_t j = 0; j < r; j++)
                for (int64_t i = from; i < PL_MIN(end, from + LINE); i++) y[i * r + j] += x[j * n + i];
    });
}

/* dA and dB += the sums of the lanes that had rows, in their order. */
static void add_partials(const pl_pass *p, int64_t layer, pl_lin which, int lanes) {
    shape s = shape_of(p, layer, which);
    if (!s.lora || !s.lora->da) return;
    const pl_ops *ops = p->d->backend.ops;
    for (int i = 0; i < lanes; i++) {
        if (!pl_pass_lane_has_rows(p, i, lanes)) continue;
        const real *da = p->d->partial + i * p->d->partial_stride + partial_offset(p, layer, which);
        ops->add(s.lora->da, da, s.lora->r * s.in);
        add_turned(s.lora->db, da + s.lora->r * s.in, s.out, s.lora->r);
    }
}

static pl_gemm_call weight_dw(const pl_pass *p, const shape *s, real *dw, const real *dy, const real *x, int64_t T) {
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .bf16 = p->d->backend.bf16,
                          .accumulate = !p->g->lent,
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

/* Of ends[i], after those before it. */
static int weight_gradients(const pl_pass *p, int64_t layer, const pl_linear_ends *ends, int i, pl_error *err) {
    const pl_linear_ends *e = &ends[i], *before = i > 0 ? &ends[i - 1] : NULL;
    shape s = shape_of(p, layer, e->which);
    const pl_layer_grads *g = &p->g->layers[layer];
    real *dw = g->w[e->which], *db = g->b[e->which];
    pl_gemm_call call = weight_dw(p, &s, dw, e->dy, e->x, p->f->T);
    call.same_b = before && before->x == e->x && g->w[before->which];
    int rc = dw ? pl_gemm_run(p->d->backend.gemm, &call, err) : 0;
    if (db) p->d->backend.ops->sum_rows(db, e->dy, p->f->T, s.out);
    return rc ? pl_error_context(err, rc, "%s", pl_lin_path(e->which)) : 0;
}

int pl_linear_gradients(const pl_pass *whole, int64_t layer, const pl_linear_ends *ends, int n, pl_error *err) {
    pl_pass p = pl_pass_all(whole);
    int rc = 0;
    for (int i = 0; rc == 0 && p.g && i < n; i++) rc = weight_gradients(&p, layer, ends, i, err);
    if (rc || !p.lora) return rc;
    int lanes = pl_pass_lanes(p.d, p.T);
    if (lanes > 0) {
        for (int i = 0; i < n; i++) add_partials(&p, layer, ends[i].which, lanes);
        return 0;
    }
    if (p.lora->dropout == 0) {
        adapter_gradients(&p, layer, ends, n);
        return 0;
    }
    for (int i = 0; i < n; i++) { /* one buffer for the dropped inputs, so one layer at a time */
        shape s = shape_of(&p, layer, ends[i].which);
        if (!s.lora || !s.lora->da) continue;
        (void)adapter_input(&p, layer, ends[i].which, ends[i].x, s.in);
        adapter_gradients(&p, layer, &ends[i], 1);
    }
    return 0;
}

/* --- set-up ---------------------------------------------------------------------------------------------------------
 */

static bool accumulates_y(pl_lin which) { return which == PL_LIN_O || which == PL_LIN_DOWN; }
static bool accumulates_dx(pl_lin which) { return which == PL_LIN_K || which == PL_LIN_V || which == PL_LIN_UP; }

static int prepare_rows(pl_pass *p, const shape *s, pl_lin which, bool backward, int64_t rows, int lane,
                        pl_error *err) {
    p->T = rows;
    p->lane = lane;
    pl_gemm_call y = weight_y(p, s, NULL, NULL, accumulates_y(which));
    pl_gemm_call dx = weight_dx(p, s, NULL, NULL, accumulates_dx(which));
    y.b_packed = lane && pl_pass_packs(p->d, which, false);
    dx.b_packed = lane && pl_pass_packs(p->d, which, true);
    int rc = pl_gemm_prepare(p->d->backend.gemm, &y, err);
    return rc || !backward ? rc : pl_gemm_prepare(p->d->backend.gemm, &dx, err);
}

int pl_linear_prepare(const pl_pass *whole, int64_t layer, pl_lin which, bool backward, pl_error *err) {
    pl_pass p = *whole;
    const pl_decoder *d = p.d;
    shape s = shape_of(&p, layer, which);
    int64_t shared = pl_pass_shared_rows(d);
    int lanes = pl_pass_lanes(d, d->max_T), rc = 0;
    if (shared > 0) PL_GO(rc, prepare_rows(&p, &s, which, backward, shared, 0, err));
    if (lanes > 0) PL_GO(rc, prepare_rows(&p, &s, which, backward, PL_MIN(d->max_T, PL_GEMM_LANE_ROWS), lanes, err));
    if (backward && p.g && p.g->layers[layer].w[which]) {
        pl_gemm_call dw = weight_dw(&p, &s, NULL, NULL, NULL, d->max_T);
        PL_GO(rc, pl_gemm_prepare(d->backend.gemm, &dw, err));
    }
out:
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
