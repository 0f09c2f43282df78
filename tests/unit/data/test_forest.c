/* The forest batch: hand-made expectations, then random datasets against a direct restatement of the rules, shared and
 * unshared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "data/forest.h"

#define MAX_ROWS 24
#define MAX_IDS 4096

/* A dataset in static storage: lengths in, ids 100, 101, ... out. */
typedef struct fake {
    pl_dataset d;
    pl_row rows[MAX_ROWS];
    pl_span answers[2 * MAX_ROWS];
    int32_t ids[MAX_IDS];
} fake;

static pl_span fake_span(fake *f, int64_t count) {
    pl_span s = {f->d.nids, count};
    for (int64_t i = 0; i < count; i++) {
        assert_true(f->d.nids < MAX_IDS);
        f->ids[f->d.nids] = (int32_t)(100 + f->d.nids);
        f->d.nids++;
    }
    return s;
}

static void fake_init(fake *f, pl_data_kind kind) {
    *f = (fake){0};
    f->d = (pl_dataset){.kind = kind, .rows = f->rows, .answers = f->answers, .ids = f->ids};
}

static void fake_row(fake *f, int64_t prompt, int64_t first, int64_t second) {
    pl_row *row = &f->rows[f->d.n];
    int64_t per_row = f->d.kind == PL_DATA_PREFERENCE ? 2 : 1;
    *row = (pl_row){.source = f->d.n, .line = f->d.n + 1, .first_answer = f->d.n * per_row, .answers = per_row};
    row->prompt = fake_span(f, prompt);
    f->answers[row->first_answer] = fake_span(f, first);
    if (per_row == 2) f->answers[row->first_answer + 1] = fake_span(f, second);
    f->d.n++;
}

static void take(pl_forest *f, pl_arena *arena, const pl_forest_caps *caps) {
    pl_error err;
    pl_arena measure;
    pl_arena_init_measuring(&measure, "measure");
    assert_int_equal(pl_forest_take(f, caps, &measure, &err), 0);
    assert_int_equal(pl_arena_init(arena, "forest", measure.used, &err), 0);
    assert_int_equal(pl_forest_take(f, caps, arena, &err), 0);
    assert_int_equal(arena->used, measure.used);
}

/* Twice the room: the unshared form repeats every prompt. */
static pl_forest_caps unshared_caps(pl_forest_caps c) {
    c.tokens *= 2;
    c.trees *= 2;
    c.targets *= 2;
    return c;
}

static void check_target(const pl_forest *f, int64_t i, int64_t token, int32_t id, int32_t sequence) {
    assert_int_equal(f->targets[i].token, token);
    assert_int_equal(f->targets[i].id, id);
    assert_int_equal(f->targets[i].sequence, sequence);
}

