/* dpo.c: Direct Preference Optimization, arXiv:2305.18290 eq. 7:
 *   loss = -log sigmoid(beta ((lp_c - rp_c) - (lp_r - rp_r))), log-probs summed over completion tokens.
 * Code and paper agree; metrics follow TRL's DPOTrainer. */
#include <math.h>

#include "loss/objective.h"

enum { CHOSEN, REJECTED, ACCURACIES, MARGINS, LOGPS_CHOSEN, LOGPS_REJECTED, METRICS };
static const char *const metrics[METRICS] = {"rewards/chosen",  "rewards/rejected", "rewards/accuracies",
                                             "rewards/margins", "logps/chosen",     "logps/rejected"};
static const char *const params[] = {"beta", NULL};

static void count(pl_metric *m, double value) {
    m->sum += value;
    m->weight += 1;
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    out->loss = 0;
    for (int64_t i = 0; i < in->n; i += 2) {
        double chosen = in->policy[i] - in->reference[i], rejected = in->policy[i + 1] - in->reference[i + 1];
        double z = p->beta * (chosen - rejected), slope = -p->beta * pl_sigmoid(-z);
        if (!isfinite(z)) return PL_FAIL(err, PL_E_NUMERIC, "the loss of pair %" PRId64 " is not finite", i / 2);
        out->loss -= pl_log_sigmoid(z);
        out->d_sequence[i] = slope;
        out->d_sequence[i + 1] = -slope;
        count(&out->metrics[CHOSEN], p->beta * chosen);
        count(&out->metrics[REJECTED], p->beta * rejected);
        count(&out->metrics[ACCURACIES], p->beta * chosen > p->beta * rejected);
        count(&out->metrics[MARGINS], p->beta * chosen - p->beta * rejected);
        count(&out->metrics[LOGPS_CHOSEN], in->policy[i]);
        count(&out->metrics[LOGPS_REJECTED], in->policy[i + 1]);
    }
    return 0;
}

const pl_objective pl_objective_dpo_sigmoid = {.name = "sigmoid",
                                               .paper = "arXiv:2305.18290 eq. 7",
                                               .rows = PL_LOSS_PAIRED,
                                               .unit = PL_UNIT_ROW,
                                               .coupling = PL_COUPLED_NONE,
                                               .reference = true,
                                               .metrics = metrics,
                                               .nmetrics = METRICS,
                                               .params = params,
                                               .run = run};
