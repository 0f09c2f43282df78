/* loss/pairs.h: what the objectives over pairs share: the log-ratios, the divergence that maps them to scores, WPO's
 * weights, TRL's metrics. An objective is then a function of one pair. */
#ifndef PL_PAIRS_H
#define PL_PAIRS_H

#include "loss/objective.h"

/* One answer of a pair. */
typedef struct pl_side {
    double logp;         /* of the policy, summed over completion tokens */
    double ratio;        /* logp - reference */
    double score, slope; /* the ratio through the divergence, and its derivative */
    double length;       /* completion tokens, at least 1 */
} pl_side;

typedef struct pl_pair {
    pl_side chosen, rejected;
} pl_pair;

/* Loss of a pair and its derivatives by the two log-probs. */
typedef struct pl_pair_loss {
    double loss, chosen, rejected;
} pl_pair_loss;

typedef pl_pair_loss pl_pair_fn(const pl_pair *q, const pl_loss_params *p);

/* pl_objective.run of an objective whose pairs do not depend on each other. */
int pl_pairs_run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_pair_fn *f, pl_error *err);
/* Pair i of a batch. */
pl_pair pl_pair_of(const pl_loss_in *in, const pl_loss_params *p, int64_t i);
/* What a pair is multiplied with: 1, or WPO's weight (arXiv:2406.11827): the product of both answers' geometric mean of
 * p / sum p^2. No gradient flows through it. */
double pl_pair_weight(const pl_loss_in *in, const pl_loss_params *p, int64_t i);

/* A function of the difference of the scores, x = score_c - score_r. */
static inline pl_pair_loss pl_pair_of_difference(const pl_pair *q, double loss, double dx) {
    return (pl_pair_loss){loss, pl_flat_times(dx, q->chosen.slope), -pl_flat_times(dx, q->rejected.slope)};
}
static inline double pl_pair_difference(const pl_pair *q) { return q->chosen.score - q->rejected.score; }

/* Rewards and log-probs as DPO defines them: rewards are beta times the raw log-ratio, whatever the divergence. */
#define PL_PAIR_METRICS 6
extern const char *const pl_pair_metrics[PL_PAIR_METRICS];
void pl_pairs_measure(pl_metric *metrics, const pl_loss_in *in, const pl_loss_params *p);

/* A row of the table: an objective of plumb dpo. What differs follows as designated initialisers. */
#define PL_DPO_ROW(NAME, PAPER, RUN, ...)                                                                              \
    {                                                                                                                  \
        .command = "dpo", .name = NAME, .paper = PAPER, .rows = PL_LOSS_PAIRED, .reference = true,                     \
        .metrics = pl_pair_metrics, .nmetrics = PL_PAIR_METRICS, .measure = pl_pairs_measure, .run = RUN, __VA_ARGS__  \
    }

#endif