static void test_pair_by_hand(void **state) {
    (void)state;
    static fake k;
    pl_error err;
    pl_arena arena;
    pl_forest f = {0};
    fake_init(&k, PL_DATA_PREFERENCE);
    fake_row(&k, 3, 4, 2); /* ids 100-102, 103-106, 107-108 */
    fake_row(&k, 1, 1, 2); /* ids 109, 110, 111-112 */
    pl_forest_caps caps = pl_forest_caps_of(&k.d, 100, 0);
    take(&f, &arena, &caps);
    const int64_t rows[] = {0, 1};
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 2, 5, true, false, &err), 0);

    assert_int_equal(f.T, 13);
    for (int64_t t = 0; t < 13; t++) assert_int_equal(f.ids[t], 100 + t);
    static const int64_t position[] = {0, 1, 2, 3, 4, 5, 6, 3, 4, 0, 1, 1, 2};
    static const int64_t branch[] = {0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 2, 2};
    for (int64_t t = 0; t < 13; t++) {
        assert_int_equal(f.position[t], position[t]);
        uint64_t want = ((uint64_t)(t < 9 ? 5 : 6) << 40) | ((uint64_t)branch[t] << 32) | (uint64_t)position[t];
        assert_true(f.dropout_id[t] == want);
    }
    assert_int_equal(f.nsegments, 6);
    static const pl_segment segments[] = {{0, 3, -1, 0}, {3, 4, 0, 3},  {7, 2, 0, 3},
                                          {9, 1, -1, 0}, {10, 1, 3, 1}, {11, 2, 3, 1}};
    assert_memory_equal(f.segments, segments, sizeof segments);
    assert_int_equal(f.nranges, 4);
    for (int64_t s = 0; s < 6; s++) {
        const pl_attn_run *run = &f.runs[s];
        assert_int_equal(run->q_first, segments[s].first);
        assert_int_equal(run->q_count, segments[s].count);
        assert_int_equal(run->own_first, segments[s].first);
        assert_int_equal(run->own_past, 0);
        assert_int_equal(run->range_count, segments[s].parent < 0 ? 0 : 1);
        if (run->range_count == 0) continue;
        const pl_segment *parent = &segments[segments[s].parent];
        assert_int_equal(f.ranges[run->range_first].first, parent->first);
        assert_int_equal(f.ranges[run->range_first].count, parent->count);
    }
    assert_int_equal(f.ntargets, 9);
    check_target(&f, 0, 2, 103, 0); /* the last prompt token predicts the first of chosen ... */
    check_target(&f, 1, 3, 104, 0);
    check_target(&f, 3, 5, 106, 0);
    check_target(&f, 4, 2, 107, 1); /* ... and of rejected */
    check_target(&f, 5, 7, 108, 1);
    check_target(&f, 6, 9, 110, 2);
    check_target(&f, 7, 9, 111, 3);
    check_target(&f, 8, 11, 112, 3);
    static const pl_sequence sequences[] = {{.row = 0, .answer = 0, .first_target = 0, .ntargets = 4, .length = 4},
                                            {.row = 0, .answer = 1, .first_target = 4, .ntargets = 2, .length = 2},
                                            {.row = 1, .answer = 0, .first_target = 6, .ntargets = 1, .length = 1},
                                            {.row = 1, .answer = 1, .first_target = 7, .ntargets = 2, .length = 2}};
    assert_int_equal(f.nsequences, 4);
    for (int64_t q = 0; q < 4; q++) {
        assert_int_equal(f.sequences[q].row, sequences[q].row);
        assert_int_equal(f.sequences[q].answer, sequences[q].answer);
        assert_int_equal(f.sequences[q].first_target, sequences[q].first_target);
        assert_int_equal(f.sequences[q].ntargets, sequences[q].ntargets);
        assert_int_equal(f.sequences[q].length, sequences[q].length);
    }
    assert_int_equal(f.ntrees, 2);
    assert_int_equal(f.tree_length[0], 7);
    assert_int_equal(f.tree_length[1], 3);
    assert_int_equal(f.tree_first[0], 0);
    assert_int_equal(f.tree_first[1], 9);
    assert_int_equal(f.tree_first[2], 13);
    assert_int_equal(f.unshared_tokens, 7 + 5 + 2 + 3);
    pl_arena_release(&arena);
}

