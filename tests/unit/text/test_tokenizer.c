/* The tokenizer's rules one by one, on tokenizers small enough to read: errors, ids, roles, flags, memory, threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "plumb/log.h"
#include "plumb/tokenizer.h"
#include "text/tok.h"
#include "text/unichar.h"
#include "unit/alloc_hook.h"

#define MODEL                                                                                                          \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"abb\":4,"   \
    "\" \":5,\"\xE2\x96\x81\":6,\"<s>\":9},\"merges\":[\"a b\",[\"ab\",\"b\"]]}"
#define TOKEN(id, text, more) "{\"id\":" id ",\"content\":\"" text "\",\"special\":true," more "}"
#define PLAIN "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false"

static char last_log[400];
static void keep_log(void *user, pl_log_level level, const char *text) {
    PL_UNUSED(user);
    if (level == PL_LOG_WARN) snprintf(last_log, sizeof last_log, "%s", text);
}

static int parse(pl_tokenizer **t, const char *json, const char *config, pl_error *err) {
    return pl_tokenizer_parse(t, json, strlen(json), config, config ? strlen(config) : 0, err);
}

static pl_tokenizer *must_parse(const char *json, const char *config) {
    pl_error err;
    pl_tokenizer *t = NULL;
    if (parse(&t, json, config, &err)) fail_msg("%s: %s", json, err.text);
    return t;
}

static void expect_ids(const pl_tokenizer *t, const char *text, unsigned flags, int64_t n, const int32_t *want) {
    pl_error err;
    pl_ids ids = {0};
    if (pl_tokenizer_encode(t, text, strlen(text), flags, &ids, &err)) fail_msg("%s", err.text);
    assert_int_equal(ids.n, n);
    for (int64_t i = 0; i < n; i++) assert_int_equal(ids.ids[i], want[i]);
    pl_ids_release(&ids);
}
#define EXPECT(t, text, flags, ...)                                                                                    \
    expect_ids(t, text, flags, PL_LEN(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

static void refusals(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *json;
        int code;
        const char *says;
    } cases[] = {
        {"[]", PL_E_FORMAT, "want an object"},
        {"{}", PL_E_FORMAT, "model"},
        {"{\"version\":\"2.0\"," MODEL "}", PL_E_UNSUPPORTED, "2.0"},
        {"{\"extra\":1," MODEL "}", PL_E_UNSUPPORTED, "extra"},
        {"{\"model\":{\"type\":\"Unigram\"}}", PL_E_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"dropout\":0.1}}", PL_E_UNSUPPORTED, "dropout"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}", PL_E_FORMAT, "same id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", PL_E_FORMAT, "\"a\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]}}", PL_E_FORMAT, "\"a\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a x\"]}}", PL_E_FORMAT, "\"x\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a a\"]}}", PL_E_FORMAT, "\"aa\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"aa\"]}}", PL_E_FORMAT, "merge 0"},
        {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}", PL_E_UNSUPPORTED, "Precompiled"},
        {"{\"normalizer\":{\"type\":\"NFC\",\"x\":1}," MODEL "}", PL_E_UNSUPPORTED, "\"x\""},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}," MODEL "}",
         PL_E_UNSUPPORTED, "empty pattern"},
        {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL "}", PL_E_UNSUPPORTED, "UnicodeScripts"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":"
         "\"a\\\\b\"}}," MODEL "}",
         PL_E_UNSUPPORTED, "an escape at byte 1"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Sideways\",\"invert\":false,\"pattern\":{\"String\":"
         "\"a\"}}," MODEL "}",
         PL_E_UNSUPPORTED, "Sideways"},
        {"{\"decoder\":{\"type\":\"CTC\"}," MODEL "}", PL_E_UNSUPPORTED, "CTC"},
        {"{\"post_processor\":{\"type\":\"Odd\"}," MODEL "}", PL_E_UNSUPPORTED, "Odd"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}],"
         "\"special_tokens\":{"
         "\"<s>\":{\"ids\":[9]}}}," MODEL "}",
         PL_E_UNSUPPORTED, "without the text"},
        {"{\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"<s>\",9],\"sep\":[\"</s>\",8]}," MODEL "}",
         PL_E_FORMAT, "id 8"},
        {"{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]," MODEL "}", PL_E_FORMAT, "single_word"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error err = {0};
        pl_tokenizer *t = NULL;
        int rc = parse(&t, cases[i].json, NULL, &err);
        if (rc != cases[i].code || t || !strstr(err.text, cases[i].says))
            fail_msg("%s\n  gave %s: %s", cases[i].json, pl_error_name(rc), err.text);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

static void regex_refusals(void **state) {
    PL_UNUSED(state);
    static const char *const bad[] = {
        "\\b",       "a\\1",  "[a&&b]",      "[[:alpha:]]", "[]a]", "a(?i)b", "(?<n>a)", "(?i:\\p{Lu})", "a{,3}",
        "a{2}+",     "a{2}?", "(a",          "a)",          "[a",   "\\",     "\\p{L",   "\\xe9",        "a{",
        "(*ACCEPT)", "[\\W]", "\\p{NoSuch}", "(?#c)",       "\\R",  "\\X",    "\\K"};
    for (int64_t i = 0; i < PL_LEN(bad); i++) {
        pl_regex *r = NULL;
        pl_error err;
        if (pl_regex_compile(&r, bad[i], strlen(bad[i]), &err) != PL_E_UNSUPPORTED) fail_msg("%s was taken", bad[i]);
        assert_null(r);
    }
    static const char *const good[] = {
        "(?i)ab", "a{2,3}", "a{2,}?", "a++b?+c*+", "(?<=a)b(?!c)", "[^\\s\\p{L}\\u2000-\\x{1F600}]", "\\v\\h", "}"};
    for (int64_t i = 0; i < PL_LEN(good); i++) {
        pl_regex *r = NULL;
        pl_error err;
        if (pl_regex_compile(&r, good[i], strlen(good[i]), &err)) fail_msg("%s: %s", good[i], err.text);
        pl_regex_free(r);
    }
}

static void bad_input(void **state) {
    PL_UNUSED(state);
    pl_tokenizer *t = must_parse("{" MODEL "}", NULL);
    pl_error err;
    pl_ids ids = {0};
    pl_text text = {0};
    assert_int_equal(pl_tokenizer_encode(t, "ab\xC3(", 4, 0, &ids, &err), PL_E_FORMAT);
    assert_non_null(strstr(err.text, "byte 2"));
    assert_int_equal(pl_tokenizer_encode(t, "\xED\xA0\x80", 3, 0, &ids, &err), PL_E_FORMAT);
    assert_int_equal(pl_tokenizer_encode(t, "a", 1, PL_ENCODE_CONTINUE | PL_ENCODE_SPECIAL, &ids, &err), PL_E_OPTION);
    assert_int_equal(pl_tokenizer_encode(t, "a", 1, 64, &ids, &err), PL_E_OPTION);
    assert_int_equal(ids.n, 0);
    for (int i = 0; i < 3; i++) {
        const int32_t wrong[][2] = {{1, 10}, {1, -1}, {1, 7}}; /* too large, negative, a hole */
        assert_int_equal(pl_tokenizer_decode(t, wrong[i], 2, false, &text, &err), PL_E_RANGE);
        assert_non_null(strstr(err.text, "token 1"));
        assert_int_equal(text.len, 0);
    }
    pl_ids_release(&ids);
    pl_text_release(&text);
    pl_tokenizer_free(t);
}

