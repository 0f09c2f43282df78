/* apo_zero.c: Anchored Preference Optimization, zero, arXiv:2408.06266 eq. 7: chosen up, rejected down, each against
 * the reference: 1 - sigmoid(beta a_c) + sigmoid(beta a_r). */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = p->beta * q->chosen.ratio, r = p->beta * q->rejected.ratio;
    double loss = pl_sigmoid(-c) + pl_sigmoid(r);
    return (pl_pair_loss){loss, -p->beta * pl_sigmoid(c) * pl_sigmoid(-c), p->beta * pl_sigmoid(r) * pl_sigmoid(-r)};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_apo_zero = PL_DPO_ROW("apo_zero", "arXiv:2408.06266 eq. 7", run, .params = params);
