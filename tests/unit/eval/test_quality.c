/* test_quality.c: accuracy, calibration, AUC and correlation with length, against values worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "eval/quality.h"
#include "unit/alloc_hook.h"

#define NEAR(a, b) assert_true(fabs((a) - (b)) <= 1e-12)

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void pairs(void **state) {
    (void)state;
    /* right, wrong, a tie, right; the chosen answer is longer, shorter, as long, shorter */
    const double score[8] = {2, 0, -1, 0.5, 1, 1, 3, -3}, tokens[8] = {9, 4, 2, 6, 5, 5, 1, 7};
    pl_quality q;
    assert_int_equal(pl_quality_of_pairs(&q, score, tokens, 4, NULL), 0);
    assert_true(q.pairs && isnan(q.auc));
    NEAR(q.accuracy, 0.5);
    NEAR(q.se, sqrt(0.25 / 3));
    NEAR(q.loss, -(log(sigmoid(2)) + log(sigmoid(-1.5)) + log(0.5) + log(sigmoid(6))) / 4);
    NEAR(q.mean_good, 1.25);
    NEAR(q.mean_bad, -0.375);
    NEAR(q.length_accuracy, 1.5 / 4);
    assert_int_equal(q.longer, 1);
    assert_int_equal(q.shorter, 2);
    NEAR(q.longer_accuracy, 1);
    NEAR(q.shorter_accuracy, 0.5);
    /* confidences .8808 (right), .8176 (wrong), .5 (a tie is half), .9975 (right): each in a bin of its own */
    NEAR(q.ece, (1 - sigmoid(2) + sigmoid(1.5) + 0 + 1 - sigmoid(6)) / 4);
    assert_int_equal(q.bins[0].n, 1);
    NEAR(q.bins[0].observed, 0.5);
    assert_int_equal(q.bins[6].n, 1);
    assert_int_equal(q.bins[7].n, 1);
    assert_int_equal(q.bins[9].n, 1);
    assert_true(q.bins[1].n == 0 && isnan(q.bins[1].predicted));
}

static void labels(void **state) {
    (void)state;
    const double score[6] = {3, 1, 1, -1, -2, 0}, tokens[6] = {1, 2, 3, 4, 5, 6};
    const bool label[6] = {true, true, false, true, false, false};
    pl_quality q;
    assert_int_equal(pl_quality_of_labels(&q, score, tokens, label, 6, NULL), 0);
    assert_int_equal(q.positive, 3);
    NEAR(q.accuracy, 4.0 / 6); /* 0 is not above 0: taken to be wrong, which it is */
    NEAR(q.auc, (3 + 2.5 + 1) / 9.0);
    NEAR(q.mean_good, 1);
    NEAR(q.mean_bad, -1.0 / 3);
    NEAR(q.length_accuracy, 1.0 / 9); /* AUC of length: only row 3 against row 2 */
    /* ranks of the scores: 6, 4.5, 4.5, 2, 1, 3; of the lengths 1 to 6 */
    NEAR(q.length_spearman, -14 / sqrt(17 * 17.5));
    const bool all[6] = {true, true, true, true, true, true};
    assert_int_equal(pl_quality_of_labels(&q, score, tokens, all, 6, NULL), 0);
    assert_true(isnan(q.auc) && isnan(q.mean_bad));
}

/* Perfectly said probabilities have no error; the opposite has all of it. */
static void calibration(void **state) {
    (void)state;
    double score[100], tokens[100];
    bool label[100], other[100];
    for (int i = 0; i < 100; i++) {
        score[i] = log(0.7 / 0.3);
        tokens[i] = 1;
        label[i] = i < 70;
        other[i] = i >= 100;
    }
    pl_quality q;
    assert_int_equal(pl_quality_of_labels(&q, score, tokens, label, 100, NULL), 0);
    NEAR(q.ece, 0);
    NEAR(q.auc, 0.5);
    assert_true(isnan(q.length_pearson)); /* nothing varies */
    assert_int_equal(pl_quality_of_labels(&q, score, tokens, other, 100, NULL), 0);
    NEAR(q.ece, 0.7);
}

/* Numbers that do not exist are null: a program must be able to read it. */
static void prints(void **state) {
    (void)state;
    const double score[2] = {1, 0}, tokens[2] = {1, 1};
    pl_quality q;
    pl_buf b = {0};
    assert_int_equal(pl_quality_of_pairs(&q, score, tokens, 1, NULL), 0);
    assert_int_equal(pl_quality_json(&b, &q, NULL), 0);
    assert_non_null(strstr(b.data, "{\"kind\":\"pairs\",\"pairs\":1,\"accuracy\":1.0,\"accuracy_stderr\":null,"));
    assert_null(strstr(b.data, "nan"));
    assert_null(strstr(b.data, "NaN"));
    pl_buf_release(&b);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void memory(void **state) {
    (void)state;
    const double score[4] = {1, 0, 2, 3}, tokens[4] = {1, 1, 2, 3};
    const bool label[4] = {true, false, true, false};
    for (int64_t k = 0, rc = PL_E_NOMEM; rc != 0; k++) {
        pl_quality q;
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = pl_quality_of_labels(&q, score, tokens, label, 4, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs), cmocka_unit_test(labels), cmocka_unit_test(calibration),
                                       cmocka_unit_test(prints), cmocka_unit_test(memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
