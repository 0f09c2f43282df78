/* eval/scorer.h: the inside of pl_scorer: what is scored, and the passes over it. */
#ifndef PL_SCORER_H
#define PL_SCORER_H

#include "base/buf.h"
#include "gen/session.h"
#include "model/machine.h"
#include "model/worker.h"
#include "plumb/score.h"

typedef enum pl_score_reference {
    PL_SCORE_NO_REFERENCE,
    PL_SCORE_ADAPTER_OFF, /* the policy's base model */
    PL_SCORE_REF_MODEL    /* a model of its own */
} pl_score_reference;

struct pl_scorer {
    pl_backend backend;
    int64_t budget_tok;
    double beta;
    pl_session policy, other; /* other: the reference model */
    pl_score_reference reference;
    char words[256];
    pl_dataset *data; /* owned */
    int64_t *rows;    /* [n] 0, 1, 2, ...: what pl_worker_forward takes */
    pl_arena arena;   /* of one pass: policy and reference run one after the other */
};

/* Called with the micro-batch of rows [first, first + n) behind the worker's head. */
typedef int pl_score_batch(void *user, const pl_worker *k, int64_t first, int64_t n, pl_error *err);
/* Pass number `pass`, from 0, of `passes` over all rows, in order. PL_E_INTERRUPTED when hooks say so. The progress
 * counts a row once, by its share of all passes. */
int pl_scorer_pass(pl_scorer *s, const pl_session *model, const pl_lora *lora, pl_score_batch *batch, void *user,
                   const pl_score_hooks *hooks, int64_t pass, int64_t passes, pl_error *err);

#endif
