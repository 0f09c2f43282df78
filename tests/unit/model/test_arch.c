/* config.json into the architecture record, RoPE frequencies against transformers, parameters against files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/arch.h"
#include "plumb/log.h"
#include "unit/alloc_hook.h"

#define GOLDEN PLUMB_TEST_DIR "/golden"

/* A small llama with the members `more` (", \"a\": 1") added; later keys must not repeat the first ones. */
#define BASE                                                                                                           \
    "\"vocab_size\":97,\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define LLAMA "\"model_type\":\"llama\"," BASE
#define QWEN2 "\"model_type\":\"qwen2\",\"num_key_value_heads\":2," BASE

static int parse(pl_arch *a, const char *members, const char *generation, pl_error *err) {
    char text[4096];
    pl_json *c = NULL, *g = NULL;
    snprintf(text, sizeof text, "{%s}", members);
    int rc = pl_json_parse(&c, text, strlen(text), "c", err);
    if (rc) fail_msg("%s", text);
    if (generation) assert_int_equal(pl_json_parse(&g, generation, strlen(generation), "g", err), 0);
    rc = pl_arch_parse(a, c, g, "c", err);
    pl_json_free(c);
    pl_json_free(g);
    return rc;
}

static void defaults(void **state) {
    (void)state;
    pl_arch a;
    assert_int_equal(parse(&a, LLAMA, NULL, NULL), 0);
    assert_string_equal(a.family, "llama");
    assert_int_equal(a.V, 97);
    assert_int_equal(a.C, 24);
    assert_int_equal(a.F, 40);
    assert_int_equal(a.L, 2);
    assert_int_equal(a.H, 4);
    assert_int_equal(a.KV, 4);
    assert_int_equal(a.D, 6);
    assert_int_equal(a.max_position, 2048);
    assert_true(a.eps == 1e-6 && a.initializer_range == 0.02 && a.rope.theta == 10000 &&
                a.rope.kind == PL_ROPE_DEFAULT);
    assert_true(!a.tied && !a.qkv_bias && !a.o_bias && !a.mlp_bias && !a.has_dtype && a.dtype == PL_F32);
    assert_int_equal(a.bos, 1);
    assert_int_equal(a.neos, 1);
    assert_int_equal(a.eos[0], 2);
    assert_int_equal(a.pad, -1);

    assert_int_equal(parse(&a, QWEN2, NULL, NULL), 0);
    assert_true(a.qkv_bias && !a.o_bias && !a.mlp_bias);
    assert_int_equal(a.bos, -1);
    assert_int_equal(a.neos, 0);
    assert_int_equal(a.max_position, 32768);
}

