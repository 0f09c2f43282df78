/* Labelled rows, pairs split into them, margins, and mismatched answers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/reader.h"
#include "data/rows.h"
#include "unit/alloc_hook.h"

/* --- reading --- */

static int read_row(pl_row_text *t, pl_row_form *form, pl_json **json, const char *text, bool labelled, pl_error *err) {
    pl_data_options options = {.preference = !labelled, .labelled = labelled, .margin = !labelled};
    *json = NULL;
    int rc = pl_json_parse(json, text, strlen(text), "f.jsonl:7", err);
    if (rc == 0) rc = pl_row_form_of(form, *json, &options, "f.jsonl:7", err);
    return rc ? rc : pl_row_read(t, *json, form, "f.jsonl:7", err);
}

static void labels(void **state) {
    (void)state;
    static const struct {
        const char *row;
        int label; /* -1: refused */
    } cases[] = {
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":true}", 1},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":false}", 0},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":1}", 1},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":0.0}", 0},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":0.5}", -1},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":\"true\"}", -1},
        {"{\"prompt\":\"p\",\"completion\":\"c\",\"label\":null}", -1},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}", -1},
        {"{\"prompt\":\"p\",\"label\":true}", -1},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_row_text t = {0};
        pl_row_form form = {0};
        pl_json *json;
        pl_error err;
        int rc = read_row(&t, &form, &json, cases[i].row, true, &err);
        assert_int_equal(rc, cases[i].label < 0 ? PL_E_FORMAT : 0);
        if (rc == 0) {
            assert_int_equal(form.kind, PL_DATA_LABELLED);
            assert_false(form.split);
            assert_int_equal(t.answers, 1);
            assert_int_equal(t.label, cases[i].label);
            assert_true(pl_row_form_uses(&form, "label"));
        } else
            assert_non_null(strstr(err.text, "f.jsonl:7: "));
        pl_json_free(json);
    }
}

static void pairs_and_margins(void **state) {
    (void)state;
    pl_row_text t = {0};
    pl_row_form form = {0};
    pl_json *json;
    pl_error err;
    assert_int_equal(read_row(&t, &form, &json, "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}", true, &err),
                     0);
    assert_true(form.split);
    assert_int_equal(form.kind, PL_DATA_LABELLED);
    assert_int_equal(t.answers, 2);
    pl_json_free(json);
    assert_int_equal(read_row(&t, &form, &json,
                              "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"margin\":-1.5}", false, &err),
                     0);
    assert_true(t.margin == -1.5);
    pl_json_free(json);
    assert_int_equal(read_row(&t, &form, &json, "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}", false, &err),
                     0);
    assert_true(t.margin == 0);
    pl_json_free(json);
    static const char *const bad[] = {"{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"margin\":\"1\"}",
                                      "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"margin\":1e999}"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(read_row(&t, &form, &json, bad[i], false, &err), PL_E_FORMAT);
        pl_json_free(json);
    }
}

/* --- mismatched answers --- */

enum { PROMPT = 3, LONGEST = 9 };

/* n rows; row r's prompt begins with r / same, so that `same` rows share one, and its completion is r, r, ... (1 to
 * LONGEST times). */
static int make_rows(pl_dataset **out, int64_t n, int64_t same, pl_error *err) {
    int rc;
    pl_rows rows = {0};
    for (int64_t r = 0; r < n; r++) {
        int32_t prompt[PROMPT] = {(int32_t)(r / same), 1, 2}, answer[LONGEST];
        for (int i = 0; i < LONGEST; i++) answer[i] = (int32_t)r;
        pl_row_ids row = {.source = r, .line = r + 1, .prompt = prompt, .prompt_count = PROMPT, .answers = 1};
        row.answer[0] = answer;
        row.answer_count[0] = 1 + r % LONGEST;
        row.label = r % 2 == 0;
        PL_GO(rc, pl_rows_add(&rows, &row, err));
    }
    PL_GO(rc, pl_rows_finish(out, &rows, PL_DATA_LABELLED, err));
out:
    pl_rows_release(&rows);
    return rc;
}

/* Whose completion stands in for row r's. */
static int64_t partner(const pl_dataset *d, int64_t r) {
    pl_span s = d->answers[d->rows[r].first_answer + 1];
    return d->ids[s.first];
}

static void check_own(const pl_dataset *d) {
    for (int64_t r = 0; r < d->n; r++) {
        pl_span s = d->answers[d->rows[r].first_answer];
        assert_int_equal(d->rows[r].answers, 2);
        assert_int_equal(s.count, 1 + r % LONGEST);
        assert_int_equal(d->ids[s.first], r);
        assert_int_equal(d->rows[r].label, r % 2 == 0);
    }
}

