/* labelled.c: metrics by label. */
#include "loss/labelled.h"

void pl_labelled_measure(pl_metric *m, const pl_loss_in *in, const pl_loss_params *p) {
    for (int64_t i = 0; i * in->per_row < in->n; i++) {
        int64_t s = i * in->per_row;
        bool chosen = in->label[i];
        pl_metric_add(&m[chosen ? PL_LABELLED_CHOSEN : PL_LABELLED_REJECTED], p->beta * pl_labelled_ratio(in, s));
        pl_metric_add(&m[chosen ? PL_LABELLED_LOGPS_CHOSEN : PL_LABELLED_LOGPS_REJECTED], in->policy[s]);
    }
}

void pl_labelled_derive(pl_metric *m) {
    const pl_metric *c = &m[PL_LABELLED_CHOSEN], *r = &m[PL_LABELLED_REJECTED];
    if (c->weight > 0 && r->weight > 0)
        m[PL_LABELLED_MARGINS] = (pl_metric){c->sum / c->weight - r->sum / r->weight, 1};
}
