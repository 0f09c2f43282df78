/* orpo.c: Odds Ratio Preference Optimization, arXiv:2403.07691 eq. 6, 7: likelihood of the chosen answer plus the log
 * of the odds ratio of both answers' mean token probabilities P = exp(mean log-prob):
 *
 *   NLL - beta log sigmoid(log(P_c / (1 - P_c)) - log(P_r / (1 - P_r))),   beta = the paper's lambda.
 *
 * The NLL counts prompt and answer of the chosen row, as TRL's and the authors' code do (orpo_nll prompt), or the
 * answer alone (orpo_nll completion), as the paper writes it. */
#include "loss/objective.h"

static const char *const params[] = {"beta", "orpo_nll", NULL};
enum { CHOSEN, REJECTED, ACCURACIES, MARGINS, LOGPS_CHOSEN, LOGPS_REJECTED, NLL, RATIO, ODDS, METRICS };
static const char *const names[METRICS] = {[CHOSEN] = "rewards/chosen",
                                           [REJECTED] = "rewards/rejected",
                                           [ACCURACIES] = "rewards/accuracies",
                                           [MARGINS] = "rewards/margins",
                                           [LOGPS_CHOSEN] = "logps/chosen",
                                           [LOGPS_REJECTED] = "logps/rejected",
                                           [NLL] = "nll_loss",
                                           [RATIO] = "log_odds_ratio",
                                           [ODDS] = "log_odds_chosen"};

/* A mean log-prob of 0 has no odds: the nearest number below it stands in, whose log-odds are 27.6. */
#define SURE (-1e-12)

static double mean_logp(const pl_loss_in *in, int64_t s) {
    return in->policy[s] / (double)PL_MAX(in->length[s], (int64_t)1);
}

/* log(P / (1 - P)) of P = exp(x), and its derivative by x. */
static double log_odds(double x, double *slope) {
    if (x > SURE) x = SURE;
    double rest = -expm1(x); /* 1 - P */
    *slope = 1 / rest;
    return x - (x > -M_LN2 ? log(rest) : log1p(-exp(x)));
}

static double difference(const pl_loss_in *in, int64_t i, double *dc, double *dr) {
    return log_odds(mean_logp(in, 2 * i), dc) - log_odds(mean_logp(in, 2 * i + 1), dr);
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        double dc, dr, z = difference(in, i, &dc, &dr), slope = -p->beta * pl_sigmoid(-z);
        if (!isfinite(z)) return PL_FAIL(err, PL_E_NUMERIC, "the log odds ratio of pair %" PRId64 " is not finite", i);
        out->loss -= p->beta * pl_log_sigmoid(z);
        out->d_sequence[2 * i] += slope * dc / (double)PL_MAX(in->length[2 * i], (int64_t)1);
        out->d_sequence[2 * i + 1] -= slope * dr / (double)PL_MAX(in->length[2 * i + 1], (int64_t)1);
    }
    return pl_nll_add(out, in, 1, p->orpo_nll, err);
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        double unused, chosen = mean_logp(in, 2 * i), rejected = mean_logp(in, 2 * i + 1);
        double z = difference(in, i, &unused, &unused);
        pl_metric_add(&m[CHOSEN], p->beta * chosen);
        pl_metric_add(&m[REJECTED], p->beta * rejected);
        pl_metric_add(&m[ACCURACIES], p->beta * chosen > p->beta * rejected);
        pl_metric_add(&m[MARGINS], p->beta * (chosen - rejected));
        pl_metric_add(&m[LOGPS_CHOSEN], chosen);
        pl_metric_add(&m[LOGPS_REJECTED], rejected);
        pl_metric_add(&m[RATIO], pl_log_sigmoid(z));
        pl_metric_add(&m[ODDS], z);
    }
    pl_nll_measure(&m[NLL], in, p->orpo_nll);
}

const pl_objective pl_objective_orpo = {.command = "orpo",
                                        .name = "orpo",
                                        .paper = "arXiv:2403.07691 eq. 6",
                                        .rows = PL_LOSS_PAIRED,
                                        .tokens = true,
                                        .score_prompt = true,
                                        .metrics = names,
                                        .nmetrics = METRICS,
                                        .params = params,
                                        .run = run,
                                        .measure = measure};