/* Absent and null differ; old keys and new keys say the same. */
static void keys(void **state) {
    (void)state;
    pl_arch a;
    assert_int_equal(parse(&a,
                           LLAMA ",\"eos_token_id\":null,\"bos_token_id\":null,\"head_dim\":null,\"rope_scaling\":null",
                           NULL, NULL),
                     0);
    assert_int_equal(a.neos, 0);
    assert_int_equal(a.bos, -1);
    assert_int_equal(
        parse(&a,
              LLAMA
              ",\"torch_dtype\":\"bfloat16\",\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}",
              NULL, NULL),
        0);
    assert_true(a.rope.kind == PL_ROPE_LINEAR && a.rope.factor == 2 && a.rope.theta == 5e5 && a.dtype == PL_BF16 &&
                a.has_dtype);
    assert_int_equal(
        parse(&a,
              LLAMA
              ",\"dtype\":\"float16\",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":5e5}",
              NULL, NULL),
        0);
    assert_true(a.rope.kind == PL_ROPE_LINEAR && a.rope.factor == 2 && a.rope.theta == 5e5 && a.dtype == PL_F16 &&
                a.has_dtype);
    assert_int_equal(parse(&a,
                           LLAMA ",\"max_position_embeddings\":4096,\"rope_scaling\":{\"rope_type\":\"llama3\","
                                 "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0}",
                           NULL, NULL),
                     0);
    assert_true(a.rope.kind == PL_ROPE_LLAMA3 && a.rope.original_max_position == 4096);
    assert_int_equal(parse(&a,
                           LLAMA ",\"head_dim\":10,\"num_key_value_heads\":1,\"attention_bias\":true,\"mlp_bias\":true",
                           NULL, NULL),
                     0);
    assert_true(a.D == 10 && a.KV == 1 && a.qkv_bias && a.o_bias && a.mlp_bias);
    assert_int_equal(parse(&a, "\"architectures\":[\"LlamaForCausalLM\"]," BASE, NULL, NULL), 0);
    assert_string_equal(a.family, "llama");
    assert_int_equal(a.head, PL_ARCH_LM);
    /* a reward model: one label, nothing to tie, a score in place of the vocabulary */
    assert_int_equal(parse(&a,
                           QWEN2 ",\"architectures\":[\"Qwen2ForSequenceClassification\"],\"id2label\":{\"0\":\"x\"},"
                                 "\"tie_word_embeddings\":true",
                           NULL, NULL),
                     0);
    assert_true(a.head == PL_ARCH_SCORE && !a.tied);
    assert_string_equal(pl_arch_classifier(&a), "Qwen2ForSequenceClassification");
    assert_int_equal(
        parse(&a, "\"architectures\":[\"LlamaForSequenceClassification\"],\"num_labels\":1," BASE, NULL, NULL), 0);
    assert_int_equal(a.head, PL_ARCH_SCORE);
    /* a window that is configured but not used; a Python NaN elsewhere; pad -1 */
    assert_int_equal(parse(&a,
                           QWEN2 ",\"use_sliding_window\":false,\"sliding_window\":4096,\"x\":NaN,\"pad_token_id\":-1",
                           NULL, NULL),
                     0);
    assert_int_equal(
        parse(&a, QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":2", NULL, NULL), 0);
}

static void eos_lists(void **state) {
    (void)state;
    pl_arch a;
    pl_error e;
    assert_int_equal(parse(&a, LLAMA ",\"eos_token_id\":[5,7]",
                           "{\"eos_token_id\":[7,9,5,11],\"bos_token_id\":3,\"pad_token_id\":4}", NULL),
                     0);
    assert_int_equal(a.neos, 4);
    const int64_t want[] = {5, 7, 9, 11};
    for (int i = 0; i < 4; i++) assert_int_equal(a.eos[i], want[i]);
    assert_int_equal(a.bos, 1); /* the class default counts as config.json's word */
    assert_int_equal(a.pad, 4);
    assert_int_equal(parse(&a, LLAMA ",\"eos_token_id\":null,\"bos_token_id\":null",
                           "{\"eos_token_id\":9,\"bos_token_id\":3}", NULL),
                     0);
    assert_int_equal(a.neos, 1);
    assert_int_equal(a.eos[0], 9);
    assert_int_equal(a.bos, 3);
    assert_int_equal(parse(&a, LLAMA, "{\"eos_token_id\":[10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]}", &e),
                     PL_E_RANGE);
}

