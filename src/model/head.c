/* head.c: the one-pass head. Rows that predict something are gathered, normed, and multiplied with the vocabulary tile
 * by tile; a tile of logits lives for a moment. See head.h for what is kept, docs/numerics.md for the arithmetic. */
#include "model/head.h"

#include <string.h>

#define TAG "head"

int pl_head_take(pl_head *h, const pl_arch *a, const pl_backend *backend, const pl_head_spec *spec, pl_arena *arena,
                 pl_error *err) {
    int64_t R = pl_rows_padded(spec->max_rows + PL_HEAD_ROWS), N = spec->max_targets, tile = PL_MIN(a->V, PL_HEAD_TILE);
    *h = (pl_head){.arch = a, .backend = *backend, .max_rows = spec->max_rows, .max_targets = N};
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
    PL_GO(rc, PL_TAKE(arena, &h->max, R, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->sum, R, TAG, err));
    if (spec->training && !spec->trained) PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->m, R * a->C, TAG, err));
    if (spec->training) PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->dh, R * a->C, TAG, err));
    PL_GO(rc, PL_TAKE_SPARE(spec->spare, arena, &h->z, (PL_HEAD_ROWS + PL_ROW_SLACK) * tile, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->rescale, PL_HEAD_ROWS, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->coef, PL_HEAD_ROWS, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->row, a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &h->stat, PL_HEAD_ROWS, TAG, err));
out:
    return rc;
}

/* --- the products of one tile: W rows [v0, v0+n)
 * ---------------------------------------------------------------------------- */

static const void *tile_of(const pl_weights *w, int64_t v0) {
    return (const char *)w->head.data + (size_t)(v0 * w->head.cols) * pl_dtype_bytes(w->head.type);
}

static pl_gemm_call logits_call(const pl_head *h, const pl_weights *w, int64_t v0, int64_t n, const real *x,
                                int64_t rows) {
    int64_t C = h->arch->C, ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .bf16 = h->backend.bf16,
                          .m = rows,
                          .n = n,
                          .k = C,
                          .a = x,
                          .lda = C,
                          .b = tile_of(w, v0),
                          .b_type = w->head.type,
                          .ldb = C,
                          .c = h->z,
                          .ldc = ld};
}

static pl_gemm_call back_call(const pl_head *h, const pl_weights *w, int64_t v0, int64_t n, real *dx, int64_t rows) {
    int64_t C = h->arch->C, ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    return (pl_gemm_call){.kind = PL_GEMM_DX,
                          .bf16 = h->backend.bf16,
                          .accumulate = true,
                          .m = rows,
                          .n = C,
                          .k = n,
                          .a = h->z,
                          .lda = ld,
                          .b = tile_of(w, v0),
                          .b_type = w->head.type,
                          .ldb = C,
                          .c = dx,
                          .ldc = C};
}

static pl_gemm_call dw_call(const pl_head *h, int64_t v0, int64_t n, real *dw, const real *x, int64_t rows) {
    int64_t C = h->arch->C, ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .bf16 = h->backend.bf16,
                          .accumulate = true,
                          .m = n,
                          .n = C,
                          .k = rows,
                          .a = h->z,
                          .lda = ld,
                          .b = x,
                          .b_type = PL_REAL,
                          .ldb = C,
                          .c = dw ? dw + v0 * C : NULL,
                          .ldc = C};
}

static int prepare_tile(pl_head *h, const pl_weights *w, int64_t n, bool trained, pl_error *err) {
    bool backward = h->dh != NULL;
    pl_gemm_call calls[3];
    int count = 0, rc = 0;
    calls[count++] = logits_call(h, w, 0, n, NULL, PL_HEAD_ROWS);
    if (backward) calls[count++] = back_call(h, w, 0, n, NULL, PL_HEAD_ROWS);
    if (backward && trained) calls[count++] = dw_call(h, 0, n, NULL, NULL, PL_HEAD_ROWS);
    for (int i = 0; rc == 0 && i < count; i++) rc = pl_gemm_prepare(h->backend.gemm, &calls[i], err);
    return rc;
}

