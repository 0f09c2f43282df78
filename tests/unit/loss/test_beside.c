/* test_beside.c: reference and policy in one run over the layers (pl_decoder_forward_both) against a run each: every
 * bit of both outputs and of the gradient that follows, for few rows and many, on one thread and several, recomputed or
 * not; and that a second stream with the wrong adapter would be seen. ctest-label: threads */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "unit/loss/fixture.h"

#define SEED 20261123u
static pl_error err;

static void must(int rc) {
    if (rc) fail_msg("%s", err.text);
}

static real *copy_of(const real *x, int64_t n) {
    real *y = test_zeros(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static bool equal(const real *a, const real *b, int64_t n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

/* The gradient of all adapters for a random dL/dx_last, in one array. */
static real *gradient(fixture *f) {
    for (int64_t i = 0; i < pl_forest_rows(&f->forest) * f->model.arch.C; i++)
        f->decoder.dx[i] = (real)(2 * pl_rng_unit64(SEED, (uint64_t)i) - 1);
    pl_trainable_zero_grads(&f->trainable);
    must(pl_decoder_backward(&f->decoder, f->weights, f->adapter, NULL, &f->forest, &err));
    return test_gradients(f);
}

static real *alone(fixture *f, const pl_lora *lora, bool keep) {
    must(pl_decoder_forward(&f->decoder, f->weights, lora, &f->forest, keep, &err));
    return copy_of(f->decoder.x_last, pl_forest_rows(&f->forest) * f->model.arch.C);
}

/* One batch both ways. `other`: the adapter of the second stream. */
static void check(fixture *f, const pl_lora *other) {
    int64_t n = pl_forest_rows(&f->forest) * f->model.arch.C;
    real *beside = alone(f, other, false), *policy = alone(f, f->adapter, true), *grad = gradient(f);
    must(pl_decoder_forward_both(&f->decoder, f->weights, f->adapter, other, &f->forest, &err));
    assert_true(equal(f->decoder.x_beside, beside, n));
    assert_true(equal(f->decoder.x_last, policy, n));
    assert_false(equal(beside, policy, n));
    real *after = gradient(f);
    assert_true(equal(after, grad, f->trainable.elements));
    pl_free(beside), pl_free(policy), pl_free(grad), pl_free(after);
}

/* The policy's adapter in both streams: what a reference that was not switched off would give. */
static void check_wrong(fixture *f) {
    int64_t n = pl_forest_rows(&f->forest) * f->model.arch.C;
    real *off = alone(f, NULL, false);
    must(pl_decoder_forward_both(&f->decoder, f->weights, f->adapter, f->adapter, &f->forest, &err));
    assert_false(equal(f->decoder.x_beside, off, n));
    assert_true(equal(f->decoder.x_beside, f->decoder.x_last, n));
    pl_free(off);
}

/* Another adapter, of a smaller rank than the policy's: its rows through A are not where the policy's are. */
static void check_other_rank(fixture *f) {
    pl_lora_module *modules = NULL;
    int64_t n = f->model.arch.L * PL_LIN_COUNT;
    must(PL_NEW(&modules, n, &err));
    for (int64_t i = 0; i < n; i++) {
        modules[i] = f->trainable.lora.modules[i];
        modules[i].r = 2;
        modules[i].scale = 3;
        modules[i].da = modules[i].db = NULL;
    }
    pl_lora other = f->trainable.lora;
    other.modules = modules;
    other.max_r = 2;
    other.dropout = 0;
    check(f, &other);
    pl_free(modules);
}

static void check_all(int threads, int64_t tokens, bool recompute, bool bf16) {
    fixture f;
    int64_t ids[512];
    test_threads(threads);
    test_bf16(bf16);
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", recompute);
    for (int64_t i = 0; i < tokens; i++)
        ids[i] = (int64_t)(pl_rng_unit64(SEED + 1, (uint64_t)i) * (double)f.model.arch.V);
    fixture_text(&f, ids, tokens);
    check(&f, NULL);
    check_wrong(&f);
    check_other_rank(&f);
    f.trainable.lora.dropout = (real)0.2;
    f.trainable.lora.dropout_key = SEED;
    check(&f, NULL);
    check_other_rank(&f);
    fixture_close(&f);
}

static void same_bits(void **state) {
    PL_UNUSED(state);
    static const int64_t tokens[] = {1, 17, 144, 203, 512}; /* few rows share products; a lane has one block or two */
    for (int threads = 1; threads <= 3; threads++)
        for (int64_t i = 0; i < PL_LEN(tokens); i++)
            for (int mode = 0; mode < 4; mode++) check_all(threads, tokens[i], mode & 1, mode & 2);
}

/* Shared prompts: segments attend to others. */
static void pairs(void **state) {
    PL_UNUSED(state);
    fixture f;
    test_threads(2);
    test_bf16(false);
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", false);
    fixture_load_batch(&f, "adapters/lora_all", "dpo.json", true);
    check(&f, NULL);
    check_wrong(&f);
    fixture_close(&f);
}

/* A decoder that keeps nothing has no room for it. */
static void refused(void **state) {
    PL_UNUSED(state);
    fixture f;
    const int64_t ids[] = {1, 2, 3};
    fixture_open(&f, "llama_gqa_tied", NULL);
    fixture_text(&f, ids, PL_LEN(ids));
    assert_int_equal(pl_decoder_forward_both(&f.decoder, f.weights, NULL, NULL, &f.forest, &err), PL_E_STATE);
    fixture_close(&f);
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits), cmocka_unit_test(pairs), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
