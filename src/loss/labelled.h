/* loss/labelled.h: what the objectives over single rows with a label share: TRL's metrics of KTO and BCO. */
#ifndef PL_LABELLED_H
#define PL_LABELLED_H

#include "loss/objective.h"

/* Rewards are beta times the raw log-ratio, log-probs are sums; for rewards/margins both kinds must be there. */
#define PL_LABELLED_METRICS 6
enum {
    PL_LABELLED_OWN,
    PL_LABELLED_CHOSEN,
    PL_LABELLED_REJECTED,
    PL_LABELLED_LOGPS_CHOSEN,
    PL_LABELLED_LOGPS_REJECTED,
    PL_LABELLED_MARGINS
};
#define PL_LABELLED_NAMES(OWN)                                                                                         \
    { OWN, "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "rewards/margins" }

static inline double pl_labelled_ratio(const pl_loss_in *in, int64_t s) {
    return in->policy[s] - (in->reference ? in->reference[s] : 0);
}
/* Everything but the objective's own metric. */
void pl_labelled_measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p);
void pl_labelled_derive(pl_metric *m);

#endif
