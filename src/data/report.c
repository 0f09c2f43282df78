/* data/report.c: the words for what was done to the rows of a file. */
#include <stdio.h>

#include "data/dataset.h"
#include "plumb/log.h"

/* "pairs.jsonl: 1 row truncated" */
static void log_count(const char *path, int64_t n, const char *thing, const char *words) {
    if (n > 0) pl_log(PL_LOG_INFO, "%s: %" PRId64 " %s%s %s", path, n, thing, n > 1 ? "s" : "", words);
}

/* "pairs.jsonl: 4 rows with an empty answer (lines 87, 517, 926, 1104)" */
static void log_note(const char *path, const pl_data_note *note, const char *words) {
    char lines[PL_DATA_LISTED * 22 + 8] = "";
    int at = 0;
    int64_t listed = PL_MIN(note->n, (int64_t)PL_DATA_LISTED);
    for (int64_t i = 0; i < listed; i++)
        at += snprintf(lines + at, sizeof lines - (size_t)at, "%s%" PRId64, i ? ", " : "", note->lines[i]);
    if (note->n > listed) snprintf(lines + at, sizeof lines - (size_t)at, ", ...");
    if (note->n > 0)
        pl_log(PL_LOG_INFO, "%s: %" PRId64 " row%s %s (line%s %s)", path, note->n, note->n > 1 ? "s" : "", words,
               note->n > 1 ? "s" : "", lines);
}

static void log_seams(const pl_dataset *d, const char *path) {
    const pl_data_report *r = &d->report;
    if (d->kind == PL_DATA_TEXT) return;
    if (r->seam == PL_SEAM_JOINT)
        pl_log(PL_LOG_INFO,
               "%s: prompt/answer seam: %" PRId64 " answers tokenized jointly, of which %" PRId64
               " where the prompt is cut before its end (TRL's rule)",
               path, r->seam_prefix + r->seam_cut, r->seam_cut);
    else
        pl_log(PL_LOG_INFO,
               "%s: prompt/answer seam: %" PRId64 " answers tokenized jointly, %" PRId64 " as a continuation", path,
               r->seam_prefix, r->seam_continued);
}

void pl_dataset_log(const pl_dataset *d, const char *path) {
    const pl_data_report *r = &d->report;
    if (d->unused) pl_log(PL_LOG_INFO, "%s: columns that are not used: %s", path, d->unused);
    pl_log(PL_LOG_INFO, "%s: %" PRId64 " row%s read, %" PRId64 " kept; longest row %" PRId64 " tokens", path, r->read,
           r->read == 1 ? "" : "s", r->kept, d->longest_row);
    log_seams(d, path);
    log_note(path, &r->empty, "with an empty answer");
    log_count(path, r->dropped_empty, "row", "dropped: empty answer");
    log_note(path, &r->differing, "with differing prompts");
    log_note(path, &r->further, "with a further turn in an answer");
    log_note(path, &r->identical, "with identical answers");
    log_note(path, &r->repeated, "whose answers repeat the prompt");
    log_note(path, &r->double_bos, "beginning with two BOS tokens");
    log_count(path, r->truncated, "row", "truncated");
    log_count(path, r->lost_eos, "answer", "lost the EOS token to truncation");
    log_count(path, r->dropped_long, "row",
              r->drop_long ? "dropped: longer than max_length" : "dropped: prompt as long as max_length");
}
