/* bco_pair.c: Binary Classifier Optimization on pairs, arXiv:2404.04656 section 4, without the reward shift, as TRL has
 * it: -log sigmoid(beta a_c) - log sigmoid(-beta a_r). With the shift: plumb bco. */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = p->beta * q->chosen.ratio, r = p->beta * q->rejected.ratio;
    double loss = -pl_log_sigmoid(c) - pl_log_sigmoid(-r);
    return (pl_pair_loss){loss, -p->beta * pl_sigmoid(-c), p->beta * pl_sigmoid(r)};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_bco_pair =
    PL_DPO_ROW("bco_pair", "arXiv:2404.04656 section 4", run, .params = params);
