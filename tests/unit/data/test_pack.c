/* Packing: the bins that TRL's pack_dataset makes (golden), the documents of a dataset, no allocation lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "data/forest.h"
#include "data/pack.h"
#include "data/rows.h"
#include "unit/alloc_hook.h"

static pl_pack_strategy strategy_of(const pl_json *row) {
    static const char *const names[] = {"bfd", "bfd_split", "wrapped"};
    size_t n = 0;
    const char *name = pl_json_string(pl_json_get(row, "strategy"), &n);
    for (int i = 0; name && i < PL_LEN(names); i++)
        if (strcmp(name, names[i]) == 0) return (pl_pack_strategy)i;
    fail_msg("a strategy");
    return PL_PACK_BFD;
}

/* Does the plan hold exactly these bins? */
static bool same_bins(const pl_pack_plan *plan, const pl_json *bins) {
    if (plan->nbins != pl_json_len(bins) || plan->first[plan->nbins] != plan->npieces) return false;
    for (int64_t b = 0; b < plan->nbins; b++) {
        const pl_json *want = pl_json_at(bins, b);
        int64_t first = plan->first[b], n = plan->first[b + 1] - first;
        if (pl_json_len(want) != 3 * n) return false;
        for (int64_t i = 0; i < n; i++) {
            const pl_piece *p = &plan->pieces[first + i];
            if (p->row != pl_json_int(pl_json_at(want, 3 * i)) ||
                p->first != pl_json_int(pl_json_at(want, 3 * i + 1)) ||
                p->count != pl_json_int(pl_json_at(want, 3 * i + 2)))
                return false;
        }
    }
    return true;
}

static void check_case(const pl_json *row, int64_t number) {
    const pl_json *lengths = pl_json_get(row, "lengths");
    int64_t n = pl_json_len(lengths), room = pl_json_int(pl_json_get(row, "max_length"));
    int64_t *copy = calloc((size_t)n, sizeof *copy);
    pl_pack_plan plan = {0};
    pl_error err;
    for (int64_t i = 0; i < n; i++) copy[i] = pl_json_int(pl_json_at(lengths, i));
    assert_int_equal(pl_pack_plan_make(&plan, copy, n, strategy_of(row), room, &err), 0);
    if (!same_bins(&plan, pl_json_get(row, "bins"))) fail_msg("case %" PRId64 ": other bins than TRL's", number);
    /* the comparison notices two bins that change places */
    if (plan.nbins > 1 && plan.first[1] > 0) {
        plan.pieces[0].first++;
        assert_false(same_bins(&plan, pl_json_get(row, "bins")));
    }
    pl_pack_plan_release(&plan);
    free(copy);
}

static void test_as_trl(void **state) {
    (void)state;
    const char *path = PLUMB_TEST_DIR "/golden/pack.jsonl";
    pl_error err;
    pl_lines *lines = NULL;
    const char *line = NULL;
    size_t n = 0;
    int64_t cases = 0;
    if (pl_lines_open(&lines, path, 1 << 20, &err)) fail_msg("%s", err.text);
    while (pl_lines_next(lines, &line, &n, &err) == 0 && line) {
        pl_json *row = NULL;
        if (pl_json_parse(&row, line, n, path, &err)) fail_msg("%s", err.text);
        check_case(row, cases++);
        pl_json_free(row);
    }
    assert_true(cases > 50);
    pl_lines_free(lines);
}

/* Row r: `prompt` and `answer` tokens, ids 100 r, 100 r + 1, ... */
static void add_row(pl_rows *rows, int64_t prompt, int64_t answer) {
    int32_t ids[64];
    pl_error err;
    int64_t r = rows->n;
    for (int64_t i = 0; i < prompt + answer; i++) ids[i] = (int32_t)(100 * r + i);
    pl_row_ids row = {.source = r, .line = 2 * r, .prompt = ids, .prompt_count = prompt, .answers = 1};
    row.answer[0] = ids + prompt;
    row.answer_count[0] = answer;
    assert_int_equal(pl_rows_add(rows, &row, &err), 0);
}

static pl_dataset *make(const int64_t (*counts)[2], int64_t n) {
    pl_rows rows = {0};
    pl_dataset *d = NULL;
    pl_error err;
    for (int64_t i = 0; i < n; i++) add_row(&rows, counts[i][0], counts[i][1]);
    assert_int_equal(pl_rows_finish(&d, &rows, PL_DATA_COMPLETION, &err), 0);
    return d;
}

