/* fixture_objectives.h: groups of rows with given log-probs, and an objective run on them, for the tests of loss/. */
#ifndef PL_TEST_OBJECTIVES_H
#define PL_TEST_OBJECTIVES_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"
#include "loss/objective.h"

enum { MAX_SEQUENCES = 64, MAX_TOKENS = 1024 };

/* Log-probs by token; what an objective sees of them; what it answers. */
typedef struct group {
    int64_t rows, n, per_row;
    int64_t first[MAX_SEQUENCES + 1], prompt[MAX_SEQUENCES], length[MAX_SEQUENCES];
    double token[MAX_TOKENS], reference_token[MAX_TOKENS], sum_p2[MAX_TOKENS];
    bool label[MAX_SEQUENCES], no_reference;
    double state[PL_LOSS_STATE];
    double weight[MAX_TOKENS]; /* of each token in the sums */
    double policy[MAX_SEQUENCES], reference[MAX_SEQUENCES];
    double d_sequence[MAX_SEQUENCES], d_token[MAX_TOKENS];
    pl_metric metrics[16];
    double loss; /* the mean */
} group;

/* TRL's defaults, and what a JSON object of TRL's names says. */
void group_params(pl_loss_params *p, pl_mix *mix, bool *no_reference, const char *command, const pl_json *params);
void group_add(group *g, const pl_json *answer);
/* Runs the objective; the gradient by token: d(loss)/d(log-prob of token t). */
int group_run(group *g, double gradient[MAX_TOKENS], const pl_mix *mix, const pl_loss_params *p, bool learn,
              pl_error *err);
pl_json *group_json(const char *file);

#endif
