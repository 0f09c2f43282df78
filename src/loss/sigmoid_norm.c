/* sigmoid_norm.c: DPO on scores per token:
 *   -log sigmoid(beta (score_c / n_c - score_r / n_r)).
 * After SimPO (arXiv:2405.14734), but with a reference and without a margin, as TRL has it: it is not SimPO. */
#include "loss/pairs.h"

static const char *const params[] = {"beta",          "f_divergence_type", "f_alpha_divergence_coef",
                                     "use_weighting", "ld_alpha",          NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = p->beta / q->chosen.length, r = p->beta / q->rejected.length;
    double z = c * q->chosen.score - r * q->rejected.score, dz = -pl_sigmoid(-z);
    return (pl_pair_loss){-pl_log_sigmoid(z), pl_flat_times(dz, c * q->chosen.slope),
                          -pl_flat_times(dz, r * q->rejected.slope)};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_sigmoid_norm =
    PL_DPO_ROW("sigmoid_norm", "arXiv:2405.14734, with a reference", run, .params = params, .divergence = true);
