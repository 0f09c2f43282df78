/* cpo.c: Contrastive Preference Optimization, arXiv:2401.08417 section 3, and its relatives without a reference:
 *
 *   preference(x) + cpo_alpha NLL of the chosen answer, x = r_c - r_r,
 *
 * r the log-prob of an answer, summed (sigmoid, hinge) or per token (ipo, simpo, alphapo); with alpha = a != 0
 * AlphaPO's reward (1 - p^-a) / a of it, arXiv:2501.03884. The preference, with e = label_smoothing:
 *
 *   sigmoid         -(1 - e) log sigmoid(beta x) - e log sigmoid(-beta x)
 *   simpo, alphapo  the same with x - simpo_gamma / beta for x, arXiv:2405.14734 eq. 6
 *   hinge           max(0, 1 - beta x)
 *   ipo             (x - 1 / (2 beta))^2
 *
 * After TRL's CPOTrainer. */
#include "loss/objective.h"

enum { CHOSEN, REJECTED, ACCURACIES, MARGINS, LOGPS_CHOSEN, LOGPS_REJECTED, NLL, METRICS };
static const char *const names[METRICS] = {[CHOSEN] = "rewards/chosen",
                                           [REJECTED] = "rewards/rejected",
                                           [ACCURACIES] = "rewards/accuracies",
                                           [MARGINS] = "rewards/margins",
                                           [LOGPS_CHOSEN] = "logps/chosen",
                                           [LOGPS_REJECTED] = "logps/rejected",
                                           [NLL] = "nll_loss"};

static double tokens(const pl_loss_in *in, int64_t s, bool mean) {
    return mean ? (double)PL_MAX(in->length[s], (int64_t)1) : 1;
}

/* The reward of a log-prob, and its derivative. */
static double reward(double logp, double alpha, double *slope) {
    *slope = alpha == 0 ? 1 : exp(-alpha * logp);
    return alpha == 0 ? logp : -expm1(-alpha * logp) / alpha;
}

typedef struct value {
    double loss, slope; /* of x */
} value;
typedef value value_fn(double x, const pl_loss_params *p);

static value smoothed(double z, const pl_loss_params *p) {
    double e = p->label_smoothing;
    return (value){-(1 - e) * pl_log_sigmoid(z) - pl_flat_times(e, pl_log_sigmoid(-z)),
                   p->beta * (e * pl_sigmoid(z) - (1 - e) * pl_sigmoid(-z))};
}
static value of_sigmoid(double x, const pl_loss_params *p) { return smoothed(p->beta * x, p); }
static value of_simpo(double x, const pl_loss_params *p) { return smoothed(p->beta * x - p->simpo_gamma, p); }
static value of_hinge(double x, const pl_loss_params *p) {
    double z = p->beta * x;
    return (value){z >= 1 ? 0 : 1 - z, z >= 1 ? 0 : -p->beta};
}
static value of_ipo(double x, const pl_loss_params *p) {
    double d = x - 1 / (2 * p->beta);
    return (value){d * d, 2 * d};
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, value_fn *f, bool mean, double nll,
               pl_error *err) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        double nc = tokens(in, 2 * i, mean), nr = tokens(in, 2 * i + 1, mean), dc, dr;
        double x = reward(in->policy[2 * i] / nc, p->alpha, &dc) - reward(in->policy[2 * i + 1] / nr, p->alpha, &dr);
        value v = f(x, p);
        double pc = pl_flat_times(v.slope, dc) / nc, pr = pl_flat_times(v.slope, dr) / nr;
        if (!isfinite(v.loss) || !isfinite(pc) || !isfinite(pr))
            return PL_FAIL(err, PL_E_NUMERIC, "the loss of pair %" PRId64 " is not finite (log-probs %g and %g)", i,
                           in->policy[2 * i], in->policy[2 * i + 1]);
        out->loss += v.loss;
        out->d_sequence[2 * i] += pc;
        out->d_sequence[2 * i + 1] -= pr;
    }
    return nll == 0 ? 0 : pl_nll_add(out, in, nll, PL_NLL_COMPLETION, err);
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p, bool mean, double nll) {
    for (int64_t i = 0; 2 * i < in->n; i++) {
        double unused, chosen = in->policy[2 * i] / tokens(in, 2 * i, mean);
        double rejected = in->policy[2 * i + 1] / tokens(in, 2 * i + 1, mean);
        double rc = p->beta * reward(chosen, p->alpha, &unused), rr = p->beta * reward(rejected, p->alpha, &unused);
        pl_metric_add(&m[CHOSEN], rc);
        pl_metric_add(&m[REJECTED], rr);
        pl_metric_add(&m[ACCURACIES], rc > rr);
        pl_metric_add(&m[MARGINS], rc - rr);
        pl_metric_add(&m[LOGPS_CHOSEN], chosen);
        pl_metric_add(&m[LOGPS_REJECTED], rejected);
    }
    if (nll == 0)
        pl_metric_add(&m[NLL], 0);
    else
        pl_nll_measure(&m[NLL], in, PL_NLL_COMPLETION);
}

#define CPO(NAME, TEXT, PAPER, F, MEAN, NLL_WEIGHT, ...)                                                               \
    static const char *const NAME##_params[] = {"beta", "alpha", __VA_ARGS__, NULL};                                   \
    static int run_##NAME(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {            \
        return run(out, in, p, F, MEAN, NLL_WEIGHT, err);                                                              \
    }                                                                                                                  \
    static void measure_##NAME(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {                          \
        measure(m, in, p, MEAN, NLL_WEIGHT);                                                                           \
    }                                                                                                                  \
    const pl_objective pl_objective_cpo_##NAME = {.command = "cpo",                                                    \
                                                  .name = TEXT,                                                        \
                                                  .paper = PAPER,                                                      \
                                                  .rows = PL_LOSS_PAIRED,                                              \
                                                  .tokens = true,                                                      \
                                                  .metrics = names,                                                    \
                                                  .nmetrics = METRICS,                                                 \
                                                  .params = NAME##_params,                                             \
                                                  .run = run_##NAME,                                                   \
                                                  .measure = measure_##NAME}

CPO(sigmoid, "sigmoid", "arXiv:2401.08417 section 3", of_sigmoid, false, p->cpo_alpha, "cpo_alpha", "label_smoothing");
CPO(hinge, "hinge", "arXiv:2305.10425 section 2", of_hinge, false, p->cpo_alpha, "cpo_alpha");
CPO(ipo, "ipo", "arXiv:2310.12036 eq. 17, without a reference", of_ipo, true, p->cpo_alpha, "cpo_alpha");
CPO(simpo, "simpo", "arXiv:2405.14734 eq. 6", of_simpo, true, p->cpo_alpha, "cpo_alpha", "simpo_gamma",
    "label_smoothing");
/* TRL: alphapo is simpo without the NLL */
CPO(alphapo, "alphapo", "arXiv:2501.03884", of_simpo, true, 0.0, "simpo_gamma", "label_smoothing");
