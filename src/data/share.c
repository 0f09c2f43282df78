/* data/share.c: rows with equal prompts put together, so that a forest holds the prompt once. */
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"

/* A row by its prompt; `leader` is the first row with an equal one. */
typedef struct keyed {
    const int32_t *ids;
    int64_t count, row, leader;
} keyed;

static int compare(int64_t a, int64_t b) { return a < b ? -1 : a > b; }

static int compare_prompts(const keyed *a, const keyed *b) {
    if (a->count != b->count) return compare(a->count, b->count);
    return a->count ? memcmp(a->ids, b->ids, (size_t)a->count * sizeof *a->ids) : 0;
}

static int by_prompt(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    int order = compare_prompts(x, y);
    return order ? order : compare(x->row, y->row);
}

static int by_leader(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    return x->leader != y->leader ? compare(x->leader, y->leader) : compare(x->row, y->row);
}

/* The rows, those with equal prompts side by side, in the order of their first ones. */
static void sort_rows(keyed *keys, const pl_dataset *d) {
    for (int64_t r = 0; r < d->n; r++) {
        pl_span prompt = d->rows[r].prompt;
        keys[r] = (keyed){.ids = d->ids + prompt.first, .count = prompt.count, .row = r};
    }
    qsort(keys, (size_t)d->n, sizeof *keys, by_prompt);
    for (int64_t i = 0; i < d->n; i++)
        keys[i].leader = i > 0 && compare_prompts(&keys[i], &keys[i - 1]) == 0 ? keys[i - 1].leader : keys[i].row;
    qsort(keys, (size_t)d->n, sizeof *keys, by_leader);
}

int pl_dataset_share(pl_dataset *d, int64_t **sources, int64_t most_tok, pl_error *err) {
    keyed *keys = NULL;
    pl_row *rows = NULL;
    pl_span *answers = NULL;
    int64_t *source = NULL, n = 0, tokens = 0, longest = 0;
    int rc;
    for (int64_t r = 0; r < d->n; r++)
        if (d->rows[r].answers != 1) return PL_FAIL(err, PL_E_INTERNAL, "rows of several answers are not put together");
    PL_GO(rc, PL_NEW(&keys, PL_MAX(d->n, 1), err));
    PL_GO(rc, PL_NEW(&rows, PL_MAX(d->n, 1), err));
    PL_GO(rc, PL_NEW(&answers, PL_MAX(d->n, 1), err));
    PL_GO(rc, PL_NEW(&source, PL_MAX(d->n, 1), err));
    sort_rows(keys, d);
    for (int64_t i = 0; i < d->n; i++) {
        const pl_row *row = &d->rows[keys[i].row];
        answers[i] = d->answers[row->first_answer];
        source[i] = row->source;
        bool joins = i > 0 && keys[i].leader == keys[i - 1].leader && answers[i].count <= most_tok - tokens;
        if (!joins) {
            rows[n] = *row;
            rows[n].first_answer = i;
            rows[n++].answers = 0;
            tokens = row->prompt.count;
        }
        rows[n - 1].answers++;
        tokens += answers[i].count;
        longest = PL_MAX(longest, tokens);
    }
    pl_free(d->rows);
    pl_free(d->answers);
    d->rows = rows;
    d->answers = answers;
    d->n = n;
    d->longest_tree = longest;
    *sources = source;
    rows = NULL, answers = NULL, source = NULL;
out:
    pl_free(keys);
    pl_free(rows);
    pl_free(answers);
    pl_free(source);
    return rc;
}
