/* exo_pair.c: Efficient Exact Optimization, arXiv:2402.00856 eq. 16: the reverse KL between the policy's preference and
 * labels that are wrong with probability e = label_smoothing > 0: sigmoid(z) (log sigmoid(z) - log(1 - e)) +
 * sigmoid(-z) (log sigmoid(-z) - log e). */
#include "loss/pairs.h"

static const char *const params[] = {
    "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q), e = p->label_smoothing, s = pl_sigmoid(z), t = pl_sigmoid(-z);
    double loss = pl_flat_times(s, pl_log_sigmoid(z) - log1p(-e)) + pl_flat_times(t, pl_log_sigmoid(-z) - log(e));
    return pl_pair_of_difference(q, loss, p->beta * pl_flat_times(s * t, z - log1p(-e) + log(e)));
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_exo_pair =
    PL_DPO_ROW("exo_pair", "arXiv:2402.00856 eq. 16", run, .params = params, .divergence = true);