static void merging(void **state) {
    PL_UNUSED(state);
    pl_tokenizer *t = must_parse("{" MODEL "}", NULL);
    EXPECT(t, "abbab", 0, 4, 3);
    EXPECT(t, "x", 0, 0);
    EXPECT(t, "axxb", 0, 1, 0, 0, 2); /* unknown characters are not fused */
    EXPECT(t, "a\xF0\x9F\x98\x80", 0, 1, 0);
    assert_int_equal(pl_tokenizer_vocab_size(t), 10);
    assert_int_equal(pl_tokenizer_id(t, "abb", 3), 4);
    assert_int_equal(pl_tokenizer_id(t, "zzz", 3), -1);
    assert_string_equal(pl_tokenizer_token(t, 4, NULL), "abb");
    assert_null(pl_tokenizer_token(t, 7, NULL));
    assert_int_equal(strlen(pl_tokenizer_hash(t)), 32);
    pl_tokenizer_free(t);
}

/* Content in the vocabulary keeps that id; other content gets ids from the number of strings on, in file order. */
static void added_ids(void **state) {
    PL_UNUSED(state);
    pl_log_set(keep_log, NULL);
    last_log[0] = 0;
    pl_tokenizer *t = must_parse("{\"added_tokens\":[" TOKEN("9", "<s>", PLAIN) "," TOKEN("77", "[X]", PLAIN) "," TOKEN(
                                     "10", "[Y]", PLAIN) "]," MODEL "}",
                                 NULL);
    pl_log_set(NULL, NULL);
    assert_int_equal(pl_tokenizer_id(t, "<s>", 3), 9);
    assert_int_equal(pl_tokenizer_id(t, "[X]", 3), 8);
    assert_int_equal(pl_tokenizer_id(t, "[Y]", 3),
                     9); /* as HF counts: 8 strings, so 8, 9; a hole in the ids makes it collide */
    assert_non_null(strstr(last_log, "states id"));
    EXPECT(t, "a[X]b", 0, 1, 8, 2);
    EXPECT(t, "a[X]", PL_ENCODE_AS_TEXT, 1, 0, 0, 0);
    assert_true(pl_tokenizer_is_special(t, 8));
    assert_false(pl_tokenizer_is_special(t, 1));
    assert_false(pl_tokenizer_is_special(t, -1));
    pl_tokenizer_free(t);
}

