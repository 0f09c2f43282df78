/* Row order, splits, names of data sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "data/rows.h"
#include "unit/alloc_hook.h"

static void test_epochs(void **state) {
    (void)state;
    /* torch.randperm(10) with a generator seeded 42 and 43 (torch 2.13, CPU) */
    static const int64_t first[] = {2, 6, 1, 8, 4, 5, 0, 9, 3, 7}, second[] = {8, 4, 9, 0, 5, 1, 6, 7, 2, 3};
    int64_t order[10];
    pl_error err;
    assert_int_equal(pl_epoch_order(order, 10, true, 42, 0, &err), 0);
    assert_memory_equal(order, first, sizeof order);
    assert_int_equal(pl_epoch_order(order, 10, true, 42, 1, &err), 0);
    assert_memory_equal(order, second, sizeof order);
    assert_int_equal(pl_epoch_order(order, 10, false, 42, 1, &err), 0);
    for (int64_t i = 0; i < 10; i++) assert_int_equal(order[i], i);
}

/* n rows: row r has the prompt {r} and the answers {r, r} and {r}. */
static int make_rows(pl_dataset **out, int64_t n, pl_error *err) {
    int rc;
    pl_rows rows = {0};
    for (int64_t r = 0; r < n; r++) {
        int32_t ids[2] = {(int32_t)r, (int32_t)r};
        pl_row_ids row = {.source = r, .line = r + 1, .prompt = ids, .prompt_count = 1, .answers = 2};
        row.answer[0] = row.answer[1] = ids;
        row.answer_count[0] = 2;
        row.answer_count[1] = 1;
        PL_GO(rc, pl_rows_add(&rows, &row, err));
    }
    PL_GO(rc, pl_rows_finish(out, &rows, PL_DATA_PREFERENCE, err));
out:
    pl_rows_release(&rows);
    return rc;
}

static void check_part(const pl_dataset *d, int *seen) {
    for (int64_t i = 0; i < d->n; i++) {
        const pl_row *row = &d->rows[i];
        assert_true(i == 0 || row->source > d->rows[i - 1].source); /* the file's order */
        seen[row->source]++;
        assert_int_equal(row->line, row->source + 1);
        assert_int_equal(row->prompt.count, 1);
        assert_int_equal(d->ids[row->prompt.first], row->source);
        assert_int_equal(d->answers[row->first_answer].count, 2);
        assert_int_equal(d->answers[row->first_answer + 1].count, 1);
        assert_int_equal(d->ids[d->answers[row->first_answer + 1].first], row->source);
    }
    assert_int_equal(d->longest_row, 3);
    assert_int_equal(d->longest_tree, 4);
    assert_int_equal(d->nids, 4 * d->n);
    assert_int_equal(d->report.kept, d->n);
}

static void test_split(void **state) {
    (void)state;
    pl_error err;
    pl_dataset *d = NULL, *held = NULL, *again = NULL, *held_again = NULL;
    assert_int_equal(make_rows(&d, 25, &err), 0);
    assert_int_equal(make_rows(&again, 25, &err), 0);
    assert_string_equal(d->hash.hex, again->hash.hex);
    d->report.read = 30;
    assert_int_equal(pl_dataset_split(d, &held, 0.1, 7, &err), 0);
    assert_int_equal(d->n, 22);
    assert_int_equal(held->n, 3);
    assert_int_equal(d->report.read, 30);
    int seen[25] = {0};
    check_part(d, seen);
    check_part(held, seen);
    for (int i = 0; i < 25; i++) assert_int_equal(seen[i], 1);
    assert_string_not_equal(d->hash.hex, again->hash.hex);
    assert_int_equal(pl_dataset_split(again, &held_again, 0.1, 7, &err), 0);
    assert_string_equal(d->hash.hex, again->hash.hex);
    assert_string_equal(held->hash.hex, held_again->hash.hex);
    pl_dataset_free(d);
    pl_dataset_free(held);
    pl_dataset_free(again);
    pl_dataset_free(held_again);
}

static void test_split_refusals(void **state) {
    (void)state;
    pl_error err;
    pl_dataset *d = NULL, *held = NULL;
    assert_int_equal(make_rows(&d, 3, &err), 0);
    static const double bad[] = {0, 1, -0.5, 1.5, 0.9};
    for (int64_t i = 0; i < PL_LEN(bad); i++) {
        assert_int_equal(pl_dataset_split(d, &held, bad[i], 1, &err), PL_E_RANGE);
        assert_null(held);
        assert_int_equal(d->n, 3);
    }
    double zero = 0;
    assert_int_equal(pl_dataset_split(d, &held, zero / zero, 1, &err), PL_E_RANGE);
    assert_int_equal(pl_dataset_split(d, &held, 0.01, 1, &err), 0); /* at least one */
    assert_int_equal(held->n, 1);
    pl_dataset_free(held);
    pl_dataset_free(d);
}

static void test_failing_allocations(void **state) {
    (void)state;
    pl_error err;
    int rc = PL_E_NOMEM;
    for (int64_t k = 0; rc != 0; k++) {
        pl_dataset *d = NULL, *held = NULL;
        int64_t live = pl_test_live_bytes();
        pl_test_fail_alloc_at(k);
        rc = make_rows(&d, 70, &err);
        if (rc == 0) rc = pl_dataset_split(d, &held, 0.5, 3, &err);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && !held && (!d || d->n == 70)));
        pl_dataset_free(d);
        pl_dataset_free(held);
        assert_int_equal(pl_test_live_bytes(), live);
    }
}

static void touch(const char *dir, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void check_resolve(const char *name, const char *split, int code, const char *says) {
    pl_error err = {0};
    char *out = NULL;
    int rc = pl_dataset_resolve(&out, name, split, &err);
    assert_int_equal(rc, code);
    if (!strstr(rc ? err.text : out, says)) fail_msg("\"%s\" does not say \"%s\"", rc ? err.text : out, says);
    pl_free(out);
}

static void test_resolve(void **state) {
    (void)state;
    pl_error err;
    char dir[] = "/tmp/plumb-resolve-XXXXXX", file[64];
    assert_non_null(mkdtemp(dir));
    check_resolve(dir, "train", PL_E_IO, "no file for the split");
    touch(dir, "harmless-test.jsonl.gz");
    check_resolve(dir, "train", 0, "/harmless-test.jsonl.gz");
    check_resolve(dir, "test", PL_E_IO, "no file for the split \"test\"");
    touch(dir, "README.md");
    touch(dir, "train-00000-of-00001.jsonl");
    touch(dir, "test_prefs.json");
    touch(dir, "testing.jsonl");
    touch(dir, "validation.parquet");
    check_resolve(dir, "train", 0, "/train-00000-of-00001.jsonl");
    check_resolve(dir, "test", 0, "/test_prefs.json");
    check_resolve(dir, "validation", PL_E_UNSUPPORTED, "validation.parquet");
    touch(dir, "train.jsonl");
    check_resolve(dir, "train", PL_E_UNSUPPORTED, "2 files");
    snprintf(file, sizeof file, "%s/testing.jsonl", dir);
    check_resolve(file, "train", 0, "/testing.jsonl");
    check_resolve("Anthropic/hh-rlhf-not-here", "train", PL_E_IO, "never downloads");
    assert_int_equal(pl_dir_remove(dir, &err), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),         cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_refusals), cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_resolve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
