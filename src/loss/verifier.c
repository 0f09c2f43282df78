/* verifier.c: a pointwise verifier, arXiv:2110.14168 section 4.2 with the score read at the answer's last token only:
 * the score x of an answer is the logit of its being correct, loss = -log sigmoid(x) where it is,   -log sigmoid(-x)
 * where it is not. */
#include "loss/objective.h"

enum { ACCURACY, SCORE_CORRECT, SCORE_INCORRECT, MARGIN, METRICS };
static const char *const names[METRICS] = {"accuracy", "scores/correct", "scores/incorrect", "scores/margins"};
static const char *const params[] = {NULL};

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    PL_UNUSED(p);
    for (int64_t s = 0; s < in->n; s += in->per_row) {
        double x = in->score[s], sign = in->label[s / in->per_row] ? 1 : -1;
        if (!isfinite(x))
            return PL_FAIL(err, PL_E_NUMERIC, "the score of row %" PRId64 " is not finite", s / in->per_row);
        out->loss -= pl_log_sigmoid(sign * x);
        out->d_score[s] -= sign * pl_sigmoid(-sign * x);
    }
    return 0;
}

static void measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    PL_UNUSED(p);
    for (int64_t s = 0; s < in->n; s += in->per_row) {
        bool correct = in->label[s / in->per_row];
        pl_metric_add(&m[ACCURACY], (in->score[s] > 0) == correct);
        pl_metric_add(&m[correct ? SCORE_CORRECT : SCORE_INCORRECT], in->score[s]);
    }
}

/* The distance of the two means, where there are rows of both kinds. */
static void derive(pl_metric *m) {
    const pl_metric *c = &m[SCORE_CORRECT], *w = &m[SCORE_INCORRECT];
    if (c->weight > 0 && w->weight > 0) m[MARGIN] = (pl_metric){c->sum / c->weight - w->sum / w->weight, 1};
}

const pl_objective pl_objective_verifier = {.command = "verifier",
                                            .name = "verifier",
                                            .paper = "arXiv:2110.14168 section 4.2",
                                            .rows = PL_LOSS_LABELLED,
                                            .head = PL_HEAD_SCORE,
                                            .metrics = names,
                                            .nmetrics = METRICS,
                                            .params = params,
                                            .run = run,
                                            .measure = measure,
                                            .derive = derive};
