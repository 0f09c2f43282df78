/* decoder_plan.c: deals the decoder's buffers out of an arena, and prepares its matrix products. */
#include "model/linear.h"

#define ACTS "activations"
#define GRADS "activation gradients"

/* The parts of a layer that are kept for the backward pass, or shared by all layers. R: rows behind keys and values. */
static int take_layer(pl_layer_acts *s, const pl_arch *a, int64_t T, int64_t R, int64_t rank, pl_arena *arena,
                      pl_error *err) {
    int64_t q = a->H * a->D, kv = a->KV * a->D;
    int rc;
    PL_GO(rc, PL_TAKE(arena, &s->q, R * q, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->k, T * kv, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->v, T * kv, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->o, R * q, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->lse, R * a->H, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->x1, R * a->C, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->g, R * a->F, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->u, R * a->F, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->rstd1, T, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &s->rstd2, R, ACTS, err));
    if (rank > 0) PL_GO(rc, PL_TAKE(arena, &s->low, PL_LIN_COUNT * T * rank, ACTS, err));
out:
    return rc;
}

/* Two inputs in turn are enough when no layer's input is needed again. */
static int take_acts(pl_decoder *d, const pl_decoder_spec *spec, int64_t T, pl_arena *arena, pl_error *err) {
    const pl_arch *a = d->arch;
    bool own = spec->training && !spec->recompute;
    pl_layer_acts shared = {0};
    real *turn[2] = {NULL, NULL};
    int rc;
    pl_layer_acts *acts = NULL;
    PL_GO(rc, PL_TAKE(arena, &acts, a->L, "activation table", err));
    int64_t rank = spec->training ? spec->max_rank : 0;
    /* The last layer's room is lent to the gradients of the one below, which without an adapter are large. */
    int64_t last = rank > 0 ? pl_rows_padded(d->max_read) : T;
    if (!own) PL_GO(rc, take_layer(&shared, a, T, T, rank, arena, err));
    for (int64_t l = 0; l < a->L; l++) {
        pl_layer_acts s = shared;
        pl_mark before = pl_arena_mark(arena);
        if (own) PL_GO(rc, take_layer(&s, a, T, l + 1 < a->L ? T : last, rank, arena, err));
        d->lend_bytes = pl_arena_mark(arena) - before;
        if (spec->training || l < 2) PL_GO(rc, PL_TAKE(arena, &s.x0, T * a->C, ACTS, err));
        if (l < 2) turn[l] = s.x0;
        if (!spec->training) s.x0 = turn[l % 2];
        if (acts) acts[l] = s;
    }
    d->acts = acts;
    PL_GO(rc, PL_TAKE(arena, &d->x_last, T * a->C, ACTS, err));
out:
    return rc;
}

static int take_backward(pl_decoder *d, int64_t T, int64_t max_rank, pl_arena *arena, pl_error *err) {
    const pl_arch *a = d->arch;
    int64_t q = a->H * a->D, kv = a->KV * a->D;
    real *inside = NULL;
    int rc;
    PL_GO(rc, PL_TAKE(arena, &d->delta, T * a->H, GRADS, err));
    /* The gradients inside the MLP are gone before those inside attention are made. */
    PL_GO(rc, PL_TAKE(arena, &inside, T * PL_MAX(a->F, 2 * (q + kv)), GRADS, err));
    if (inside) {
        d->dact = d->d_o = inside;
        d->dq = d->d_o + T * q;
        d->dk = d->dq + T * q;
        d->dv = d->dk + T * kv;
    }
    d->x_beside = d->dx; /* which is not idle while the head reads it */
    if (max_rank == 0) goto out;
    PL_GO(rc, PL_TAKE(arena, &d->dlow, PL_LIN_COUNT * d->low_stride, GRADS, err));
    d->low = d->dlow; /* of a second stream: no backward pass is under way */
    d->partial_stride = max_rank * pl_linear_sides(a);
    PL_GO(rc, PL_TAKE(arena, &d->partial, pl_pass_lanes(d, d->max_T) * d->partial_stride, GRADS, err));
out:
    return rc;
}

/* What is written and read within a pass: n to packed. */
static int take_inner(pl_decoder *d, const pl_decoder_spec *spec, int64_t T, pl_arena *arena, pl_error *err) {
    const pl_arch *a = d->arch;
    int rc;
    PL_GO(rc, PL_TAKE(arena, &d->n, T * a->C, ACTS, err));
    PL_GO(rc, PL_TAKE(arena, &d->act, T * a->F, ACTS, err));
    if (spec->max_rank > 0 && !spec->training) PL_GO(rc, PL_TAKE(arena, &d->low, d->low_stride, ACTS, err));
    if (spec->dropout) PL_GO(rc, PL_TAKE(arena, &d->dropped, T * d->dropped_width, ACTS, err));
    if (spec->training) PL_GO(rc, take_backward(d, T, spec->max_rank, arena, err));
    d->packed_bytes = pl_pass_packed_bytes(d);
    if (d->packed_bytes > 0) PL_GO(rc, PL_TAKE(arena, &d->packed, (int64_t)d->packed_bytes, "packed weights", err));
out:
    return rc;
}

int pl_decoder_take(pl_decoder *d, const pl_arch *a, const pl_backend *backend, const pl_decoder_spec *spec,
                    pl_arena *arena, pl_error *err) {
    int64_t T = pl_rows_padded(spec->max_tokens), half = a->D / 2;
    *d = (pl_decoder){.arch = a,
                      .backend = *backend,
                      .max_T = spec->max_tokens,
                      .max_read = spec->max_read ? spec->max_read : spec->max_tokens,
                      .training = spec->training,
                      .recompute = spec->recompute,
                      .cached = spec->cached,
                      .max_rank = spec->max_rank,
                      .low_stride = T * spec->max_rank,
                      .dropped_width = PL_MAX(PL_MAX(a->C, a->F), a->H * a->D)};
    int rc;
    PL_GO(rc, take_acts(d, spec, T, arena, err));
    PL_GO(rc, PL_TAKE(arena, &d->cosine, T * half, "rope", err));
    PL_GO(rc, PL_TAKE(arena, &d->sine, T * half, "rope", err));
    PL_GO(rc, PL_TAKE(arena, &d->read_cosine, d->max_read * half, "rope", err));
    PL_GO(rc, PL_TAKE(arena, &d->read_sine, d->max_read * half, "rope", err));
    PL_GO(rc, PL_TAKE(arena, &d->inv_freq, half, "rope", err));
    if (spec->training) PL_GO(rc, PL_TAKE(arena, &d->dx, T * a->C, GRADS, err));
    d->dn = d->x_last; /* which the head has read by then */
    pl_mark inner = pl_arena_mark(arena);
    PL_GO(rc, take_inner(d, spec, T, arena, err));
    pl_arena_init_again(&d->idle, "decoder's idle", arena, inner);
out:
    return rc ? pl_error_context(err, rc, "decoder buffers for %" PRId64 " tokens", spec->max_tokens) : 0;
}

int pl_decoder_prepare(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_grads *grads, pl_error *err) {
    pl_pass p = {.d = d, .w = w, .lora = lora, .g = grads};
    int rc = 0;
    for (int64_t l = 0; rc == 0 && l < d->arch->L; l++)
        for (int i = 0; rc == 0 && i < PL_LIN_COUNT; i++) rc = pl_linear_prepare(&p, l, (pl_lin)i, d->training, err);
    return rc;
}
