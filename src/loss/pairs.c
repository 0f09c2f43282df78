/* pairs.c: from log-probs of a batch to pairs, and back to its gradient. */
#include "loss/pairs.h"

#define EXPONENT_MAX 80 /* of the alpha divergence, as in TRL: beyond it the score is constant */

static void score_alpha(pl_side *s, double alpha) {
    if (fabs(alpha - 1) < 1e-6) {
        s->score = s->ratio;
        s->slope = 1;
        return;
    }
    double e = (alpha - 1) * s->ratio;
    s->slope = e > EXPONENT_MAX ? 0 : exp(e);
    s->score = expm1(e > EXPONENT_MAX ? EXPONENT_MAX : e) / (alpha - 1);
}

/* arXiv:2309.16240: the derivative of f at the ratio of probabilities, up to a constant that is TRL's. */
static void score(pl_side *s, const pl_loss_params *p) {
    switch (p->f_divergence_type) {
    case PL_DIV_FORWARD_KL:
        s->slope = exp(-s->ratio);
        s->score = -expm1(-s->ratio);
        break;
    case PL_DIV_JS:
        s->score = M_LN2 + pl_log_sigmoid(s->ratio);
        s->slope = pl_sigmoid(-s->ratio);
        break;
    case PL_DIV_ALPHA: score_alpha(s, p->f_alpha_divergence_coef); break;
    default: s->score = s->ratio; s->slope = 1;
    }
}

static pl_side side_of(const pl_loss_in *in, const pl_loss_params *p, int64_t s) {
    pl_side side = {.logp = in->policy[s], .length = (double)PL_MAX(in->length[s], (int64_t)1)};
    side.ratio = in->policy[s] - (in->reference ? in->reference[s] : 0);
    score(&side, p);
    return side;
}

pl_pair pl_pair_of(const pl_loss_in *in, const pl_loss_params *p, int64_t i) {
    return (pl_pair){side_of(in, p, 2 * i), side_of(in, p, 2 * i + 1)};
}

static double mean_log_weight(const pl_loss_in *in, int64_t s) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t t = in->first[s] + in->prompt[s]; t < in->first[s + 1]; t++, n++)
        sum += in->token_logp[t] - in->token_sum_p2[t];
    return n ? sum / (double)n : 0;
}

double pl_pair_weight(const pl_loss_in *in, const pl_loss_params *p, int64_t i) {
    return p->use_weighting ? exp(mean_log_weight(in, 2 * i) + mean_log_weight(in, 2 * i + 1)) : 1;
}

int pl_pairs_run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_pair_fn *f, pl_error *err) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        pl_pair q = pl_pair_of(in, p, i);
        pl_pair_loss l = f(&q, p);
        double w = pl_pair_weight(in, p, i);
        if (!isfinite(q.chosen.ratio) || !isfinite(q.rejected.ratio) || !isfinite(w * l.loss) ||
            !isfinite(w * l.chosen) || !isfinite(w * l.rejected))
            return PL_FAIL(err, PL_E_NUMERIC,
                           "the loss of pair %" PRId64 " is not finite (log-ratios %g of the chosen and %g of the "
                           "rejected answer)",
                           i, q.chosen.ratio, q.rejected.ratio);
        out->loss += w * l.loss;
        out->d_sequence[2 * i] += w * l.chosen;
        out->d_sequence[2 * i + 1] += w * l.rejected;
    }
    return 0;
}

enum { CHOSEN, REJECTED, ACCURACIES, MARGINS, LOGPS_CHOSEN, LOGPS_REJECTED };
const char *const pl_pair_metrics[PL_PAIR_METRICS] = {
    [CHOSEN] = "rewards/chosen",   [REJECTED] = "rewards/rejected", [ACCURACIES] = "rewards/accuracies",
    [MARGINS] = "rewards/margins", [LOGPS_CHOSEN] = "logps/chosen", [LOGPS_REJECTED] = "logps/rejected"};

void pl_pairs_measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        pl_pair q = pl_pair_of(in, p, i);
        double chosen = p->beta * q.chosen.ratio, rejected = p->beta * q.rejected.ratio;
        pl_metric_add(&m[CHOSEN], chosen);
        pl_metric_add(&m[REJECTED], rejected);
        pl_metric_add(&m[ACCURACIES], chosen > rejected);
        pl_metric_add(&m[MARGINS], chosen - rejected);
        pl_metric_add(&m[LOGPS_CHOSEN], q.chosen.logp);
        pl_metric_add(&m[LOGPS_REJECTED], q.rejected.logp);
    }
}
