/* test_score_grad.c: reward models in double (PL_REAL_IS_DOUBLE): scores against transformers in float64, the gradient
 * against directional finite differences, one random direction per tensor (DECISIONS 10); and the two objectives by
 * themselves. */
#include "base/rng.h"
#include "unit/loss/fixture_score.h"

#define SEED 20261121u
#define STEP 1e-5
/* Central differences in double: truncation h^2, rounding 1e-16/h; both far below 1e-6 of a gradient of order one. */
#define CLOSE(a, b) (fabs((a) - (b)) <= 1e-6 * (1e-3 + fabs(a) + fabs(b)))

static double loss_at(score_fixture *f, pl_param *p, const double *direction, double step) {
    for (int64_t i = 0; i < p->n; i++) p->value[i] += (real)(step * direction[i]);
    double loss = score_loss_and_gradient(f);
    for (int64_t i = 0; i < p->n; i++) p->value[i] -= (real)(step * direction[i]);
    return loss;
}

static bool agrees(score_fixture *f, int64_t i, double scale) {
    pl_param *p = &f->trainable.params[i];
    double *direction = NULL, dot = 0;
    MUST(PL_NEW(&direction, p->n, err));
    for (int64_t j = 0; j < p->n; j++) direction[j] = 2 * pl_rng_unit64(SEED + (uint64_t)i, (uint64_t)j) - 1;
    score_loss_and_gradient(f);
    for (int64_t j = 0; j < p->n; j++) dot += scale * (double)p->grad[j] * direction[j];
    double slope = (loss_at(f, p, direction, STEP) - loss_at(f, p, direction, -STEP)) / (2 * STEP);
    pl_free(direction);
    if (scale == 1 && !CLOSE(dot, slope)) printf("%s: gradient %.12g, difference %.12g\n", p->name, dot, slope);
    return CLOSE(dot, slope);
}

static void check(const char *model, const char *adapter, bool recompute) {
    score_fixture f;
    score_open(&f, model, adapter, recompute);
    double loss = score_loss_and_gradient(&f), apart = 0;
    for (int64_t i = 0; i < 2 * f.data.n; i++)
        if (!(fabs(f.got[i] - f.want[i]) <= apart)) apart = fabs(f.got[i] - f.want[i]);
    printf("%-12s max |score - float64| %.2g, loss error %.2g\n", adapter ? adapter : model, apart,
           fabs(loss - f.want_loss));
    assert_true(apart <= 2e-6); /* RoPE's float32 tables: a last bit of cos and sin */
    for (int64_t i = 0; i < f.trainable.n; i++) assert_true(agrees(&f, i, 1));
    assert_false(agrees(&f, f.trainable.n - 1, 1.01)); /* 1 % of the score head's is seen */
    assert_false(agrees(&f, 0, NAN));
    score_close(&f);
}

static void models(void **state) {
    PL_UNUSED(state);
    check("llama", NULL, false);
    check("qwen2", NULL, true);
    check("llama", "llama_lora", false);
}

/* --- the objectives by themselves --- */

#define N 6

static double value_of(const pl_objective *o, const double *score, const pl_loss_params *p, double *gradient) {
    static const double margin[N] = {0, 0.7, -0.3};
    static const bool label[N] = {true, false, true, true, false, false};
    bool paired = o->rows == PL_LOSS_PAIRED;
    double d[N] = {0};
    pl_metric m[8] = {0};
    pl_loss_in in = {.n = N, .per_row = paired ? 2 : 1, .score = score, .margin = margin, .label = label};
    pl_loss_out out = {.d_score = d, .metrics = m};
    MUST(o->run(&out, &in, p, err));
    o->measure(m, &in, p);
    if (gradient) memcpy(gradient, d, sizeof d);
    return out.loss;
}

