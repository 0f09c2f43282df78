/* test_score.c: reward models against transformers, PEFT and PyTorch (tests/golden/README.md), and where a score is
 * read. */
#include "unit/loss/fixture_score.h"

#include "base/file.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/score/"

/* DECISIONS 11, over the tensors of reward.safetensors. */
static double gradient_error(const score_fixture *f, const char *dir) {
    char path[512];
    pl_tensors *g = NULL;
    double global = 0, worst = 0;
    snprintf(path, sizeof path, "%s%s/reward.safetensors", GOLDEN, dir);
    MUST(pl_tensors_open_file(&g, path, err));
    assert_int_equal(pl_tensors_count(g), f->trainable.n);
    for (int64_t i = 0; i < pl_tensors_count(g); i++) {
        const pl_tensor *t = pl_tensors_at(g, i);
        for (size_t j = 0; j < t->bytes / 4; j++) global += pow((double)((const float *)t->data)[j], 2);
    }
    for (int64_t i = 0; i < f->trainable.n; i++) {
        const pl_param *p = &f->trainable.params[i];
        const pl_tensor *t = pl_tensors_find(g, p->name);
        if (!t) fail_msg("no golden gradient of %s", p->name);
        double norm = 0, error = 0;
        for (int64_t j = 0; j < p->n; j++) {
            double want = (double)((const float *)t->data)[j];
            norm += want * want;
            error += pow((double)p->grad[j] - want, 2);
        }
        double relative = sqrt(error) / PL_MAX(sqrt(norm), 1e-5 * sqrt(global));
        if (!(relative <= worst)) worst = relative;
    }
    pl_tensors_close(g);
    return worst;
}

/* Scores: 1e-5 (float32 of a sum of 24 products over two layers; PyTorch's own float32 is 2e-6 away). */
static void check(const char *model, const char *adapter, bool recompute, int64_t per_batch) {
    score_fixture f;
    score_open(&f, model, adapter, recompute);
    f.per_batch = per_batch;
    double loss = score_loss_and_gradient(&f), apart = 0, worst = gradient_error(&f, adapter ? adapter : model);
    for (int64_t i = 0; i < 2 * f.data.n; i++)
        if (!(fabs(f.got[i] - f.want[i]) <= apart)) apart = fabs(f.got[i] - f.want[i]);
    printf("%-12s%s max |score error| %.2g, loss error %.2g, worst gradient %.2g\n", adapter ? adapter : model,
           recompute ? " recomputed" : "", apart, fabs(loss - f.want_loss), worst);
    assert_true(apart <= 1e-5);
    assert_true(fabs(loss - f.want_loss) <= 1e-5);
    assert_true(worst <= 1e-4);
    score_close(&f);
}

static void goldens(void **state) {
    PL_UNUSED(state);
    check("llama", NULL, false, 0);
    check("llama", NULL, true, 1);
    check("qwen2", NULL, false, 2);
    check("llama", "llama_lora", false, 0);
    check("llama", "llama_lora", true, 1);
}

/* The prompt once for both answers, or once each: the same scores and the same gradient. */
static void forest_and_copies(void **state) {
    PL_UNUSED(state);
    score_fixture f;
    int64_t rows[] = {0, 1, 2};
    score_open(&f, "llama", "llama_lora", false);
    pl_worker *k = &f.worker;
    score_loss_and_gradient(&f);
    double d[6], norm = 0, apart = 0;
    real *kept = NULL;
    int64_t at = 0;
    memcpy(d, k->d_score, sizeof d);
    MUST(PL_NEW(&kept, f.trainable.elements, err));
    for (int64_t i = 0; i < f.trainable.n; at += f.trainable.params[i++].n)
        memcpy(kept + at, f.trainable.params[i].grad, (size_t)f.trainable.params[i].n * sizeof(real));
    pl_trainable_zero_grads(&f.trainable);
    MUST(pl_forest_build(&k->forest, &f.data, rows, 3, 0, false, PL_FOR_SCORES, err));
    pl_forest_read_ends(&k->forest);
    MUST(pl_decoder_forward(&k->decoder, &f.trainable.weights, &f.trainable.lora, &k->forest, true, err));
    MUST(pl_score_head_forward(&k->score, &f.trainable.weights, &f.trainable.lora, &k->forest, k->decoder.x_last, err));
    for (int64_t i = 0; i < 6; i++) assert_true(fabs(k->score.score[i] - f.got[i]) <= 1e-5);
    memcpy(k->d_score, d, sizeof d);
    MUST(pl_worker_backward(k, &f.trainable, err));
    at = 0;
    for (int64_t i = 0; i < f.trainable.n; at += f.trainable.params[i++].n)
        for (int64_t j = 0; j < f.trainable.params[i].n; j++) {
            norm += pow((double)kept[at + j], 2);
            apart += pow((double)(f.trainable.params[i].grad[j] - kept[at + j]), 2);
        }
    printf("shared and repeated prompts: gradients differ by %.2g of their norm\n", sqrt(apart / norm));
    assert_true(sqrt(apart) <= 1e-5 * sqrt(norm));
    pl_free(kept);
    score_close(&f);
}

