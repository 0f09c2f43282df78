/* report.c: what the scores of an evaluation are worth: accuracy, calibration, and how much of it is length. */
#include <math.h>

#include "base/file.h"
#include "eval/quality.h"
#include "train/run.h"

#define REPORT "report.json"

static int quality_of(pl_quality *q, const pl_run *r, pl_error *err) {
    const pl_dataset *d = r->eval;
    bool *label = NULL;
    int64_t n = 0;
    for (int64_t i = 0; i < d->n; i++)
        for (int64_t a = 0; a < d->rows[i].answers; a++)
            r->score_tokens[d->rows[i].first_answer + a] = (double)d->answers[d->rows[i].first_answer + a].count, n++;
    if (d->kind == PL_DATA_PREFERENCE) return pl_quality_of_pairs(q, r->scores, r->score_tokens, d->n, err);
    int rc = PL_NEW(&label, PL_MAX(n, 1), err);
    for (int64_t i = 0; rc == 0 && i < d->n; i++) label[d->rows[i].first_answer] = d->rows[i].label;
    if (rc == 0) rc = pl_quality_of_labels(q, r->scores, r->score_tokens, label, n, err);
    pl_free(label);
    return rc;
}

static int write_report(const pl_run *r, const pl_quality *q, pl_error *err) {
    pl_buf b = {0};
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_buf_printf(&b, err, "{\"step\":%" PRId64 ",\"evaluation\":", r->state.step));
    PL_GO(rc, pl_quality_json(&b, q, err));
    PL_GO(rc, pl_buf_puts(&b, "}\n", err));
    PL_GO(rc, pl_path_join(&path, r->c->output_dir, REPORT, err));
    rc = pl_file_write(path, b.data, b.len, err);
out:
    pl_free(path);
    pl_buf_release(&b);
    return rc;
}

static void add(pl_values *v, const char *name, double value) {
    if (!isnan(value)) pl_values_add(v, "eval_", name, value);
}

int pl_run_report(const pl_run *r, pl_values *v, pl_error *err) {
    pl_quality q;
    int rc = quality_of(&q, r, err);
    if (rc) return rc;
    add(v, "auc", q.auc);
    add(v, "ece", q.ece);
    add(v, "length_spearman", q.length_spearman);
    return write_report(r, &q, err);
}
