/* sft.c: supervised fine-tuning: the negative log-prob of each labelled token, a mean over those of the step. */
#include "loss/objective.h"

static const char *const params[] = {NULL};

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    PL_UNUSED(p);
    return pl_nll_add(out, in, 1, PL_NLL_PROMPT, err);
}

const pl_objective pl_objective_sft_nll = {.command = "sft",
                                           .name = "nll",
                                           .paper = "maximum likelihood",
                                           .rows = PL_LOSS_SINGLE,
                                           .tokens = true,
                                           .params = params,
                                           .run = run};
