/* The copy of the weights that decoding reads: the same ids and log-probs with and without it, made after so many steps
 * and once, and not where memory is short or an allocation fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "gen/generator.h"
#include "unit/alloc_hook.h"
#include "unit/gen/fixture.h"

static collector with, without;

static pl_generator *open_model(pl_machine *m, const char *model, int bf16) {
    pl_generator *g = NULL;
    pl_generate_options o;
    pl_generate_options_init(&o);
    o.model_name_or_path = golden(model);
    o.max_new_tokens = 3 * PL_HOT_STEPS;
    o.ignore_eos = true;
    o.bf16 = bf16;
    MUST(pl_generator_open(&g, m, &o, err));
    return g;
}

static void run(collector *c, pl_generator *g, int64_t prompts) {
    static const int32_t ids[] = {5, 9, 33, 12, 7, 20, 3};
    pl_prompt p[4];
    for (int i = 0; i < 4; i++) p[i] = (pl_prompt){.ids = ids, .n = 4 + i};
    memset(c, 0, sizeof *c);
    c->samples = 1;
    pl_generate_hooks hooks = hooks_of(c);
    MUST(pl_generate(g, p, prompts, &hooks, NULL, err));
    assert_int_equal(c->n, prompts);
}

static void same(const collector *a, const collector *b) {
    for (int64_t i = 0; i < a->n; i++) {
        assert_int_equal(a->items[i].tokens, 3 * PL_HOT_STEPS);
        assert_memory_equal(a->items[i].ids, b->items[i].ids, sizeof a->items[i].ids);
        assert_memory_equal(a->items[i].logps, b->items[i].logps, sizeof a->items[i].logps);
    }
}

/* tiles: counts copies that lie in tiles. */
static void one_model(const char *model, int bf16, int64_t prompts, int *tiles) {
    for (int threads = 1; threads <= 2; threads++) {
        pl_machine *m = machine_of(NULL, threads);
        pl_generator *g = open_model(m, model, bf16), *plain = open_model(m, model, bf16);
        plain->hot.off = true;
        run(&without, plain, prompts);
        assert_false(plain->hot.ready);
        if (pl_gemm_few_rows(g->backend.gemm, g->backend.bf16, g->session.model.stored.head.type) >= prompts) {
            for (int i = 0; i < 2; i++) { /* the second call begins with the copy */
                run(&with, g, prompts);
                assert_true(g->hot.ready);
                same(&with, &without);
            }
            if (bf16) assert_int_equal(g->hot.weights.head.type, PL_BF16);
            const pl_mat *q = &g->hot.weights.layers[0].w[PL_LIN_Q];
            assert_int_equal(q->tiles, pl_gemm_has_tiles(g->backend.gemm, bf16, q->rows, q->cols));
            *tiles += q->tiles;
        }
        pl_generator_free(g);
        pl_generator_free(plain);
        pl_machine_free(m);
    }
}

static void test_same_bits(void **state) {
    (void)state;
    int tiles = 0;
    static const char *const models[] = {"models/llama_bf16",   "models/qwen2_f16", "models/llama_gqa_tied",
                                         "models/qwen2_untied", "trl/llama",        "trl/qwen2"};
    for (int i = 0; i < PL_LEN(models); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            one_model(models[i], bf16, 1, &tiles);
            one_model(models[i], bf16, 4, &tiles);
        }
    printf("%d copies in tiles\n", tiles);
}

static void test_memory(void **state) {
    (void)state;
    static const char *const models[] = {"models/llama_bf16", "models/qwen2_f16", "models/llama_gqa_tied",
                                         "models/qwen2_untied"};
    pl_machine *m = machine_of(NULL, 1);
    pl_generator *g = open_model(m, models[0], 1);
    const pl_model *model = &g->session.model;
    g->hot.steps = PL_HOT_STEPS;
    assert_ptr_equal(pl_hot_weights(&g->hot, model, &g->backend, INT64_MAX / 2), &model->stored);
    assert_true(g->hot.off && !g->hot.ready); /* and is not tried again */
    assert_ptr_equal(pl_hot_weights(&g->hot, model, &g->backend, 0), &model->stored);
    pl_hot_release(&g->hot);
    g->hot.steps = PL_HOT_STEPS;
    pl_test_fail_alloc_at(0);
    assert_ptr_equal(pl_hot_weights(&g->hot, model, &g->backend, 0), &model->stored);
    pl_test_fail_alloc_at(-1);
    assert_false(g->hot.ready);
    pl_generator_free(g);
    pl_machine_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
