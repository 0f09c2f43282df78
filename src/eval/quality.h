/* eval/quality.h: how good scores are: pure functions of them. include/plumb/reward.h has the results. */
#ifndef PL_QUALITY_H
#define PL_QUALITY_H

#include "base/base.h"
#include "base/buf.h"
#include "plumb/reward.h"

/* Pairs: score[2i] and tokens[2i] are of the chosen answer of pair i, [2i+1] of the rejected one. PL_E_NOMEM. */
int pl_quality_of_pairs(pl_quality *out, const double *score, const double *tokens, int64_t pairs, pl_error *err);
/* Labelled answers. */
int pl_quality_of_labels(pl_quality *out, const double *score, const double *tokens, const bool *label, int64_t n,
                         pl_error *err);
/* The JSON object of pl_quality_print_json, without the newline. */
int pl_quality_json(pl_buf *b, const pl_quality *q, pl_error *err);

#endif
