/* Random models: the statistics of the weights, what they depend on, the files of the directory, errors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/model.h"
#include "plumb/init.h"
#include "plumb/tokenizer.h"
#include "unit/shared.h"

static char root[] = "/tmp/plumb-init-XXXXXX";

static const char *below(const char *name) {
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static pl_init_report init(const char *config, const char *out, int64_t seed, int dtype) {
    pl_init_options o = {.config = config, .output_dir = out, .seed = seed, .dtype = dtype};
    pl_init_report r;
    MUST(pl_init_model(&o, &r, err));
    return r;
}

static const float *weights_of(const pl_model *m, const char *name, int64_t *n) {
    const pl_tensor *t = pl_tensors_find(m->files, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, PL_F32);
    *n = (int64_t)t->bytes / 4;
    return t->data;
}

/* Mean and spread of N values lie within five of their own standard errors. */
static void check_normal(const pl_model *m, const char *name, double std) {
    int64_t n;
    const float *x = weights_of(m, name, &n);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    double mean = sum / (double)n, spread = sqrt(squares / (double)n);
    if (!(fabs(mean) <= 5 * std / sqrt((double)n))) fail_msg("%s: mean %g", name, mean);
    if (!(fabs(spread / std - 1) <= 5 / sqrt(2 * (double)n))) fail_msg("%s: spread %g", name, spread);
}

static void check_constant(const pl_model *m, const char *name, float value) {
    int64_t n;
    const float *x = weights_of(m, name, &n);
    for (int64_t i = 0; i < n; i++) assert_true(x[i] == value);
}

static void test_weights(void **state) {
    (void)state;
    pl_model m;
    pl_init_report r = init(golden("trl/qwen2"), below("a"), 1, 0);
    MUST(pl_model_open(&m, below("a"), err));
    assert_int_equal(r.tensors, m.nparams);
    assert_int_equal(r.bytes, (int64_t)pl_model_bytes(&m));
    assert_int_equal(r.parameters, r.bytes / 4);
    assert_string_equal(r.dtype, "float32");
    check_normal(&m, "model.embed_tokens.weight", m.arch.initializer_range);
    check_normal(&m, "model.layers.1.mlp.down_proj.weight", m.arch.initializer_range);
    check_constant(&m, "model.layers.0.input_layernorm.weight", 1);
    check_constant(&m, "model.norm.weight", 1);
    check_constant(&m, "model.layers.0.self_attn.q_proj.bias", 0);
    int64_t n, k;
    const float *x = weights_of(&m, "model.layers.0.self_attn.q_proj.weight", &n);
    const float *y = weights_of(&m, "model.layers.1.self_attn.q_proj.weight", &k);
    assert_true(n == k && x[0] != y[0] && x[1] != y[1]);
    pl_model_close(&m);
    pl_tokenizer *t = NULL;
    MUST(pl_tokenizer_open(&t, below("a"), err));
    pl_tokenizer_free(t);
}

static pl_hash hash_of(const char *dir) {
    pl_hash h;
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    MUST(pl_hash_file(&h, path, err));
    return h;
}

static void test_seeds(void **state) {
    (void)state;
    init(golden("trl/llama/config.json"), below("s1"), 1, 3);
    init(golden("trl/llama"), below("s1again"), 1, 3);
    init(golden("trl/llama"), below("s2"), 2, 3);
    assert_string_equal(hash_of(below("s1")).hex, hash_of(below("s1again")).hex);
    assert_string_not_equal(hash_of(below("s1")).hex, hash_of(below("s2")).hex);
    assert_true(pl_file_exists(below("s1/tokenizer.json")));
    assert_true(pl_file_exists(below("s1/generation_config.json")));
}

/* The bf16 model is the f32 one, rounded; its config.json says so. */
static void test_dtype(void **state) {
    (void)state;
    pl_model wide, narrow;
    pl_init_report r = init(golden("trl/llama"), below("bf16"), 7, 2);
    init(golden("trl/llama"), below("f32"), 7, 0);
    assert_string_equal(r.dtype, "bfloat16");
    MUST(pl_model_open(&wide, below("f32"), err));
    MUST(pl_model_open(&narrow, below("bf16"), err));
    assert_true(narrow.arch.has_dtype && narrow.arch.dtype == PL_BF16);
    assert_int_equal(narrow.stored.embed.type, PL_BF16);
    const float *x = wide.stored.embed.data;
    const uint16_t *y = narrow.stored.embed.data;
    for (int64_t i = 0; i < wide.arch.V * wide.arch.C; i++) {
        uint32_t bits = (uint32_t)y[i] << 16;
        float back;
        memcpy(&back, &bits, sizeof back);
        assert_true(fabs((double)back - (double)x[i]) <= fabs((double)x[i]) * 0x1p-8);
    }
    pl_model_close(&wide);
    pl_model_close(&narrow);
}

static int code(const char *config, const char *tokenizer, const char *out, bool overwrite, const char *part) {
    pl_init_options o = {
        .config = config, .tokenizer = tokenizer, .output_dir = out, .overwrite_output_dir = overwrite, .dtype = 3};
    pl_error e;
    int rc = pl_init_model(&o, NULL, &e);
    if (rc && !strstr(e.text, part)) fail_msg("\"%s\" does not say \"%s\"", e.text, part);
    return rc;
}

static void test_errors(void **state) {
    (void)state;
    assert_int_equal(code(golden("trl/llama"), NULL, below("e"), false, ""), 0);
    assert_int_equal(code(golden("trl/llama"), NULL, below("e"), false, "not empty"), PL_E_OPTION);
    assert_int_equal(code(golden("trl/llama"), NULL, below("e"), true, ""), 0);
    assert_int_equal(code(NULL, NULL, below("x"), false, "config"), PL_E_OPTION);
    assert_int_equal(code(golden("none"), NULL, below("x"), false, "none"), PL_E_IO);
    assert_false(pl_dir_exists(below("x")));
    /* 320 tokens, a vocabulary of 97 */
    assert_int_equal(code(golden("models/llama_bias"), golden("trl/llama"), below("v"), false, "vocab_size of 97"),
                     PL_E_MISMATCH);
    assert_int_equal(code(golden("models/llama_bias"), golden("models"), below("v"), false, "tokenizer.json"), PL_E_IO);
    assert_int_equal(code(golden("models/llama_bias"), NULL, below("w"), false, ""), 0);
}

static int setup(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return pl_dir_remove(root, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_weights), cmocka_unit_test(test_seeds),
                                       cmocka_unit_test(test_dtype), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
