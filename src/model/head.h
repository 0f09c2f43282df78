/* model/head.h: log-probs of given targets without logits (DESIGN 2.2, DECISIONS 6), and their gradient.
 *
 * Frozen head: one pass over the vocabulary yields log-probs, statistics and m = sum over non-targets of p_v W[v]; the
 * backward pass is then a handful of row additions. Trained head: the forward pass yields log-probs and statistics; the
 * backward pass multiplies each tile again. Rows that predict nothing are never multiplied; nothing grows with T x V.
 * R head rows (distinct tokens with a target), N targets, V vocabulary, C width. */
#ifndef PL_HEAD_H
#define PL_HEAD_H

#include "model/decoder.h"

/* The tests compile other sizes, so that small vocabularies have several tiles. */
#ifndef PL_HEAD_TILE
#define PL_HEAD_ROWS 256 /* rows of a thread at a time; at most PL_GEMM_LANE_ROWS */
#define PL_HEAD_TILE 512 /* vocabulary ids of a tile; twice as many where the head is trained */
#endif
#define PL_HEAD_MEET 8 /* tiles from one meeting of the threads to the next at most */

typedef struct pl_head {
    const pl_arch *arch;
    pl_backend backend;
    int threads;
    bool training;
    int64_t tile; /* ids of a tile */
    int meet;     /* tiles that are packed at a time */
    int64_t max_rows, max_targets;
    int64_t R, N;
    /* which rows, which targets: sorted by token; targets of row i are order[first[i] .. first[i+1]) */
    int64_t *rows;  /* [R] row of x_last */
    int64_t *first; /* [R+1] */
    int64_t *order; /* [N] index into f->targets */
    /* results */
    real *logp;          /* [N] by target, nats */
    bool *is_argmax;     /* [N] */
    real *entropy;       /* [R] nats */
    real *sum_p2;        /* [R] log of sum p^2 */
    double *mean_logit;  /* [R] */
    int64_t *target_row; /* [N] target -> row */
    /* kept for the backward pass */
    real *h;            /* [R,C] normed rows */
    real *x;            /* [R,C] rows before the norm */
    real *rstd;         /* [R] */
    pl_head_stat *stat; /* [R] over the vocabulary: the largest logit, sum of exp(logit - max) */
    real *m;            /* [R,C]; NULL when the head is trained or there is no backward pass */
    real *dh;           /* [R,C]; takes m's place where there is one */
    /* scratch */
    real *z;      /* [rows of a round, tile] */
    char *packed; /* the weights of `meet` tiles; NULL: they are multiplied as they are stored */
    real *scale;  /* [R] of m forward; of the softmax backward */
    real *max;    /* [R] largest logits, backward */
    /* where threads other than the first sum up what they find in their share of the vocabulary, [others, rows] */
    pl_head_stat *split_stat;
    real *split_scale;
    real *split_sum; /* [others, rows, C]; NULL where there is no m */
    real *row;       /* [C]: one row of W */
    real *zy;        /* [N] logit of each target */
} pl_head;

typedef struct pl_head_spec {
    int64_t max_rows, max_targets;
    bool training;   /* a backward pass follows */
    bool trained;    /* ... and the head (or the tied embedding) is trained */
    pl_arena *spare; /* memory that nothing else uses from a forward pass to the end of its backward pass; or NULL */
} pl_head_spec;

int pl_head_take(pl_head *h, const pl_arch *arch, const pl_backend *backend, const pl_head_spec *spec, pl_arena *arena,
                 pl_error *err);
int pl_head_prepare(pl_head *h, const pl_weights *w, bool trained, pl_error *err);

/* Log-probs and statistics of all targets of f, from x_last [rows,C], rows = pl_forest_rows(f). want_grad: keeps what
 * one pl_head_backward needs for f->trained. */
int pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x_last, bool want_grad,
                    pl_error *err);

/* f: the batch of the forward pass, or pl_forest_trained's part of it. dx [rows,C] = dL/dx_last, from c [N] = dL/dlogp
 * of each target; overwritten, zero where no target is. Adds to grads->norm and to the head's (or tied embedding's)
 * gradient when not NULL. grads NULL: all frozen. */
int pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *grads, const pl_forest *f, const double *c,
                     real *dx, pl_error *err);

#endif