static void test_empty_prompt_and_prompt_scores(void **state) {
    (void)state;
    static fake k;
    pl_error err;
    pl_arena arena;
    pl_forest f = {0};
    fake_init(&k, PL_DATA_COMPLETION);
    fake_row(&k, 3, 2, 0); /* 100-102, 103-104 */
    fake_row(&k, 0, 3, 0); /* 105-107 */
    pl_forest_caps caps = pl_forest_caps_of(&k.d, 100, 0);
    take(&f, &arena, &caps);
    const int64_t rows[] = {0, 1};
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 2, 0, true, true, &err), 0);
    assert_int_equal(f.ntargets, 6);
    for (int64_t t = 0; t < 4; t++) check_target(&f, t, t, (int32_t)(101 + t), 0);
    check_target(&f, 4, 5, 106, 1);
    check_target(&f, 5, 6, 107, 1);
    assert_int_equal(f.sequences[0].length, 2);
    assert_int_equal(f.sequences[0].ntargets, 4);
    assert_int_equal(f.nsegments, 3);
    assert_int_equal(f.segments[2].parent, -1);
    assert_int_equal(f.segments[2].position, 0);

    assert_int_equal(pl_forest_build(&f, &k.d, rows, 2, 0, true, false, &err), 0);
    assert_int_equal(f.ntargets, 4);
    check_target(&f, 0, 2, 103, 0);
    check_target(&f, 1, 3, 104, 0);
    check_target(&f, 2, 5, 106, 1);
    pl_arena_release(&arena);

    /* Preference rows without a prompt: both answers are roots of one tree. */
    fake_init(&k, PL_DATA_PREFERENCE);
    fake_row(&k, 0, 2, 1);
    caps = pl_forest_caps_of(&k.d, 100, 0);
    take(&f, &arena, &caps);
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 1, 0, true, false, &err), 0);
    assert_int_equal(f.nsegments, 2);
    assert_int_equal(f.segments[0].parent, -1);
    assert_int_equal(f.segments[1].parent, -1);
    assert_int_equal(f.position[2], 0);
    assert_int_equal(f.ntargets, 1);
    assert_int_equal(f.sequences[1].ntargets, 0);
    assert_int_equal(f.ntrees, 1);
    pl_arena_release(&arena);
}

static void test_refusals(void **state) {
    (void)state;
    static fake k;
    pl_error err;
    pl_arena arena;
    pl_forest f = {0};
    fake_init(&k, PL_DATA_PREFERENCE);
    fake_row(&k, 3, 4, 2);
    fake_row(&k, 3, 4, 2);
    pl_forest_caps caps = pl_forest_caps_of(&k.d, 9, 1);
    assert_int_equal(caps.tokens, 9);
    assert_int_equal(caps.trees, 1);
    assert_int_equal(caps.targets, 6);
    take(&f, &arena, &caps);
    const int64_t rows[] = {0, 1}, bad[] = {2};
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 1, 0, true, false, &err), 0);
    assert_int_equal(f.T, 9);
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 2, 0, true, false, &err), PL_E_INTERNAL);
    assert_int_equal(pl_forest_build(&f, &k.d, rows, 1, 0, false, false, &err), PL_E_INTERNAL);
    assert_int_equal(pl_forest_build(&f, &k.d, bad, 1, 0, true, false, &err), PL_E_INTERNAL);
    assert_int_equal(f.T, 9); /* a refused batch leaves the last one */
    pl_arena_release(&arena);
    pl_arena_init_measuring(&arena, "m");
    caps = pl_forest_caps_of(&(pl_dataset){0}, 4096, 8);
    assert_int_equal(caps.tokens, 0);
}

/* Visible tokens of token t, by walking the rules: its ancestors' tokens and its own segment up to itself. */
static void visible(const pl_forest *f, int64_t t, bool *seen) {
    for (int64_t i = 0; i < f->T; i++) seen[i] = false;
    int64_t s = 0;
    while (t >= f->segments[s].first + f->segments[s].count) s++;
    for (int64_t i = f->segments[s].first; i <= t; i++) seen[i] = true;
    for (int64_t p = f->segments[s].parent; p >= 0; p = f->segments[p].parent)
        for (int64_t i = 0; i < f->segments[p].count; i++) seen[f->segments[p].first + i] = true;
}