static void check_objective(const pl_objective *o, const pl_loss_params *p) {
    const double score[N] = {0.3, -0.8, 2.5, 2.1, -1, 4};
    double g[N];
    value_of(o, score, p, g);
    for (int i = 0; i < N; i++) {
        double up[N], down[N];
        memcpy(up, score, sizeof up);
        memcpy(down, score, sizeof down);
        up[i] += STEP;
        down[i] -= STEP;
        double slope = (value_of(o, up, p, NULL) - value_of(o, down, p, NULL)) / (2 * STEP);
        if (!CLOSE(g[i], slope)) fail_msg("%s: score %d: gradient %.12g, difference %.12g", o->name, i, g[i], slope);
        assert_false(CLOSE(1.01 * g[i], slope));
    }
}

static void objectives(void **state) {
    PL_UNUSED(state);
    pl_loss_params p = {.center_rewards_coefficient = NAN};
    check_objective(&pl_objective_reward, &p);
    check_objective(&pl_objective_verifier, &p);
    p.center_rewards_coefficient = 0.3;
    check_objective(&pl_objective_reward, &p);
}

/* +-1e4: finite, and exact in the limit. */
static void extremes(void **state) {
    PL_UNUSED(state);
    pl_loss_params p = {.center_rewards_coefficient = NAN};
    const double right[N] = {1e4, -1e4, 1e4, -1e4, 1e4, -1e4}, equal[N] = {0};
    double wrong[N], g[N];
    for (int i = 0; i < N; i++) wrong[i] = -right[i];
    assert_true(value_of(&pl_objective_reward, right, &p, g) == 0 && g[0] == 0);
    assert_true(value_of(&pl_objective_reward, wrong, &p, g) == 6e4 + 0.7 - 0.3 && g[0] == -1 && g[1] == 1);
    value_of(&pl_objective_reward, equal, &p, g);
    assert_true(g[0] == -0.5 && g[1] == 0.5);
    assert_true(fabs(value_of(&pl_objective_verifier, equal, &p, g) - N * log(2)) <= 1e-15 * N);
    value_of(&pl_objective_verifier, wrong, &p, g); /* labels 1 0 1 1 0 0: rows 0, 1 and 2 are wrong, 4 and 5 too */
    assert_true(g[0] == -1 && g[1] == 1 && g[3] == 0);
    pl_error e;
    double d[N] = {0}, margin[N] = {0};
    const double bad[N] = {NAN, 0, 0, 0, 0, 0};
    pl_loss_in in = {.n = 2, .per_row = 2, .score = bad, .margin = margin};
    pl_loss_out out = {.d_score = d};
    assert_int_equal(pl_objective_reward.run(&out, &in, &p, &e), PL_E_NUMERIC);
}

/* TRL's definitions: extremes and mean over all scores, strict accuracy, the data's margin in none of them. */
static void metrics(void **state) {
    PL_UNUSED(state);
    const double score[4] = {1, -2, 3, 3}, margin[2] = {10, 10};
    const bool label[4] = {true, true, false, false};
    pl_loss_params p = {.center_rewards_coefficient = NAN};
    pl_metric m[8] = {0}, v[8] = {0};
    pl_loss_in in = {.n = 4, .per_row = 2, .score = score, .margin = margin};
    pl_objective_reward.measure(m, &in, &p);
    static const double want[] = {-2, 1.25, 3, 0.5, 1.5};
    for (int i = 0; i < PL_LEN(want); i++) assert_true(m[i].sum / m[i].weight == want[i]);
    pl_loss_in rows = {.n = 4, .per_row = 1, .score = score, .label = label};
    pl_objective_verifier.measure(v, &rows, &p);
    pl_objective_verifier.derive(v);
    static const double wanted[] = {0.25, -0.5, 3, -3.5};
    for (int i = 0; i < PL_LEN(wanted); i++) assert_true(v[i].sum / v[i].weight == wanted[i]);
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(models), cmocka_unit_test(objectives),
                                       cmocka_unit_test(extremes), cmocka_unit_test(metrics)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
