/* cdpo.c: conservative DPO: a share label_smoothing = e of the labels is taken to be wrong:
 *   -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta (score_c - score_r).
 * A name of its own, because TRL takes label_smoothing with loss_type sigmoid and ignores it. */
#include "loss/pairs.h"

static const char *const params[] = {
    "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "ld_alpha", NULL};

static pl_pair_loss of_pair(const pl_pair *q, const pl_loss_params *p) {
    double z = p->beta * pl_pair_difference(q), e = p->label_smoothing;
    double loss = -(1 - e) * pl_log_sigmoid(z) - pl_flat_times(e, pl_log_sigmoid(-z));
    return pl_pair_of_difference(q, loss, p->beta * (e * pl_sigmoid(z) - (1 - e) * pl_sigmoid(-z)));
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return pl_pairs_run(out, in, p, of_pair, err);
}

const pl_objective pl_objective_dpo_cdpo =
    PL_DPO_ROW("cdpo", "ericmitchell.ai/cdpo.pdf eq. 3", run, .params = params, .divergence = true);
