/* quality_print.c: the quality of scores, for programs and for people. */
#include <math.h>
#include <string.h>

#include "eval/quality.h"

/* JSON has no NaN. */
static int add_number(pl_buf *b, const char *key, double x, pl_error *err) {
    int rc = pl_buf_printf(b, err, ",\"%s\":", key);
    if (rc) return rc;
    return isnan(x) ? pl_buf_puts(b, "null", err) : pl_buf_json_double(b, x, err);
}

typedef struct entry {
    const char *name;
    double value;
} entry;

static int add_all(pl_buf *b, const entry *e, int64_t n, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; i < n && rc == 0; i++) rc = add_number(b, e[i].name, e[i].value, err);
    return rc;
}

static int add_bins(pl_buf *b, const pl_quality *q, pl_error *err) {
    int rc = pl_buf_puts(b, ",\"calibration\":[", err);
    for (int i = 0; i < PL_QUALITY_BINS && rc == 0; i++) {
        const pl_quality_bin *bin = &q->bins[i];
        const entry e[] = {
            {"low", bin->low}, {"high", bin->high}, {"predicted", bin->predicted}, {"observed", bin->observed}};
        PL_GO(rc, pl_buf_printf(b, err, "%s{\"n\":%" PRId64, i ? "," : "", bin->n));
        PL_GO(rc, add_all(b, e, PL_LEN(e), err));
        PL_GO(rc, pl_buf_puts(b, "}", err));
    }
    if (rc == 0) rc = pl_buf_puts(b, "]", err);
out:
    return rc;
}

static int add_pairs(pl_buf *b, const pl_quality *q, pl_error *err) {
    const entry e[] = {{"accuracy", q->accuracy},
                       {"accuracy_stderr", q->se},
                       {"loss", q->loss},
                       {"reward/chosen", q->mean_good},
                       {"reward/rejected", q->mean_bad},
                       {"margin", q->mean_good - q->mean_bad},
                       {"ece", q->ece},
                       {"length/pearson", q->length_pearson},
                       {"length/spearman", q->length_spearman},
                       {"length/baseline_accuracy", q->length_accuracy},
                       {"length/accuracy_chosen_shorter", q->shorter_accuracy},
                       {"length/accuracy_chosen_longer", q->longer_accuracy}};
    int rc = pl_buf_printf(b, err, "{\"kind\":\"pairs\",\"pairs\":%" PRId64, q->n);
    if (rc == 0) rc = add_all(b, e, PL_LEN(e), err);
    if (rc) return rc;
    return pl_buf_printf(b, err, ",\"length/chosen_shorter\":%" PRId64 ",\"length/chosen_longer\":%" PRId64, q->shorter,
                         q->longer);
}

static int add_labels(pl_buf *b, const pl_quality *q, pl_error *err) {
    const entry e[] = {{"accuracy", q->accuracy},
                       {"accuracy_stderr", q->se},
                       {"auc", q->auc},
                       {"loss", q->loss},
                       {"scores/correct", q->mean_good},
                       {"scores/incorrect", q->mean_bad},
                       {"ece", q->ece},
                       {"length/pearson", q->length_pearson},
                       {"length/spearman", q->length_spearman},
                       {"length/baseline_auc", q->length_accuracy}};
    int rc =
        pl_buf_printf(b, err, "{\"kind\":\"labels\",\"answers\":%" PRId64 ",\"correct\":%" PRId64, q->n, q->positive);
    return rc ? rc : add_all(b, e, PL_LEN(e), err);
}

int pl_quality_json(pl_buf *b, const pl_quality *q, pl_error *err) {
    int rc = q->pairs ? add_pairs(b, q, err) : add_labels(b, q, err);
    if (rc == 0) rc = add_bins(b, q, err);
    return rc ? rc : pl_buf_puts(b, "}", err);
}

static int flush(FILE *f, pl_buf *b, int rc, pl_error *err) {
    if (rc == 0 && fwrite(b->data, 1, b->len, f) != b->len) rc = PL_FAIL(err, PL_E_IO, "cannot write the result");
    pl_buf_release(b);
    return rc;
}

int pl_quality_print_json(FILE *f, const pl_quality *q, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_quality_json(&b, q, err);
    if (rc == 0) rc = pl_buf_puts(&b, "\n", err);
    return flush(f, &b, rc, err);
}

static int add_calibration(pl_buf *b, const pl_quality *q, pl_error *err) {
    int rc = pl_buf_printf(b, err, "calibration error %.4f; probability said, share that is so, %s:\n", q->ece,
                           q->pairs ? "pairs" : "answers");
    for (int i = 0; i < PL_QUALITY_BINS && rc == 0; i++)
        if (q->bins[i].n)
            rc = pl_buf_printf(b, err, "  %.2f to %.2f  %8.4f %8.4f %8" PRId64 "\n", q->bins[i].low, q->bins[i].high,
                               q->bins[i].predicted, q->bins[i].observed, q->bins[i].n);
    return rc;
}

static int add_text(pl_buf *b, const pl_quality *q, pl_error *err) {
    int rc;
    if (q->pairs) {
        PL_GO(rc, pl_buf_printf(b, err, "%" PRId64 " pairs: accuracy %.4f +- %.4f, loss %.4f, margin %.4f\n", q->n,
                                q->accuracy, q->se, q->loss, q->mean_good - q->mean_bad));
        PL_GO(rc, pl_buf_printf(b, err,
                                "preferring the longer answer would be right in %.4f; with the chosen answer shorter "
                                "(%" PRId64 ") the accuracy is %.4f, longer (%" PRId64 ") %.4f\n",
                                q->length_accuracy, q->shorter, q->shorter_accuracy, q->longer, q->longer_accuracy));
    } else {
        PL_GO(rc, pl_buf_printf(b, err,
                                "%" PRId64 " answers, %" PRId64
                                " of them right: accuracy %.4f +- %.4f, AUC %.4f (of length %.4f), loss %.4f\n",
                                q->n, q->positive, q->accuracy, q->se, q->auc, q->length_accuracy, q->loss));
    }
    PL_GO(rc, pl_buf_printf(b, err, "score against length: Pearson %.4f, Spearman %.4f\n", q->length_pearson,
                            q->length_spearman));
    rc = add_calibration(b, q, err);
out:
    return rc;
}

int pl_quality_print_text(FILE *f, const pl_quality *q, pl_error *err) {
    pl_buf b = {0};
    int rc = add_text(&b, q, err);
    return flush(f, &b, rc, err);
}