int pl_head_prepare(pl_head *h, const pl_weights *w, bool trained, pl_error *err) {
    int64_t V = h->arch->V, tail = V % PL_HEAD_TILE;
    int rc = V >= PL_HEAD_TILE ? prepare_tile(h, w, PL_HEAD_TILE, trained, err) : 0;
    if (rc == 0 && tail) rc = prepare_tile(h, w, tail, trained, err);
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
        int64_t token = f->targets[h->order[i]].token;
        if (h->R == 0 || h->rows[h->R - 1] != token) {
            if (h->R == h->max_rows) return PL_FAIL(err, PL_E_INTERNAL, "more than %" PRId64 " head rows", h->max_rows);
            h->rows[h->R] = token;
            h->first[h->R++] = i;
        }
        h->target_row[h->order[i]] = h->R - 1;
    }
    h->first[h->R] = h->N;
    return 0;
}

/* Rows of the tokens [0, tokens). */
static int64_t rows_before(const pl_head *h, int64_t tokens) {
    int64_t n = h->R;
    while (n > 0 && h->rows[n - 1] >= tokens) n--;
    return n;
}

static int64_t target_id(const pl_head *h, const pl_forest *f, int64_t i) { return f->targets[h->order[i]].id; }

/* --- forward
 * -------------------------------------------------------------------------------------------------------------------------------
 */

/* Picks up the targets' logits of this tile. */
static void read_targets(pl_head *h, const pl_forest *f, int64_t r0, int64_t rows, int64_t v0, int64_t n) {
    int64_t ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = h->first[r0 + r]; i < h->first[r0 + r + 1]; i++) {
            int64_t id = target_id(h, f, i) - v0;
            if (id >= 0 && id < n) h->zy[h->order[i]] = h->z[r * ld + id];
        }
}

static void zero_targets(pl_head *h, const pl_forest *f, int64_t r0, int64_t rows, int64_t v0, int64_t n) {
    int64_t ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = h->first[r0 + r]; i < h->first[r0 + r + 1]; i++) {
            int64_t id = target_id(h, f, i) - v0;
            if (id >= 0 && id < n) h->z[r * ld + id] = 0;
        }
}

static void finish_rows(pl_head *h, const pl_forest *f, int64_t r0, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) {
        const pl_head_stat *s = &h->stat[r];
        real log_sum = r_log(s->sum); /* never max + log_sum: that would cost a sure token the last digits of 1 - p */
        h->max[r0 + r] = s->max;
        h->sum[r0 + r] = s->sum;
        h->entropy[r0 + r] = log_sum - (s->sum_z / s->sum - s->max);
        h->sum_p2[r0 + r] = r_log(s->sum2) - 2 * r_log(s->sum);
        h->mean_logit[r0 + r] = s->total / (double)h->arch->V;
        for (int64_t i = h->first[r0 + r]; i < h->first[r0 + r + 1]; i++) {
            h->logp[h->order[i]] = (h->zy[h->order[i]] - s->max) - log_sum;
            h->is_argmax[h->order[i]] = target_id(h, f, i) == s->argmax;
        }
        h->rescale[r] = 1 / s->sum;
    }
}

/* m (when wanted) is summed with the running maximum and divided by the sum last. */
static int forward_chunk(pl_head *h, const pl_weights *w, const pl_forest *f, int64_t r0, int64_t rows, bool want_m,
                         pl_error *err) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C, V = h->arch->V, ld = PL_MIN(V, PL_HEAD_TILE);
    real *m = want_m ? h->m + r0 * C : NULL;
    int rc = 0;
    for (int64_t r = 0; r < rows; r++) h->stat[r] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    if (m) memset(m, 0, (size_t)(rows * C) * sizeof *m);
    for (int64_t v0 = 0; v0 < V; v0 += PL_HEAD_TILE) {
        int64_t n = PL_MIN(PL_HEAD_TILE, V - v0);
        pl_gemm_call logits = logits_call(h, w, v0, n, h->h + r0 * C, rows);
        PL_GO(rc, pl_gemm_run(h->backend.gemm, &logits, err));
        read_targets(h, f, r0, rows, v0, n);
        ops->head_tile(h->z, ld, rows, n, v0, h->stat, want_m, h->rescale);
        if (!m) continue;
        zero_targets(h, f, r0, rows, v0, n);
        if (v0 > 0) ops->scale_rows(m, h->rescale, rows, C, C);
        pl_gemm_call back = back_call(h, w, v0, n, m, rows);
        PL_GO(rc, pl_gemm_run(h->backend.gemm, &back, err));
    }
    finish_rows(h, f, r0, rows);
    if (m) ops->scale_rows(m, h->rescale, rows, C, C);
out:
    return rc;
}

int pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x_last, bool want_grad,
                    pl_error *err) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C;
    int rc = index_targets(h, f, err);
    if (rc) return rc;
    ops->gather_rows(h->x, x_last, h->rows, h->R, C);
    ops->rmsnorm(h->h, h->rstd, h->x, w->norm, (real)h->arch->eps, h->R, C);
    int64_t trained = want_grad && h->m ? rows_before(h, f->trained.T) : 0;
    for (int64_t r0 = 0, end; rc == 0 && r0 < h->R; r0 = end) {
        bool want_m = r0 < trained; /* rows that get no gradient need no m */
        end = PL_MIN(r0 + PL_HEAD_ROWS, want_m ? trained : h->R);
        rc = forward_chunk(h, w, f, r0, end - r0, want_m, err);
    }
    return rc ? pl_error_context(err, rc, "head") : 0;
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
    memset(h->dh, 0, (size_t)(R * C) * sizeof *h->dh);
    for (int64_t r = 0; r < R; r++) {
        double S = coef_sum(h, c, r);
        real *dh = h->dh + r * C;
        ops->axpy(dh, (real)-S, h->m + r * C, C);
        for (int64_t i = h->first[r]; i < h->first[r + 1]; i++) {
            if (!first_of_id(h, f, r, i)) continue;
            int64_t id = target_id(h, f, i);
            double coef = coef_of_id(h, f, c, r, id) - S * exp((double)h->logp[h->order[i]]);
            ops->to_real(h->row, tile_of(w, id), w->head.type, C);
            ops->axpy(dh, (real)coef, h->row, C);
        }
    }
}

/* z := dlogits of this tile. */
static void tile_gradient(pl_head *h, const pl_forest *f, const double *c, int64_t r0, int64_t rows, int64_t v0,
                          int64_t n) {
    int64_t ld = PL_MIN(h->arch->V, PL_HEAD_TILE);
    h->backend.ops->head_softmax(h->z, ld, rows, n, h->max + r0, h->coef);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = h->first[r0 + r]; i < h->first[r0 + r + 1]; i++) {
            int64_t id = target_id(h, f, i) - v0;
            if (id >= 0 && id < n) h->z[r * ld + id] += (real)c[h->order[i]];
        }
}

static int backward_trained(pl_head *h, const pl_weights *w, real *dw, const pl_forest *f, const double *c, int64_t r0,
                            int64_t rows, pl_error *err) {
    int64_t C = h->arch->C, V = h->arch->V;
    int rc = 0;
    for (int64_t r = 0; r < rows; r++) h->coef[r] = (real)-coef_sum(h, c, r0 + r) / h->sum[r0 + r];
    memset(h->dh + r0 * C, 0, (size_t)(rows * C) * sizeof *h->dh);
    for (int64_t v0 = 0; rc == 0 && v0 < V; v0 += PL_HEAD_TILE) {
        int64_t n = PL_MIN(PL_HEAD_TILE, V - v0);
        pl_gemm_call logits = logits_call(h, w, v0, n, h->h + r0 * C, rows);
        PL_GO(rc, pl_gemm_run(h->backend.gemm, &logits, err));
        tile_gradient(h, f, c, r0, rows, v0, n);
        pl_gemm_call back = back_call(h, w, v0, n, h->dh + r0 * C, rows),
                     outer = dw_call(h, v0, n, dw, h->h + r0 * C, rows);
        PL_GO(rc, pl_gemm_run(h->backend.gemm, &back, err));
        if (dw) PL_GO(rc, pl_gemm_run(h->backend.gemm, &outer, err));
    }
out:
    return rc;
}

int pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *grads, const pl_forest *f, const double *c,
                     real *dx, pl_error *err) {
    const pl_ops *ops = h->backend.ops;
    int64_t C = h->arch->C, R = rows_before(h, f->T);
    real *dw = grads ? (grads->head ? grads->head : h->arch->tied ? grads->embed : NULL) : NULL;
    int rc = 0;
    if (h->m && !dw)
        backward_frozen(h, w, f, c, R);
    else
        for (int64_t r0 = 0; rc == 0 && r0 < R; r0 += PL_HEAD_ROWS)
            rc = backward_trained(h, w, dw, f, c, r0, PL_MIN(PL_HEAD_ROWS, R - r0), err);
    if (rc) return pl_error_context(err, rc, "head, backward");
    memset(dx, 0, (size_t)(f->T * C) * sizeof *dx);
    ops->rmsnorm_bwd(h->dh, false, grads ? grads->norm : NULL, h->dh, h->x, w->norm, h->rstd, R, C);
    ops->scatter_add_rows(dx, h->dh, h->rows, R, C);
    return 0;
}
