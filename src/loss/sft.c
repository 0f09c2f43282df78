/* sft.c: supervised fine-tuning: the negative log-prob of each labelled token; the caller divides by their number in
 * the step. */
#include <math.h>

#include "loss/objective.h"

static const char *const params[] = {NULL};

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    PL_UNUSED(p);
    out->loss = 0;
    for (int64_t s = 0; s < in->n; s++) {
        if (!isfinite(in->policy[s])) return PL_FAIL(err, PL_E_NUMERIC, "the loss of row %" PRId64 " is not finite", s);
        out->loss -= in->policy[s];
        for (int64_t i = in->first[s]; i < in->first[s + 1]; i++) out->d_token[i] = -1;
    }
    return 0;
}

const pl_objective pl_objective_sft_nll = {.name = "nll",
                                           .paper = "maximum likelihood",
                                           .rows = PL_LOSS_SINGLE,
                                           .unit = PL_UNIT_TOKEN,
                                           .coupling = PL_COUPLED_NONE,
                                           .per_token = true,
                                           .metrics = NULL,
                                           .nmetrics = 0,
                                           .params = params,
                                           .run = run};
