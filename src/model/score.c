/* score.c: forward and backward of the score head. So few rows that they are not shared out. */
#include "model/score.h"

#include <string.h>

#define TAG "head"

int pl_score_head_take(pl_score_head *s, const pl_arch *a, const pl_backend *backend, int64_t max_sequences,
                       bool training, pl_arena *arena, pl_error *err) {
    int64_t S = pl_rows_padded(max_sequences);
    *s = (pl_score_head){.arch = a, .backend = *backend, .max_S = max_sequences};
    int rc;
    PL_GO(rc, PL_TAKE(arena, &s->rows, S, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->score, S, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->x, S * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->h, S * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->rstd, S, TAG, err));
    if (training) PL_GO(rc, PL_TAKE(arena, &s->dh, S * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->w, a->C, TAG, err));
out:
    return rc;
}

int pl_score_head_forward(pl_score_head *s, const pl_weights *w, const pl_lora *lora, const pl_forest *f,
                          const real *x_last, pl_error *err) {
    const pl_ops *ops = s->backend.ops;
    int64_t C = s->arch->C;
    if (f->nsequences > s->max_S)
        return PL_FAIL(err, PL_E_INTERNAL, "%" PRId64 " scores, room for %" PRId64, f->nsequences, s->max_S);
    s->S = f->nsequences;
    for (int64_t i = 0; i < s->S; i++) s->rows[i] = pl_forest_row(f, f->sequences[i].last);
    if (lora && lora->score)
        memcpy(s->w, lora->score, (size_t)C * sizeof *s->w);
    else
        ops->to_real(s->w, w->score.data, w->score.type, C);
    ops->gather_rows(s->x, x_last, s->rows, s->S, C);
    ops->rmsnorm(s->h, s->rstd, s->x, w->norm, (real)s->arch->eps, s->S, C);
    for (int64_t i = 0; i < s->S; i++) {
        double sum = 0;
        for (int64_t j = 0; j < C; j++) sum += (double)s->h[i * C + j] * (double)s->w[j];
        s->score[i] = sum;
    }
    return 0;
}

void pl_score_head_backward(pl_score_head *s, const pl_weights *w, real *dscore, real *dnorm, const pl_forest *f,
                            const double *d_score, real *dx) {
    const pl_ops *ops = s->backend.ops;
    int64_t C = s->arch->C;
    memset(s->dh, 0, (size_t)(s->S * C) * sizeof *s->dh);
    for (int64_t i = 0; i < s->S; i++) {
        if (dscore) ops->axpy(dscore, (real)d_score[i], s->h + i * C, C);
        ops->axpy(s->dh + i * C, (real)d_score[i], s->w, C);
    }
    memset(dx, 0, (size_t)(pl_forest_rows(f) * C) * sizeof *dx);
    ops->rmsnorm_bwd(s->dh, false, dnorm, s->dh, s->x, w->norm, s->rstd, s->S, C);
    ops->scatter_add_rows(dx, s->dh, s->rows, s->S, C);
}
