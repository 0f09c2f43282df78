/* nca_pair.c: Noise Contrastive Alignment for pairs, arXiv:2402.05369 section 4.1, on raw log-ratios a:
 *   -log sigmoid(beta a_c) - log sigmoid(-beta a_c) / 2 - log sigmoid(-beta a_r) / 2. */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = p->beta * q->chosen.ratio, r = p->beta * q->rejected.ratio;
    double loss = -pl_log_sigmoid(c) - 0.5 * pl_log_sigmoid(-c) - 0.5 * pl_log_sigmoid(-r);
    return (pl_pair_loss){loss, p->beta * (0.5 * pl_sigmoid(c) - pl_sigmoid(-c)), 0.5 * p->beta * pl_sigmoid(r)};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_nca_pair =
    PL_DPO_ROW("nca_pair", "arXiv:2402.05369 section 4.1", run, .params = params);
