/* sigmoid.c: Direct Preference Optimization, arXiv:2305.18290 eq. 7:
 *   -log sigmoid(beta (score_c - score_r)),
 * with the reverse KL the score is the log-ratio of policy and reference. Code and paper agree; labels are taken as
 * right, as TRL does (smoothing is cdpo.c). */
#include "loss/pairs.h"

static const char *const params[] = {"beta",          "f_divergence_type", "f_alpha_divergence_coef",
                                     "use_weighting", "ld_alpha",          NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q);
    return pl_pair_of_difference(q, -pl_log_sigmoid(z), -p->beta * pl_sigmoid(-z));
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_sigmoid =
    PL_DPO_ROW("sigmoid", "arXiv:2305.18290 eq. 7", run, .params = params, .divergence = true);
