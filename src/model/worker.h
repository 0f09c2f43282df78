/* model/worker.h: one set of micro-batch buffers and what runs in them: forest, decoder, and the head or a score head.
 * Scoring, reference, training and evaluation all go through it, so there is one path from rows to log-probs or scores.
 */
#ifndef PL_WORKER_H
#define PL_WORKER_H

#include "model/head.h"
#include "model/model.h"
#include "model/score.h"

typedef struct pl_worker {
    pl_backend backend;
    pl_decoder decoder;
    pl_head head;        /* of a causal model */
    pl_score_head score; /* of one with a score head */
    pl_forest forest;
    int64_t budget_tok; /* micro_batch_tokens: of training */
    int64_t pass_tok;   /* of passes that only score */
    double ld_discount; /* 1 - ld_alpha: what a token beyond the shorter answer of its pair counts less; 0 */
    double *c;          /* [targets] dL/dlogp of the micro-batch; NULL without training, or with a score head */
    double *d_score;    /* [sequences] dL/dscore; NULL without training, or without a score head */
} pl_worker;

typedef struct pl_worker_spec {
    pl_forest_caps caps; /* of every micro-batch: the rows of training under budget_tok, of scoring under pass_tok */
    int64_t budget_tok, pass_tok;
    bool training, recompute, full; /* full: the weights themselves are trained */
    int64_t max_rank;
    bool dropout;
} pl_worker_spec;

/* Deals everything out of `arena` (measuring or real). */
int pl_worker_take(pl_worker *k, const pl_arch *arch, const pl_backend *backend, const pl_worker_spec *spec,
                   pl_arena *arena, pl_error *err);
/* Makes the matrix products of these weights. lora, grads may be NULL. */
int pl_worker_prepare(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_grads *grads, pl_error *err);

/* Room for t's lent gradients, see pl_trainable_borrows: those of block l lie where block l + 1 keeps its activations,
 * from which a backward pass has gone when it begins with block l. Such a backward pass begins them anew, and they live
 * until the next forward pass, so that a step must run the backward pass at most once. can: is there room (t and k may
 * be measured only)? Changes gradient pointers of t only. */
bool pl_worker_can_lend(const pl_worker *k, pl_trainable *t, const pl_model *m, size_t *bytes);
int pl_worker_lend(const pl_worker *k, pl_trainable *t, const pl_model *m, pl_error *err);

/* What a forward pass is for: scores; scores and then the backward pass; or, where scores are known, the backward pass
 * alone: such a batch is without what gets no gradient (pl_forest_trained). */
typedef enum pl_use { PL_FOR_SCORES, PL_FOR_BOTH, PL_FOR_GRADIENT } pl_use;
/* Builds the batch of rows[0..n) and runs it: k->head then holds log-probs and statistics, or k->score the scores. */
int pl_worker_forward(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_dataset *d, const int64_t *rows,
                      int64_t n, int64_t step_index, bool score_prompt, pl_use use, pl_error *err);
/* The same with the reference in one go, where that is the same weights with the adapter `beside` (NULL: off):
 * beside_logp [sequences] = its sequence log-probs, then k->head is the policy's. Of training workers without a score
 * head. */
int pl_worker_forward_both(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_lora *beside,
                           double *beside_logp, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                           bool score_prompt, pl_use use, pl_error *err);
/* Whether the worker yields scores (k->score.score), not log-probs (k->head). */
bool pl_worker_is_scored(const pl_worker *k);
/* Backward of the last forward pass, with k->c (or k->d_score) filled; over what gets a gradient only. */
int pl_worker_backward(pl_worker *k, pl_trainable *t, pl_error *err);

/* Sum of the log-probs of sequence s's completion tokens of the current batch, each with its weight, in double, in
 * order. Rows of two answers have them side by side. */
double pl_worker_sequence_logp(const pl_worker *k, int64_t s);
/* What target i of sequence s counts in that sum: 0 for a prompt token, 1, or 1 - ld_discount. */
double pl_worker_token_weight(const pl_worker *k, int64_t s, int64_t i);

/* For errors: where the numbers of the current batch stop being finite, as a sentence part: "the first such value comes
 * out of layer 1, and model.layers.1.mlp.down_proj.weight holds one". Runs the forward pass again. */
#define PL_LOCATION_BYTES 256
int pl_worker_locate_nonfinite(char out[PL_LOCATION_BYTES], pl_worker *k, const pl_weights *w, const pl_lora *lora,
                               pl_error *err);

/* Sequence log-probs of rows[0..n): out[answer of rows], answers of row i at out[i * per_row ...]. progress may be
 * NULL; it is called after each micro-batch with the rows done and returns non-zero to stop (PL_E_INTERRUPTED).
 * PL_E_NUMERIC when one is not finite. */
typedef int pl_progress(void *user, int64_t done, int64_t total);
int pl_worker_score(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_dataset *d, const int64_t *rows,
                    int64_t n, bool score_prompt, double *out, pl_progress *progress, void *user, pl_error *err);

#endif