#define BOS_FILE                                                                                                       \
    "{\"added_tokens\":[" TOKEN("9", "<s>",                                                                            \
                                PLAIN) "],\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"           \
                                       "\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"," \
                                       "\"type_id\":0}},{\"SpecialToken\":{\"id\":"                                    \
                                       "\"E\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>"  \
                                       "\",\"ids\":[9],\"tokens\":[\"<s>\"]},"                                         \
                                       "\"E\":{\"id\":\"E\",\"ids\":[4],\"tokens\":[\"abb\"]}}}," MODEL "}"

static void roles(void **state) {
    PL_UNUSED(state);
    pl_log_set(keep_log, NULL);
    pl_tokenizer *t =
        must_parse(BOS_FILE, "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"abb\"},\"pad_token\":null,"
                             "\"add_bos_token\":true}");
    assert_int_equal(pl_tokenizer_bos(t), 9);
    assert_int_equal(pl_tokenizer_eos(t), 4);
    assert_int_equal(pl_tokenizer_pad(t), -1);
    assert_int_equal(pl_tokenizer_unk(t), -1);
    EXPECT(t, "a", PL_ENCODE_SPECIAL, 9, 1, 4);
    EXPECT(t, "a", PL_ENCODE_LEADING, 9, 1);
    EXPECT(t, "", PL_ENCODE_SPECIAL, 9, 4);
    int64_t n;
    assert_int_equal(pl_tokenizer_leading(t, &n)[0], 9);
    assert_int_equal(pl_tokenizer_trailing(t, &n)[0], 4);
    pl_tokenizer_free(t);
    last_log[0] = 0;
    t = must_parse(BOS_FILE, "{\"bos_token\":\"<s>\",\"add_bos_token\":false}");
    assert_non_null(strstr(last_log, "add_bos_token"));
    pl_tokenizer_free(t);
    t = must_parse(BOS_FILE, "{\"pad_token\":\"<pad>\"}");
    assert_non_null(strstr(last_log, "<pad>"));
    assert_int_equal(pl_tokenizer_pad(t), -1);
    pl_tokenizer_free(t);
    t = must_parse(BOS_FILE, "{\"added_tokens_decoder\":{\"12\":{\"content\":\"<new>\"}}}");
    assert_non_null(strstr(last_log, "<new>"));
    pl_tokenizer_free(t);
    pl_log_set(NULL, NULL);
    pl_error err;
    t = NULL;
    assert_int_equal(parse(&t, BOS_FILE, "{\"bos_token\":7}", &err), PL_E_FORMAT);
    assert_null(t);
}

