/* The sampler against transformers' warpers, and its draws against the probabilities that they mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "gen/sampler.h"
#include "unit/gen/fixture.h"

#define MAX_V 512

static pl_sampler *sampler_new(pl_arena *arena, pl_sampler *s, int64_t V) {
    pl_arena plan;
    pl_arena_init_measuring(&plan, "plan");
    MUST(pl_sampler_take(s, V, &plan, err));
    MUST(pl_arena_init(arena, "sampler", plan.peak, err));
    MUST(pl_sampler_take(s, V, arena, err));
    return s;
}

static double number(const pl_json *o, const char *key) { return pl_json_double(pl_json_get(o, key)); }

/* Probabilities of float64 against float64: a few hundred roundings. */
static void check_probs(const pl_sampler *s, const pl_json *want) {
    double sum = 0, squares = 0;
    const pl_json *probs = pl_json_get(want, "probs");
    for (int64_t i = 0; i < s->n; i++) sum += s->kept[i].p;
    for (int64_t i = 0; i < s->n; i++) {
        double p = s->kept[i].p / sum;
        squares += p * p;
        if (probs && !(fabs(p - pl_json_double(pl_json_at(probs, i))) <= 1e-12))
            fail_msg("id %d: %.17g", s->kept[i].id, p);
    }
    if (!probs && !(fabs(squares - number(want, "sum_p2")) <= 1e-12)) fail_msg("sum of squares %.17g", squares);
}

static void check_kept(const pl_sampler *s, const pl_json *want, int64_t V) {
    const pl_json *ids = pl_json_get(want, "ids");
    assert_int_equal(s->n, ids ? pl_json_len(ids) : V);
    for (int64_t i = 0; i < s->n; i++) assert_int_equal(s->kept[i].id, ids ? pl_json_int(pl_json_at(ids, i)) : i);
}

static pl_sampling sampling_of(const pl_json *c) {
    return (pl_sampling){.temperature = number(c, "temperature"),
                         .top_k = (int64_t)number(c, "top_k"),
                         .top_p = number(c, "top_p"),
                         .min_p = number(c, "min_p")};
}

static void test_warpers(void **state) {
    (void)state;
    pl_json *root = golden_json("generate/warpers.json");
    const pl_json *rows = pl_json_get(root, "rows");
    int64_t cases = 0;
    for (int64_t r = 0; r < pl_json_len(rows); r++) {
        const pl_json *row = pl_json_at(rows, r), *logits = pl_json_get(row, "logits"),
                      *list = pl_json_get(row, "cases");
        int64_t V = pl_json_len(logits);
        pl_arena arena;
        pl_sampler s;
        real z[MAX_V];
        assert_true(V <= MAX_V);
        for (int64_t v = 0; v < V; v++) z[v] = (real)pl_json_double(pl_json_at(logits, v));
        sampler_new(&arena, &s, V);
        for (int64_t i = 0; i < pl_json_len(list); i++, cases++) {
            pl_sampling how = sampling_of(pl_json_at(list, i));
            pl_sampler_filter(&s, &how, z);
            check_kept(&s, pl_json_at(list, i), V);
            check_probs(&s, pl_json_at(list, i));
        }
        pl_arena_release(&arena);
    }
    assert_true(cases > 400);
    pl_json_free(root);
}

/* Equal logits: top-k keeps all that equal the k-th, top-p takes the larger ids away first. */
static void test_ties(void **state) {
    (void)state;
    real z[6] = {1, 2, 2, 2, 0, 2};
    pl_arena arena;
    pl_sampler s;
    sampler_new(&arena, &s, 6);
    pl_sampling k = {.temperature = 1, .top_k = 2, .top_p = 1};
    pl_sampler_filter(&s, &k, z);
    assert_int_equal(s.n, 4);
    pl_sampling p = {.temperature = 1, .top_k = 2, .top_p = 0.6}; /* four of 1/4 each: three make up 0.6 */
    pl_sampler_filter(&s, &p, z);
    assert_int_equal(s.n, 3);
    assert_int_equal(s.kept[0].id, 1);
    assert_int_equal(s.kept[1].id, 2);
    assert_int_equal(s.kept[2].id, 3);
    real masked[6] = {-INFINITY, 0, -INFINITY, 0, -INFINITY, -INFINITY};
    pl_sampling all = {.temperature = 0.5, .top_p = 1};
    pl_sampler_filter(&s, &all, masked);
    assert_int_equal(s.n, 2);
    pl_arena_release(&arena);
}

/* 20,000 draws: chi-square of 5 categories; 4 degrees of freedom pass 30 once in 200,000 times, and the seed is fixed.
 */
static void test_draws(void **state) {
    (void)state;
    real z[6] = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f, -9.0f};
    int64_t count[6] = {0}, n = 20000, same = 0;
    pl_arena arena;
    pl_sampler s;
    sampler_new(&arena, &s, 6);
    pl_sampling how = {.temperature = 1.3, .top_k = 5, .top_p = 1, .seed = 11};
    pl_sampling other = how;
    other.seed = 12;
    pl_sampler_filter(&s, &how, z);
    double sum = 0, chi = 0;
    for (int64_t i = 0; i < s.n; i++) sum += s.kept[i].p;
    for (int64_t i = 0; i < n; i++) {
        int32_t id = pl_sampler_draw(&s, &how, (uint64_t)(i / 100), (uint64_t)(i % 100));
        assert_int_equal(id, pl_sampler_draw(&s, &how, (uint64_t)(i / 100), (uint64_t)(i % 100)));
        same += id == pl_sampler_draw(&s, &other, (uint64_t)(i / 100), (uint64_t)(i % 100));
        count[id]++;
    }
    for (int64_t i = 0; i < s.n; i++) {
        double want = (double)n * s.kept[i].p / sum, off = (double)count[s.kept[i].id] - want;
        chi += off * off / want;
    }
    assert_int_equal(count[5], 0);
    assert_true(same < n * 6 / 10);
    if (!(chi <= 30)) fail_msg("seed 11: chi-square %g", chi);
    pl_arena_release(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warpers), cmocka_unit_test(test_ties),
                                       cmocka_unit_test(test_draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
