/* test_model_grad.c: the whole model in double (PL_REAL_IS_DOUBLE, reference kernels, small head tiles): log-probs
 * against transformers in float64, and the gradient of both objectives against directional finite differences, one
 * random direction per tensor (DECISIONS 10). */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "unit/loss/fixture.h"

#define SEED 20261121u
#define STEP 1e-5
/* Central differences in double: truncation h^2, rounding 1e-16/h; both far below 1e-6 of a gradient of order one. */
#define CLOSE(a, b) (fabs((a) - (b)) <= 1e-6 * (1e-3 + fabs(a) + fabs(b)))

static void logps_of_float64(void **state) {
    PL_UNUSED(state);
    static const char *const names[] = {"llama_mha_untied", "llama_gqa_tied", "llama_bias",
                                        "llama_headdim",    "qwen2_untied",   "llama_rope_llama3"};
    for (int64_t m = 0; m < PL_LEN(names); m++) {
        fixture f;
        char dir[128];
        double worst = 0;
        snprintf(dir, sizeof dir, "models/%s", names[m]);
        fixture_open(&f, names[m], NULL);
        pl_tensors *g = test_tensors(dir, "goldens.safetensors");
        for (int i = 0; i < 3; i++) {
            char name[32];
            snprintf(name, sizeof name, "ids.%d", i);
            const pl_tensor *ids = pl_tensors_find(g, name);
            snprintf(name, sizeof name, "logps64.%d", i);
            const pl_tensor *want = pl_tensors_find(g, name);
            fixture_text(&f, ids->data, ids->dims[0]);
            fixture_forward(&f, false);
            for (int64_t t = 0; t < f.head.N; t++)
                worst = test_max(worst, fabs((double)f.head.logp[t] - ((const double *)want->data)[t]));
        }
        printf("%-20s max |logp - float64| %.2g\n", names[m], worst);
        assert_true(worst <=
                    2e-6); /* RoPE's tables are float32 on both sides, with a last bit of cos and sin between them */
        pl_tensors_close(g);
        fixture_close(&f);
    }
}

static double loss_at(fixture *f, pl_param *p, const double *direction, double step) {
    for (int64_t i = 0; i < p->n; i++) p->value[i] += (real)(step * direction[i]);
    double *kept = NULL, loss;
    assert_int_equal(PL_NEW(&kept, p->n, NULL), 0);
    memcpy(kept, p->grad, (size_t)p->n * sizeof(double));
    loss = fixture_loss_and_gradient(f);
    memcpy(p->grad, kept, (size_t)p->n * sizeof(double));
    for (int64_t i = 0; i < p->n; i++) p->value[i] -= (real)(step * direction[i]);
    pl_free(kept);
    return loss;
}

/* Returns the number of tensors whose derivative along a random direction is not what the gradient says; scale > 1
 * spoils the gradient of tensor `spoiled` first, to show that the harness sees it. */
static int64_t every = 1, from; /* which tensors are looked at: every `every`th from `from` on */

static int64_t wrong_tensors(fixture *f, int64_t spoiled, double scale) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < f->trainable.n; i++) {
        if (scale != 1 ? i != spoiled : i % every != from) continue;
        pl_param *p = &f->trainable.params[i];
        double *direction = NULL, dot = 0;
        assert_int_equal(PL_NEW(&direction, p->n, NULL), 0);
        for (int64_t j = 0; j < p->n; j++) direction[j] = 2 * pl_rng_unit64(SEED + (uint64_t)i, (uint64_t)j) - 1;
        fixture_loss_and_gradient(f);
        for (int64_t j = 0; j < p->n; j++) dot += scale * (double)p->grad[j] * direction[j];
        double slope = (loss_at(f, p, direction, STEP) - loss_at(f, p, direction, -STEP)) / (2 * STEP);
        if (!CLOSE(dot, slope)) {
            wrong++;
            if (scale == 1) printf("%s: gradient %.12g, difference %.12g\n", p->name, dot, slope);
        }
        pl_free(direction);
    }
    return wrong;
}

static void check(const char *model, const char *adapter, const char *dir, const char *file, bool share,
                  bool recompute) {
    fixture f;
    fixture_open_training(&f, model, adapter, recompute);
    double want = fixture_load_batch(&f, dir, file, share);
    double loss = fixture_loss_and_gradient(&f);
    printf("%-24s %-8s%s%s loss error %.2g\n", dir, file, share ? "" : " unshared", recompute ? " recomputed" : "",
           fabs(loss - want));
    assert_true(fabs(loss - want) <= 1e-6 * (1 + fabs(want)));
    assert_int_equal(wrong_tensors(&f, -1, 1), 0);
    int64_t spoiled = (int64_t)(SEED % (uint64_t)f.trainable.n);
    assert_int_equal(wrong_tensors(&f, spoiled, 1.01), 1); /* 1 % is seen */
    assert_int_equal(wrong_tensors(&f, spoiled, NAN), 1);  /* NaN is seen */
    fixture_close(&f);
}