/* Document r of d: tokens from `id`, of which `prompt` are prompt. */
static void check_document(const pl_dataset *d, int64_t r, int64_t source, int32_t id, int64_t prompt, int64_t answer) {
    const pl_row *row = &d->rows[r];
    pl_span a = d->answers[row->first_answer];
    assert_int_equal(row->source, source);
    assert_int_equal(row->line, 2 * source);
    assert_int_equal(row->prompt.count, prompt);
    assert_int_equal(a.count, answer);
    for (int64_t i = 0; i < prompt; i++) assert_int_equal(d->ids[row->prompt.first + i], id + i);
    for (int64_t i = 0; i < answer; i++) assert_int_equal(d->ids[a.first + i], id + prompt + i);
}

static const int64_t counts[][2] = {{3, 3}, {5, 1}, {1, 2}, {0, 4}};

static void test_documents(void **state) {
    (void)state;
    pl_error err;
    pl_bins bins = {0};
    pl_dataset *d = make(counts, 4);
    d->report.read = 9;
    assert_int_equal(pl_dataset_pack(&d, &bins, PL_PACK_BFD, 4, false, &err), 0);
    /* longest first: rows 0, 1 (their first four tokens), 3, 2; nothing fits beside another */
    assert_int_equal(d->n, 4);
    assert_int_equal(bins.n, 4);
    check_document(d, 0, 0, 0, 3, 1);
    check_document(d, 1, 1, 100, 4, 0); /* only prompt is left of it: trains nothing */
    check_document(d, 2, 3, 300, 0, 4);
    check_document(d, 3, 2, 200, 1, 2);
    assert_int_equal(bins.cut_rows, 2);
    assert_int_equal(bins.lost_tokens, 4);
    assert_int_equal(bins.unscored, 1);
    assert_int_equal(bins.tokens, 15);
    assert_int_equal(d->report.read, 9);
    assert_int_equal(d->longest_row, 4);
    pl_bins_release(&bins);
    pl_dataset_free(d);

    d = make(counts, 4);
    assert_int_equal(pl_dataset_pack(&d, &bins, PL_PACK_BFD_SPLIT, 4, false, &err), 0);
    /* pieces 4 2 | 4 2 | 3 | 4: three full bins, then 3, then 2 and 2 */
    assert_int_equal(bins.n, 5);
    assert_int_equal(d->n, 6);
    check_document(d, 0, 0, 0, 3, 1);
    check_document(d, 1, 1, 100, 4, 0);
    check_document(d, 2, 3, 300, 0, 4);
    check_document(d, 3, 2, 200, 1, 2);
    check_document(d, 4, 0, 4, 0, 2); /* begins with an answer token, which is scored no more */
    check_document(d, 5, 1, 104, 1, 1);
    assert_int_equal(bins.first[4], 4);
    assert_int_equal(bins.first[5], 6);
    assert_int_equal(bins.most_rows, 2);
    assert_int_equal(bins.cut_rows, 2);
    assert_int_equal(bins.lost_tokens, 0);
    pl_bins_release(&bins);
    pl_dataset_free(d);

    d = make(counts, 4);
    assert_int_equal(pl_dataset_pack(&d, &bins, PL_PACK_WRAPPED, 7, false, &err), 0);
    /* 19 tokens in 7 + 7 + 5 */
    assert_int_equal(bins.n, 3);
    assert_int_equal(d->n, 6);
    check_document(d, 0, 0, 0, 3, 3);
    check_document(d, 1, 1, 100, 1, 0);
    check_document(d, 2, 1, 101, 4, 1);
    check_document(d, 3, 2, 200, 1, 1);
    check_document(d, 4, 2, 202, 0, 1); /* one token alone */
    check_document(d, 5, 3, 300, 0, 4);
    assert_int_equal(bins.unscored, 2);
    assert_int_equal(bins.tokens, 19);
    pl_bins_release(&bins);
    pl_dataset_free(d);
}