static const struct {
    const char *members;
    int code;
    const char *says;
} bads[] = {
    {"\"vocab_size\":1", PL_E_FORMAT, "no model_type"},
    {"\"model_type\":\"gpt2\"", PL_E_UNSUPPORTED, "model_type gpt2 is not supported (known: llama, qwen2)"},
    {"\"model_type\":3", PL_E_FORMAT, "model_type"},
    {LLAMA ",\"architectures\":[\"LlamaForSequenceClassification\"]", PL_E_UNSUPPORTED,
     "LlamaForSequenceClassification"},
    {"\"architectures\":[\"LlamaModel\"]," BASE, PL_E_UNSUPPORTED, "LlamaModel"},
    {"\"model_type\":\"llama\",\"hidden_size\":24", PL_E_FORMAT, "vocab_size"},
    {"\"model_type\":\"llama\",\"vocab_size\":0", PL_E_RANGE, "vocab_size is 0"},
    {"\"model_type\":\"llama\",\"vocab_size\":-5", PL_E_RANGE, "vocab_size is -5"},
    {"\"model_type\":\"llama\",\"vocab_size\":1e3", PL_E_FORMAT, "vocab_size"},
    {"\"model_type\":\"llama\",\"vocab_size\":99999999999999999999", PL_E_RANGE, "vocab_size"},
    {"\"model_type\":\"llama\",\"vocab_size\":\"97\"", PL_E_FORMAT, "vocab_size"},
    {LLAMA ",\"num_key_value_heads\":3", PL_E_RANGE, "multiple"},
    {LLAMA ",\"num_key_value_heads\":8", PL_E_RANGE, "num_key_value_heads is 8"},
    {LLAMA ",\"num_key_value_heads\":0", PL_E_RANGE, "num_key_value_heads is 0"},
    {LLAMA ",\"head_dim\":5", PL_E_UNSUPPORTED, "odd"},
    {LLAMA ",\"head_dim\":0", PL_E_RANGE, "head_dim"},
    {"\"model_type\":\"qwen2\"," BASE, PL_E_RANGE, "num_key_value_heads is 32"}, /* the class default */
    {LLAMA ",\"max_position_embeddings\":0", PL_E_RANGE, "max_position_embeddings"},
    {LLAMA ",\"rms_norm_eps\":-1", PL_E_RANGE, "rms_norm_eps"},
    {LLAMA ",\"rms_norm_eps\":NaN", PL_E_RANGE, "rms_norm_eps"},
    {LLAMA ",\"initializer_range\":2", PL_E_RANGE, "initializer_range"},
    {LLAMA ",\"hidden_act\":\"gelu\"", PL_E_UNSUPPORTED, "hidden_act gelu"},
    {LLAMA ",\"attention_dropout\":0.1", PL_E_UNSUPPORTED, "attention_dropout 0.1"},
    {LLAMA ",\"quantization_config\":{}", PL_E_UNSUPPORTED, "quantization_config"},
    {LLAMA ",\"tie_word_embeddings\":1", PL_E_FORMAT, "tie_word_embeddings"},
    {LLAMA ",\"dtype\":\"float8\"", PL_E_UNSUPPORTED, "dtype float8"},
    {LLAMA ",\"eos_token_id\":\"x\"", PL_E_FORMAT, "eos_token_id"},
    {LLAMA ",\"eos_token_id\":[1,null]", PL_E_FORMAT, "eos_token_id"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}", PL_E_UNSUPPORTED, "rope_type yarn"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}", PL_E_FORMAT, "factor"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}", PL_E_RANGE, "factor"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":Infinity}", PL_E_RANGE, "factor"},
    {LLAMA ",\"rope_scaling\":[1]", PL_E_FORMAT, "rope_scaling"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}", PL_E_FORMAT, "low_freq_factor"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}",
     PL_E_RANGE, "high_freq_factor"},
    {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", PL_E_UNSUPPORTED, "per layer type"},
    {LLAMA ",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":0.5}",
     PL_E_UNSUPPORTED, "partial_rotary_factor"},
    {LLAMA ",\"rope_theta\":0", PL_E_RANGE, "rope_theta"},
    {LLAMA ",\"head_dim\":2,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", PL_E_UNSUPPORTED,
     "head_dim above 2"},
    {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":1", PL_E_UNSUPPORTED, "sliding"},
    {QWEN2 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]", PL_E_UNSUPPORTED, "sliding"},
};

static void refuses(void **state) {
    (void)state;
    for (int64_t i = 0; i < PL_LEN(bads); i++) {
        pl_arch a;
        pl_error e = {0};
        int rc = parse(&a, bads[i].members, NULL, &e);
        if (rc != bads[i].code || !strstr(e.text, bads[i].says) || strncmp(e.text, "c: ", 3) != 0)
            fail_msg("%s: rc %d, text: %s, want %d '%s'", bads[i].members, rc, e.text, bads[i].code, bads[i].says);
    }
    pl_arch a;
    pl_error e;
    assert_int_equal(pl_arch_load(&a, "/nonexistent", &e), PL_E_IO);
}