#define FULL_FILE                                                                                                      \
    "{\"added_tokens\":[" TOKEN("9", "<s>",                                                                            \
                                PLAIN) "," TOKEN("8", "[A B]",                                                         \
                                                 "\"single_word\":true,\"lstrip\":true,\"rstrip\":true,"               \
                                                 "\"normalized\":true") "],\"normalizer\":{\"type\":\"Sequence\","     \
                                                                        "\"normalizers\":[{\"type\":\"Prepend\","      \
                                                                        "\"prepend\":\" "                              \
                                                                        "\"},{\"type\":\"NFC\"},{\"type\":"            \
                                                                        "\"Replace\",\"pattern\":{\"Regex\":"          \
                                                                        "\"c+\"},\"content\":\"b\"}]},\"pre_"          \
                                                                        "tokenizer\":{\"type\":\"Sequence\","          \
                                                                        "\"pretokenizers\":[{\"type\":\"Split\","      \
                                                                        "\"pattern\":{"                                \
                                                                        "\"String\":\" "                               \
                                                                        "\"},\"behavior\":\"Isolated\",\"invert\":"    \
                                                                        "false},{\"type\":\"Metaspace\","              \
                                                                        "\"replacement\":\"\xE2\x96\x81\","            \
                                                                        "\"prepend_scheme\":\"first\",\"split\":true}" \
                                                                        "]},\"decoder\":{\"type\":\"Sequence\","       \
                                                                        "\"decoders\":[{\"type\":\"Replace\","         \
                                                                        "\"pattern\":{\"String\":\"\xE2\x96\x81\"},"   \
                                                                        "\"content\":\" "                              \
                                                                        "\"},{\"type\":\"ByteFallback\"},{\"type\":"   \
                                                                        "\"Fuse\"},{\"type\":"                         \
                                                                        "\"Strip\",\"content\":\" "                    \
                                                                        "\",\"start\":1,\"stop\":0}]}," MODEL "}"

/* Allocation k fails, for all k until everything succeeds: each failure is clean and *out is untouched. */
static void failing_memory(void **state) {
    PL_UNUSED(state);
    char text[400] = "abcc e\xCC\x81 [A B] <s> ";
    for (size_t n = strlen(text); n < 300; n++) text[n] = "ab"[n % 2]; /* long enough for the heap */
    int rc = PL_E_NOMEM;
    int64_t k = 0;
    for (; rc != 0; k++) {
        pl_error err = {0};
        pl_tokenizer *t = NULL;
        pl_ids ids = {0};
        pl_text back = {0};
        pl_test_fail_alloc_at(k);
        rc = parse(&t, FULL_FILE, "{\"bos_token\":\"<s>\"}", &err);
        assert_true((rc == 0) == (t != NULL));
        if (rc == 0) rc = pl_tokenizer_encode(t, text, strlen(text), PL_ENCODE_SPECIAL, &ids, &err);
        if (rc) assert_int_equal(ids.n, 0);
        if (rc == 0) rc = pl_tokenizer_decode(t, ids.ids, ids.n, false, &back, &err);
        pl_test_fail_alloc_at(-1);
        if (rc) assert_int_equal(back.len, 0);
        if (rc) assert_int_equal(rc, PL_E_NOMEM);
        pl_tokenizer_free(t);
        pl_ids_release(&ids);
        pl_text_release(&back);
        assert_int_equal(pl_test_live_bytes(), 0);
        assert_true(k < 10000);
    }
    assert_true(k > 50);
}

/* Streaming holds back incomplete characters and no more. */
static void streaming(void **state) {
    PL_UNUSED(state);
    pl_tokenizer *t =
        must_parse("{\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"\xC3\xB0\":0,\"\xC5\x81\":1,"
                   "\"\xC4\xBA\":2,\"\xC4\xA2\":3,\"a\":4},\"merges\":[]}}",
                   NULL);
    pl_error err;
    pl_detok *d = NULL;
    pl_text out = {0};
    assert_int_equal(pl_detok_new(&d, t, false, &err), 0);
    static const struct {
        int32_t id;
        const char *sum;
    } steps[] = {{0, ""},
                 {1, ""},
                 {2, ""},
                 {4, "\xEF\xBF\xBD"
                     "a"},
                 {0, "\xEF\xBF\xBD"
                     "a"}};
    for (int64_t i = 0; i < PL_LEN(steps); i++) {
        assert_int_equal(pl_detok_feed(d, steps[i].id, &out, &err), 0);
        assert_string_equal(out.data ? out.data : "", steps[i].sum);
    }
    assert_int_equal(pl_detok_feed(d, 99, &out, &err), PL_E_RANGE);
    assert_int_equal(pl_detok_feed(d, 4, &out, &err), 0); /* an error starts a new text */
    assert_int_equal(pl_detok_finish(d, &out, &err), 0);
    assert_string_equal(out.data, "\xEF\xBF\xBD"
                                  "aa");
    pl_detok_free(d);
    pl_text_release(&out);
    pl_tokenizer_free(t);
}