/* The targets of packed documents: every token but the first of a document, of a completion row only the answer's. */
static void test_targets(void **state) {
    (void)state;
    uint64_t seed = 77;
    pl_error err;
    for (int round = 0; round < 200; round++) {
        int64_t rows[12][2], n = 1 + (int64_t)(pl_rng_unit64(seed, (uint64_t)round) * 12);
        for (int64_t i = 0; i < n; i++) {
            rows[i][0] = (int64_t)(pl_rng_unit64(seed + 1, (uint64_t)(round * 16 + i)) * 12);
            rows[i][1] = 1 + (int64_t)(pl_rng_unit64(seed + 2, (uint64_t)(round * 16 + i)) * 12);
        }
        bool all = round % 2;
        int64_t room = 2 + round % 9, unscored = 0, tokens = 0;
        pl_pack_strategy strategy = (pl_pack_strategy)(round % 3);
        pl_dataset *d = make(rows, n), *before = d;
        pl_bins bins = {0};
        int rc = pl_dataset_pack(&d, &bins, strategy, room, all, &err);
        if (rc) { /* nothing to train on, and nothing changed */
            assert_int_equal(rc, PL_E_RANGE);
            assert_ptr_equal(d, before);
            pl_dataset_free(d);
            continue;
        }
        pl_forest_caps caps = pl_forest_caps_of(d, 1 << 20, 0);
        caps.targets = d->nids;
        pl_arena measure, arena;
        pl_forest f = {0};
        int64_t *order = calloc((size_t)d->n, sizeof *order);
        for (int64_t i = 0; i < d->n; i++) order[i] = i;
        pl_arena_init_measuring(&measure, "measure");
        assert_int_equal(pl_forest_take(&f, &caps, &measure, &err), 0);
        assert_int_equal(pl_arena_init(&arena, "forest", measure.used, &err), 0);
        assert_int_equal(pl_forest_take(&f, &caps, &arena, &err), 0);
        assert_int_equal(pl_forest_build(&f, d, order, d->n, 0, true, all, &err), 0);
        int64_t at = 0;
        for (int64_t r = 0; r < d->n; r++) {
            const pl_row *row = &d->rows[r];
            int64_t P = row->prompt.count, count = P + d->answers[row->first_answer].count, scored = 0;
            for (int64_t t = 1; t < count; t++)
                if (all || t >= P) {
                    assert_int_equal(f.targets[at].id, d->ids[row->prompt.first + t]);
                    at++, scored++;
                }
            unscored += scored == 0;
            tokens += count;
        }
        assert_int_equal(f.ntargets, at);
        assert_int_equal(f.unshared_tokens, tokens);
        assert_int_equal(bins.unscored, unscored);
        assert_int_equal(bins.tokens, tokens);
        for (int64_t b = 0; b < bins.n; b++) {
            int64_t held = 0;
            for (int64_t r = bins.first[b]; r < bins.first[b + 1]; r++) held += pl_row_tree_tokens(d, r);
            assert_true(held > 0 && held <= room);
            assert_true(bins.first[b + 1] - bins.first[b] <= bins.most_rows);
        }
        free(order);
        pl_arena_release(&arena);
        pl_bins_release(&bins);
        pl_dataset_free(d);
    }
}

static void test_refusals(void **state) {
    (void)state;
    pl_error err;
    pl_pack_plan plan = {0};
    int64_t length = 3;
    assert_int_equal(pl_pack_plan_make(&plan, &length, 1, PL_PACK_BFD, 0, &err), PL_E_RANGE);
    assert_null(plan.pieces);
    int64_t live = pl_test_live_bytes();
    static const int64_t prompts[][2] = {{9, 1}, {8, 2}};
    pl_dataset *d = make(prompts, 2), *before = d;
    pl_bins bins = {0};
    assert_int_equal(pl_dataset_pack(&d, &bins, PL_PACK_BFD, 4, false, &err), PL_E_RANGE); /* prompts only */
    assert_ptr_equal(d, before);
    assert_null(bins.first);
    d->kind = PL_DATA_PREFERENCE;
    assert_int_equal(pl_dataset_pack(&d, &bins, PL_PACK_BFD, 4, false, &err), PL_E_UNSUPPORTED);
    pl_dataset_free(d);
    assert_int_equal(pl_test_live_bytes(), live);
}

static void test_failing_allocations(void **state) {
    (void)state;
    for (int strategy = 0; strategy < 3; strategy++) {
        pl_error err;
        int64_t live = pl_test_live_bytes();
        int rc = PL_E_NOMEM;
        for (int64_t k = 0; rc != 0; k++) {
            pl_dataset *d = make(counts, 4), *before = d;
            pl_bins bins = {0};
            pl_test_fail_alloc_at(k);
            rc = pl_dataset_pack(&d, &bins, (pl_pack_strategy)strategy, 4, false, &err);
            pl_test_fail_alloc_at(-1);
            assert_true(rc == 0 || (rc == PL_E_NOMEM && d == before && !bins.first));
            pl_bins_release(&bins);
            pl_dataset_free(d);
            assert_int_equal(pl_test_live_bytes(), live);
            assert_true(k < 100);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_trl), cmocka_unit_test(test_documents),
                                       cmocka_unit_test(test_targets), cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_failing_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
