/* apo_down.c: Anchored Preference Optimization, down, arXiv:2408.06266 eq. 8: both answers down, the rejected one more:
 *   sigmoid(beta a_c) + 1 - sigmoid(beta (a_c - a_r)). */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double c = p->beta * q->chosen.ratio, d = p->beta * (q->chosen.ratio - q->rejected.ratio);
    double dc = p->beta * pl_sigmoid(c) * pl_sigmoid(-c), dd = -p->beta * pl_sigmoid(d) * pl_sigmoid(-d);
    return (pl_pair_loss){pl_sigmoid(c) + pl_sigmoid(-d), dc + dd, -dd};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_apo_down = PL_DPO_ROW("apo_down", "arXiv:2408.06266 eq. 8", run, .params = params);
