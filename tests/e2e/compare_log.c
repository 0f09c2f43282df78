/* compare_log.c: compares two metric files line by line.
 *
 *   compare_log trl METRICS LOG [key ...]   METRICS of plumb against TRL's LOG: every line and every key of LOG must be
 *                                           there, within the limits below; the keys named at the end are left out
 *   compare_log same A B                    every key but the timing ones, equal to the last bit
 *   compare_log near TOLERANCE A B          loss within TOLERANCE, of a loss above 1 relative to it; nothing else
 *   compare_log logps GOT WANT              `plumb logps --tokens` against tests/golden/trl/logps: same ids, each
 * log-prob within 2e-5, sums within 1e-4 + 1e-6 of the float64 sum's size
 *
 * Exits with 0 when they agree, 1 when they differ, 2 when it cannot compare. NaN never agrees. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"

#define MAX_LINES 2000

typedef struct log {
    pl_json *rows[MAX_LINES];
    int64_t n;
} log_file;

/* TRL's own rounding noise over 50 steps is 1e-6 in a loss below 1 and 5e-6 relative in grad_norm (tests/reference/
 * README); losses and rewards of 10 and more (sums of log-ratios) carry the relative part. The first part that a key
 * contains decides. */
static const struct {
    const char *part;
    double absolute, relative;
} limits[] = {{"loss", 1e-5, 5e-6}, {"grad_norm", 0, 1e-4}, {"learning_rate", 0, 1e-9}, {"epoch", 1e-9, 0},
              {"num_tokens", 0, 0}, {"accuracy", 1e-6, 0},  {"accuracies", 1e-6, 0},    {"logps/", 1e-5, 1e-6},
              {"logits/", 1e-6, 0}, {"", 1e-5, 5e-6}};

static double limit_of(const char *key, double want) {
    int i = 0;
    while (!strstr(key, limits[i].part)) i++;
    return limits[i].absolute + limits[i].relative * fabs(want);
}

static void load(log_file *l, const char *path) {
    pl_error err;
    pl_lines *lines = NULL;
    const char *line;
    size_t len;
    int rc = pl_lines_open(&lines, path, 1 << 20, &err);
    while (rc == 0 && (rc = pl_lines_next(lines, &line, &len, &err)) == 0 && line && l->n < MAX_LINES)
        if (len) rc = pl_json_parse(&l->rows[l->n++], line, len, path, &err);
    pl_lines_free(lines);
    if (rc == 0 && l->n > 0) return;
    fprintf(stderr, "%s: %s\n", path, rc ? err.text : "no lines");
    exit(2);
}

static bool is_eval(const pl_json *row) { return pl_json_has(row, "eval_loss"); }

static const pl_json *find(const log_file *l, const pl_json *row) {
    for (int64_t i = 0; i < l->n; i++)
        if (pl_json_int(pl_json_get(l->rows[i], "step")) == pl_json_int(pl_json_get(row, "step")) &&
            is_eval(l->rows[i]) == is_eval(row))
            return l->rows[i];
    return NULL;
}

static int64_t step_of(const pl_json *row) { return pl_json_int(pl_json_get(row, "step")); }

static double number(const pl_json *row, const char *key) {
    const pl_json *v = pl_json_get(row, key);
    pl_json_kind kind = pl_json_kind_of(v);
    return kind == PL_J_INT || kind == PL_J_DOUBLE ? pl_json_double(v) : (double)NAN;
}

static bool is_listed(const char *key, char **list) {
    for (; *list; list++)
        if (strcmp(*list, key) == 0) return true;
    return false;
}

/* While every earlier learning rate was 0 the policy is the reference: rewards are exact ties here, and in TRL whatever
 * its rounding makes of them. */
static bool is_tie(const pl_json *row, const char *key) {
    return strcmp(key, "rewards/accuracies") == 0 && fabs(number(row, "rewards/chosen")) < 1e-5 &&
           fabs(number(row, "rewards/rejected")) < 1e-5;
}

static int compare_trl(const log_file *got, const log_file *want, char **skip) {
    int bad = got->n != want->n;
    int64_t compared = 0;
    if (bad) printf("%lld lines, TRL has %lld\n", (long long)got->n, (long long)want->n);
    for (int64_t i = 0; i < want->n; i++) {
        const pl_json *row = want->rows[i], *have = find(got, row);
        for (pl_json_iter it = pl_json_first(row); it.key; it = pl_json_next(it)) {
            double w = pl_json_double(it.value), h = have ? number(have, it.key) : (double)NAN;
            if (is_listed(it.key, skip) || (have && is_tie(row, it.key) && is_tie(have, it.key))) continue;
            compared++;
            if (fabs(h - w) <= limit_of(it.key, w)) continue;
            if (bad++ < 8) printf("step %lld %s: %.17g, TRL has %.17g\n", (long long)step_of(row), it.key, h, w);
        }
    }
    printf("%lld values compared, %d differ\n", (long long)compared, bad);
    return bad != 0 || compared < 100;
}

