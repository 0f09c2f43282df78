/* adapter_config.json and module matching against PEFT's own answers (tests/golden/peft.json). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "adapt/json_text.h"
#include "adapt/peft.h"
#include "base/file.h"
#include "plumb/log.h"
#include "unit/alloc_hook.h"

#define LAYERS 12
#define MODULES (3 + LAYERS * 13 + 3)

/* The modules of the oracle's model, a llama of 12 layers. */
static int64_t modules(pl_module *m) {
    static const char *const parts[] = {"",
                                        ".self_attn",
                                        ".self_attn.q_proj",
                                        ".self_attn.k_proj",
                                        ".self_attn.v_proj",
                                        ".self_attn.o_proj",
                                        ".mlp",
                                        ".mlp.gate_proj",
                                        ".mlp.up_proj",
                                        ".mlp.down_proj",
                                        ".mlp.act_fn",
                                        ".input_layernorm",
                                        ".post_attention_layernorm"};
    int64_t n = 0;
    m[n++] = (pl_module){"model", PL_MODULE_OTHER};
    m[n++] = (pl_module){"model.embed_tokens", PL_MODULE_EMBED};
    m[n++] = (pl_module){"model.layers", PL_MODULE_OTHER};
    for (int l = 0; l < LAYERS; l++)
        for (int64_t p = 0; p < PL_LEN(parts); p++, n++) {
            snprintf(m[n].path, sizeof m[n].path, "model.layers.%d%s", l, parts[p]);
            m[n].kind = strstr(parts[p], "_proj") ? PL_MODULE_LINEAR : PL_MODULE_OTHER;
        }
    m[n++] = (pl_module){"model.norm", PL_MODULE_OTHER};
    m[n++] = (pl_module){"model.rotary_emb", PL_MODULE_OTHER};
    m[n++] = (pl_module){"lm_head", PL_MODULE_HEAD};
    assert_int_equal(n, MODULES);
    return n;
}

static pl_peft_config parse(const char *text) {
    pl_peft_config c = {0};
    pl_error e;
    if (pl_peft_config_parse(&c, text, strlen(text), "c", &e)) fail_msg("%s: %s", text, e.text);
    return c;
}

static void check_sites(const pl_peft_site *sites, const pl_module *m, int64_t n, const pl_json *want, int64_t which) {
    int64_t on = 0;
    for (int64_t i = 0; i < n; i++) {
        const pl_json *w = pl_json_get(want, m[i].path);
        if (sites[i].on != (w != NULL)) fail_msg("case %d: %s: on = %d", (int)which, m[i].path, sites[i].on);
        if (!w) continue;
        on++;
        assert_int_equal(sites[i].r, pl_json_int(pl_json_at(w, 0)));
        assert_true(sites[i].alpha == pl_json_double(pl_json_at(w, 1)));
        double scale = pl_json_double(pl_json_at(w, 2));
        if (!(fabs(sites[i].scale - scale) <= 1e-15 * fabs(scale)))
            fail_msg("case %d: %s: scale %.17g, want %.17g", (int)which, m[i].path, sites[i].scale, scale);
    }
    assert_int_equal(on, pl_json_len(want));
}

