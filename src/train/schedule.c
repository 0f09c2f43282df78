/* schedule.c: steps, epochs and learning rates, after transformers' Trainer and its get_scheduler. */
#include "train/schedule.h"

#include <math.h>

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int pl_schedule_init(pl_schedule *s, const pl_config *c, int64_t rows, pl_error *err) {
    *s = (pl_schedule){.rows = rows,
                       .batch = c->per_device_train_batch_size,
                       .accumulation = c->gradient_accumulation_steps,
                       .kind = c->lr_scheduler_type,
                       .peak = c->learning_rate,
                       .order_epoch = -1,
                       .random = c->train_sampling_strategy == PL_SAMPLE_RANDOM,
                       .data_seed = (uint64_t)(c->data_seed == PL_OPT_NO_I64 ? c->seed : c->data_seed)};
    if (rows < 1) return PL_FAIL(err, PL_E_RANGE, "no rows are left to train on");
    s->batches_per_epoch = ceil_div(rows, s->batch);
    s->steps_per_epoch = ceil_div(s->batches_per_epoch, s->accumulation);
    double steps = c->max_steps > 0 ? (double)c->max_steps : ceil(c->num_train_epochs * (double)s->steps_per_epoch);
    if (!(steps < 9e15)) return PL_FAIL(err, PL_E_RANGE, "num_train_epochs means %g steps", steps);
    s->steps = (int64_t)steps;
    double warmup = c->warmup_steps > 0 ? c->warmup_steps : c->warmup_ratio;
    bool share = warmup < 1 || c->warmup_steps <= 0;
    s->warmup = (int64_t)(share ? ceil(warmup * (double)s->steps) : warmup);
    if (s->kind == PL_SCHED_CONSTANT && s->warmup > 0)
        return PL_FAIL(err, PL_E_OPTION, "lr_scheduler_type constant has no warm-up: use constant_with_warmup");
    s->most_rows = PL_MIN(s->batch * s->accumulation, rows);
    return PL_NEW(&s->order, rows, err);
}

int pl_schedule_pack(pl_schedule *s, const pl_bins *bins, pl_error *err) {
    s->bins = bins;
    s->most_rows *= bins->most_rows;
    return PL_NEW(&s->unpacked, s->most_rows, err);
}

void pl_schedule_release(pl_schedule *s) {
    pl_free(s->order);
    pl_free(s->unpacked);
    *s = (pl_schedule){0};
}

static int64_t unpack(pl_schedule *s, const int64_t *bins, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = s->bins->first[bins[i]]; r < s->bins->first[bins[i] + 1]; r++) s->unpacked[count++] = r;
    return count;
}

int pl_schedule_rows(pl_schedule *s, int64_t step, const int64_t **rows, int64_t *n, pl_error *err) {
    int64_t epoch = step / s->steps_per_epoch, first = step % s->steps_per_epoch * s->batch * s->accumulation;
    if (epoch != s->order_epoch) {
        int rc = pl_epoch_order(s->order, s->rows, s->random, s->data_seed, epoch, err);
        if (rc) return rc;
        s->order_epoch = epoch;
    }
    *rows = s->order + first;
    *n = PL_MIN(s->batch * s->accumulation, s->rows - first);
    if (s->bins) {
        *n = unpack(s, *rows, *n);
        *rows = s->unpacked;
    }
    return 0;
}

double pl_schedule_rate(const pl_schedule *s, int64_t step) {
    if (s->kind == PL_SCHED_CONSTANT) return s->peak;
    if (step < s->warmup) return s->peak * ((double)step / (double)PL_MAX(1, s->warmup));
    if (s->kind == PL_SCHED_CONSTANT_WARMUP) return s->peak;
    double rest = (double)PL_MAX(1, s->steps - s->warmup);
    if (s->kind == PL_SCHED_COSINE)
        return s->peak * fmax(0, 0.5 * (1 + cos(M_PI * 2 * 0.5 * ((double)(step - s->warmup) / rest))));
    return s->peak * fmax(0, (double)(s->steps - step) / rest);
}

double pl_schedule_epoch(const pl_schedule *s, int64_t step) {
    int64_t in_epoch = step % s->steps_per_epoch + 1;
    int64_t batches = PL_MIN(in_epoch * s->accumulation, s->batches_per_epoch);
    return (double)(step / s->steps_per_epoch) + (double)batches / (double)s->batches_per_epoch;
}

int64_t pl_schedule_every(const pl_schedule *s, double every) {
    double n = every < 1 ? ceil(every * (double)s->steps) : floor(every);
    return PL_MAX(1, (int64_t)n);
}

bool pl_schedule_due(const pl_schedule *s, int when, double every, int64_t done) {
    if (when == PL_WHEN_STEPS) return done % pl_schedule_every(s, every) == 0;
    return when == PL_WHEN_EPOCH && done % s->steps_per_epoch == 0;
}