/* A frozen adapter brings its own head. */
static void frozen_adapter(void **state) {
    PL_UNUSED(state);
    score_fixture f;
    pl_lora lora = {0};
    pl_arena arena;
    int64_t rows[] = {0, 1, 2};
    score_open(&f, "llama", "llama_lora", false);
    MUST(pl_arena_init(&arena, "adapter", (size_t)1 << 20, err));
    MUST(pl_lora_open(&lora, &f.model, GOLDEN "llama_lora", &f.ops, &arena, err));
    assert_non_null(lora.score);
    MUST(pl_worker_forward(&f.worker, &f.model.stored, &lora, &f.data, rows, 3, 0, false, PL_FOR_SCORES, err));
    for (int64_t i = 0; i < 6; i++) assert_true(fabs(f.worker.score.score[i] - f.want[i]) <= 1e-5);
    MUST(pl_worker_forward(&f.worker, &f.model.stored, NULL, &f.data, rows, 3, 0, false, PL_FOR_SCORES, err));
    assert_true(fabs(f.worker.score.score[0] - f.want[0]) > 0.1); /* the base's head says something else */
    pl_free(lora.modules);
    pl_arena_release(&arena);
    score_close(&f);
}

/* The score is read at the last token by length: the id of the pad, or of eos, at the end changes nothing about that.
 */
static void read_at_the_end(void **state) {
    PL_UNUSED(state);
    score_fixture f;
    int64_t rows[] = {0};
    score_open(&f, "llama", NULL, false);
    pl_span *s = &f.answers[0];
    assert_int_equal(f.model.arch.pad, 0);
    f.ids[s->first + s->count - 1] = 0; /* the answer ends in the pad */
    MUST(pl_worker_forward(&f.worker, &f.model.stored, NULL, &f.data, rows, 1, 0, false, PL_FOR_SCORES, err));
    double at_pad = f.worker.score.score[0];
    assert_int_equal(f.worker.score.rows[0], 0);
    assert_int_equal(f.worker.forest.nread, 2); /* the last of each answer */
    assert_int_equal(f.worker.forest.read[0], f.rows[0].prompt.count + s->count - 1);
    s->count--; /* what transformers reads, and TRL where it pads with eos */
    MUST(pl_worker_forward(&f.worker, &f.model.stored, NULL, &f.data, rows, 1, 0, false, PL_FOR_SCORES, err));
    printf("score at the final pad %.6f, one token earlier %.6f\n", at_pad, f.worker.score.score[0]);
    assert_true(fabs(at_pad - f.worker.score.score[0]) > 1e-3);
    score_close(&f);
}

/* A causal model gets a new head, drawn from the seed and nothing else. */
static void new_head(void **state) {
    PL_UNUSED(state);
    static const char *const bases[] = {"llama_gqa_tied", "llama_bias"}; /* tied, and with an lm_head to leave out */
    for (int64_t i = 0; i < PL_LEN(bases); i++) {
        char dir[512];
        pl_model a, b, c;
        pl_hash x, y, z;
        snprintf(dir, sizeof dir, PLUMB_TEST_DIR "/golden/models/%s", bases[i]);
        MUST(pl_model_open_scored(&a, dir, 1, err));
        MUST(pl_model_open_scored(&b, dir, 1, err));
        MUST(pl_model_open_scored(&c, dir, 2, err));
        MUST(pl_model_hash(&x, &a, err));
        MUST(pl_model_hash(&y, &b, err));
        MUST(pl_model_hash(&z, &c, err));
        assert_string_equal(x.hex, y.hex);
        assert_string_not_equal(x.hex, z.hex);
        assert_int_equal(a.arch.head, PL_ARCH_NEW_SCORE);
        assert_string_equal(a.params[a.nparams - 1].name, "score.weight");
        const float *w = a.stored.score.data;
        double squares = 0;
        for (int64_t j = 0; j < a.arch.C; j++) squares += (double)w[j] * (double)w[j];
        double deviation = sqrt(squares / (double)a.arch.C); /* of 24 draws: within a factor of two but for 1e-6 */
        assert_true(deviation > a.arch.initializer_range / 2 && deviation < a.arch.initializer_range * 2);
        pl_model_close(&a);
        pl_model_close(&b);
        pl_model_close(&c);
    }
}

static void refusals(void **state) {
    PL_UNUSED(state);
    pl_model m = {0};
    pl_lora lora = {0};
    pl_error e;
    pl_ops ops;
    pl_arena arena;
    pl_ops_init(&ops, PL_CPU_GENERIC);
    assert_int_equal(pl_model_open(&m, GOLDEN "llama", &e), PL_E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "reward model"));
    MUST(pl_arena_init(&arena, "adapter", (size_t)1 << 20, err));
    MUST(pl_model_open(&m, PLUMB_TEST_DIR "/golden/models/llama_gqa_tied", err));
    assert_int_equal(pl_lora_open(&lora, &m, GOLDEN "llama_lora", &ops, &arena, &e), PL_E_MISMATCH);
    assert_non_null(strstr(e.text, "SEQ_CLS"));
    pl_model_close(&m);
    MUST(pl_model_open_scored(&m, GOLDEN "llama", 1, err));
    assert_int_equal(pl_lora_open(&lora, &m, PLUMB_TEST_DIR "/golden/adapters/lora_all", &ops, &arena, &e),
                     PL_E_MISMATCH);
    assert_non_null(strstr(e.text, "CAUSAL_LM"));
    pl_model_close(&m);
    pl_arena_release(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(goldens),        cmocka_unit_test(forest_and_copies),
                                       cmocka_unit_test(frozen_adapter), cmocka_unit_test(read_at_the_end),
                                       cmocka_unit_test(new_head),       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
