/* ipo.c: Identity Preference Optimization, arXiv:2310.12036 eq. 17:
 *   (x_c - x_r - 1 / (2 beta))^2.
 * The paper sums log-ratios over tokens (ipo_reduce sum); TRL and the authors of its fix take the mean per token
 * (ipo_reduce mean, the default), so that the target does not depend on the length. */
#include "loss/pairs.h"

static const char *const params[] = {
    "beta", "ipo_reduce", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    bool mean = p->ipo_reduce == PL_IPO_MEAN;
    double c = mean ? 1 / q->chosen.length : 1, r = mean ? 1 / q->rejected.length : 1;
    double x = c * q->chosen.score - r * q->rejected.score - 1 / (2 * p->beta);
    return (pl_pair_loss){x * x, 2 * x * c * q->chosen.slope, -2 * x * r * q->rejected.slope};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_ipo =
    PL_DPO_ROW("ipo", "arXiv:2310.12036 eq. 17", run, .params = params, .divergence = true);
