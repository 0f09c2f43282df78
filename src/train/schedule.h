/* train/schedule.h: which rows and which learning rate belong to which optimizer step. Pure functions of the
 * configuration, as transformers' Trainer computes them. */
#ifndef PL_SCHEDULE_H
#define PL_SCHEDULE_H

#include "data/pack.h"
#include "train/config.h"

typedef struct pl_schedule {
    int64_t rows, batch, accumulation;          /* packed: bins, wherever rows are counted here */
    int64_t batches_per_epoch, steps_per_epoch; /* ceil(rows / batch); ceil(batches / accumulation), at least 1 */
    int64_t steps, warmup;                      /* of the whole run */
    int kind;                                   /* PL_SCHED_* */
    double peak;
    bool random;
    uint64_t data_seed;
    int64_t *order; /* [rows] of epoch order_epoch; owned */
    int64_t order_epoch;
    const pl_bins *bins; /* NULL: not packed; borrowed */
    int64_t *unpacked;   /* [most_rows] the rows of a step's bins; owned */
    int64_t most_rows;   /* of the dataset in a step */
} pl_schedule;

/* PL_E_RANGE when there are no rows. */
int pl_schedule_init(pl_schedule *s, const pl_config *c, int64_t rows, pl_error *err);
/* After pl_schedule_init for so many bins: steps take bins, and pl_schedule_rows gives the rows in them. */
int pl_schedule_pack(pl_schedule *s, const pl_bins *bins, pl_error *err);
void pl_schedule_release(pl_schedule *s);
/* The dataset's rows of step (from 0): borrowed until the next call. The last step of an epoch may be short. */
int pl_schedule_rows(pl_schedule *s, int64_t step, const int64_t **rows, int64_t *n, pl_error *err);
/* The rate of step (from 0), and the epoch after it. */
double pl_schedule_rate(const pl_schedule *s, int64_t step);
double pl_schedule_epoch(const pl_schedule *s, int64_t step);
/* Does something that happens every `every` steps (below 1: a share of all steps), or at the end of each epoch, happen
 * after `done` steps? */
bool pl_schedule_due(const pl_schedule *s, int when, double every, int64_t done);
/* `every` in steps. */
int64_t pl_schedule_every(const pl_schedule *s, double every);

#endif