static void agrees_with_peft(void **state) {
    (void)state;
    pl_module m[MODULES];
    pl_peft_site sites[MODULES];
    int64_t n = modules(m), refused = 0;
    pl_json *root = NULL;
    assert_int_equal(pl_json_load(&root, PLUMB_TEST_DIR "/golden/peft.json", 1 << 20, NULL), 0);
    assert_true(pl_json_len(root) >= 20);
    for (int64_t k = 0; k < pl_json_len(root); k++) {
        const pl_json *want = pl_json_get(pl_json_at(root, k), "sites");
        pl_buf text = {0};
        pl_error e = {0};
        assert_int_equal(pl_json_text_add(&text, pl_json_get(pl_json_at(root, k), "config"), 0, NULL), 0);
        pl_peft_config c = parse(text.data);
        int rc = pl_peft_match(sites, &c, m, n, &e);
        if (want && rc) fail_msg("case %d: %s", (int)k, e.text);
        if (want)
            check_sites(sites, m, n, want, k);
        else {
            assert_int_not_equal(rc, 0);
            refused++;
        }
        pl_peft_config_release(&c);
        pl_buf_release(&text);
    }
    assert_true(refused == 5);
    pl_json_free(root);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static int match_target(const char *target, pl_error *e) {
    pl_module m[MODULES];
    pl_peft_site sites[MODULES];
    char text[512];
    snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",\"target_modules\":%s}", target);
    pl_peft_config c = parse(text);
    int rc = pl_peft_match(sites, &c, m, modules(m), e);
    pl_peft_config_release(&c);
    return rc;
}

