/* The sampler against transformers' warpers, and its draws against the probabilities that they mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "gen/sampler.h"
#include "unit/gen/fixture.h"

#define MAX_V 512

static pl_sampler *sampler_new(pl_arena *arena, pl_sampler *s, int64_t V) {
    static pl_ops ops;
    pl_arena plan;
    pl_ops_init(&ops, pl_cpu_detect());
    pl_arena_init_measuring(&plan, "plan");
    MUST(pl_sampler_take(s, &ops, V, &plan, err));
    MUST(pl_arena_init(arena, "sampler", plan.peak, err));
    MUST(pl_sampler_take(s, &ops, V, arena, err));
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

/* --- a large vocabulary, where only some ids are looked at one by one --- */

enum { LARGE = 5000 };

/* Normals, some of them equal, some masked. */
static void large_logits(real *z, uint64_t seed) {
    float x[LARGE];
    pl_rng_normal(x, LARGE, 3, seed, 0);
    for (int64_t v = 0; v < LARGE; v++)
        z[v] = v % 97 == 5 ? -INFINITY : v % 3 == 0 ? (real)x[v] : (real)(roundf(x[v] * 8) / 8);
}

static int by_logit(const void *a, const void *b) {
    const pl_candidate *x = a, *y = b;
    if (x->z != y->z) return x->z > y->z ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* What the rules keep, by sorting everything: stays[id]. */
static int64_t plain_filter(bool *stays, const real *z, const pl_sampling *p) {
    static pl_candidate all[LARGE];
    int64_t n = LARGE, m = 0;
    double sum = 0, gone = 0;
    memset(stays, 0, LARGE * sizeof *stays);
    for (int64_t v = 0; v < LARGE; v++) all[v] = (pl_candidate){.z = (double)z[v], .id = (int32_t)v};
    qsort(all, LARGE, sizeof *all, by_logit);
    if (p->top_k > 0)
        for (n = p->top_k; n < LARGE && all[n].z == all[n - 1].z;) n++;
    while (all[n - 1].z == -INFINITY) n--;
    for (int64_t i = 0; i < n; i++) sum += all[i].p = exp((all[i].z - all[0].z) / p->temperature);
    while (p->top_p < 1 && n > 1 && gone + all[n - 1].p <= (1 - p->top_p) * sum) gone += all[--n].p;
    for (int64_t i = 0; i < n; i++)
        if (!(all[i].p < p->min_p)) stays[all[i].id] = true, m++;
    return m;
}

static void test_large(void **state) {
    (void)state;
    static const pl_sampling cases[] = {{.temperature = 1, .top_k = 1, .top_p = 1},
                                        {.temperature = 0.7, .top_k = 50, .top_p = 1},
                                        {.temperature = 1, .top_k = 79, .top_p = 0.9},
                                        {.temperature = 2, .top_k = 80, .top_p = 0.5, .min_p = 0.1},
                                        {.temperature = 1, .top_k = 4000, .top_p = 0.95},
                                        {.temperature = 1, .top_p = 0.9},
                                        {.temperature = 0.3, .top_p = 0.999},
                                        {.temperature = 5, .top_p = 0.2, .min_p = 0.05},
                                        {.temperature = 1, .top_p = 1, .min_p = 0.02},
                                        {.temperature = 1.5, .top_p = 1}};
    static real z[LARGE];
    static bool want[LARGE];
    pl_arena arena;
    pl_sampler s;
    sampler_new(&arena, &s, LARGE);
    for (uint64_t seed = 0; seed < 5; seed++) {
        large_logits(z, seed);
        for (int c = 0; c < PL_LEN(cases); c++) {
            int64_t n = plain_filter(want, z, &cases[c]);
            pl_sampler_filter(&s, &cases[c], z);
            if (s.n != n) fail_msg("seed %d, case %d: %d ids, not %d", (int)seed, c, (int)s.n, (int)n);
            for (int64_t i = 0; i < n; i++) assert_true(want[s.kept[i].id]);
            for (uint64_t i = 0; i < 300; i++) {
                pl_sampler_filter(&s, &cases[c], z);
                int32_t id = pl_sampler_draw(&s, &cases[c], seed, i);
                assert_int_equal(pl_sampler_pick(&s, &cases[c], z, seed, i), id);
            }
        }
    }
    pl_arena_release(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warpers), cmocka_unit_test(test_ties),
                                       cmocka_unit_test(test_draws), cmocka_unit_test(test_large)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
