/* data/order.c: which rows, in which order: the epochs' permutations and the part that is held out. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "data/rows.h"

int pl_epoch_order(int64_t *out, int64_t n, bool random, uint64_t seed, int64_t epoch, pl_error *err) {
    if (random) return pl_torch_randperm(out, n, seed + (uint64_t)epoch, err);
    for (int64_t i = 0; i < n; i++) out[i] = i;
    return 0;
}

/* The rows of d with held[r] == want, in their order, with ids of their own. */
static int subset(pl_dataset **out, const pl_dataset *d, const bool *held, bool want, pl_error *err) {
    int rc;
    pl_rows rows = {0};
    for (int64_t r = 0; r < d->n; r++) {
        if (held[r] != want) continue;
        const pl_row *row = &d->rows[r];
        pl_row_ids ids = {.source = row->source,
                          .line = row->line,
                          .answers = row->answers,
                          .label = row->label,
                          .margin = row->margin};
        ids.prompt = d->ids + row->prompt.first;
        ids.prompt_count = row->prompt.count;
        for (int64_t a = 0; a < row->answers; a++) {
            pl_span s = d->answers[row->first_answer + a];
            ids.answer[a] = d->ids + s.first;
            ids.answer_count[a] = s.count;
        }
        PL_GO(rc, pl_rows_add(&rows, &ids, err));
    }
    PL_GO(rc, pl_rows_finish(out, &rows, d->kind, err));
out:
    pl_rows_release(&rows);
    return rc;
}

int pl_dataset_split(pl_dataset *d, pl_dataset **held, double share, uint64_t seed, pl_error *err) {
    if (!(share > 0 && share < 1))
        return PL_FAIL(err, PL_E_RANGE, "share of held-out rows %g: more than 0 and less than 1 is wanted", share);
    int64_t count = (int64_t)ceil(share * (double)d->n);
    if (count < 1 || count >= d->n)
        return PL_FAIL(err, PL_E_RANGE, "%g of %" PRId64 " rows held out leaves nothing to train on", share, d->n);
    int rc;
    int64_t *order = NULL;
    bool *flags = NULL;
    pl_dataset *rest = NULL, *part = NULL;
    PL_GO(rc, PL_NEW(&order, d->n, err));
    PL_GO(rc, PL_NEW(&flags, d->n, err));
    PL_GO(rc, pl_torch_randperm(order, d->n, seed, err));
    for (int64_t i = d->n - count; i < d->n; i++) flags[order[i]] = true;
    PL_GO(rc, subset(&rest, d, flags, false, err));
    PL_GO(rc, subset(&part, d, flags, true, err));
    int64_t kept = rest->n;
    rest->report = d->report;
    rest->report.kept = kept;
    rest->unused = d->unused;
    d->unused = NULL;
    pl_dataset swap = *d;
    *d = *rest;
    *rest = swap;
    *held = part;
    part = NULL;
out:
    pl_dataset_free(rest);
    pl_dataset_free(part);
    pl_free(flags);
    pl_free(order);
    return rc;
}