static void visible_by_runs(const pl_forest *f, int64_t t, bool *seen) {
    for (int64_t i = 0; i < f->T; i++) seen[i] = false;
    int64_t found = 0;
    for (int64_t r = 0; r < f->nsegments; r++) {
        const pl_attn_run *run = &f->runs[r];
        if (t < run->q_first || t >= run->q_first + run->q_count) continue;
        found++;
        for (int64_t i = 0; i <= run->own_past + t - run->q_first; i++) seen[run->own_first + i] = true;
        for (int64_t k = 0; k < run->range_count; k++) {
            pl_key_range range = f->ranges[run->range_first + k];
            for (int64_t i = 0; i < range.count; i++) seen[range.first + i] = true;
        }
    }
    assert_int_equal(found, 1);
}

/* The tokens that token t sees, in order of position, must be the row up to t: ids and dropout ids of the unshared row.
 */
static void check_tree_order(const pl_forest *f, const pl_forest *u) {
    static bool seen[MAX_IDS], by_runs[MAX_IDS];
    for (int64_t t = 0; t < f->T; t++) {
        visible(f, t, seen);
        visible_by_runs(f, t, by_runs);
        assert_memory_equal(seen, by_runs, (size_t)f->T * sizeof *seen);
        int64_t count = 0;
        for (int64_t i = 0; i < f->T; i++) count += seen[i];
        assert_int_equal(count, f->position[t] + 1);
    }
    assert_int_equal(f->nsequences, u->nsequences);
    assert_int_equal(f->ntargets, u->ntargets);
    for (int64_t i = 0; i < u->ntargets; i++) {
        int64_t s = u->targets[i].sequence;
        const pl_target *target =
            &f->targets[f->sequences[s].first_target + i - u->sequences[s].first_target]; /* grouped by sequence */
        assert_int_equal(f->sequences[s].ntargets, u->sequences[s].ntargets);
        assert_int_equal(target->id, u->targets[i].id);
        assert_int_equal(target->sequence, s);
        visible(f, target->token, seen);
        visible(u, u->targets[i].token, by_runs);
        int64_t a = 0, b = 0;
        for (;; a++, b++) { /* both lists are in batch order, which is the order of positions */
            while (a < f->T && !seen[a]) a++;
            while (b < u->T && !by_runs[b]) b++;
            if (a == f->T || b == u->T) break;
            assert_int_equal(f->ids[a], u->ids[b]);
            assert_int_equal(f->position[a], u->position[b]);
            assert_true(f->dropout_id[a] == u->dropout_id[b]);
        }
        assert_true(a == f->T && b == u->T);
    }
}

/* Mismatched answers, and nothing else, lie behind what gets a gradient. */
static void check_trained(const pl_forest *f, const pl_dataset *d) {
    pl_forest part = pl_forest_trained(f);
    int64_t tokens = 0, targets = 0;
    for (int64_t s = 0; s < f->nsequences; s++) {
        const pl_sequence *q = &f->sequences[s];
        bool aside = pl_answer_is_aside(d, q->answer);
        if (q->answer == 0) tokens += d->rows[q->row].prompt.count;
        if (!aside) tokens += q->length, targets += q->ntargets;
        for (int64_t i = q->first_target; i < q->first_target + q->ntargets; i++) {
            assert_int_equal(i < part.ntargets, !aside);
            if (!aside) assert_true(f->targets[i].token < part.T);
        }
        if (q->length > 0) assert_int_equal(q->last < part.T, !aside);
    }
    assert_int_equal(part.T, tokens);
    assert_int_equal(part.ntargets, targets);
    assert_int_equal(part.tree_first[part.ntrees], part.T);
    for (int64_t s = 0; s < part.nsegments; s++) assert_true(part.segments[s].first + part.segments[s].count <= part.T);
    if (f->nsegments > part.nsegments) assert_int_equal(f->segments[part.nsegments].first, part.T);
}

static int64_t draw(uint64_t key, uint64_t *i, int64_t below) {
    return (int64_t)(pl_philox(key, 0, (*i)++).v[0] % (uint32_t)below);
}

