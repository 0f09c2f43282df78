/* train/record.h: metrics.jsonl: one line per optimizer step and per evaluation, keys in fixed order, times last. */
#ifndef PL_RECORD_H
#define PL_RECORD_H

#include "base/buf.h"
#include "train/batch.h"

typedef struct pl_record {
    int fd; /* -1: closed */
    int64_t bytes;
    pl_buf line;
} pl_record;

/* Opens DIR/metrics.jsonl and cuts it to `bytes` (what a checkpoint recorded; 0: anew). */
int pl_record_open(pl_record *r, const char *dir, int64_t bytes, pl_error *err);
void pl_record_close(pl_record *r);
/* {"step":…, "epoch":…, values…, times…}; written whole. Grows r->bytes. */
int pl_record_write(pl_record *r, int64_t step, double epoch, const pl_values *values, const pl_values *times,
                    pl_error *err);
/* Everything written is on the disk (before a checkpoint that counts on it). */
int pl_record_sync(pl_record *r, pl_error *err);
/* The step of the last line of DIR/metrics.jsonl, 0 without one. */
int pl_record_last_step(int64_t *step, const char *dir, pl_error *err);

#endif