/* Frequencies within 2 units in the last place of torch's (whose powf is good to 1). */
static void rope(void **state) {
    (void)state;
    pl_json *root = NULL;
    assert_int_equal(pl_json_load(&root, GOLDEN "/rope.json", 1 << 20, NULL), 0);
    int64_t cases = pl_json_len(root), exact = 0, all = 0, worst = 0;
    assert_true(cases >= 50);
    for (int64_t i = 0; i < cases; i++) {
        const pl_json *c = pl_json_at(root, i), *bits = pl_json_get(c, "inv_freq_bits");
        pl_arch a;
        pl_error e;
        if (pl_arch_parse(&a, pl_json_get(c, "config"), NULL, "c", &e)) fail_msg("%s", e.text);
        float inv[64];
        int64_t n = pl_json_len(bits);
        assert_int_equal(n, a.D / 2);
        pl_rope_frequencies(inv, &a, pl_json_int(pl_json_get(c, "length")));
        for (int64_t k = 0; k < n; k++, all++) {
            int32_t got;
            memcpy(&got, &inv[k], 4);
            int64_t off = got - pl_json_int(pl_json_at(bits, k));
            if (off < 0) off = -off;
            if (off == 0) exact++;
            if (off > worst) worst = off;
            if (!(off <= 2)) print_message("case %d, frequency %d: %d ulp\n", (int)i, (int)k, (int)off);
        }
    }
    print_message("%d of %d frequencies bit for bit, worst %d ulp\n", (int)exact, (int)all, (int)worst);
    assert_true(worst <= 2);
    assert_true(exact * 10 > all * 9);
    pl_json_free(root);
}

/* ---- parameters ---- */

static void lists_parameters(void **state) {
    (void)state;
    pl_arch a;
    pl_param_spec *p = NULL;
    int64_t n, elements;
    assert_int_equal(
        parse(&a, LLAMA ",\"attention_bias\":true,\"mlp_bias\":true,\"num_key_value_heads\":2", NULL, NULL), 0);
    assert_int_equal(pl_arch_params(&p, &n, &a, NULL), 0);
    assert_int_equal(n, pl_arch_param_count(&a));
    assert_int_equal(n, 1 + 2 * (7 + 7 + 2) + 1 + 1);
    assert_string_equal(p[0].name, "model.embed_tokens.weight");
    assert_string_equal(p[1].name, "model.layers.0.self_attn.q_proj.weight");
    assert_string_equal(p[2].name, "model.layers.0.self_attn.q_proj.bias");
    assert_true(p[2].ndim == 1 && p[2].rows == 24 && p[2].cols == 1 && !p[2].decay && p[2].role == PL_ROLE_LIN_BIAS);
    assert_true(p[3].ndim == 2 && p[3].rows == 12 && p[3].cols == 24 && p[3].decay && p[3].lin == PL_LIN_K);
    assert_string_equal(p[13].name, "model.layers.0.mlp.down_proj.weight");
    assert_true(p[13].rows == 24 && p[13].cols == 40);
    assert_string_equal(p[15].name, "model.layers.0.input_layernorm.weight");
    assert_string_equal(p[16].name, "model.layers.0.post_attention_layernorm.weight");
    assert_true(p[16].layer == 0 && !p[16].decay);
    assert_string_equal(p[n - 2].name, "model.norm.weight");
    assert_string_equal(p[n - 1].name, "lm_head.weight");
    pl_free(p);
    assert_int_equal(pl_arch_elements(&elements, &a, NULL), 0);
    assert_int_equal(elements,
                     97 * 24 * 2 + 24 +
                         2 * (2 * 24 + 24 * 24 * 2 + 12 * 24 * 2 + 24 * 2 + 12 * 2 + 40 * 24 * 3 + 40 * 2 + 24));

    assert_int_equal(
        parse(&a,
              "\"model_type\":\"llama\",\"vocab_size\":16777216,\"hidden_size\":262144,\"intermediate_size\":1048576,"
              "\"num_hidden_layers\":4096,\"num_attention_heads\":4096,\"head_dim\":4096,\"tie_word_embeddings\":true",
              NULL, NULL),
        0);
    assert_int_equal(pl_arch_elements(&elements, &a, NULL), 0); /* the largest of all: no overflow, names fit */
    assert_int_equal(pl_arch_params(&p, &n, &a, NULL), 0);
    assert_string_equal(p[n - 2].name, "model.layers.4095.post_attention_layernorm.weight");
    pl_free(p);
}

