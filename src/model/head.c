/* head.c: the one-pass head. Rows that predict something are gathered, normed, and multiplied with the vocabulary tile
 * by tile; a tile of logits lives for a moment. See head.h for what is kept, docs/numerics.md for the arithmetic. */
#include "model/head_tiles.h"

#include <string.h>

#include "kernels/loop.h"
#include "kernels/ref/ref.h"

#define TAG "head"

static int take_scratch(pl_head *h, const pl_head_spec *spec, pl_arena *arena, pl_error *err) {
    int64_t lane_rows = PL_MIN(pl_rows_padded(h->max_rows), PL_HEAD_ROWS);
    int64_t others = pl_head_split(h, pl_head_split_rows(h)) * pl_rows_padded(pl_head_split_rows(h));
    size_t packed = pl_head_packed_bytes(h);
    int rc;
    PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->z, PL_MAX(1, pl_head_lanes(h, h->max_rows)) * lane_rows * h->tile,
                            TAG, err));
    if (packed) PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->packed, (int64_t)packed, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->row, h->arch->C, TAG, err));
    if (others == 0) return 0;
    PL_GO(rc, PL_TAKE(arena, &h->split_stat, others, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->split_scale, others, TAG, err));
    if (spec->training && !spec->trained)
        PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->split_sum, others * h->arch->C, TAG, err));
out:
    return rc;
}

int pl_head_take(pl_head *h, const pl_arch *a, const pl_backend *backend, const pl_head_spec *spec, pl_arena *arena,
                 pl_error *err) {
    int64_t R = pl_rows_padded(spec->max_rows) + PL_ROW_SLACK, N = spec->max_targets;
    *h = (pl_head){.arch = a,
                   .backend = *backend,
                   .threads = PL_MIN(PL_LOOP_TEAM(), PL_MAX_THREADS),
                   .meet = 1,
                   .training = spec->training};
    h->tile = PL_MIN(a->V, PL_HEAD_TILE * (spec->trained ? 2 : 1));
    h->max_rows = spec->max_rows;
    h->max_targets = N;
    int rc;
    PL_GO(rc, PL_TAKE(arena, &h->rows, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->first, R + 1, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->order, N, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->logp, N, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->is_argmax, N, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->entropy, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->sum_p2, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->mean_logit, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->target_row, N, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->zy, N, TAG, err));
    PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->h, R * a->C, TAG, err));
    PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->x, R * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->rstd, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->stat, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->scale, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->max, R, TAG, err));
    if (spec->training) PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->dh, R * a->C, TAG, err));
    if (!spec->trained) h->m = h->dh;
    PL_GO(rc, take_scratch(h, spec, arena, err));
out:
    return rc;
}

int pl_head_prepare(pl_head *h, const pl_weights *w, bool trained, pl_error *err) {
    int rc = pl_head_tiles_prepare(h, w, trained, err);
    return rc ? pl_error_context(err, rc, "head") : 0;
}

/* --- rows and targets
 * --------------------------------------------------------------------------------------------------------------------
 */

/* A counting sort of the targets by token: h->rows, h->first, h->order, h->target_row. */
static int index_targets(pl_head *h, const pl_forest *f, pl_error *err) {
    if (f->ntargets > h->max_targets)
        return PL_FAIL(err, PL_E_INTERNAL, "%" PRId64 " targets, room for %" PRId64, f->ntargets, h->max_targets);
    h->N = f->ntargets;
    h->R = 0;
    /* target_row first counts per token through a pass over sorted order: targets of a sequence have rising tokens, so
     * a k-way merge is not needed: insertion by token over at most a few sequences per tree keeps this linear in
     * practice. */
    for (int64_t i = 0; i < h->N; i++) {
        int64_t at = i;
        while (at > 0 && f->targets[h->order[at - 1]].token > f->targets[i].token) {
            h->order[at] = h->order[at - 1];
            at--;
        }
        h->order[at] = i;
    }
    for (int64_t i = 0; i < h->N; i++) {
        int64_t row = pl_forest_row(f, f->targets[h->order[i]].token);
        if (h->R == 0 || h->rows[h->R - 1] != row) {
            if (h->R == h->max_rows) return PL_FAIL(err, PL_E_INTERNAL, "more than %" PRId64 " head rows", h->max_rows);
            h->rows[h->R] = row;
            h->first[h->R++] = i;
        }
        h->target_row[h->order[i]] = h->R - 1;
    }
    h->first[h->R] = h->N;
    return 0;
}

/* Those of the first `rows` rows of the batch. */
static int64_t rows_before(const pl_head *h, int64_t rows) {
    int64_t n = h->R;
    while (n > 0 && h->rows[n - 1] >= rows) n--;
    return n;
}

static int64_t target_id(const pl_head *h, const pl_forest *f, int64_t i) { return f->targets[h->order[i]].id; }

/* --- forward
 * -------------------------------------------------------------------------------------------------------------------------------
 */

