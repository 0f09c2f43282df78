/* sppo_hard.c: Self-Play Preference Optimization with hard labels, arXiv:2405.00675 algorithm 1, on raw log-ratios a:
 *   (a_c - 1 / (2 beta))^2 + (a_r + 1 / (2 beta))^2. */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = q->chosen.ratio - 1 / (2 * p->beta), r = q->rejected.ratio + 1 / (2 * p->beta);
    return (pl_pair_loss){c * c + r * r, 2 * c, 2 * r};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_sppo_hard =
    PL_DPO_ROW("sppo_hard", "arXiv:2405.00675 algorithm 1", run, .params = params);