static void full(void **state) {
    PL_UNUSED(state);
    check("llama_gqa_tied", NULL, "grads/llama_gqa_tied", "dpo.json", true, false);
    check("llama_bias", NULL, "grads/llama_bias", "dpo.json", true, true);
    check("qwen2_untied", NULL, "grads/qwen2_untied", "sft.json", true, false);
    check("llama_rope_llama3", NULL, "grads/llama_rope_llama3", "dpo.json", false, false);
}

static void lora(void **state) {
    PL_UNUSED(state);
    check("llama_gqa_tied", "adapters/lora_all", "adapters/lora_all", "dpo.json", true, false);
    check("qwen2_tied", "adapters/lora_regex", "adapters/lora_regex", "dpo.json", true, true);
}

/* Dropout on: the masks are a function of seed, step and position, so finite differences see the same ones; and the
 * forest, the unshared rows and recomputation draw the same. */
static double dropout_loss(const char *what, bool share, bool recompute, bool differences) {
    PL_UNUSED(what);
    fixture f;
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", recompute);
    fixture_load_batch(&f, "adapters/lora_all", "dpo.json", share);
    f.trainable.lora.dropout = (real)0.1;
    f.trainable.lora.dropout_key = 12345;
    double loss = fixture_loss_and_gradient(&f);
    if (differences) assert_int_equal(wrong_tensors(&f, -1, 1), 0);
    fixture_close(&f);
    return loss;
}

static void dropout(void **state) {
    PL_UNUSED(state);
    double loss = dropout_loss("shared", true, false, true);
    assert_true(fabs(loss - dropout_loss("unshared", false, false, false)) <= 1e-12);
    assert_true(loss == dropout_loss("recomputed", true, true, false));
}

/* Loss and gradients (in f.trainable) of one objective on the golden rows, with a reference that is no tie. */
static double objective_loss(fixture *f, const pl_objective *o, bool share) {
    bool pairs = o->rows == PL_LOSS_PAIRED || o->mismatched;
    fixture_open_training(f, "llama_gqa_tied", NULL, false);
    fixture_load_batch(f, "grads/llama_gqa_tied", pairs ? "dpo.json" : "sft.json", share);
    f->params = (pl_loss_params){.beta = 0.3,
                                 .label_smoothing = pl_objective_reads(o, "label_smoothing") ? 0.1 : 0,
                                 .discopop_tau = 0.5,
                                 .desirable_weight = 1,
                                 .undesirable_weight = 1.3,
                                 .cpo_alpha = 0.7,
                                 .simpo_gamma = 0.5};
    f->mix = (pl_mix){.n = 1, .term = {o}, .weight = {1}};
    f->state[1] = 0.1;
    for (int i = 0; i < 8; i++) f->label[i] = i % 3 != 1;
    /* no gradient flows through KTO's mean, so that it must not move with the weights: far below 0 it is cut off */
    for (int s = 1; o->mismatched && s < 16; s += 2) f->reference[s] = 1000;
    return fixture_loss_and_gradient(f);
}

/* Every objective through the whole model: finite differences, and the prompt shared or repeated. */
static void every_objective(void **state) {
    PL_UNUSED(state);
    for (int i = 0; pl_objectives[i]; i++) {
        const pl_objective *o = pl_objectives[i];
        /* dft holds a factor of its gradient constant, so that its loss has other differences */
        if (o->head == PL_HEAD_SCORE || strcmp(o->name, "dft") == 0) continue;
        static fixture shared, repeated;
        double loss = objective_loss(&shared, o, true), other = objective_loss(&repeated, o, false);
        if (!(fabs(loss - other) <= 1e-10 * (1 + fabs(loss)))) fail_msg("%s: %.17g and %.17g", o->name, loss, other);
        for (int64_t p = 0; p < shared.trainable.n; p++) {
            const pl_param *a = &shared.trainable.params[p], *b = &repeated.trainable.params[p];
            for (int64_t j = 0; j < a->n; j++)
                if (!(fabs((double)a->grad[j] - (double)b->grad[j]) <= 1e-9 * (1 + fabs((double)a->grad[j]))))
                    fail_msg("%s %s: %s[%d]", o->command, o->name, a->name, (int)j);
        }
        every = 7;
        from = i % 7;
        int64_t wrong = wrong_tensors(&shared, -1, 1);
        every = 1;
        from = 0;
        if (wrong) fail_msg("%s %s: see above", o->command, o->name);
        assert_int_equal(wrong_tensors(&shared, 0, 1.01), 1);
        fixture_close(&shared);
        fixture_close(&repeated);
    }
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(logps_of_float64), cmocka_unit_test(full),
                                       cmocka_unit_test(lora), cmocka_unit_test(dropout),
                                       cmocka_unit_test(every_objective)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
