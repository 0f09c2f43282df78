/* A model directory written from another one: what is copied, what is changed, and that it reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "export/hfdir.h"
#include "unit/alloc_hook.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/models/"
#define FROM "hfdir_from"
#define TO "hfdir_to"

static void check_text(const char *text, pl_dtype dtype, const char *want) {
    char *out = NULL;
    size_t len;
    pl_error e;
    if (pl_hfdir_config_text(&out, &len, text, strlen(text), dtype, &e)) fail_msg("%s: %s", text, e.text);
    assert_int_equal(len, strlen(want));
    assert_string_equal(out, want);
    pl_free(out);
}

static void replaces_dtypes(void **state) {
    (void)state;
    static const char *const untouched[] = {
        "{}",
        " {\n}\n",
        "{\"a\": 1}",
        "{\"dtype\":\"bfloat16\"}",
        "{\"torch_dtype\" : \"torch.bfloat16\" , \"a\":[{\"dtype\":\"x\"}]}",
        "{\"x\":{\"dtype\":\"float32\",\"y\":[\"}\",\"]\"]},\"z\":\"\\\"dtype\\\": 1\"}",
        "{\"dtype\\u0020\":\"float32\",\"dtypes\":1}",
    };
    for (int64_t i = 0; i < PL_LEN(untouched); i++) check_text(untouched[i], PL_BF16, untouched[i]);
    check_text("{\"dtype\":\"float32\"}", PL_BF16, "{\"dtype\":\"bfloat16\"}");
    check_text("{ \"a\" : [1, {\"b\":\"\\\"\"}] ,\n \"torch_dtype\" : \"float16\"  ,\"c\":2 }\n", PL_F32,
               "{ \"a\" : [1, {\"b\":\"\\\"\"}] ,\n \"torch_dtype\" : \"float32\"  ,\"c\":2 }\n");
    check_text("{\"dtype\":null,\"torch_dtype\": \"auto\"\n}", PL_F16,
               "{\"dtype\":\"float16\",\"torch_dtype\": \"float16\"\n}");
    char *out = NULL;
    size_t len;
    assert_int_equal(pl_hfdir_config_text(&out, &len, "{", 1, PL_F32, NULL), PL_E_FORMAT);
    assert_int_equal(pl_hfdir_config_text(&out, &len, "[]", 2, PL_F32, NULL), PL_E_FORMAT);
    assert_null(out);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void put(const char *path, const char *text) {
    assert_int_equal(pl_file_write(path, text, strlen(text), NULL), 0);
}

static void check_file(const char *path, const char *want) {
    char *text = NULL;
    size_t n;
    pl_error e;
    if (pl_file_read(&text, &n, path, 1 << 20, &e)) fail_msg("%s", e.text);
    assert_string_equal(text, want);
    pl_free(text);
}

static void make_source(void) {
    pl_dir_remove(FROM, NULL);
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_dir_make(FROM "/additional_chat_templates", NULL), 0);
    assert_int_equal(pl_dir_make(TO, NULL), 0);
    put(FROM "/config.json", "{\"x\": 1e400, \"dtype\": \"float32\"}");
    put(FROM "/generation_config.json", "{\"eos_token_id\":[1,2]}");
    put(FROM "/tokenizer.json", "T");
    put(FROM "/tokenizer_config.json", "C");
    put(FROM "/chat_template.jinja", "J");
    put(FROM "/additional_chat_templates/tool.jinja", "tool");
    put(FROM "/model.safetensors", "weights");
    put(FROM "/notes.txt", "private");
}

static void copies(void **state) {
    (void)state;
    pl_error e;
    make_source();
    if (pl_hfdir_copy(FROM, TO, PL_BF16, &e)) fail_msg("%s", e.text);
    check_file(TO "/config.json", "{\"x\": 1e400, \"dtype\": \"bfloat16\"}");
    check_file(TO "/generation_config.json", "{\"eos_token_id\":[1,2]}");
    check_file(TO "/tokenizer.json", "T");
    check_file(TO "/tokenizer_config.json", "C");
    check_file(TO "/chat_template.jinja", "J");
    check_file(TO "/additional_chat_templates/tool.jinja", "tool");
    char **names = NULL;
    int64_t n;
    assert_int_equal(pl_dir_list(&names, &n, TO, NULL), 0);
    assert_int_equal(n, 6); /* neither weights nor notes */
    pl_names_free(names, n);

    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_dir_make(TO, NULL), 0);
    assert_int_equal(pl_hfdir_copy_tokenizer(FROM, TO, NULL), 0);
    assert_false(pl_file_exists(TO "/config.json"));
    assert_true(pl_file_exists(TO "/tokenizer.json"));
    remove(FROM "/config.json");
    assert_int_equal(pl_hfdir_copy(FROM, TO, PL_BF16, &e), PL_E_IO);
    pl_dir_remove(FROM, NULL);
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void fails_cleanly_without_memory(void **state) {
    (void)state;
    make_source();
    remove(FROM "/tokenizer_config.json"); /* every file is synced, which takes its time */
    remove(FROM "/chat_template.jinja");
    remove(FROM "/generation_config.json");
    int rc = PL_E_NOMEM, k = 0;
    for (; rc != 0; k++) {
        pl_test_fail_alloc_at(k);
        rc = pl_hfdir_copy(FROM, TO, PL_BF16, NULL);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_true(k > 20);
    pl_dir_remove(FROM, NULL);
    pl_dir_remove(TO, NULL);
}

typedef struct source {
    const pl_tensor **bound;
} source;

static int fill(void *user, int64_t index, int64_t first, int64_t count, void *bytes, pl_error *err) {
    (void)err;
    const source *s = user;
    memcpy(bytes, (const float *)s->bound[index]->data + first, (size_t)count * 4);
    return 0;
}

/* A sharded model of transformers becomes one file that holds the same weights. */
static void writes_weights(void **state) {
    (void)state;
    pl_error e;
    pl_arch a, b;
    pl_param_spec *p = NULL;
    int64_t n = 0;
    pl_tensors *ts = NULL, *again = NULL;
    source s = {0};
    const pl_tensor **bound = NULL;
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_dir_make(TO, NULL), 0);
    if (pl_arch_load(&a, GOLDEN "llama_sharded", &e) || pl_arch_params(&p, &n, &a, &e) ||
        pl_tensors_open(&ts, GOLDEN "llama_sharded", &e) || pl_arch_bind(&s.bound, &a, p, n, ts, &e) ||
        pl_hfdir_copy(GOLDEN "llama_sharded", TO, PL_F32, &e) ||
        pl_hfdir_write_weights(TO, p, n, PL_F32, fill, &s, &e) || pl_arch_load(&b, TO, &e) ||
        pl_tensors_open(&again, TO, &e) || pl_arch_bind(&bound, &b, p, n, again, &e))
        fail_msg("%s", e.text);
    assert_string_equal(a.family, b.family);
    assert_true(a.C == b.C && a.rope.theta == b.rope.theta);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(bound[i]->bytes, s.bound[i]->bytes);
        assert_memory_equal(bound[i]->data, s.bound[i]->data, bound[i]->bytes);
    }
    assert_string_equal(pl_tensors_metadata(again, "format"), "pt");
    pl_free(s.bound);
    pl_free(bound);
    pl_free(p);
    pl_tensors_close(ts);
    pl_tensors_close(again);
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(replaces_dtypes), cmocka_unit_test(copies),
                                       cmocka_unit_test(fails_cleanly_without_memory),
                                       cmocka_unit_test(writes_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
