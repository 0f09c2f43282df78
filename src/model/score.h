/* model/score.h: the score head of reward models: one number for a whole answer, in place of the vocabulary.
 *
 *   score[s] = score.weight . rmsnorm(x_last[token that ends answer s])
 *
 * The token is known by the length of the answer, never by comparing ids with a pad id: an answer that ends in EOS is
 * read at its EOS, whatever the tokenizer pads with (docs/objectives/reward.md). S answers, C width. */
#ifndef PL_MODEL_SCORE_H
#define PL_MODEL_SCORE_H

#include "model/decoder.h"

typedef struct pl_score_head {
    const pl_arch *arch;
    pl_backend backend;
    int64_t max_S, S;
    int64_t *rows; /* [S] row of x_last that is read */
    double *score; /* [S] result */
    real *x;       /* [S,C] rows before the norm */
    real *h;       /* [S,C] normed rows */
    real *rstd;    /* [S] */
    real *dh;      /* [S,C]; NULL without training */
    real *w;       /* [C] the weight as real */
} pl_score_head;

int pl_score_head_take(pl_score_head *s, const pl_arch *arch, const pl_backend *backend, int64_t max_sequences,
                       bool training, pl_arena *arena, pl_error *err);
/* Scores of all sequences of f, from x_last [rows,C] (pl_forest_rows), by the adapter's head if it has one (lora may be
 * NULL). Sums over C in double, of operands that are not rounded to bf16. PL_E_INTERNAL: more sequences than room. */
int pl_score_head_forward(pl_score_head *s, const pl_weights *w, const pl_lora *lora, const pl_forest *f,
                          const real *x_last, pl_error *err);
/* dx [rows,C] = dL/dx_last from d_score [S]; overwritten, zero where nothing is read. Adds to dscore [C] and to the
 * final norm's dnorm [C] (each NULL: frozen). After a forward pass of the same batch. */
void pl_score_head_backward(pl_score_head *s, const pl_weights *w, real *dscore, real *dnorm, const pl_forest *f,
                            const double *d_score, real *dx);

#endif