/* Both ways of merging give the same ids. */
static void merge_ways(void **state) {
    PL_UNUSED(state);
    pl_tokenizer *t = must_parse(
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"bc\":5,\"aa\":6,\"ca\":7,\"aab\":8,"
        "\"abcab\":9,\"cc\":10,\"bb\":11},\"merges\":[\"b c\",\"a b\",\"a a\",\"ab c\",\"a bc\",\"c a\",\"a ab\",\"abc "
        "ab\",\"c c\",\"aa b\",\"b b\"]}}",
        NULL);
    pl_error err;
    uint64_t seed = 20261121;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 3000; round++) {
        char text[200];
        pl_ids slow = {0}, fast = {0};
        size_t n = 1 + (size_t)(seed >> 33) % 40;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[i] = "abc"[(seed >> 40) % 3];
        }
        assert_int_equal(pl_tokenizer_encode(t, text, n, 0, &slow, &err), 0);
        pl_bpe_scratch scratch = {0};
        assert_int_equal(PL_NEW(&scratch.symbol, (int64_t)n, &err), 0);
        for (size_t i = 0; i < n; i++) scratch.symbol[i].id = text[i] - 'a';
        assert_int_equal(pl_bpe_merge_long(&t->model, (int64_t)n, &scratch, &fast, &err), 0);
        pl_bpe_scratch_release(&scratch);
        assert_int_equal(slow.n, fast.n);
        assert_memory_equal(slow.ids, fast.ids, (size_t)slow.n * sizeof *slow.ids);
        pl_ids_release(&slow);
        pl_ids_release(&fast);
    }
    pl_tokenizer_free(t);
}

typedef struct job {
    const pl_tokenizer *t;
    pl_ids ids;
    int rc;
} job;

static void *work(void *arg) {
    job *j = arg;
    for (int i = 0; i < 200 && j->rc == 0; i++) {
        j->ids.n = 0;
        j->rc = pl_tokenizer_encode(j->t, "abbcc ab e\xCC\x81 [A B] ab <s>b", 26, PL_ENCODE_SPECIAL, &j->ids, NULL);
    }
    return NULL;
}

static void threads(void **state) {
    PL_UNUSED(state);
    pl_tokenizer *t = must_parse(FULL_FILE, NULL);
    pthread_t thread[4];
    job j[4] = {{0}};
    for (int i = 0; i < 4; i++) {
        j[i].t = t;
        assert_int_equal(pthread_create(&thread[i], NULL, work, &j[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(j[i].rc, 0);
        assert_true(j[i].ids.n > 0 && j[i].ids.n == j[0].ids.n);
        assert_memory_equal(j[i].ids.ids, j[0].ids.ids, (size_t)j[0].ids.n * sizeof(int32_t));
    }
    for (int i = 0; i < 4; i++) pl_ids_release(&j[i].ids);
    pl_tokenizer_free(t);
}

/* A long run of combining marks in falling order must not cost its square. */
static void long_marks(void **state) {
    PL_UNUSED(state);
    pl_error err;
    pl_buf in = {0}, out = {0};
    for (int i = 0; i < 200000; i++) assert_int_equal(pl_buf_add(&in, i % 2 ? "\xCC\x81" : "\xCC\xA3", 2, &err), 0);
    assert_int_equal(pl_text_normalize(&out, in.data, in.len, PL_NFD, &err), 0);
    assert_int_equal(out.len, in.len);
    assert_memory_equal(out.data, "\xCC\xA3\xCC\xA3", 4); /* class 220 before 230 */
    assert_memory_equal(out.data + out.len - 4, "\xCC\x81\xCC\x81", 4);
    pl_buf_release(&in);
    pl_buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),       cmocka_unit_test(regex_refusals), cmocka_unit_test(bad_input),
        cmocka_unit_test(merging),        cmocka_unit_test(added_ids),      cmocka_unit_test(roles),
        cmocka_unit_test(failing_memory), cmocka_unit_test(streaming),      cmocka_unit_test(merge_ways),
        cmocka_unit_test(threads),        cmocka_unit_test(long_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
