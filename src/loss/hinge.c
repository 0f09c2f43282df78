/* hinge.c: SLiC's hinge (arXiv:2305.10425) on log-ratios, RSO's hinge-norm (arXiv:2309.06657):
 *   max(0, 1 - beta (score_c - score_r)); at the kink the slope is 0, as PyTorch's relu. */
#include "loss/pairs.h"

static const char *const params[] = {"beta",          "f_divergence_type", "f_alpha_divergence_coef",
                                     "use_weighting", "ld_alpha",          NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q);
    return pl_pair_of_difference(q, z >= 1 ? 0 : 1 - z, z >= 1 ? 0 : -p->beta);
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_hinge =
    PL_DPO_ROW("hinge", "arXiv:2309.06657 after arXiv:2305.10425", run, .params = params, .divergence = true);
