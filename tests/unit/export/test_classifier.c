/* A reward model's directory written from another one: what its files say, and which token it pads with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_edit.h"
#include "export/hfdir.h"
#include "unit/alloc_hook.h"

#define FROM "classifier_from"
#define TO "classifier_to"

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

static void check_edit(const char *text, const char *want) {
    static const pl_json_edit edits[] = {{"a", "[1]", true}, {"b", "null", false}, {"c", "\"x\"", true}};
    pl_buf b = {0};
    pl_error e;
    if (pl_json_text_edit(&b, text, strlen(text), edits, PL_LEN(edits), "t", &e)) fail_msg("%s: %s", text, e.text);
    assert_string_equal(b.data, want);
    pl_buf_release(&b);
}

static void edits(void **state) {
    (void)state;
    check_edit("{}", "{\"a\": [1], \"c\": \"x\"}");
    check_edit(" { } ", " {\"a\": [1], \"c\": \"x\" } ");
    check_edit("{\"a\":{\"b\":2},\"b\" : 3}", "{\"a\":[1],\"b\" : null, \"c\": \"x\"}");
    check_edit("{\n  \"z\": \"}\",\n  \"c\": []\n}\n", "{\n  \"z\": \"}\",\n  \"c\": \"x\",\n  \"a\": [1]\n}\n");
    pl_buf b = {0};
    const pl_json_edit none = {"a", "1", true};
    assert_int_equal(pl_json_text_edit(&b, "[]", 2, &none, 1, "t", NULL), PL_E_FORMAT);
    assert_int_equal(pl_json_text_edit(&b, "{", 1, &none, 1, "t", NULL), PL_E_FORMAT);
    pl_buf_release(&b);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void copies(void **state) {
    (void)state;
    pl_hfdir_classifier c = {
        .architecture = "LlamaForSequenceClassification", .is_new = true, .pad = 3, .pad_token = "<p\">"};
    pl_error e;
    pl_dir_remove(FROM, NULL);
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_dir_make(FROM, NULL), 0);
    assert_int_equal(pl_dir_make(TO, NULL), 0);
    put(FROM "/config.json", "{\"architectures\": [\"LlamaForCausalLM\"], \"x\": 1e400, \"dtype\": \"float32\"}");
    put(FROM "/generation_config.json", "{}");
    put(FROM "/tokenizer_config.json", "{\"pad_token\": {\"content\": \"<eos>\"}, \"y\": 1}");
    put(FROM "/special_tokens_map.json", "{\"eos_token\": \"<eos>\"}");
    if (pl_hfdir_copy_classifier(FROM, TO, PL_BF16, &c, &e)) fail_msg("%s", e.text);
    check_file(TO "/config.json",
               "{\"architectures\": [\n    \"LlamaForSequenceClassification\"\n  ], \"x\": 1e400, \"dtype\": "
               "\"bfloat16\", \"pad_token_id\": 3, \"id2label\": {\n    \"0\": \"LABEL_0\"\n  }, \"label2id\": {\n    "
               "\"LABEL_0\": 0\n  }}");
    check_file(TO "/tokenizer_config.json", "{\"pad_token\": \"<p\\\">\", \"y\": 1}");
    check_file(TO "/special_tokens_map.json", "{\"eos_token\": \"<eos>\", \"pad_token\": \"<p\\\">\"}");
    assert_false(pl_file_exists(TO "/generation_config.json"));

    c = (pl_hfdir_classifier){.architecture = "LlamaForSequenceClassification", .pad = -1}; /* the labels stay */
    put(FROM "/config.json",
        "{\"architectures\": [\"LlamaForSequenceClassification\"], \"id2label\": {\"0\": \"good\"}}");
    if (pl_hfdir_copy_classifier(FROM, TO, PL_F32, &c, &e)) fail_msg("%s", e.text);
    check_file(TO "/config.json", "{\"architectures\": [\n    \"LlamaForSequenceClassification\"\n  ], \"id2label\": "
                                  "{\"0\": \"good\"}, \"pad_token_id\": null}");
    for (int64_t k = 0, rc = PL_E_NOMEM; rc != 0; k++) {
        pl_test_fail_alloc_at(k);
        rc = pl_hfdir_copy_classifier(FROM, TO, PL_F32, &c, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
    }
    pl_dir_remove(FROM, NULL);
    pl_dir_remove(TO, NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* --- the pad --- */

#define TOKENIZER(ADDED)                                                                                               \
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[" ADDED "],\"normalizer\":null,"      \
    "\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,"  \
    "\"b\":1},\"merges\":[]}}"
#define ADDED(ID, TEXT)                                                                                                \
    "{\"id\":" #ID ",\"content\":\"" TEXT                                                                              \
    "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}"

static void check_pad(const char *added, const char *config, int32_t pad, const char *set) {
    pl_tokenizer *t = NULL;
    pl_error e;
    pl_arch a = {.family = "llama", .V = 10, .head = PL_ARCH_NEW_SCORE, .neos = 1, .eos = {2}};
    pl_hfdir_classifier c;
    if (pl_tokenizer_parse(&t, added, strlen(added), config, strlen(config), &e)) fail_msg("%s", e.text);
    pl_hfdir_classifier_init(&c, &a, t);
    assert_string_equal(c.architecture, "LlamaForSequenceClassification");
    if (c.pad != pad) fail_msg("%s: pad %d, want %d", config, (int)c.pad, (int)pad);
    if (set ? !c.pad_token || strcmp(c.pad_token, set) != 0 : c.pad_token != NULL)
        fail_msg("%s: pad token %s", config, c.pad_token ? c.pad_token : "none");
    pl_tokenizer_free(t);
}

#define EOS "\"eos_token\":\"<e>\""
#define THREE ADDED(2, "<e>") "," ADDED(3, "<|fim_pad|>") "," ADDED(4, "<z>")

/* Never the eos, which is what answers end in: transformers and TRL, which pad with it, read the score before it. */
static void pads(void **state) {
    (void)state;
    check_pad(TOKENIZER(THREE), "{" EOS ",\"pad_token\":\"<z>\"}", 4, NULL);          /* the tokenizer's own */
    check_pad(TOKENIZER(THREE), "{" EOS ",\"pad_token\":\"<e>\"}", 3, "<|fim_pad|>"); /* pad is eos: one called so */
    check_pad(TOKENIZER(THREE), "{" EOS "}", 3, "<|fim_pad|>");                       /* no pad */
    check_pad(TOKENIZER(ADDED(2, "<e>") "," ADDED(3, "<x>") "," ADDED(4, "<u>")), "{" EOS ",\"unk_token\":\"<u>\"}", 4,
              "<u>"); /* unk */
    check_pad(TOKENIZER(ADDED(2, "<e>") "," ADDED(3, "<x>") "," ADDED(4, "<s>")), "{" EOS ",\"bos_token\":\"<s>\"}", 3,
              "<x>"); /* another special token */
    check_pad(TOKENIZER(ADDED(2, "<e>") "," ADDED(3, "<s>")), "{" EOS ",\"bos_token\":\"<s>\"}", 3, "<s>");
    check_pad(TOKENIZER(ADDED(2, "<e>")), "{" EOS "}", -1, NULL); /* there is none */
    assert_int_equal(pl_test_live_bytes(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(edits), cmocka_unit_test(copies), cmocka_unit_test(pads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
