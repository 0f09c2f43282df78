/* The modules of an architecture, and adapters that PEFT saved held against them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/targets.h"
#include "unit/alloc_hook.h"

#define GOLDEN PLUMB_TEST_DIR "/golden"

static void lists_modules(void **state) {
    (void)state;
    pl_arch a;
    pl_module *m = NULL;
    int64_t n;
    assert_int_equal(pl_arch_load(&a, GOLDEN "/models/llama_gqa_tied", NULL), 0);
    assert_int_equal(pl_arch_modules(&m, &n, &a, NULL), 0);
    assert_int_equal(n, 3 + 2 * 13 + 3);
    static const char *const layer1[] = {"model.layers.1",
                                         "model.layers.1.self_attn",
                                         "model.layers.1.self_attn.q_proj",
                                         "model.layers.1.self_attn.k_proj",
                                         "model.layers.1.self_attn.v_proj",
                                         "model.layers.1.self_attn.o_proj",
                                         "model.layers.1.mlp",
                                         "model.layers.1.mlp.gate_proj",
                                         "model.layers.1.mlp.up_proj",
                                         "model.layers.1.mlp.down_proj",
                                         "model.layers.1.mlp.act_fn",
                                         "model.layers.1.input_layernorm",
                                         "model.layers.1.post_attention_layernorm"};
    for (int64_t i = 0; i < PL_LEN(layer1); i++) {
        assert_string_equal(m[16 + i].path, layer1[i]);
        assert_int_equal(m[16 + i].kind, strstr(layer1[i], "_proj") ? PL_MODULE_LINEAR : PL_MODULE_OTHER);
    }
    assert_string_equal(m[n - 1].path, "lm_head");
    assert_int_equal(m[n - 1].kind, PL_MODULE_HEAD);
    pl_free(m);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* Every site has its two tensors with the right shapes in the file, and there are no others. */
static void check_tensors(const pl_arch *a, const pl_peft_site *sites, const pl_tensors *ts) {
    int64_t found = 0;
    for (int64_t l = 0; l < a->L; l++)
        for (int lin = 0; lin < PL_LIN_COUNT; lin++) {
            const pl_peft_site *s = &sites[l * PL_LIN_COUNT + lin];
            if (!s->on) continue;
            char path[64], name[112];
            int64_t rows, cols;
            bool bias;
            pl_error e;
            const pl_tensor *t;
            pl_arch_lin_shape(a, (pl_lin)lin, &rows, &cols, &bias);
            snprintf(path, sizeof path, "model.layers.%d.%s", (int)l, pl_lin_path((pl_lin)lin));
            pl_peft_tensor_name(name, path, 'A');
            if (pl_tensors_need(&t, ts, name, 2, (int64_t[]){s->r, cols}, &e)) fail_msg("%s", e.text);
            pl_peft_tensor_name(name, path, 'B');
            if (pl_tensors_need(&t, ts, name, 2, (int64_t[]){rows, s->r}, &e)) fail_msg("%s", e.text);
            found += 2;
        }
    assert_int_equal(found, pl_tensors_count(ts));
    assert_true(found > 0);
}

static void golden_adapters(void **state) {
    (void)state;
    char **names = NULL;
    int64_t n, read = 0;
    assert_int_equal(pl_dir_list(&names, &n, GOLDEN "/adapters", NULL), 0);
    for (int64_t i = 0; i < n; i++) {
        char dir[1024], path[1200], base[1400];
        pl_peft_config c = {0};
        pl_arch a;
        pl_peft_site *sites = NULL;
        pl_tensors *ts = NULL;
        pl_error e;
        snprintf(dir, sizeof dir, GOLDEN "/adapters/%s", names[i]);
        snprintf(path, sizeof path, "%s/" PL_PEFT_CONFIG, dir);
        if (!pl_file_exists(path)) continue;
        if (pl_peft_config_load(&c, dir, &e)) fail_msg("%s", e.text);
        snprintf(path, sizeof path, "%s/" PL_PEFT_WEIGHTS, dir);
        snprintf(base, sizeof base, "%s/%s", dir, c.base_model);
        if (pl_arch_load(&a, base, &e) || pl_arch_match(&sites, &a, &c, &e) || pl_tensors_open_file(&ts, path, &e))
            fail_msg("%s: %s", names[i], e.text);
        check_tensors(&a, sites, ts);
        read++;
        pl_free(sites);
        pl_tensors_close(ts);
        pl_peft_config_release(&c);
    }
    pl_names_free(names, n);
    print_message("%d adapters\n", (int)read);
    assert_true(read >= 3);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void names_targets(void **state) {
    (void)state;
    pl_arch a;
    pl_peft_config c;
    pl_peft_site *all = NULL, *named = NULL;
    assert_int_equal(pl_arch_load(&a, GOLDEN "/models/qwen2_tied", NULL), 0);
    pl_peft_config_init(&c);
    assert_int_equal(pl_peft_config_target(&c, (const char *const[]){"all-linear"}, 1, NULL), 0);
    assert_int_equal(pl_arch_match(&all, &a, &c, NULL), 0);
    assert_int_equal(pl_arch_name_targets(&c, &a, NULL), 0);
    assert_false(c.all_linear);
    assert_int_equal(c.target.n, 7);
    assert_int_equal(pl_arch_match(&named, &a, &c, NULL), 0);
    for (int64_t i = 0; i < a.L * PL_LIN_COUNT; i++) {
        assert_true(all[i].on && named[i].on);
        assert_true(all[i].scale == named[i].scale && all[i].scale == 1);
    }
    pl_free(all);
    pl_free(named);
    pl_peft_config_release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists_modules), cmocka_unit_test(golden_adapters),
                                       cmocka_unit_test(names_targets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