static char logged[2048];
static void sink(void *user, pl_log_level level, const char *text) {
    (void)user;
    (void)level;
    snprintf(logged, sizeof logged, "%s", text);
}

/* A model of one layer in memory, with tensor `skip` left out, `extra` added and the embedding's rows changed. */
static char *model_file(const pl_arch *a, int64_t skip, const char *extra, int64_t v, const char *type, size_t *len) {
    static char header[8192];
    pl_param_spec *p = NULL;
    int64_t n;
    size_t at = 0, data = 0, esize = strcmp(type, "F64") == 0 ? 8 : 4;
    assert_int_equal(pl_arch_params(&p, &n, a, NULL), 0);
    header[at++] = '{';
    for (int64_t i = 0; i <= n; i++) {
        if (i == skip || (i == n && !extra)) continue;
        int64_t rows = i == n ? 1 : i == 0 ? v : p[i].rows, cols = i == n ? 1 : p[i].cols;
        bool flat = i == n || p[i].ndim == 1;
        size_t bytes = (size_t)(rows * cols) * esize;
        char dims[64];
        snprintf(dims, sizeof dims, flat ? "%d" : "%d,%d", (int)rows, (int)cols);
        at += (size_t)snprintf(header + at, sizeof header - at,
                               "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                               at > 1 ? "," : "", i == n ? extra : p[i].name, type, dims, data, data + bytes);
        data += bytes;
    }
    header[at++] = '}';
    pl_free(p);
    char *out = NULL;
    *len = 8 + at + data;
    assert_int_equal(pl_alloc_zero((void **)&out, *len, NULL), 0);
    for (int i = 0; i < 8; i++) out[i] = (char)(at >> (8 * i));
    memcpy(out + 8, header, at);
    return out;
}

static int bind_model(const pl_arch *a, int64_t skip, const char *extra, int64_t v, const char *type, pl_error *e) {
    size_t len;
    char *f = model_file(a, skip, extra, v, type, &len);
    pl_tensors *ts = NULL;
    pl_param_spec *p = NULL;
    const pl_tensor **bound = NULL;
    int64_t n;
    assert_int_equal(pl_tensors_parse(&ts, f, len, "f", NULL), 0);
    assert_int_equal(pl_arch_params(&p, &n, a, NULL), 0);
    logged[0] = 0;
    int rc = pl_arch_bind(&bound, a, p, n, ts, e);
    if (rc == 0)
        for (int64_t i = 0; i < n; i++) assert_string_equal(bound[i]->name, p[i].name);
    else
        assert_null(bound);
    pl_free(bound);
    pl_free(p);
    pl_tensors_close(ts);
    pl_free(f);
    return rc;
}

static void binds(void **state) {
    (void)state;
    pl_arch a, tied;
    pl_error e = {0};
    assert_int_equal(parse(&a, LLAMA, NULL, NULL), 0);
    assert_int_equal(parse(&tied, LLAMA ",\"tie_word_embeddings\":true", NULL, NULL), 0);
    int64_t n = pl_arch_param_count(&a);
    pl_log_set(sink, NULL);
    assert_int_equal(bind_model(&a, -1, NULL, 97, "F32", &e), 0);
    assert_int_equal(bind_model(&tied, -1, NULL, 97, "F32", &e), 0);
    assert_string_equal(logged, "");
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(bind_model(&a, i, NULL, 97, "F32", &e), PL_E_MISMATCH);
        assert_non_null(strstr(e.text, "is missing"));
    }
    assert_non_null(strstr(e.text, "tie_word_embeddings: false")); /* the last one is the head */
    assert_int_equal(bind_model(&a, -1, "x.weight", 97, "F32", &e), PL_E_MISMATCH);
    assert_non_null(strstr(e.text, "1 tensor that a llama model of this config.json does not have: x.weight"));
    assert_int_equal(bind_model(&a, -1, "model.layers.0.self_attn.rotary_emb.inv_freq", 97, "F32", &e), 0);
    assert_int_equal(bind_model(&a, -1, NULL, 96, "F32", &e), PL_E_SHAPE);
    assert_string_equal(e.text, "f: tensor model.embed_tokens.weight has shape [96,24], want [97,24]");
    assert_int_equal(bind_model(&a, -1, NULL, 97, "F64", &e), PL_E_UNSUPPORTED);
    assert_int_equal(bind_model(&tied, -1, "lm_head.weight", 97, "F32", &e), 0);
    assert_non_null(strstr(logged, "differs from"));
    pl_log_set(NULL, NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* Models that transformers saved. */
static void golden_models(void **state) {
    (void)state;
    char **names = NULL;
    int64_t count, read = 0;
    assert_int_equal(pl_dir_list(&names, &count, GOLDEN "/models", NULL), 0);
    for (int64_t i = 0; i < count; i++) {
        char dir[1024], config[1100];
        pl_error e;
        snprintf(dir, sizeof dir, GOLDEN "/models/%s", names[i]);
        snprintf(config, sizeof config, "%s/config.json", dir);
        if (!pl_file_exists(config)) continue;
        pl_arch a;
        pl_tensors *ts = NULL;
        pl_param_spec *p = NULL;
        const pl_tensor **bound = NULL;
        int64_t n = 0, elements = 0;
        if (pl_arch_load(&a, dir, &e) || pl_tensors_open(&ts, dir, &e) || pl_arch_params(&p, &n, &a, &e) ||
            pl_arch_bind(&bound, &a, p, n, ts, &e) || pl_arch_elements(&elements, &a, &e))
            fail_msg("%s: %s", names[i], e.text);
        assert_int_equal(n, pl_tensors_count(ts));
        assert_int_equal((size_t)elements * pl_dtype_bytes(bound[0]->dtype), pl_tensors_bytes(ts));
        assert_true(a.has_dtype && a.dtype == bound[0]->dtype);
        assert_string_equal(pl_tensors_metadata(ts, "format"), "pt");
        assert_int_equal(a.eos[0], 2);
        read++;
        pl_free(bound);
        pl_free(p);
        pl_tensors_close(ts);
    }
    print_message("%d golden models\n", (int)read);
    assert_true(read >= 10);
    pl_arch old, new;
    assert_int_equal(pl_arch_load(&old, GOLDEN "/models/llama_keys_old", NULL), 0);
    assert_int_equal(pl_arch_load(&new, GOLDEN "/models/llama_keys_v5", NULL), 0);
    assert_true(old.rope.kind == new.rope.kind &&old.rope.theta == new.rope.theta &&old.rope.factor == new.rope.factor);
    assert_true(old.D == new.D &&old.tied == new.tied &&old.dtype == new.dtype &&old.has_dtype == new.has_dtype);
    pl_names_free(names, count);
}

static void fails_cleanly_without_memory(void **state) {
    (void)state;
    const char *dir = GOLDEN "/models/llama_sharded";
    int rc = PL_E_NOMEM;
    for (int k = 0; rc != 0; k++) {
        pl_arch a;
        pl_tensors *ts = NULL;
        pl_param_spec *p = NULL;
        const pl_tensor **bound = NULL;
        int64_t n;
        pl_test_fail_alloc_at(k);
        rc = pl_arch_load(&a, dir, NULL);
        if (rc == 0) rc = pl_tensors_open(&ts, dir, NULL);
        if (rc == 0) rc = pl_arch_params(&p, &n, &a, NULL);
        if (rc == 0) rc = pl_arch_bind(&bound, &a, p, n, ts, NULL);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && bound == NULL));
        pl_free(bound);
        pl_free(p);
        pl_tensors_close(ts);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(keys),          cmocka_unit_test(eos_lists),
        cmocka_unit_test(refuses),  cmocka_unit_test(rope),          cmocka_unit_test(lists_parameters),
        cmocka_unit_test(binds),    cmocka_unit_test(golden_models), cmocka_unit_test(fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
