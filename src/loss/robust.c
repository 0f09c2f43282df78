/* robust.c: robust DPO, arXiv:2403.00409 section 3.1: unbiased under labels that are flipped with probability e =
 * label_smoothing:
 *   (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2 e). */
#include "loss/pairs.h"

static const char *const params[] = {
    "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q), e = p->label_smoothing, n = 1 - 2 * e;
    double loss = (-(1 - e) * pl_log_sigmoid(z) + pl_flat_times(e, pl_log_sigmoid(-z))) / n;
    return pl_pair_of_difference(q, loss, -p->beta * ((1 - e) * pl_sigmoid(-z) + e * pl_sigmoid(z)) / n);
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_robust =
    PL_DPO_ROW("robust", "arXiv:2403.00409 section 3.1", run, .params = params, .divergence = true);