/* Picks up the targets' logits of this tile. */
static void read_targets(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile) {
    pl_head *h = run->h;
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t i = h->first[part->r0 + r]; i < h->first[part->r0 + r + 1]; i++) {
            int64_t id = target_id(h, run->f, i) - tile->v0;
            if (id >= 0 && id < tile->n) h->zy[h->order[i]] = part->z[r * tile->n + id];
        }
}

static void zero_targets(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile) {
    const pl_head *h = run->h;
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t i = h->first[part->r0 + r]; i < h->first[part->r0 + r + 1]; i++) {
            int64_t id = target_id(h, run->f, i) - tile->v0;
            if (id >= 0 && id < tile->n) part->z[r * tile->n + id] = 0;
        }
}

static void finish_row(pl_head *h, const pl_forest *f, int64_t r) {
    const pl_head_stat *s = &h->stat[r];
    real log_sum = r_log(s->sum); /* never max + log_sum: that would cost a sure token the last digits of 1 - p */
    h->entropy[r] = log_sum - (s->sum_z / s->sum - s->max);
    h->sum_p2[r] = r_log(s->sum2) - 2 * r_log(s->sum);
    h->mean_logit[r] = s->total / (double)h->arch->V;
    for (int64_t i = h->first[r]; i < h->first[r + 1]; i++) {
        h->logp[h->order[i]] = (h->zy[h->order[i]] - s->max) - log_sum;
        h->is_argmax[h->order[i]] = target_id(h, f, i) == s->argmax;
    }
}

/* Row r's statistics, and m when wanted, over the whole vocabulary: those of the lanes' shares, in their order. */
static void add_shares(pl_head *h, int64_t r, int others, bool want_m) {
    int64_t C = h->arch->C, rows = pl_rows_padded(pl_head_split_rows(h));
    pl_head_stat *s = &h->stat[r];
    for (int i = 0; i < others; i++) {
        const pl_head_stat *o = &h->split_stat[i * rows + r];
        real max = PL_MAX(s->max, o->max), base = max == -INFINITY ? 0 : max;
        real mine = r_exp(s->max - base), its = r_exp(o->max - base);
        if (o->max > s->max) s->argmax = o->argmax; /* of equals the first: the smaller id */
        s->sum = s->sum * mine + o->sum * its;
        s->sum_z = s->sum_z * mine + o->sum_z * its;
        s->sum2 = s->sum2 * mine * mine + o->sum2 * its * its;
        s->total += o->total;
        s->max = max;
        if (!want_m) continue;
        h->backend.ops->scale(h->m + r * C, mine, C);
        h->backend.ops->axpy(h->m + r * C, its, h->split_sum + (i * rows + r) * C, C);
    }
}

/* Most tiles hold no new largest logit for a row. */
static void rescale_rows(const pl_head *h, const pl_head_part *part) {
    int64_t C = h->arch->C;
    for (int64_t r = part->r0; r < part->r0 + part->rows; r++)
        if (!(part->scale[r] == 1)) h->backend.ops->scale(part->sum + r * C, part->scale[r], C);
}

/* The statistics of a tile, with the part's lines ahead asked for between the rows (always inline: gcc takes a function
 * that only prefetches for one without effect). */
static inline __attribute__((always_inline)) void add_tile(const pl_head *h, const pl_head_part *part,
                                                           const pl_head_tile *tile) {
    int64_t n = tile->n, r0 = part->r0, at = 0;
    int64_t step = part->ahead ? 1 : PL_MAX(1, part->rows);
    for (int64_t r = 0; r < part->rows; r += step) {
        int64_t end = part->ahead ? pl_cut(part->ahead_lines, r + 1, part->rows) : 0;
        for (; at < end; at++) __builtin_prefetch(part->ahead + at * 64, 0, 2);
        h->backend.ops->head_tile(part->z + r * n, n, step, n, tile->v0, part->stat + r0 + r, part->back,
                                  part->scale + r0 + r);
    }
}

/* m (when wanted) is summed with the running maximum and divided by the sum last. */
static int forward_step(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err) {
    pl_head *h = run->h;
    int64_t C = h->arch->C, r0 = part->r0;
    if (tile->first) {
        for (int64_t r = r0; r < r0 + part->rows; r++) part->stat[r] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
        if (part->back) memset(part->sum + r0 * C, 0, (size_t)(part->rows * C) * sizeof *part->sum);
    }
    int rc = pl_head_tile_logits(run, part, tile, err);
    if (rc) return rc;
    read_targets(run, part, tile);
    add_tile(h, part, tile);
    if (!part->back) return 0;
    zero_targets(run, part, tile);
    if (!tile->first) rescale_rows(h, part);
    return pl_head_tile_back(run, part, tile, err);
}

int pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x_last, bool want_grad,
                    pl_error *err) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C;
    int rc = index_targets(h, f, err);
    if (rc) return rc;
    int others = pl_head_split(h, h->R);
    ops->gather_rows(h->x, x_last, h->rows, h->R, C);
    ops->rmsnorm(h->h, h->rstd, h->x, w->norm, (real)h->arch->eps, h->R, C);
    int64_t trained =
        want_grad && h->m ? rows_before(h, pl_forest_trained_rows(f)) : 0; /* the others get no gradient */
    pl_head_run run = {.h = h, .w = w, .f = f, .step = forward_step, .splits = true, .rows = h->R, .back = trained};
    rc = pl_head_tiles_run(&run, err);
    if (rc) return pl_error_context(err, rc, "head");
    PL_LOOP(h->R * C > PL_SERIAL_ELEMS, r, h->R, 1, {
        add_shares(h, r, others, r < trained);
        finish_row(h, f, r);
        if (r < trained) ops->scale(h->m + r * C, 1 / h->stat[r].sum, C);
    });
    return 0;
}

/* --- backward
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static double coef_sum(const pl_head *h, const double *c, int64_t row) {
    double sum = 0;
    for (int64_t i = h->first[row]; i < h->first[row + 1]; i++) sum += c[h->order[i]];
    return sum;
}

/* Is target i the first of its row with this id? (Both answers may begin with the same token: it is one softmax entry.)
 */
static bool first_of_id(const pl_head *h, const pl_forest *f, int64_t row, int64_t i) {
    for (int64_t j = h->first[row]; j < i; j++)
        if (target_id(h, f, j) == target_id(h, f, i)) return false;
    return true;
}

static double coef_of_id(const pl_head *h, const pl_forest *f, const double *c, int64_t row, int64_t id) {
    double sum = 0;
    for (int64_t i = h->first[row]; i < h->first[row + 1]; i++)
        if (target_id(h, f, i) == id) sum += c[h->order[i]];
    return sum;
}

/* dh = sum over targets (c_y - S p_y) W[y] - S m, with S the sum of the row's coefficients and m free of the targets.
 */
static void backward_frozen(pl_head *h, const pl_weights *w, const pl_forest *f, const double *c, int64_t R) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C;
    for (int64_t r = 0; r < R; r++) {
        double S = coef_sum(h, c, r);
        real *dh = h->dh + r * C;
        ops->scale(dh, (real)-S, C);
        for (int64_t i = h->first[r]; i < h->first[r + 1]; i++) {
            if (!first_of_id(h, f, r, i)) continue;
            int64_t id = target_id(h, f, i);
            double coef = coef_of_id(h, f, c, r, id) - S * exp((double)h->logp[h->order[i]]);
            ops->to_real(h->row, pl_head_weights(w, id), w->head.type, C);
            ops->axpy(dh, (real)coef, h->row, C);
        }
    }
}

/* z := dlogits of this tile. */
static int backward_step(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err) {
    pl_head *h = run->h;
    int64_t C = h->arch->C, r0 = part->r0, end = part->r0 + part->rows;
    if (tile->first) memset(h->dh + r0 * C, 0, (size_t)(part->rows * C) * sizeof *h->dh);
    int rc = pl_head_tile_logits(run, part, tile, err);
    if (rc) return rc;
    h->backend.ops->head_softmax(part->z, tile->n, part->rows, tile->n, h->max + r0, h->scale + r0);
    for (int64_t r = r0; r < end; r++)
        for (int64_t i = h->first[r]; i < h->first[r + 1]; i++) {
            int64_t id = target_id(h, run->f, i) - tile->v0;
            if (id >= 0 && id < tile->n) part->z[(r - r0) * tile->n + id] += (real)run->c[h->order[i]];
        }
    return pl_head_tile_back(run, part, tile, err);
}

static int backward_trained(pl_head *h, const pl_weights *w, real *dw, const pl_forest *f, const double *c, int64_t R,
                            pl_error *err) {
    for (int64_t r = 0; r < R; r++) {
        h->max[r] = h->stat[r].max;
        h->scale[r] = (real)-coef_sum(h, c, r) / h->stat[r].sum;
    }
    pl_head_run run = {.h = h, .w = w, .f = f, .step = backward_step, .rows = R, .back = R, .dw = dw, .c = c};
    return pl_head_tiles_run(&run, err);
}

int pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *grads, const pl_forest *f, const double *c,
                     real *dx, pl_error *err) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C, R = rows_before(h, pl_forest_rows(f));
    real *dw = grads ? (grads->head ? grads->head : h->arch->tied ? grads->embed : NULL) : NULL;
    int rc = 0;
    if (h->m && !dw)
        backward_frozen(h, w, f, c, R);
    else
        rc = backward_trained(h, w, dw, f, c, R, err);
    if (rc) return pl_error_context(err, rc, "head, backward");
    memset(dx, 0, (size_t)(pl_forest_rows(f) * C) * sizeof *dx);
    ops->rmsnorm_bwd(h->dh, false, grads ? grads->norm : NULL, h->dh, h->x, w->norm, h->rstd, R, C);
    ops->scatter_add_rows(dx, h->dh, h->rows, R, C);
    return 0;
}
