/* train/batch.h: the loss of some rows, its metrics, and (in training) its gradient: cut into micro-batches, reference
 * first, then policy, then objective, then backward. Sums only: the caller knows the step.
 *
 * Where the objective couples rows, those of a group (or of the step) are its unit: when they do not fit into one
 * micro-batch, all of them are scored first, the objective sees them together, and each micro-batch is run again to
 * take its part of the gradient (DECISIONS 5). */
#ifndef PL_BATCH_H
#define PL_BATCH_H

#include "loss/objective.h"
#include "model/worker.h"
#include "train/reference.h"

#define PL_MAX_METRICS 16

/* What sums are divided by: rows, and scored tokens of answers 0. */
typedef struct pl_units {
    double rows, tokens;
} pl_units;

/* Sums over the rows of a step or an evaluation. */
typedef struct pl_totals {
    double loss, token_loss; /* over rows; over tokens */
    pl_units units;
    pl_metric metrics[PL_MAX_METRICS];
    pl_metric entropy, accuracy,
        logits[2];        /* over completion tokens: all; of answer 0; mean logit of chosen and rejected answers */
    int64_t tokens, rows; /* unshared tokens, rows */
    double step0;         /* largest |policy - reference| - tolerance of a sequence, when asked for */
} pl_totals;

typedef struct pl_batcher {
    pl_mix mix;
    pl_loss_params params;
    int64_t unit_rows, eval_unit_rows; /* rows that the objective couples, in a step and in an evaluation; 0: none */
    pl_worker *worker;
    pl_trainable *policy;
    pl_reference *reference; /* kind NONE when the objective has none */
    bool score_prompt;
    double *state; /* [PL_LOSS_STATE] of the objective; borrowed */
    double *kept;  /* [answers of the dataset] where scores are written, by answer; NULL: nowhere. Borrowed */
    /* of the current unit: [sequences], [sequences + 1], [targets], [rows] */
    int64_t n, rows;
    double *score, *d_score; /* of a score head, in place of all log-probs */
    double *policy_logp, *reference_logp, *d_sequence, *token_logp, *token_sum_p2, *d_token, *margin;
    int64_t *length, *first, *prompt, *order;
    bool *label;
    pl_loss_scratch scratch;
} pl_batcher;

/* Room for a unit: grows *caps (sequences, targets, trees) to what each unit (0: none) of rows[0..n) needs; the caps of
 * the micro-batches that they are cut into are pl_forest_caps_add's. */
void pl_batcher_caps_add(pl_forest_caps *caps, const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n,
                         int64_t unit_rows);
/* Is a step over these rows one micro-batch, and so one backward pass? */
bool pl_batcher_is_one(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok);
int pl_batcher_take(pl_batcher *b, const pl_forest_caps *caps, pl_arena *arena, pl_error *err);
pl_units pl_batcher_units(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n);
/* The loss that the sums mean. */
double pl_totals_loss(const pl_totals *t);
/* Adds the rows' sums to *t. train: adds the gradient of the loss to the policy's gradients. cached: reference
 * log-probs by answer of d, or NULL for a live reference. PL_E_NUMERIC names rows and layer. */
int pl_batcher_run(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows,
                   int64_t n, bool train, pl_units units, pl_error *err);
/* Norm of the gradient that pl_batcher_run made of these rows. Not finite: PL_E_NUMERIC names layer, tensor and rows,
 * for which the step runs again, and the gradient is lost. */
int pl_batcher_norm(double *norm, pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows,
                    int64_t n, pl_units units, pl_error *err);
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
