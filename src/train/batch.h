/* train/batch.h: the loss of some rows, its metrics, and (in training) its gradient: cut into micro-batches, reference
 * first, then policy, then objective, then backward. Sums only: the caller knows the step. */
#ifndef PL_BATCH_H
#define PL_BATCH_H

#include "loss/objective.h"
#include "model/worker.h"
#include "train/reference.h"

#define PL_MAX_METRICS 16

/* Sums over the rows of a step or an evaluation. */
typedef struct pl_totals {
    double loss, units; /* sum over units (rows or tokens), their number */
    pl_metric metrics[PL_MAX_METRICS];
    pl_metric entropy, accuracy,
        logits[2];        /* over completion tokens: all; of answer 0; mean logit of answers 0 and 1 */
    int64_t tokens, rows; /* unshared tokens, rows */
    double step0;         /* largest |policy - reference| - tolerance of a sequence, when asked for */
} pl_totals;

typedef struct pl_batcher {
    const pl_objective *objective;
    pl_loss_params params;
    pl_worker *worker;
    pl_trainable *policy;
    pl_reference *reference; /* kind NONE when the objective has none */
    bool score_prompt;
    /* of one micro-batch: [sequences], [sequences + 1], [targets] */
    double *policy_logp, *reference_logp, *d_sequence, *token_logp, *d_token;
    int64_t *length, *first;
} pl_batcher;

int pl_batcher_take(pl_batcher *b, const pl_forest_caps *caps, pl_arena *arena, pl_error *err);
/* Units (rows or scored tokens) of rows[0..n). */
double pl_batcher_units(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n);
/* Adds the rows' sums to *t. train: adds the gradient of loss / units to the policy's gradients. cached: reference
 * log-probs by row of d, or NULL for a live reference. PL_E_NUMERIC names rows and layer. */
int pl_batcher_run(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows,
                   int64_t n, bool train, double units, pl_error *err);
/* Norm of the gradient that pl_batcher_run made of these rows. Not finite: PL_E_NUMERIC names layer, tensor and rows,
 * for which the step runs again, and the gradient is lost. */
int pl_batcher_norm(double *norm, pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows,
                    int64_t n, double units, pl_error *err);
/* t->metrics as TRL's names and values behind `prefix` ("" or "eval_"): fills out[], returns their number. num_tokens
 * is given. The names are written into `names` (PL_NAME_BYTES each). */
#define PL_NAME_BYTES 64
#define PL_MAX_VALUES 32
typedef struct pl_values {
    int64_t n;
    pl_named_value v[PL_MAX_VALUES];
    char names[PL_MAX_VALUES][PL_NAME_BYTES];
} pl_values;
void pl_values_add(pl_values *v, const char *prefix, const char *name, double value);
void pl_totals_values(pl_values *out, const pl_totals *t, const pl_objective *o, const char *prefix,
                      int64_t num_tokens);

#endif