static void random_trees(uint64_t seed) {
    static fake k;
    pl_error err;
    pl_arena arena, arena2;
    pl_forest f = {0}, u = {0};
    uint64_t at = 0;
    pl_data_kind kind = draw(seed, &at, 2) ? PL_DATA_PREFERENCE : PL_DATA_COMPLETION;
    fake_init(&k, kind);
    if (kind == PL_DATA_PREFERENCE && draw(seed, &at, 2)) k.d.mixed = &k.d.n; /* answers 1 are mismatched ones */
    int64_t n = 1 + draw(seed, &at, MAX_ROWS);
    for (int64_t r = 0; r < n; r++) fake_row(&k, draw(seed, &at, 20), 1 + draw(seed, &at, 15), 1 + draw(seed, &at, 15));
    int64_t budget = 1 + draw(seed, &at, 200), most = draw(seed, &at, 6);
    bool score_prompt = kind == PL_DATA_COMPLETION && draw(seed, &at, 2);
    pl_forest_caps caps = pl_forest_caps_of(&k.d, budget, most), doubled = unshared_caps(caps);
    take(&f, &arena, &caps);
    take(&u, &arena2, &doubled);
    int64_t order[MAX_ROWS];
    for (int64_t r = 0; r < n; r++) order[r] = n - 1 - r;
    int64_t covered = 0;
    while (covered < n) {
        int64_t m = pl_forest_cut(&k.d, order + covered, n - covered, budget, most), tokens = 0;
        assert_true(m >= 1 && m <= n - covered && (most == 0 || m <= most));
        for (int64_t i = 0; i < m; i++) tokens += pl_row_tree_tokens(&k.d, order[covered + i]);
        assert_true(m == 1 || tokens <= budget);
        if (covered + m < n && m != most) /* greedy: one more would not have fitted */
            assert_true(tokens + pl_row_tree_tokens(&k.d, order[covered + m]) > budget);
        assert_int_equal(pl_forest_build(&f, &k.d, order + covered, m, covered, true, score_prompt, &err), 0);
        assert_int_equal(pl_forest_build(&u, &k.d, order + covered, m, covered, false, score_prompt, &err), 0);
        assert_int_equal(f.T, tokens);
        assert_int_equal(f.tree_first[f.ntrees], f.T);
        assert_int_equal(u.T, u.unshared_tokens);
        assert_int_equal(f.unshared_tokens, u.unshared_tokens);
        check_tree_order(&f, &u);
        check_trained(&f, &k.d);
        covered += m;
    }
    pl_arena_release(&arena);
    pl_arena_release(&arena2);
}

static void test_random(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        print_message("seed %d\r", (int)seed);
        random_trees(seed);
    }
}

static void test_cut(void **state) {
    (void)state;
    static fake k;
    fake_init(&k, PL_DATA_COMPLETION);
    for (int i = 0; i < 4; i++) fake_row(&k, 5, 5, 0);
    fake_row(&k, 50, 5, 0);
    const int64_t rows[] = {0, 1, 2, 3, 4};
    assert_int_equal(pl_forest_cut(&k.d, rows, 5, 30, 0), 3);
    assert_int_equal(pl_forest_cut(&k.d, rows, 5, 29, 0), 2);
    assert_int_equal(pl_forest_cut(&k.d, rows, 5, 30, 2), 2);
    assert_int_equal(pl_forest_cut(&k.d, rows + 4, 1, 30, 0), 1);
    assert_int_equal(pl_forest_cut(&k.d, rows, 5, INT64_MAX, 0), 5);
    assert_int_equal(pl_forest_cut(&k.d, rows, 1, 0, 0), 1);
    pl_forest_caps caps = pl_forest_caps_of(&k.d, INT64_MAX, 0);
    assert_int_equal(caps.tokens, 95);
    assert_int_equal(caps.trees, 5);
    caps = pl_forest_caps_of(&k.d, 30, 8);
    assert_int_equal(caps.tokens, 55);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair_by_hand), cmocka_unit_test(test_empty_prompt_and_prompt_scores),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_random),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
