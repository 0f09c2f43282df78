/* train/run_open.h: the steps of pl_run_open, which are in files of their own. */
#ifndef PL_RUN_OPEN_H
#define PL_RUN_OPEN_H

#include "train/run.h"

/* Is an option of this type set? */
static inline bool pl_run_has(int64_t option) { return option != PL_OPT_NO_I64; }

/* run_data.c, in this order. max_length against the model's positions (PL_E_RANGE); the rows to train and evaluate on,
 * packed where asked for, and max_length settled; what the objective couples, and mismatched answers. */
int pl_run_check_length(const pl_run *r, pl_error *err);
int pl_run_load_data(pl_run *r, pl_error *err);
int pl_run_open_units(pl_run *r, pl_error *err);
/* Are the prompt's tokens trained on too? */
bool pl_run_scores_prompt(const pl_run *r);

/* run_memory.c: plans and takes both arenas (PL_E_NOMEM says what would help); afterwards says what the process holds.
 */
int pl_run_take_memory(pl_run *r, pl_error *err);
void pl_run_state_memory(pl_run *r);
/* Tokens of a micro-batch of the passes that only score. */
int64_t pl_run_pass_tokens(const pl_run *r);

/* run_open.c: the type of frozen weights and of the output; the adapter's dropout in training. */
pl_dtype pl_run_output_dtype(const pl_run *r);
double pl_run_dropout(const pl_run *r);
static inline bool pl_run_is_scored(const pl_run *r) { return r->batcher.mix.term[0]->head == PL_HEAD_SCORE; }

#endif
