/* kto_pair.c: KTO on pairs as TRL up to 0.9 had it (loss_type kto_pair), which published lessons still name. The KL of
 * each half of a group (per_device_train_batch_size rows) is the mean log-ratio of the other half:
 *   (1 - sigmoid(beta (a_c - KL_r)) + 1 - sigmoid(beta (KL_c - a_r))) / 2,  KL_x = max(0, mean of a_x).
 * As in that code, and unlike the paper (arXiv:2402.01306), gradient flows through the KLs. Today's KTO: plumb kto. */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "ld_alpha", NULL};

static double mean_ratio(const pl_loss_in *in, int64_t side) {
    double sum = 0;
    for (int64_t s = side; s < in->n; s += 2) sum += in->policy[s] - (in->reference ? in->reference[s] : 0);
    return sum / (double)(in->n / 2);
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    double pairs = (double)(in->n / 2), mean[2] = {mean_ratio(in, 0), mean_ratio(in, 1)}, through[2] = {0, 0};
    double kl[2] = {mean[0] > 0 ? mean[0] : 0, mean[1] > 0 ? mean[1] : 0};
    if (!isfinite(mean[0]) || !isfinite(mean[1]))
        return PL_FAIL(err, PL_E_NUMERIC, "the mean log-ratio of a group of %g pairs is not finite", pairs);
    for (int64_t i = 0; 2 * i < in->n; i++) {
        pl_pair q = pl_pair_of(in, p, i);
        double c = p->beta * (q.chosen.ratio - kl[1]), r = p->beta * (kl[0] - q.rejected.ratio);
        double dc = 0.5 * p->beta * pl_sigmoid(c) * pl_sigmoid(-c), dr = 0.5 * p->beta * pl_sigmoid(r) * pl_sigmoid(-r);
        out->loss += 0.5 * (pl_sigmoid(-c) + pl_sigmoid(-r));
        out->d_sequence[2 * i] -= dc;
        out->d_sequence[2 * i + 1] += dr;
        through[1] += dc;
        through[0] -= dr;
    }
    for (int64_t s = 0; s < in->n; s++)
        if (mean[s % 2] > 0) out->d_sequence[s] += through[s % 2] / pairs;
    return 0;
}

const pl_objective pl_objective_dpo_kto_pair =
    PL_DPO_ROW("kto_pair", "arXiv:2402.01306 eq. 8, TRL 0.9", run, .params = params, .coupling = PL_COUPLED_GROUP);
