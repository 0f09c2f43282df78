/* data/rows.h: a dataset while it grows: rows are added with copies of their ids and become a pl_dataset in the end. */
#ifndef PL_ROWS_H
#define PL_ROWS_H

#include "data/dataset.h"

/* One row to add; everything borrowed. */
typedef struct pl_row_ids {
    int64_t source, line; /* as in pl_row */
    const int32_t *prompt;
    int64_t prompt_count;
    int64_t answers; /* 1 or 2, the same for all rows of a dataset */
    const int32_t *answer[2];
    int64_t answer_count[2];
    bool label;
    double margin;
} pl_row_ids;

typedef struct pl_rows {
    pl_row *rows;
    pl_span *answers;
    int32_t *ids;
    int64_t n, nanswers, nids;
    int64_t rows_cap, answers_cap, ids_cap;
} pl_rows;

int pl_rows_add(pl_rows *r, const pl_row_ids *row, pl_error *err);
/* Moves the rows into a new dataset (owned by the caller) with its lengths and hash; the report holds `kept` only. r is
 * empty then. */
int pl_rows_finish(pl_dataset **out, pl_rows *r, pl_data_kind kind, pl_error *err);
void pl_rows_release(pl_rows *r);

#endif
