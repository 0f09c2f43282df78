/* bco.c: Binary Classifier Optimization, arXiv:2404.04656 section 4, with r = beta times the log-ratio:
 *   desirable  -log sigmoid(r - delta),   undesirable  -log sigmoid(-(r - delta)).
 * delta is the running mean of all rewards that training has seen, brought up to date before a group of
 * per_device_train_batch_size rows uses it and left alone in evaluation, as TRL 1.13 did; checkpoints keep it. */
#include "loss/labelled.h"

static const char *const params[] = {"beta", NULL};
static const char *const names[PL_LABELLED_METRICS] = PL_LABELLED_NAMES("delta");
enum { COUNT, DELTA };

static void learn(double *state, const pl_loss_in *in, const pl_loss_params *p) {
    double sum = 0;
    for (int64_t s = 0; s < in->n; s++) sum += p->beta * pl_labelled_ratio(in, s);
    double count = state[COUNT] + (double)in->n;
    state[DELTA] += (sum - (double)in->n * state[DELTA]) / count;
    state[COUNT] = count;
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    for (int64_t s = 0; s < in->n; s++) {
        double sign = in->label[s] ? 1 : -1, x = sign * (p->beta * pl_labelled_ratio(in, s) - in->state[DELTA]);
        if (!isfinite(x))
            return PL_FAIL(err, PL_E_NUMERIC, "the loss of row %" PRId64 " is not finite (log-ratio %g, delta %g)", s,
                           pl_labelled_ratio(in, s), in->state[DELTA]);
        out->loss -= pl_log_sigmoid(x);
        out->d_sequence[s] -= sign * p->beta * pl_sigmoid(-x);
    }
    return 0;
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    m[PL_LABELLED_OWN] = (pl_metric){in->state[DELTA], 1};
    pl_labelled_measure(m, in, p);
}

const pl_objective pl_objective_bco = {.command = "bco",
                                       .name = "bco",
                                       .paper = "arXiv:2404.04656 section 4",
                                       .rows = PL_LOSS_LABELLED,
                                       .coupling = PL_COUPLED_GROUP,
                                       .reference = true,
                                       .metrics = names,
                                       .nmetrics = PL_LABELLED_METRICS,
                                       .params = params,
                                       .run = run,
                                       .measure = measure,
                                       .learn = learn,
                                       .derive = pl_labelled_derive};
