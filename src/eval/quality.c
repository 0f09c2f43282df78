/* quality.c: accuracy, calibration, and what scores owe to length. */
#include "eval/quality.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "loss/objective.h"

/* --- order and ranks --- */

typedef struct key {
    double value;
    int64_t at;
} key;

static int by_value(const void *a, const void *b) {
    const key *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->at < y->at ? -1 : 1;
}

/* rank[i] of x[i] from 1, equal values share the mean of theirs. keys[n] is scratch. */
static void ranks(double *rank, const double *x, int64_t n, key *keys) {
    for (int64_t i = 0; i < n; i++) keys[i] = (key){x[i], i};
    qsort(keys, (size_t)n, sizeof *keys, by_value);
    for (int64_t i = 0, j; i < n; i = j) {
        for (j = i; j < n && keys[j].value == keys[i].value;) j++;
        for (int64_t k = i; k < j; k++) rank[keys[k].at] = 0.5 * (double)(i + 1 + j);
    }
}

static double pearson(const double *x, const double *y, int64_t n) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) { /* from the first value, so that equal ones have no spread */
        mx += (x[i] - x[0]) / (double)n;
        my += (y[i] - y[0]) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        double dx = x[i] - x[0] - mx, dy = y[i] - y[0] - my;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

/* Of Mann and Whitney, from the ranks of the right answers. */
static double auc(const double *rank, const bool *label, int64_t n) {
    double right = 0, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (label[i]) right += 1, sum += rank[i];
    double wrong = (double)n - right;
    return right > 0 && wrong > 0 ? (sum - right * (right + 1) / 2) / (right * wrong) : NAN;
}

/* --- calibration --- */

static void bins_init(pl_quality *q, double low) {
    for (int i = 0; i < PL_QUALITY_BINS; i++)
        q->bins[i] = (pl_quality_bin){.low = low + (1 - low) * i / PL_QUALITY_BINS,
                                      .high = low + (1 - low) * (i + 1) / PL_QUALITY_BINS};
}

/* An event that the scores give the probability p, at least the first bin's low. */
static void bins_add(pl_quality *q, double p, double happened) {
    double low = q->bins[0].low;
    int i = (int)((p - low) / (1 - low) * PL_QUALITY_BINS);
    pl_quality_bin *b = &q->bins[PL_MAX(0, PL_MIN(i, PL_QUALITY_BINS - 1))];
    b->n++;
    b->predicted += p;
    b->observed += happened;
}

static void bins_finish(pl_quality *q) {
    q->ece = 0;
    for (int i = 0; i < PL_QUALITY_BINS; i++) {
        pl_quality_bin *b = &q->bins[i];
        q->ece += fabs(b->predicted - b->observed) / (double)q->n;
        b->predicted = b->n ? b->predicted / (double)b->n : NAN;
        b->observed = b->n ? b->observed / (double)b->n : NAN;
    }
}

/* --- what both kinds share --- */

typedef struct room {
    key *keys;
    double *score_rank, *length_rank;
} room;

static int room_new(room *r, int64_t n, pl_error *err) {
    int rc;
    PL_GO(rc, PL_NEW(&r->keys, PL_MAX(n, 1), err));
    PL_GO(rc, PL_NEW(&r->score_rank, PL_MAX(n, 1), err));
    PL_GO(rc, PL_NEW(&r->length_rank, PL_MAX(n, 1), err));
out:
    return rc;
}

static void room_release(room *r) {
    pl_free(r->keys);
    pl_free(r->score_rank);
    pl_free(r->length_rank);
}

static void measure_length(pl_quality *q, room *r, const double *score, const double *tokens, int64_t n) {
    ranks(r->score_rank, score, n, r->keys);
    ranks(r->length_rank, tokens, n, r->keys);
    q->length_pearson = pearson(score, tokens, n);
    q->length_spearman = pearson(r->score_rank, r->length_rank, n);
}

static double share(double sum, int64_t n) { return n > 0 ? sum / (double)n : NAN; }

/* Of a share of n independent cases: that of the sample standard deviation. */
static double standard_error(double share, int64_t n) {
    return n > 1 ? sqrt(share * (1 - share) / (double)(n - 1)) : NAN;
}

/* --- pairs --- */

static void measure_pair(pl_quality *q, double c, double r, double difference) {
    double right = c > r;
    q->loss -= pl_log_sigmoid(c - r);
    q->accuracy += right;
    q->mean_good += c;
    q->mean_bad += r;
    bins_add(q, pl_sigmoid(fabs(c - r)), c == r ? 0.5 : right);
    q->length_accuracy += difference > 0 ? 1 : difference == 0 ? 0.5 : 0;
    if (difference < 0) q->shorter++, q->shorter_accuracy += right;
    if (difference > 0) q->longer++, q->longer_accuracy += right;
}

int pl_quality_of_pairs(pl_quality *out, const double *score, const double *tokens, int64_t pairs, pl_error *err) {
    pl_quality q = {.pairs = true, .n = pairs, .auc = NAN};
    room r = {0};
    int rc;
    PL_GO(rc, room_new(&r, 2 * pairs, err));
    bins_init(&q, 0.5);
    for (int64_t i = 0; i < pairs; i++)
        measure_pair(&q, score[2 * i], score[2 * i + 1], tokens[2 * i] - tokens[2 * i + 1]);
    bins_finish(&q);
    q.loss = share(q.loss, pairs);
    q.accuracy = share(q.accuracy, pairs);
    q.se = standard_error(q.accuracy, pairs);
    q.mean_good = share(q.mean_good, pairs);
    q.mean_bad = share(q.mean_bad, pairs);
    q.length_accuracy = share(q.length_accuracy, pairs);
    q.shorter_accuracy = share(q.shorter_accuracy, q.shorter);
    q.longer_accuracy = share(q.longer_accuracy, q.longer);
    measure_length(&q, &r, score, tokens, 2 * pairs);
    *out = q;
out:
    room_release(&r);
    return rc;
}

/* --- labels --- */

int pl_quality_of_labels(pl_quality *out, const double *score, const double *tokens, const bool *label, int64_t n,
                         pl_error *err) {
    pl_quality q = {.n = n, .shorter_accuracy = NAN, .longer_accuracy = NAN};
    room r = {0};
    int rc;
    PL_GO(rc, room_new(&r, n, err));
    bins_init(&q, 0);
    for (int64_t i = 0; i < n; i++) {
        q.loss -= pl_log_sigmoid(label[i] ? score[i] : -score[i]);
        q.accuracy += (score[i] > 0) == label[i];
        q.positive += label[i];
        *(label[i] ? &q.mean_good : &q.mean_bad) += score[i];
        bins_add(&q, pl_sigmoid(score[i]), label[i]);
    }
    bins_finish(&q);
    q.loss = share(q.loss, n);
    q.accuracy = share(q.accuracy, n);
    q.se = standard_error(q.accuracy, n);
    q.mean_good = share(q.mean_good, q.positive);
    q.mean_bad = share(q.mean_bad, n - q.positive);
    measure_length(&q, &r, score, tokens, n);
    q.auc = auc(r.score_rank, label, n);
    q.length_accuracy = auc(r.length_rank, label, n);
    *out = q;
out:
    room_release(&r);
    return rc;
}
