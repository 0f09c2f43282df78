/* fixture_score.h: a tiny golden reward model (tests/golden/score) with everything that runs it. */
#ifndef PL_TEST_FIXTURE_SCORE_H
#define PL_TEST_FIXTURE_SCORE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "loss/objective.h"
#include "model/worker.h"
#include "unit/shared.h"

#define SCORE_PAIRS 8

typedef struct score_fixture {
    pl_ops ops;
    pl_backend backend;
    pl_model model;
    pl_arena arena;
    pl_trainable trainable;
    pl_worker worker;
    pl_dataset data;
    int32_t ids[1024];
    pl_row rows[SCORE_PAIRS];
    pl_span answers[2 * SCORE_PAIRS];
    double margin[SCORE_PAIRS], want[2 * SCORE_PAIRS], got[2 * SCORE_PAIRS], want_loss;
    pl_loss_params params;
    int64_t per_batch; /* pairs of a micro-batch; 0: all together */
} score_fixture;

/* The model and the pairs of tests/golden/score/<adapter or model>/reward.json. adapter may be NULL. */
void score_open(score_fixture *f, const char *model, const char *adapter, bool recompute);
void score_close(score_fixture *f);
/* Mean loss of the pairs, their scores in f->got, its gradient in f->trainable. */
double score_loss_and_gradient(score_fixture *f);

extern const pl_objective pl_objective_reward, pl_objective_verifier;

#endif
