/* kto.c: Kahneman-Tversky Optimization, arXiv:2402.01306 eq. 8 (eq. 7 of its first version). With a the log-ratio of a
 * row:
 *
 *   desirable    w_d (1 - sigmoid(beta (a - z)))
 *   undesirable  w_u (1 - sigmoid(beta (z - a)))
 *
 * z = max(0, mean of the log-ratios of mismatched answers): over the optimizer step, or over each micro-batch of
 * per_device_train_batch_size rows (kl_pairing batch), as in TRL. No gradient flows through z, and it is not divided by
 * beta or the length. apo_zero_unpaired (arXiv:2408.06266, as TRL has it) is the same with z = 0. */
#include "loss/labelled.h"

static const char *const params[] = {"beta", "desirable_weight", "undesirable_weight", NULL};
static const char *const names[PL_LABELLED_METRICS] = PL_LABELLED_NAMES("kl");

static double mean_mismatch(const pl_loss_in *in) {
    double sum = 0;
    if (in->per_row < 2 || in->n == 0) return 0;
    for (int64_t s = 1; s < in->n; s += 2) sum += pl_labelled_ratio(in, s);
    double mean = sum / (double)(in->n / 2);
    return mean < 0 ? 0 : mean;
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    double z = mean_mismatch(in);
    for (int64_t i = 0; i * in->per_row < in->n; i++) {
        int64_t s = i * in->per_row;
        double sign = in->label[i] ? 1 : -1, weight = in->label[i] ? p->desirable_weight : p->undesirable_weight;
        double x = sign * p->beta * (pl_labelled_ratio(in, s) - z);
        if (!isfinite(x))
            return PL_FAIL(err, PL_E_NUMERIC, "the loss of row %" PRId64 " is not finite (log-ratio %g, kl %g)", i,
                           pl_labelled_ratio(in, s), z);
        out->loss += weight * pl_sigmoid(-x);
        out->d_sequence[s] -= weight * sign * p->beta * pl_sigmoid(x) * pl_sigmoid(-x);
    }
    return 0;
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    double rows = (double)(in->n / in->per_row);
    m[PL_LABELLED_OWN].sum += mean_mismatch(in) * rows;
    m[PL_LABELLED_OWN].weight += rows;
    pl_labelled_measure(m, in, p);
}

#define KTO(SYMBOL, NAME, PAPER, ...)                                                                                  \
    const pl_objective SYMBOL = {.command = "kto",                                                                     \
                                 .name = NAME,                                                                         \
                                 .paper = PAPER,                                                                       \
                                 .rows = PL_LOSS_LABELLED,                                                             \
                                 .reference = true,                                                                    \
                                 .metrics = names,                                                                     \
                                 .nmetrics = PL_LABELLED_METRICS,                                                      \
                                 .params = params,                                                                     \
                                 .run = run,                                                                           \
                                 .measure = measure,                                                                   \
                                 .derive = pl_labelled_derive,                                                         \
                                 __VA_ARGS__}

KTO(pl_objective_kto, "kto", "arXiv:2402.01306 eq. 8", .coupling = PL_COUPLED_STEP, .mismatched = true);
KTO(pl_objective_apo_zero_unpaired, "apo_zero_unpaired", "arXiv:2408.06266", .coupling = PL_COUPLED_NONE);