static bool is_timing(const char *key) {
    return strstr(key, "step_time") || strstr(key, "_per_second") || strstr(key, "runtime");
}

static int compare_same(const log_file *a, const log_file *b) {
    int bad = a->n != b->n;
    if (bad) printf("%lld and %lld lines\n", (long long)a->n, (long long)b->n);
    for (int64_t i = 0; i < a->n && i < b->n; i++) {
        pl_json_iter x = pl_json_first(a->rows[i]), y = pl_json_first(b->rows[i]);
        for (; x.key && y.key; x = pl_json_next(x), y = pl_json_next(y)) {
            bool same =
                strcmp(x.key, y.key) == 0 && (is_timing(x.key) || pl_json_double(x.value) == pl_json_double(y.value));
            if (!same && bad++ < 8)
                printf("line %lld: %s %.17g, %s %.17g\n", (long long)i + 1, x.key, pl_json_double(x.value), y.key,
                       pl_json_double(y.value));
        }
        if (x.key || y.key) bad++;
    }
    return bad != 0;
}

static int compare_near(const log_file *a, const log_file *b, double tolerance) {
    double worst = 0;
    bool bad = a->n != b->n;
    for (int64_t i = 0; i < a->n && i < b->n; i++) {
        const char *key = is_eval(a->rows[i]) ? "eval_loss" : "loss";
        double d = fabs(number(a->rows[i], key) - number(b->rows[i], key)) / fmax(1, fabs(number(b->rows[i], key)));
        if (!(d <= tolerance)) bad = true;
        if (!(d <= worst)) worst = d;
    }
    printf("largest difference of a loss: %.3g\n", worst);
    return bad;
}

static bool same_ids(const pl_json *x, const pl_json *y) {
    bool same = pl_json_len(x) == pl_json_len(y) && pl_json_len(y) > 0;
    for (int64_t i = 0; same && i < pl_json_len(y); i++)
        same = pl_json_int(pl_json_at((pl_json *)x, i)) == pl_json_int(pl_json_at((pl_json *)y, i));
    return same;
}

/* The largest difference of a token's log-prob; NaN where the answers cannot be compared. */
static double answer_distance(const pl_json *got, const pl_json *want, double *sum) {
    const pl_json *x = pl_json_get(got, "logps"), *y = pl_json_get(want, "logps");
    double worst = 0, exact = number(want, "logp");
    *sum = fabs(number(got, "logp") - exact) - 1e-6 * fabs(exact);
    if (!same_ids(pl_json_get(got, "ids"), pl_json_get(want, "ids")) || pl_json_len(x) != pl_json_len(y))
        return (double)NAN;
    for (int64_t i = 0; i < pl_json_len(y); i++) {
        double d = fabs(pl_json_double(pl_json_at((pl_json *)x, i)) - pl_json_double(pl_json_at((pl_json *)y, i)));
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static int compare_logps(const log_file *got, const log_file *want) {
    static const char *const answers[] = {"chosen", "rejected"};
    bool bad = got->n != want->n;
    double worst = 0, worst_sum = 0;
    for (int64_t i = 0; i < got->n && i < want->n; i++) {
        const pl_json *g = got->rows[i], *w = want->rows[i];
        if (!same_ids(pl_json_get(g, "prompt_ids"), pl_json_get(w, "prompt_ids"))) {
            printf("row %lld: other prompt ids\n", (long long)i);
            bad = true;
        }
        for (int64_t k = 0; k < PL_LEN(answers); k++) {
            double sum, d = answer_distance(pl_json_get(g, answers[k]), pl_json_get(w, answers[k]), &sum);
            if (!(d <= 2e-5) || !(sum <= 1e-4)) {
                printf("row %lld %s: a token differs by %g, the sum by %g\n", (long long)i, answers[k], d, sum);
                bad = true;
            }
            if (!(d <= worst)) worst = d;
            if (!(sum <= worst_sum)) worst_sum = sum;
        }
    }
    printf("%lld rows, largest difference of a token's log-prob %.2g, of a sum %.2g\n", (long long)got->n, worst,
           worst_sum);
    return bad;
}

int main(int argc, char **argv) {
    static log_file a, b;
    if (argc == 4 && strcmp(argv[1], "logps") == 0) {
        load(&a, argv[2]);
        load(&b, argv[3]);
        return compare_logps(&a, &b);
    }
    if (argc >= 4 && strcmp(argv[1], "trl") == 0) {
        load(&a, argv[2]);
        load(&b, argv[3]);
        return compare_trl(&a, &b, argv + 4);
    }
    if (argc == 4 && strcmp(argv[1], "same") == 0) {
        load(&a, argv[2]);
        load(&b, argv[3]);
        return compare_same(&a, &b);
    }
    if (argc == 5 && strcmp(argv[1], "near") == 0) {
        load(&a, argv[3]);
        load(&b, argv[4]);
        return compare_near(&a, &b, atof(argv[2]));
    }
    fprintf(stderr, "usage: compare_log trl|same|near|logps ...\n");
    return 2;
}
