/* discopop.c: DiscoPOP, the log-ratio modulated loss, arXiv:2406.08414 eq. 5:
 *   (1 - m) (-log sigmoid(z)) + m exp(-z), m = sigmoid(z / tau), z = beta (score_c - score_r).
 * For tau < (1 - log 2) / 3 = 0.102 it grows with z around z = 0: the loss as published, not a slip. m exp(-z) is taken
 * as one exponential, so that a large -z gives its limit, not 0 times infinity. */
#include "loss/pairs.h"

static const char *const params[] = {
    "beta", "discopop_tau", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q), t = z / p->discopop_tau, m = pl_sigmoid(t), n = pl_sigmoid(-t);
    double logistic = -pl_log_sigmoid(z), exponential = exp(pl_log_sigmoid(t) - z);
    double dm = m * n / p->discopop_tau;
    double dz = -dm * logistic - n * pl_sigmoid(-z) + exponential * (n / p->discopop_tau - 1);
    return pl_pair_of_difference(q, n * logistic + exponential, p->beta * dz);
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_discopop =
    PL_DPO_ROW("discopop", "arXiv:2406.08414 eq. 5", run, .params = params, .divergence = true);
