/* test_noise_grad.c: NEFTune's noise in the whole model in double: its size and distribution, the same for every cut of
 * a step, no bit changed by recomputation, and gradients that agree with finite differences while it is on. */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "unit/loss/fixture.h"

#define SEED 20261122u
#define STEP 1e-5
#define CLOSE(a, b) (fabs((a) - (b)) <= 1e-6 * (1e-3 + fabs(a) + fabs(b))) /* as test_model_grad.c */

enum { ROWS = 2, C = 10 };

/* Rows of 40 and 900 tokens, each the second of which has a prompt. */
static void fill(pl_dataset *d, pl_row rows[ROWS], pl_span answers[ROWS], int32_t *ids) {
    *d = (pl_dataset){.kind = PL_DATA_COMPLETION, .n = ROWS, .rows = rows, .answers = answers, .ids = ids, .nids = 940};
    rows[0] = (pl_row){.answers = 1, .first_answer = 0};
    answers[0] = (pl_span){0, 40};
    rows[1] = (pl_row){.answers = 1, .first_answer = 1, .prompt = {40, 300}};
    answers[1] = (pl_span){340, 600};
}

static void build(pl_forest *f, pl_arena *arena, const pl_dataset *d, int64_t first, int64_t n) {
    pl_error err;
    pl_arena measure;
    pl_forest_caps caps = pl_forest_caps_of(d, 10000, 0);
    const int64_t order[ROWS] = {0, 1};
    pl_arena_init_measuring(&measure, "measure");
    assert_int_equal(pl_forest_take(f, &caps, &measure, &err), 0);
    assert_int_equal(pl_arena_init(arena, "forest", measure.used, &err), 0);
    assert_int_equal(pl_forest_take(f, &caps, arena, &err), 0);
    assert_int_equal(pl_forest_build(f, d, order + first, n, first, true, false, &err), 0);
}

/* Uniform on [-b, b): bound b, mean 0 within five of its deviations b / sqrt(3 n), mean square b^2 / 3 within five of
 * its deviations b^2 sqrt(4/45) / sqrt(n). */
static void check_uniform(const real *x, int64_t n, double bound) {
    double sum = 0, squares = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        most = test_max(most, fabs((double)x[i]));
    }
    assert_true(most <= bound && most > 0.98 * bound);
    assert_true(fabs(sum / (double)n) <= 5 * bound / sqrt(3 * (double)n));
    assert_true(fabs(squares / (double)n - bound * bound / 3) <= 5 * bound * bound * sqrt(4.0 / 45 / (double)n));
}

static void size_and_place(void **state) {
    PL_UNUSED(state);
    static int32_t ids[940];
    pl_dataset d;
    pl_row rows[ROWS];
    pl_span answers[ROWS];
    pl_forest both = {0}, second = {0};
    pl_arena a, b;
    pl_noise noise = {.alpha = 5, .key = pl_rng_mix(SEED, 3)}, other = {.alpha = 5, .key = pl_rng_mix(SEED, 4)};
    fill(&d, rows, answers, ids);
    build(&both, &a, &d, 0, ROWS);
    build(&second, &b, &d, 1, 1);
    real *x = test_zeros(940 * C), *alone = test_zeros(900 * C), *changed = test_zeros(940 * C);
    pl_noise_add(x, &noise, &both, C);
    check_uniform(x, 40 * C, 5 / sqrt(40.0 * C));
    check_uniform(x + 40 * C, 900 * C, 5 / sqrt(900.0 * C));
    pl_noise_add(alone, &noise, &second, C); /* the row's place in the step counts, not its place in the batch */
    assert_memory_equal(alone, x + 40 * C, 900 * C * sizeof(real));
    pl_noise_add(changed, &other, &both, C);
    int64_t same = 0;
    for (int64_t i = 0; i < 940 * C; i++) same += changed[i] == x[i];
    assert_true(same < 4); /* another step, another noise */
    for (int64_t t = 1; t < 900; t++) assert_memory_not_equal(alone, alone + t * C, C * sizeof(real));
    memset(changed, 0, 940 * C * sizeof(real));
    pl_noise_add(changed, &(pl_noise){.alpha = 0, .key = 1}, &both, C);
    for (int64_t i = 0; i < 940 * C; i++) assert_true(changed[i] == 0);
    pl_free(x);
    pl_free(alone);
    pl_free(changed);
    pl_arena_release(&a);
    pl_arena_release(&b);
}

static double loss_at(fixture *f, pl_param *p, const double *direction, double step) {
    for (int64_t i = 0; i < p->n; i++) p->value[i] += (real)(step * direction[i]);
    double loss = fixture_loss_and_gradient(f);
    for (int64_t i = 0; i < p->n; i++) p->value[i] -= (real)(step * direction[i]);
    return loss;
}

/* Tensors whose derivative along a random direction is not `scale` times what the gradient says. */
static int64_t wrong_tensors(fixture *f, double scale) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < f->trainable.n; i++) {
        pl_param *p = &f->trainable.params[i];
        double *direction = NULL, dot = 0;
        assert_int_equal(PL_NEW(&direction, p->n, NULL), 0);
        for (int64_t j = 0; j < p->n; j++) direction[j] = 2 * pl_rng_unit64(SEED + (uint64_t)i, (uint64_t)j) - 1;
        (void)fixture_loss_and_gradient(f);
        for (int64_t j = 0; j < p->n; j++) dot += scale * (double)p->grad[j] * direction[j];
        double slope = (loss_at(f, p, direction, STEP) - loss_at(f, p, direction, -STEP)) / (2 * STEP);
        wrong += !CLOSE(dot, slope);
        pl_free(direction);
    }
    return wrong;
}

/* The loss of the golden batch under noise, and how much of the gradient is wrong. */
static double noisy(double alpha, bool share, bool recompute, bool differences) {
    fixture f;
    fixture_open_training(&f, "qwen2_untied", NULL, recompute);
    double clean = fixture_load_batch(&f, "grads/qwen2_untied", "sft.json", share);
    f.decoder.noise = (pl_noise){.alpha = alpha, .key = 99};
    double loss = fixture_loss_and_gradient(&f);
    if (alpha > 0) assert_true(fabs(loss - clean) > 1e-4);
    if (alpha == 0) assert_true(fabs(loss - clean) <= 1e-6 * (1 + fabs(clean)));
    if (differences) {
        assert_int_equal(wrong_tensors(&f, 1), 0);
        assert_true(wrong_tensors(&f, 1.01) > 0);
        assert_true(wrong_tensors(&f, NAN) == f.trainable.n);
    }
    fixture_close(&f);
    return loss;
}

static void gradients(void **state) {
    PL_UNUSED(state);
    (void)noisy(0, true, false, false);
    double loss = noisy(5, true, false, true);
    assert_true(loss == noisy(5, true, true, false));                 /* recomputed */
    assert_true(fabs(loss - noisy(5, false, false, false)) <= 1e-12); /* unshared */
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(size_and_place), cmocka_unit_test(gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
