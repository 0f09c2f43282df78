/* dft.c: Dynamic Fine-Tuning, arXiv:2508.05629: each labelled token's negative log-prob counts by the token's own
 * probability p, through which no gradient flows:
 *
 *   loss = -sum_t sg(p_t) log p_t,     dloss/dlog p_t = -p_t,
 *
 * a mean over the labelled tokens of the step, as TRL has it (sft_trainer.py). */
#include "loss/objective.h"

static const char *const params[] = {NULL};

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    PL_UNUSED(p);
    for (int64_t t = 0; t < in->first[in->n]; t++) {
        double logp = in->token_logp[t], weight = exp(logp);
        if (!isfinite(logp)) return PL_FAIL(err, PL_E_NUMERIC, "the log-prob of token %" PRId64 " is not finite", t);
        out->token_loss -= weight * logp;
        out->d_token[t] -= weight;
    }
    return 0;
}

const pl_objective pl_objective_sft_dft = {.command = "sft",
                                           .name = "dft",
                                           .paper = "arXiv:2508.05629",
                                           .rows = PL_LOSS_SINGLE,
                                           .tokens = true,
                                           .params = params,
                                           .run = run};
