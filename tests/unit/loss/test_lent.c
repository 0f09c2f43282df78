/* test_lent.c: gradients of blocks in the activations of the block above (pl_worker_lend) against gradients in memory
 * of their own: every bit, for adapters and for all weights, few rows and many, on one thread and several, step after
 * step; and that activations which are still read would be seen. ctest-label: threads */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "model/worker.h"
#include "unit/loss/fixture.h"

#define SEED 20261122u
static pl_error err;

static void must(int rc) {
    if (rc) fail_msg("%s", err.text);
}

/* The gradient of everything for a random dL/dx_last, in one array. */
static real *gradient(fixture *f) {
    const pl_grads *grads = f->trainable.is_lora ? NULL : &f->trainable.grads;
    pl_trainable_begin_grads(&f->trainable);
    must(pl_decoder_forward(&f->decoder, f->weights, f->adapter, &f->forest, true, &err));
    for (int64_t i = 0; i < f->forest.T * f->model.arch.C; i++)
        f->decoder.dx[i] = (real)(2 * pl_rng_unit64(SEED, (uint64_t)i) - 1);
    must(pl_decoder_backward(&f->decoder, f->weights, f->adapter, grads, &f->forest, &err));
    return test_gradients(f);
}

static bool same(const fixture *f, const real *a, const real *b) {
    return memcmp(a, b, (size_t)f->trainable.elements * sizeof *a) == 0;
}

static void mark_lent(fixture *f) { f->trainable.lent = f->trainable.lora.lent = f->trainable.grads.lent = true; }

static void lend(fixture *f) {
    pl_worker k = {.decoder = f->decoder};
    size_t bytes = 0, lent = 0;
    assert_true(pl_worker_can_lend(&k, &f->trainable, &f->model, &bytes));
    must(pl_worker_lend(&k, &f->trainable, &f->model, &err));
    mark_lent(f);
    for (int64_t i = 0; i < f->trainable.n; i++) {
        const pl_param *p = &f->trainable.params[i];
        if (!pl_trainable_borrows(&f->trainable, p)) continue;
        const char *room = (const char *)f->decoder.acts[p->layer + 1].q, *grad = (const char *)p->grad;
        assert_true(grad >= room && grad + (size_t)p->n * sizeof(real) <= room + f->decoder.lend_bytes);
        lent += (size_t)p->n * sizeof(real);
    }
    assert_true(lent > 0 && lent <= bytes && bytes < lent + (size_t)f->trainable.n * PL_ARENA_ALIGN);
}

/* In the block's own activations, which its backward pass still reads. */
static void lend_too_early(fixture *f) {
    for (int64_t l = 0; l + 1 < f->model.arch.L; l++) {
        pl_arena a = {.name = "early", .base = (char *)f->decoder.acts[l].q, .capacity = f->decoder.lend_bytes};
        must(pl_trainable_take_lent(&f->trainable, &f->model, l, &a, &err));
    }
    mark_lent(f);
}

static void open_with(fixture *f, const char *adapter, int64_t tokens, bool bf16, double dropout) {
    int64_t ids[512];
    test_bf16(bf16);
    fixture_open_training(f, "llama_gqa_tied", adapter, false);
    for (int64_t i = 0; i < tokens; i++)
        ids[i] = (int64_t)(pl_rng_unit64(SEED + 1, (uint64_t)i) * (double)f->model.arch.V);
    fixture_text(f, ids, tokens);
    f->trainable.lora.dropout = (real)dropout;
    f->trainable.lora.dropout_key = SEED;
}

static void check(const char *adapter, int threads, int64_t tokens, bool bf16, double dropout, bool early) {
    fixture f;
    test_threads(threads);
    open_with(&f, adapter, tokens, bf16, dropout);
    real *own = gradient(&f);
    if (early)
        lend_too_early(&f);
    else
        lend(&f);
    for (int step = 0; step < 2; step++) { /* the second begins over what the first left */
        real *lent = gradient(&f);
        assert_int_equal(same(&f, own, lent), !early);
        pl_free(lent);
    }
    pl_free(own);
    fixture_close(&f);
}

static void same_bits(void **state) {
    PL_UNUSED(state);
    static const int64_t tokens[] = {1, 17, 144, 203, 512}; /* few rows share products; a lane has one block or two */
    for (int threads = 1; threads <= 3; threads++)
        for (int64_t i = 0; i < PL_LEN(tokens); i++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                check("adapters/lora_all", threads, tokens[i], bf16, 0, false);
                check("adapters/lora_all", threads, tokens[i], bf16, 0.2, false);
                check(NULL, threads, tokens[i], bf16, 0, false);
            }
}

static void too_early(void **state) {
    PL_UNUSED(state);
    for (int threads = 1; threads <= 2; threads++) {
        check("adapters/lora_all", threads, 203, false, 0, true);
        check(NULL, threads, 203, false, 0, true);
    }
}

/* A batch of which nobody reads anything has no gradient, whatever the step before left there. */
static void nothing_read(void **state) {
    PL_UNUSED(state);
    static const char *const adapters[] = {"adapters/lora_all", NULL};
    for (int i = 0; i < PL_LEN(adapters); i++) {
        fixture f;
        open_with(&f, adapters[i], 144, false, 0);
        lend(&f);
        real *some = gradient(&f), sum = 0;
        for (int64_t j = 0; j < f.trainable.elements; j++) sum += fabsf((float)some[j]);
        assert_true(sum > 0);
        pl_free(some);
        pl_forest_read_tokens(&f.forest, NULL, 0);
        real *none = gradient(&f);
        for (int64_t j = 0; j < f.trainable.elements; j++) assert_true(none[j] == 0);
        pl_free(none);
        fixture_close(&f);
    }
}

/* Layers that share their activations, or have too few, have no room. */
static void refused(void **state) {
    PL_UNUSED(state);
    fixture f;
    size_t bytes;
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", true);
    pl_worker k = {.decoder = f.decoder};
    assert_false(pl_worker_can_lend(&k, &f.trainable, &f.model, &bytes));
    k.decoder.lend_bytes = 1024;
    assert_false(pl_worker_can_lend(&k, &f.trainable, &f.model, &bytes));
    fixture_close(&f);
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits), cmocka_unit_test(too_early),
                                       cmocka_unit_test(nothing_read), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
