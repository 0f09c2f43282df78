/* dpo_sft.c: the negative log-prob of the chosen answer's tokens, a mean over the step's chosen tokens: alone, as part
 * of MPO (arXiv:2411.10442), or as the term that rpo_alpha weights (arXiv:2404.19733). */
#include "loss/pairs.h"

static const char *const params[] = {"beta", NULL}; /* of the rewards it reports */

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    PL_UNUSED(p);
    return pl_nll_add(out, in, 1, PL_NLL_COMPLETION, err);
}

const pl_objective pl_objective_dpo_sft =
    PL_DPO_ROW("sft", "maximum likelihood", run, .params = params, .tokens = true, .divergence = true);
