/* reward.c: the reward model of Bradley and Terry (1952), as in arXiv:2204.05862 and TRL's RewardTrainer: with the
 * scores c and r of a pair and its margin m (arXiv:2307.09288 eq. 2; 0 where the data has none)
 *
 *   loss = -log sigmoid(c - r - m) + lambda (c + r)^2
 *
 * The second term (arXiv:2312.09244, center_rewards_coefficient) pulls the scores' sum to 0:
 * a pair alone says nothing about it. Metrics are TRL's; the margin of the data is in none of them. */
#include "loss/objective.h"

enum { MIN_REWARD, MEAN_REWARD, MAX_REWARD, ACCURACY, MARGIN, METRICS };
static const char *const names[METRICS] = {"min_reward", "mean_reward", "max_reward", "accuracy", "margin"};
static const char *const params[] = {"center_rewards_coefficient", NULL};

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    double lambda = isnan(p->center_rewards_coefficient) ? 0 : p->center_rewards_coefficient;
    for (int64_t s = 0; s < in->n; s += 2) {
        double c = in->score[s], r = in->score[s + 1], x = c - r - in->margin[s / 2];
        if (!isfinite(x) || !isfinite(c + r))
            return PL_FAIL(err, PL_E_NUMERIC, "the loss of pair %" PRId64 " is not finite (scores %g and %g)", s / 2, c,
                           r);
        double slope = -pl_sigmoid(-x), centre = 2 * lambda * (c + r);
        out->loss += lambda * (c + r) * (c + r) - pl_log_sigmoid(x);
        out->d_score[s] += slope + centre;
        out->d_score[s + 1] += centre - slope;
    }
    return 0;
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    PL_UNUSED(p);
    for (int64_t s = 0; s < in->n; s++) {
        pl_metric_min(&m[MIN_REWARD], in->score[s]);
        pl_metric_add(&m[MEAN_REWARD], in->score[s]);
        pl_metric_max(&m[MAX_REWARD], in->score[s]);
    }
    for (int64_t s = 0; s < in->n; s += 2) {
        pl_metric_add(&m[ACCURACY], in->score[s] > in->score[s + 1]);
        pl_metric_add(&m[MARGIN], in->score[s] - in->score[s + 1]);
    }
}

const pl_objective pl_objective_reward = {.command = "reward",
                                          .name = "reward",
                                          .paper = "arXiv:2204.05862; margin arXiv:2307.09288 eq. 2",
                                          .rows = PL_LOSS_PAIRED,
                                          .head = PL_HEAD_SCORE,
                                          .metrics = names,
                                          .nmetrics = METRICS,
                                          .params = params,
                                          .run = run,
                                          .measure = measure};