static void refuses_targets(void **state) {
    (void)state;
    static const struct {
        const char *target;
        int code;
        const char *says;
    } cases[] = {
        {"[\"q_proj\",\"qq_proj\"]", PL_E_OPTION,
         "qq_proj matches no module; the linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj"},
        {"[\"proj\"]", PL_E_OPTION, "proj matches no module"},
        {"[\"q_proj\",\"lm_head\"]", PL_E_UNSUPPORTED, "lm_head: LoRA on the output head"},
        {"[\"embed_tokens\"]", PL_E_UNSUPPORTED, "embeddings"},
        {"[\"mlp\"]", PL_E_OPTION, "model.layers.0.mlp is no linear layer"},
        {"\".*\"", PL_E_OPTION, "model is no linear layer"},
        {"\".*lm_head\"", PL_E_UNSUPPORTED, "output head"},
        {"\"x_proj\"", PL_E_OPTION, "target_modules matches no module"},
        {"\"(\"", PL_E_OPTION, "regex (: missing"},
        {"\"(.*)*(.*)*(.*)*(.*)*[#!]\"", PL_E_OPTION, "takes too many steps"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error e = {0};
        int rc = match_target(cases[i].target, &e);
        if (rc != cases[i].code || !strstr(e.text, cases[i].says)) fail_msg("%s: %d %s", cases[i].target, rc, e.text);
    }
    assert_int_equal(pl_test_live_bytes(), 0);
}

#define L "{\"peft_type\":\"LORA\""

static void refuses_configs(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *says;
    } cases[] = {
        {"[]", PL_E_FORMAT, "object"},
        {"{}", PL_E_FORMAT, "peft_type"},
        {"{\"peft_type\":\"IA3\"}", PL_E_UNSUPPORTED, "peft_type IA3"},
        {L ",\"task_type\":\"TOKEN_CLS\"}", PL_E_UNSUPPORTED, "task_type TOKEN_CLS"},
        {L ",\"modules_to_save\":[\"score\"]}", PL_E_UNSUPPORTED, "modules_to_save"},
        {L ",\"task_type\":\"SEQ_CLS\",\"modules_to_save\":[\"score\",\"lm_head\"]}", PL_E_UNSUPPORTED,
         "modules_to_save"},
        {L ",\"task_type\":\"SEQ_CLS\",\"modules_to_save\":\"score\"}", PL_E_UNSUPPORTED, "modules_to_save"},
        {L ",\"bias\":\"all\"}", PL_E_UNSUPPORTED, "bias all"},
        {L ",\"r\":0}", PL_E_RANGE, "r is 0"},
        {L ",\"r\":\"8\"}", PL_E_FORMAT, "\"r\""},
        {L ",\"r\":99999999999999999999}", PL_E_RANGE, "r is"},
        {L ",\"lora_alpha\":NaN}", PL_E_RANGE, "lora_alpha"},
        {L ",\"lora_dropout\":1}", PL_E_RANGE, "lora_dropout"},
        {L ",\"lora_dropout\":-0.1}", PL_E_RANGE, "lora_dropout"},
        {L ",\"use_dora\":true}", PL_E_UNSUPPORTED, "use_dora"},
        {L ",\"modules_to_save\":[\"lm_head\"]}", PL_E_UNSUPPORTED, "modules_to_save"},
        {L ",\"lora_bias\":true}", PL_E_UNSUPPORTED, "lora_bias"},
        {L ",\"fan_in_fan_out\":true}", PL_E_UNSUPPORTED, "fan_in_fan_out"},
        {L ",\"layer_replication\":[[0,1]]}", PL_E_UNSUPPORTED, "layer_replication"},
        {L ",\"target_parameters\":[\"x\"]}", PL_E_UNSUPPORTED, "target_parameters"},
        {L ",\"init_lora_weights\":\"pissa_niter_4\"}", PL_E_UNSUPPORTED, "init_lora_weights pissa_niter_4"},
        {L ",\"init_lora_weights\":\"olora\"}", PL_E_UNSUPPORTED, "olora"},
        {L ",\"target_modules\":[]}", PL_E_FORMAT, "target_modules"},
        {L ",\"target_modules\":\"\"}", PL_E_FORMAT, "target_modules"},
        {L ",\"target_modules\":3}", PL_E_FORMAT, "target_modules"},
        {L ",\"target_modules\":[1]}", PL_E_FORMAT, "target_modules"},
        {L ",\"target_modules\":[\"a\\u0000\"]}", PL_E_FORMAT, "target_modules"},
        {L ",\"exclude_modules\":{\"a\":1}}", PL_E_FORMAT, "exclude_modules"},
        {L ",\"rank_pattern\":{\"a\":0}}", PL_E_RANGE, "rank_pattern"},
        {L ",\"rank_pattern\":{\"a\":1.5}}", PL_E_RANGE, "rank_pattern"},
        {L ",\"alpha_pattern\":[1]}", PL_E_FORMAT, "alpha_pattern"},
        {L ",\"layers_to_transform\":[\"a\"]}", PL_E_FORMAT, "layers_to_transform"},
        {L ",\"layers_to_transform\":[1],\"target_modules\":\"a.*\"}", PL_E_UNSUPPORTED, "layers_to_transform"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error e = {0};
        pl_peft_config c = {0};
        int rc = pl_peft_config_parse(&c, cases[i].text, strlen(cases[i].text), "c", &e);
        if (rc != cases[i].code || !strstr(e.text, cases[i].says) || c.source)
            fail_msg("%s: %d %s", cases[i].text, rc, e.text);
    }
    pl_error e;
    pl_peft_config c = {0};
    assert_int_equal(pl_peft_config_load(&c, "/nonexistent", &e), PL_E_IO);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static int warnings;
static void count_warnings(void *user, pl_log_level level, const char *text) {
    (void)user;
    (void)text;
    warnings += level == PL_LOG_WARN;
}

static void reads_and_rewrites(void **state) {
    (void)state;
    pl_log_set(count_warnings, NULL);
    warnings = 0;
    pl_peft_config c =
        parse(L ",\"zz_new\":{\"b\":[1,2.5,null,true],\"a\":\"\\u00e9\\n\\ud83d\\ude00\"},\"r\":16,\"lora_alpha\":32,"
                "\"lora_dropout\":0.05,"
                "\"use_rslora\":true,\"base_model_name_or_path\":\"x/y\",\"modules_to_save\":[],\"eva_config\":null,"
                "\"init_lora_weights\":\"gaussian\",\"target_modules\":[\"v_proj\",\"q_proj\"],\"e\":[],\"f\":{}}");
    pl_log_set(NULL, NULL);
    assert_int_equal(warnings, 1); /* zz_new; empty values of unknown keys say nothing */
    assert_true(c.r == 16 && c.alpha == 32 && c.dropout == 0.05 && c.rslora && !c.all_linear);
    assert_string_equal(c.base_model, "x/y");
    assert_int_equal(c.target.n, 2);
    char *text = NULL;
    assert_int_equal(pl_peft_config_text(&text, &c, "other", NULL), 0);
    assert_string_equal(
        text, "{\n  \"base_model_name_or_path\": \"x/y\",\n  \"e\": [],\n  \"eva_config\": null,\n  \"f\": {},\n"
              "  \"init_lora_weights\": \"gaussian\",\n  \"lora_alpha\": 32,\n  \"lora_dropout\": 0.05,\n"
              "  \"modules_to_save\": [],\n  \"peft_type\": \"LORA\",\n  \"r\": 16,\n  \"target_modules\": [\n"
              "    \"v_proj\",\n    \"q_proj\"\n  ],\n  \"use_rslora\": true,\n  \"zz_new\": {\n"
              "    \"b\": [\n      1,\n      2.5,\n      null,\n      true\n    ],\n    \"a\": "
              "\"\\u00e9\\n\\ud83d\\ude00\"\n  }\n}");
    pl_free(text);
    pl_peft_config_release(&c);
    pl_peft_config_release(&c);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* The adapter of a reward model brings its score head; PEFT writes both names that its classifiers may have. */
static void score_heads(void **state) {
    (void)state;
    static const char *const fine[] = {L ",\"task_type\":\"SEQ_CLS\",\"modules_to_save\":[\"classifier\",\"score\"]}",
                                       L ",\"task_type\":\"SEQ_CLS\",\"modules_to_save\":[\"score\"]}",
                                       L ",\"task_type\":\"SEQ_CLS\"}"};
    for (int64_t i = 0; i < PL_LEN(fine); i++) {
        pl_peft_config c = parse(fine[i]);
        assert_true(c.score);
        pl_peft_config_release(&c);
    }
    pl_peft_config plain = parse(L "}"), fresh;
    assert_false(plain.score);
    pl_peft_config_release(&plain);
    pl_peft_config_init(&fresh);
    fresh.score = true;
    char *text = NULL;
    assert_int_equal(pl_peft_config_text(&text, &fresh, NULL, NULL), 0);
    assert_non_null(strstr(text, "\"modules_to_save\": [\n    \"classifier\",\n    \"score\"\n  ]"));
    assert_non_null(strstr(text, "\"task_type\": \"SEQ_CLS\""));
    pl_free(text);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* PEFT's own files come back byte for byte. */
static void rewrites_golden(void **state) {
    (void)state;
    char **names = NULL;
    int64_t n, read = 0;
    assert_int_equal(pl_dir_list(&names, &n, PLUMB_TEST_DIR "/golden/adapters", NULL), 0);
    for (int64_t i = 0; i < n; i++) {
        char dir[1024], path[1100], *text = NULL, *want = NULL;
        size_t len;
        pl_error e;
        pl_peft_config c = {0};
        snprintf(dir, sizeof dir, PLUMB_TEST_DIR "/golden/adapters/%s", names[i]);
        snprintf(path, sizeof path, "%s/adapter_config.json", dir);
        if (!pl_file_exists(path)) continue;
        if (pl_peft_config_load(&c, dir, &e)) fail_msg("%s", e.text);
        assert_int_equal(pl_peft_config_text(&text, &c, NULL, NULL), 0);
        assert_int_equal(pl_file_read(&want, &len, path, 1 << 20, NULL), 0);
        if (len && want[len - 1] == '\n') want[len - 1] = 0;
        assert_string_equal(text, want);
        pl_free(text);
        pl_free(want);
        pl_peft_config_release(&c);
        read++;
    }
    assert_true(read >= 2);
    pl_names_free(names, n);
}

static void writes_new(void **state) {
    (void)state;
    pl_module m[MODULES];
    int64_t n = modules(m);
    pl_peft_config c, again = {0};
    pl_error e;
    char *text = NULL;
    pl_peft_config_init(&c);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){"all-linear"}, 1, NULL), 0);
    assert_true(c.all_linear);
    c.r = 4;
    c.alpha = 12.5;
    c.dropout = 0.1;
    assert_int_equal(pl_peft_config_name_targets(&c, m, n, NULL), 0);
    assert_int_equal(c.target.n, 7);
    assert_int_equal(pl_peft_config_text(&text, &c, "a\"b", NULL), 0);
    assert_string_equal(
        text,
        "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": \"a\\\"b\",\n"
        "  \"bias\": \"none\",\n  \"exclude_modules\": null,\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": "
        "true,\n"
        "  \"init_lora_weights\": true,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
        "  \"lora_alpha\": 12.5,\n  \"lora_dropout\": 0.1,\n  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n"
        "  \"r\": 4,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": [\n    \"down_proj\",\n"
        "    \"gate_proj\",\n    \"k_proj\",\n    \"o_proj\",\n    \"q_proj\",\n    \"up_proj\",\n    \"v_proj\"\n  "
        "],\n"
        "  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": false\n}");
    if (pl_peft_config_parse(&again, text, strlen(text), "c", &e)) fail_msg("%s", e.text);
    assert_true(again.r == 4 && again.alpha == 12.5 && again.dropout == 0.1 && again.target.n == 7);
    pl_free(text);
    pl_peft_config_release(&again);
    pl_peft_config_release(&c);

    /* a name, a path, a regex, several names, PEFT's default */
    pl_peft_config_init(&c);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){"self_attn.q_proj"}, 1, NULL), 0);
    assert_false(c.target.regex);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){".*q_proj"}, 1, NULL), 0);
    assert_true(c.target.regex);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){"q_proj", "o_proj"}, 2, NULL), 0);
    assert_false(c.target.regex);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){"q_proj", ""}, 2, NULL), PL_E_OPTION);
    assert_int_equal(pl_peft_config_target(&c, NULL, 0, NULL), PL_E_OPTION);
    pl_peft_config_release(&c);
    pl_peft_config_init(&c);
    assert_int_equal(pl_peft_config_name_targets(&c, m, n, NULL), 0);
    assert_int_equal(c.target.n, 2);
    assert_string_equal(c.target.names[1], "v_proj");
    pl_peft_config_release(&c);
    char name[112];
    pl_peft_tensor_name(name, "model.layers.0.self_attn.q_proj", 'B');
    assert_string_equal(name, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void fails_cleanly_without_memory(void **state) {
    (void)state;
    static const char text[] =
        L ",\"target_modules\":[\"v_proj\",\"q_proj\"],\"exclude_modules\":\".*k_proj\",\"rank_pattern\":{\"q_proj\":3,"
          "\"a.*\":4},"
          "\"alpha_pattern\":{\"b\":1},\"layers_to_transform\":[1,2],\"base_model_name_or_path\":\"x\"}";
    pl_module m[MODULES];
    pl_peft_site sites[MODULES];
    int64_t n = modules(m);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc != 0; k++) {
        pl_peft_config c = {0};
        char *out = NULL;
        pl_test_fail_alloc_at(k);
        rc = pl_peft_config_parse(&c, text, strlen(text), "c", NULL);
        if (rc == 0) rc = pl_peft_match(sites, &c, m, n, NULL);
        if (rc == 0) rc = pl_peft_config_text(&out, &c, NULL, NULL);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        pl_free(out);
        pl_peft_config_release(&c);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_true(k > 15);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_peft), cmocka_unit_test(refuses_targets),
        cmocka_unit_test(refuses_configs),  cmocka_unit_test(reads_and_rewrites),
        cmocka_unit_test(score_heads),      cmocka_unit_test(rewrites_golden),
        cmocka_unit_test(writes_new),       cmocka_unit_test(fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