static void random_pairing(void **state) {
    (void)state;
    enum { N = 40, ROOM = 5 };
    pl_dataset *d = NULL;
    pl_error err;
    int64_t first[N], moved = 0;
    bool used[N] = {0};
    pl_mismatch m = {.pairing = PL_PAIRING_RANDOM, .seed = 42, .batch = 4, .max_length = PROMPT + ROOM};
    assert_int_equal(make_rows(&d, N, 1, &err), 0);
    pl_hash hash = d->hash;
    assert_int_equal(pl_dataset_mismatch(d, &m, 0, &err), 0);
    check_own(d);
    for (int64_t r = 0; r < N; r++) {
        first[r] = partner(d, r);
        assert_int_not_equal(first[r], r);
        assert_false(used[first[r]]); /* every completion once */
        used[first[r]] = true;
        int64_t count = d->answers[d->rows[r].first_answer + 1].count;
        assert_int_equal(count, PL_MIN(1 + first[r] % LONGEST, ROOM)); /* cut to its own room */
    }
    int64_t live = pl_test_live_bytes();
    assert_int_equal(pl_dataset_mismatch(d, &m, 1, &err), 0);
    assert_int_equal(pl_test_live_bytes(), live); /* only the first call takes room */
    for (int64_t r = 0; r < N; r++) moved += partner(d, r) != first[r];
    assert_true(moved > N / 2); /* a new pairing */
    assert_int_equal(pl_dataset_mismatch(d, &m, 0, &err), 0);
    for (int64_t r = 0; r < N; r++) assert_int_equal(partner(d, r), first[r]); /* a function of seed and epoch */
    m.pairing = PL_PAIRING_FIXED;
    assert_int_equal(pl_dataset_mismatch(d, &m, 3, &err), 0);
    for (int64_t r = 0; r < N; r++) assert_int_equal(partner(d, r), first[r]);
    assert_string_equal(d->hash.hex, hash.hex); /* the rows are what they were */
    pl_dataset_free(d);
}

/* Rows of one prompt (a split pair) never stand in for each other, and the longest tree is a bound for all epochs. */
static void other_prompts(void **state) {
    (void)state;
    enum { N = 30 };
    pl_dataset *d = NULL;
    pl_error err;
    pl_mismatch m = {.pairing = PL_PAIRING_RANDOM, .seed = 7, .batch = 4};
    assert_int_equal(make_rows(&d, N, 2, &err), 0);
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        assert_int_equal(pl_dataset_mismatch(d, &m, epoch, &err), 0);
        for (int64_t r = 0; r < N; r++) {
            assert_int_not_equal(partner(d, r) / 2, r / 2);
            int64_t tree = PROMPT + d->answers[2 * r].count + d->answers[2 * r + 1].count;
            assert_true(tree <= d->longest_tree);
        }
    }
    assert_int_equal(d->longest_tree, PROMPT + 2 * LONGEST);
    pl_dataset_free(d);
    /* where there is no other prompt, any other row does */
    assert_int_equal(make_rows(&d, 4, 4, &err), 0);
    assert_int_equal(pl_dataset_mismatch(d, &m, 0, &err), 0);
    for (int64_t r = 0; r < 4; r++) assert_int_not_equal(partner(d, r), r);
    pl_dataset_free(d);
}

/* TRL: the row before it among 4 consecutive rows; a last run of one row is paired with itself. */
static void batch_pairing(void **state) {
    (void)state;
    static const int64_t want[] = {3, 0, 1, 2, 7, 4, 5, 6, 8};
    pl_dataset *d = NULL;
    pl_error err;
    pl_mismatch m = {.pairing = PL_PAIRING_BATCH, .seed = 1, .batch = 4};
    assert_int_equal(make_rows(&d, 9, 1, &err), 0);
    assert_int_equal(pl_dataset_mismatch(d, &m, 5, &err), 0);
    for (int64_t r = 0; r < 9; r++) assert_int_equal(partner(d, r), want[r]);
    pl_dataset_free(d);
    assert_int_equal(make_rows(&d, 1, 1, &err), 0);
    assert_int_equal(pl_dataset_mismatch(d, &m, 0, &err), PL_E_RANGE);
    pl_dataset_free(d);
}

static void keys(void **state) {
    (void)state;
    pl_error err;
    pl_hash base = pl_hash_bytes("x", 1), other = pl_hash_bytes("y", 1), key[8];
    pl_mismatch m = {.pairing = PL_PAIRING_RANDOM, .seed = 1, .batch = 4, .max_length = 9}, n = m;
    assert_int_equal(pl_mismatch_key(&key[0], &base, &m, 0, &err), 0);
    assert_int_equal(pl_mismatch_key(&key[1], &base, &m, 1, &err), 0);
    assert_int_equal(pl_mismatch_key(&key[2], &other, &m, 0, &err), 0);
    n.seed = 2;
    assert_int_equal(pl_mismatch_key(&key[3], &base, &n, 0, &err), 0);
    n = m, n.max_length = 8;
    assert_int_equal(pl_mismatch_key(&key[4], &base, &n, 0, &err), 0);
    n = m, n.pairing = PL_PAIRING_FIXED;
    assert_int_equal(pl_mismatch_key(&key[5], &base, &n, 0, &err), 0);
    n = m, n.batch = 5;
    assert_int_equal(pl_mismatch_key(&key[6], &base, &n, 0, &err), 0);
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(key[i].hex, key[j].hex);
    n = m, n.pairing = PL_PAIRING_FIXED;
    assert_int_equal(pl_mismatch_key(&key[7], &base, &n, 4, &err), 0);
    assert_string_equal(key[7].hex, key[5].hex); /* one pairing, one key */
}

static void failing_allocations(void **state) {
    (void)state;
    pl_error err;
    int rc = PL_E_NOMEM;
    pl_mismatch m = {.pairing = PL_PAIRING_RANDOM, .seed = 1, .batch = 4};
    for (int64_t k = 0; rc != 0; k++) {
        pl_dataset *d = NULL;
        int64_t live = pl_test_live_bytes();
        pl_test_fail_alloc_at(k);
        rc = make_rows(&d, 20, 1, &err);
        if (rc == 0) rc = pl_dataset_mismatch(d, &m, 0, &err);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        pl_dataset_free(d);
        assert_int_equal(pl_test_live_bytes(), live);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels),
        cmocka_unit_test(pairs_and_margins),
        cmocka_unit_test(random_pairing),
        cmocka_unit_test(other_prompts),
        cmocka_unit_test(batch_pairing),
        cmocka_unit_test(keys),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
