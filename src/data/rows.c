/* data/rows.c: growing arrays of rows, and what is known of them once they are complete. */
#include "data/rows.h"

#include <string.h>

/* Room for `more` elements behind n; doubles, so that adding stays linear. */
static int grow(void **p, int64_t n, int64_t more, int64_t *cap, size_t elem, pl_error *err) {
    if (more <= *cap - n) return 0;
    size_t bytes;
    int64_t want = PL_MAX(n + more, PL_MAX(*cap * 2, (int64_t)64));
    int rc = pl_bytes2(&bytes, want, elem, err);
    if (rc == 0) rc = pl_realloc(p, (size_t)n * elem, bytes, err);
    if (rc == 0) *cap = want;
    return rc;
}

static pl_span add_ids(pl_rows *r, const int32_t *ids, int64_t count) {
    pl_span s = {r->nids, count};
    if (count > 0) memcpy(r->ids + r->nids, ids, (size_t)count * sizeof *ids);
    r->nids += count;
    return s;
}

int pl_rows_add(pl_rows *r, const pl_row_ids *row, pl_error *err) {
    int rc;
    int64_t count = row->prompt_count;
    for (int64_t a = 0; a < row->answers; a++) count += row->answer_count[a];
    PL_GO(rc, grow((void **)&r->rows, r->n, 1, &r->rows_cap, sizeof *r->rows, err));
    PL_GO(rc, grow((void **)&r->answers, r->nanswers, row->answers, &r->answers_cap, sizeof *r->answers, err));
    PL_GO(rc, grow((void **)&r->ids, r->nids, count, &r->ids_cap, sizeof *r->ids, err));
    pl_row *to = &r->rows[r->n++];
    *to = (pl_row){.source = row->source,
                   .line = row->line,
                   .first_answer = r->nanswers,
                   .answers = row->answers,
                   .label = row->label,
                   .margin = row->margin};
    to->prompt = add_ids(r, row->prompt, row->prompt_count);
    for (int64_t a = 0; a < row->answers; a++)
        r->answers[r->nanswers++] = add_ids(r, row->answer[a], row->answer_count[a]);
out:
    return rc;
}

static void measure(pl_dataset *d) {
    for (int64_t r = 0; r < d->n; r++) {
        const pl_row *row = &d->rows[r];
        int64_t tree = row->prompt.count;
        for (int64_t a = 0; a < row->answers; a++) {
            int64_t count = d->answers[row->first_answer + a].count;
            tree += count;
            d->longest_row = PL_MAX(d->longest_row, row->prompt.count + count);
        }
        d->longest_tree = PL_MAX(d->longest_tree, tree);
    }
}

/* Ids of all rows with the lengths that cut them: what decides every log-prob, whatever the file was. */
static int hash_rows(pl_dataset *d, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc != 0) return rc;
    pl_hasher_add_int(h, d->kind);
    pl_hasher_add_int(h, d->n);
    for (int64_t r = 0; r < d->n; r++) {
        const pl_row *row = &d->rows[r];
        pl_hasher_add_int(h, row->prompt.count);
        pl_hasher_add(h, d->ids + row->prompt.first, (size_t)row->prompt.count * sizeof *d->ids);
        if (d->kind == PL_DATA_LABELLED) pl_hasher_add_int(h, row->label);
        if (row->margin != 0) pl_hasher_add(h, &row->margin, sizeof row->margin);
        for (int64_t a = 0; a < row->answers; a++) {
            pl_span s = d->answers[row->first_answer + a];
            pl_hasher_add_int(h, s.count);
            pl_hasher_add(h, d->ids + s.first, (size_t)s.count * sizeof *d->ids);
        }
    }
    d->hash = pl_hasher_digest(h);
    pl_hasher_free(h);
    return 0;
}

int pl_rows_finish(pl_dataset **out, pl_rows *r, pl_data_kind kind, pl_error *err) {
    pl_dataset *d = NULL;
    int rc = PL_NEW(&d, 1, err);
    if (rc != 0) return rc;
    *d = (pl_dataset){.kind = kind, .n = r->n, .rows = r->rows, .answers = r->answers, .ids = r->ids, .nids = r->nids};
    d->report.kept = d->n;
    measure(d);
    rc = hash_rows(d, err);
    if (rc != 0) {
        pl_free(d); /* the arrays are still r's */
        return rc;
    }
    *r = (pl_rows){0};
    *out = d;
    return 0;
}

void pl_rows_release(pl_rows *r) {
    pl_free(r->rows);
    pl_free(r->answers);
    pl_free(r->ids);
    *r = (pl_rows){0};
}

void pl_dataset_free(pl_dataset *d) {
    if (!d) return;
    pl_free(d->rows);
    pl_free(d->answers);
    pl_free(d->ids);
    pl_free(d->mixed);
    pl_free(d->unused);
    pl_free(d);
}
