/* Loading: TRL's own ids, the seam rules, truncation, what is counted, gzip, malformed files, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <zlib.h>

#include <cmocka.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/file.h"
#include "base/json.h"
#include "unit/alloc_hook.h"
#include "unit/data/rows_file.h"

static void check_ids(const pl_dataset *d, pl_span s, const pl_json *want, int64_t from) {
    assert_int_equal(s.count, pl_json_len(want) - from);
    for (int64_t i = 0; i < s.count; i++)
        assert_int_equal(d->ids[s.first + i], pl_json_int(pl_json_at(want, from + i)));
}

/* Tokens that are not trained in a golden SFT row. */
static int64_t masked(const pl_json *row) {
    const pl_json *labels = pl_json_get(row, "labels");
    int64_t n = 0;
    while (n < pl_json_len(labels) && pl_json_int(pl_json_at(labels, n)) == -100) n++;
    return n;
}

static void check_row(const pl_dataset *d, const pl_row *row, const pl_json *want) {
    const pl_span *answers = d->answers + row->first_answer;
    if (d->kind == PL_DATA_PREFERENCE) {
        check_ids(d, row->prompt, pl_json_get(want, "prompt_ids"), 0);
        check_ids(d, answers[0], pl_json_get(want, "chosen_ids"), 0);
        check_ids(d, answers[1], pl_json_get(want, "rejected_ids"), 0);
        return;
    }
    const pl_json *ids = pl_json_get(want, "input_ids");
    int64_t cut = d->kind == PL_DATA_TEXT ? 0 : masked(want);
    assert_int_equal(row->prompt.count, cut);
    check_ids(d, answers[0], ids, cut);
    for (int64_t i = 0; i < cut; i++) assert_int_equal(d->ids[row->prompt.first + i], pl_json_int(pl_json_at(ids, i)));
}

static pl_dataset *load_file(const char *rows, const pl_data_options *options, const pl_tokenizer *tok) {
    char path[512];
    pl_error err;
    pl_dataset *d = NULL;
    snprintf(path, sizeof path, "%s/golden/%s", PLUMB_TEST_DIR, rows);
    if (pl_dataset_load(&d, path, options, tok, 1000, &err) != 0) fail_msg("%s", err.text);
    return d;
}

/* Every row of `rows` must have the ids of the same line of `want`. */
static void check_golden(const char *rows, const char *want, bool preference, pl_seam seam, const char *tokenizer) {
    char path[512];
    const char *line;
    size_t len;
    pl_error err;
    pl_lines *lines = NULL;
    pl_data_options options = {.preference = preference, .seam = seam, .completion_only_loss = true};
    pl_tokenizer *tok = open_golden(tokenizer);
    pl_dataset *d = load_file(rows, &options, tok);
    snprintf(path, sizeof path, "%s/golden/%s", PLUMB_TEST_DIR, want);
    assert_int_equal(pl_lines_open(&lines, path, 1 << 20, &err), 0);
    int64_t n = 0;
    for (; pl_lines_next(lines, &line, &len, &err) == 0 && line; n++) {
        pl_json *json = NULL;
        assert_int_equal(pl_json_parse(&json, line, len, path, &err), 0);
        assert_true(n < d->n);
        assert_int_equal(d->rows[n].source, n);
        check_row(d, &d->rows[n], json);
        pl_json_free(json);
    }
    assert_int_equal(n, d->n);
    assert_true(n > 0);
    pl_lines_free(lines);
    pl_dataset_free(d);
    pl_tokenizer_free(tok);
}

static void test_golden(void **state) {
    (void)state;
    static const pl_seam seams[] = {PL_SEAM_JOINT, PL_SEAM_CONTINUE, PL_SEAM_REFUSE};
    for (int64_t i = 0; i < PL_LEN(seams); i++) { /* clean seams: all rules agree with TRL */
        check_golden("trl/pairs/train.jsonl", "trl/tokens/pairs_train.jsonl", true, seams[i], "trl/llama");
        check_golden("trl/pairs/test.jsonl", "trl/tokens/pairs_test.jsonl", true, seams[i], "trl/llama");
        check_golden("trl/completions/train.jsonl", "trl/tokens/completions_train.jsonl", false, seams[i], "trl/llama");
        check_golden("trl/completions/test.jsonl", "trl/tokens/completions_test.jsonl", false, seams[i], "trl/llama");
        check_golden("trl/texts/train.jsonl", "trl/tokens/texts_train.jsonl", false, seams[i], "trl/llama");
    }
    check_golden("trl/seam/train.jsonl", "trl/tokens/seam_joint.jsonl", true, PL_SEAM_JOINT, "trl/llama");
    check_golden("trl/seam/train.jsonl", "trl/tokens/seam_auto.jsonl", true, PL_SEAM_CONTINUE, "trl/llama");
    check_golden("data/pieces_joint.jsonl", "data/pieces_joint.jsonl", true, PL_SEAM_JOINT, "data/pieces");
    check_golden("data/pieces_joint.jsonl", "data/pieces_joint.jsonl", true, PL_SEAM_JOINT, "data/pieces_eos");
}

/* decode(prompt ids + answer ids) is the row's text, EOS aside, whatever happens at the seam. */
static void check_decoded(const char *rows, bool preference, pl_seam seam, const char *tokenizer) {
    static const char *const columns[] = {"chosen", "rejected"};
    char path[512];
    const char *line;
    size_t len;
    pl_error err;
    pl_lines *lines = NULL;
    pl_data_options options = {.preference = preference, .seam = seam, .completion_only_loss = true};
    pl_tokenizer *tok = open_golden(tokenizer);
    pl_dataset *d = load_file(rows, &options, tok);
    snprintf(path, sizeof path, "%s/golden/%s", PLUMB_TEST_DIR, rows);
    assert_int_equal(pl_lines_open(&lines, path, 1 << 20, &err), 0);
    for (int64_t r = 0; r < d->n; r++) {
        pl_json *json = NULL;
        assert_int_equal(pl_lines_next(lines, &line, &len, &err), 0);
        assert_int_equal(pl_json_parse(&json, line, len, path, &err), 0);
        const char *prompt = pl_json_string(pl_json_get(json, "prompt"), NULL);
        for (int64_t a = 0; a < d->rows[r].answers; a++) {
            const char *answer = pl_json_string(pl_json_get(json, preference ? columns[a] : "completion"), NULL);
            pl_span s = d->answers[d->rows[r].first_answer + a], p = d->rows[r].prompt;
            pl_ids all = {0};
            pl_text text = {0};
            assert_int_equal(pl_alloc((void **)&all.ids, (size_t)(s.count + p.count) * sizeof(int32_t), &err), 0);
            if (p.count > 0) memcpy(all.ids, d->ids + p.first, (size_t)p.count * sizeof(int32_t));
            memcpy(all.ids + p.count, d->ids + s.first, (size_t)s.count * sizeof(int32_t));
            assert_int_equal(pl_tokenizer_decode(tok, all.ids, p.count + s.count, true, &text, &err), 0);
            char want[512];
            snprintf(want, sizeof want, "%s%s", prompt, answer);
            assert_string_equal(text.data ? text.data : "", want);
            int64_t ends = 0;
            for (int64_t i = 0; i < s.count; i++) ends += d->ids[s.first + i] == pl_tokenizer_eos(tok);
            assert_int_equal(ends, 1);
            assert_int_equal(d->ids[s.first + s.count - 1], pl_tokenizer_eos(tok));
            pl_text_release(&text);
            pl_free(all.ids);
        }
        pl_json_free(json);
    }
    pl_lines_free(lines);
    pl_dataset_free(d);
    pl_tokenizer_free(tok);
}

static void test_decoded(void **state) {
    (void)state;
    static const pl_seam seams[] = {PL_SEAM_CONTINUE, PL_SEAM_JOINT};
    static const char *const toks[] = {"trl/llama", "data/pieces", "data/pieces_eos"};
    for (int64_t i = 0; i < PL_LEN(seams); i++)
        for (int64_t t = 0; t < PL_LEN(toks); t++) {
            check_decoded("data/pieces_joint.jsonl", true, seams[i], toks[t]);
            check_decoded("trl/seam/train.jsonl", true, seams[i], toks[t]);
            check_decoded("trl/pairs/train.jsonl", true, seams[i], toks[t]);
            check_decoded("trl/completions/train.jsonl", false, seams[i], toks[t]);
        }
}

#define PAIR(p, c, r) "{\"prompt\":\"" p "\",\"chosen\":\"" c "\",\"rejected\":\"" r "\"}\n"

static pl_span answer_of(const pl_dataset *d, int64_t r, int64_t a) { return d->answers[d->rows[r].first_answer + a]; }

static void check_list(const pl_dataset *d, pl_span s, const int32_t *want, int64_t n) {
    assert_int_equal(s.count, n);
    for (int64_t i = 0; i < n; i++) assert_int_equal(d->ids[s.first + i], want[i]);
}
#define CHECK_LIST(d, s, ...) check_list(d, s, (const int32_t[]){__VA_ARGS__}, PL_LEN(((const int32_t[]){__VA_ARGS__})))

/* Ids of data/pieces: 1 <s>, 2 </s>, 259 the blank, 260 + letter, 286 he, 287 ll, 288 hell, 289 hello, 290 ab, 291
 * _hello, 292 _a. */
static void test_seams(void **state) {
    (void)state;
    const char *rows = PAIR("hell", "o", "ll") PAIR("a", "b", " ab");
    pl_data_options options = {.preference = true};
    pl_tokenizer *tok = open_golden("data/pieces");
    pl_dataset *d = load_text(rows, &options, tok);
    CHECK_LIST(d, d->rows[0].prompt, 1, 259, 288); /* as inference sees it */
    CHECK_LIST(d, answer_of(d, 0, 0), 274, 2);     /* "o" without a blank in front */
    CHECK_LIST(d, answer_of(d, 0, 1), 287, 2);
    CHECK_LIST(d, d->rows[1].prompt, 1, 292);
    CHECK_LIST(d, answer_of(d, 1, 0), 261, 2);
    CHECK_LIST(d, answer_of(d, 1, 1), 259, 290, 2);
    assert_int_equal(d->report.seam_prefix, 2);
    assert_int_equal(d->report.seam_continued, 2);
    assert_int_equal(d->report.seam_cut, 0);
    pl_dataset_free(d);

    options.seam = PL_SEAM_JOINT; /* one cut for both answers */
    d = load_text(rows, &options, tok);
    CHECK_LIST(d, d->rows[0].prompt, 1);
    CHECK_LIST(d, answer_of(d, 0, 0), 291, 2);
    CHECK_LIST(d, answer_of(d, 0, 1), 259, 288, 287, 2);
    assert_int_equal(d->report.seam_prefix, 2);
    assert_int_equal(d->report.seam_cut, 2);
    pl_dataset_free(d);

    pl_error err;
    options.seam = PL_SEAM_REFUSE;
    d = NULL;
    rows = PAIR("say", " ab", " no") "\n" PAIR("hell", "o", "ll");
    assert_int_equal(load_bytes(&d, rows, strlen(rows), &options, tok, 1000, &err), PL_E_MISMATCH);
    assert_null(d);
    assert_non_null(strstr(err.text, ":3: "));
    assert_non_null(strstr(err.text, "refuse"));
    pl_tokenizer_free(tok);
}

static void test_eos(void **state) {
    (void)state;
    static const char *const toks[] = {"data/pieces", "data/pieces_eos"};
    for (int i = 0; i < 2; i++) {
        pl_tokenizer *tok = open_golden(toks[i]);
        pl_data_options options = {.preference = true};
        pl_dataset *d = load_text(PAIR("z", "ab</s>", "ab") PAIR("<s>z", "", "ab"), &options, tok);
        CHECK_LIST(d, answer_of(d, 0, 0), 290, 2);
        CHECK_LIST(d, answer_of(d, 0, 1), 290, 2);
        CHECK_LIST(d, answer_of(d, 1, 0), 2);
        assert_int_equal(d->report.empty.n, 1);
        assert_int_equal(d->report.double_bos.n, 1);
        assert_int_equal(d->report.double_bos.lines[0], 2);
        pl_dataset_free(d);
        options.preference = false;
        d = load_text("{\"text\":\"ab\"}\n{\"text\":\"ab</s>\"}\n{\"text\":\"\"}\n", &options, tok);
        CHECK_LIST(d, answer_of(d, 0, 0), 1, 259, 290, 2);
        CHECK_LIST(d, answer_of(d, 1, 0), 1, 259, 290, 2);
        CHECK_LIST(d, answer_of(d, 2, 0), 1, 2);
        assert_int_equal(d->rows[0].prompt.count, 0);
        pl_dataset_free(d);
        pl_tokenizer_free(tok);
    }
}

static void test_truncation(void **state) {
    (void)state;
    pl_tokenizer *tok = open_golden("data/pieces");
    /* <s> _ x y z: 5 ids; answers of 3 + </s>, 1 + </s> */
    const char *rows = PAIR("xyz", "uvw", "u") PAIR("x", "u", "v") PAIR("xyzxyz", "u", "v");
    pl_data_options options = {.preference = true, .max_length = 7};
    pl_dataset *d = load_text(rows, &options, tok);
    assert_int_equal(d->n, 2);
    assert_int_equal(d->report.read, 3);
    assert_int_equal(d->report.truncated, 1);
    assert_int_equal(d->report.dropped_long, 1);
    assert_int_equal(d->report.lost_eos, 1);
    CHECK_LIST(d, d->rows[0].prompt, 1, 259, 283, 284, 285);
    CHECK_LIST(d, answer_of(d, 0, 0), 280, 281);
    CHECK_LIST(d, answer_of(d, 0, 1), 280, 2);
    assert_int_equal(d->longest_row, 7);
    assert_int_equal(d->longest_tree, 9);
    pl_dataset_free(d);

    options = (pl_data_options){.preference = true, .max_prompt_length = 2};
    d = load_text(rows, &options, tok); /* the last two behind <s> */
    assert_int_equal(d->n, 3);
    CHECK_LIST(d, d->rows[0].prompt, 1, 284, 285);
    CHECK_LIST(d, answer_of(d, 0, 0), 280, 281, 282, 2);
    CHECK_LIST(d, d->rows[1].prompt, 1, 259, 283);
    CHECK_LIST(d, d->rows[2].prompt, 1, 284, 285);
    assert_int_equal(d->report.truncated, 2);
    assert_int_equal(d->report.lost_eos, 0);
    pl_dataset_free(d);

    /* A prompt that is trained itself is cut, not dropped. */
    const char *done = "{\"prompt\":\"xyz\",\"completion\":\"u\"}\n";
    options = (pl_data_options){.max_length = 4, .completion_only_loss = false};
    d = load_text(done, &options, tok);
    CHECK_LIST(d, d->rows[0].prompt, 1, 259, 283, 284);
    assert_int_equal(answer_of(d, 0, 0).count, 0);
    assert_int_equal(d->report.truncated, 1);
    pl_dataset_free(d);
    options.completion_only_loss = true;
    pl_error err;
    d = NULL;
    assert_int_equal(load_bytes(&d, done, strlen(done), &options, tok, 1000, &err), PL_E_RANGE);
    assert_non_null(strstr(err.text, "max_length"));

    options = (pl_data_options){.max_length = 3};
    d = load_text("{\"text\":\"xyz\"}\n", &options, tok);
    CHECK_LIST(d, answer_of(d, 0, 0), 1, 259, 283);
    assert_int_equal(d->report.lost_eos, 1);
    pl_dataset_free(d);

    options = (pl_data_options){.preference = true, .max_rows = 2};
    d = load_text(rows, &options, tok);
    assert_int_equal(d->report.read, 2);
    pl_dataset_free(d);
    pl_tokenizer_free(tok);
}

/* Nothing predicts a row's first token: an answer that is one token to an empty prompt would train on nothing. */
static void test_zero_tokens(void **state) {
    (void)state;
    static log_text log;
    pl_tokenizer *tok = open_golden("trl/llama"); /* adds no BOS: an empty prompt has no tokens */
    const char *rows = PAIR("x", "", "b") PAIR("", "ab", "") PAIR("", "a", "b") PAIR("", "", "b");
    pl_data_options options = {.preference = true};
    log_begin(&log);
    pl_dataset *d = load_text(rows, &options, tok);
    pl_dataset_log(d, "f");
    log_end();
    assert_int_equal(d->n, 2);
    assert_int_equal(d->rows[0].source, 0); /* its EOS alone is an answer to something */
    assert_int_equal(d->rows[1].source, 2);
    assert_int_equal(d->rows[1].prompt.count, 0);
    if (!strstr(log.text, "f: 3 rows with an empty answer (lines 1, 2, 4)\n") ||
        !strstr(log.text, "f: 2 rows dropped: empty answer\n"))
        fail_msg("%s", log.text);
    pl_dataset_free(d);

    options.max_length = 1; /* leaves one token of each answer */
    pl_error err;
    d = NULL;
    assert_int_equal(load_bytes(&d, rows, strlen(rows), &options, tok, 1000, &err), PL_E_RANGE);
    assert_non_null(strstr(err.text, "1 have a prompt as long as max_length, 3 an empty answer"));

    options = (pl_data_options){0};
    d = load_text("{\"text\":\"\"}\n{\"text\":\"a\"}\n", &options, tok);
    assert_int_equal(d->n, 1);
    assert_int_equal(d->rows[0].source, 1);
    assert_int_equal(d->report.empty.n, 1);
    pl_dataset_free(d);

    /* a prompt that is trained itself brings tokens: not when it is one, and all there is */
    const char *done = "{\"prompt\":\"x\",\"completion\":\"\"}\n{\"prompt\":\"\",\"completion\":\"\"}\n";
    options = (pl_data_options){.completion_only_loss = false};
    d = load_text(done, &options, tok);
    assert_int_equal(d->n, 1);
    pl_dataset_free(d);
    options.max_length = 1;
    d = NULL;
    assert_int_equal(load_bytes(&d, done, strlen(done), &options, tok, 1000, &err), PL_E_RANGE);
    pl_tokenizer_free(tok);
}

#define H "\\n\\nHuman: "
#define A "\\n\\nAssistant:"
#define TRANSCRIPT(c, r) "{\"chosen\":\"" c "\",\"rejected\":\"" r "\"}\n"

static void test_words(void **state) {
    (void)state;
    static log_text log;
    pl_tokenizer *tok = open_golden("trl/llama");
    pl_data_options options = {.preference = true};
    const char *rows = TRANSCRIPT(H "hi" A " yes", H "hi" A " no") "\n   \n" TRANSCRIPT(H "hi" A " ", H "hi" A " no")
        TRANSCRIPT(H "hi" A " a" H "so" A " b", H "hi" A " no") TRANSCRIPT(H "hi" A " no", H "hi" A " no");
    log_begin(&log);
    pl_dataset *d = load_text(rows, &options, tok);
    pl_dataset_log(d, "hh.jsonl");
    log_end();
    assert_int_equal(d->n, 4);
    assert_int_equal(d->rows[1].source, 1);
    assert_int_equal(d->rows[1].line, 4);
    static const char *const words[] = {
        "hh.jsonl: 4 rows read, 4 kept",
        "hh.jsonl: 1 row with an empty answer (line 4)\n",
        "hh.jsonl: 1 row with differing prompts (line 5)\n",
        "hh.jsonl: 1 row with a further turn in an answer (line 5)\n",
        "hh.jsonl: 1 row with identical answers (line 6)\n",
        "hh.jsonl: prompt/answer seam: 8 answers tokenized jointly, 0 as a continuation\n",
    };
    for (int64_t i = 0; i < PL_LEN(words); i++)
        if (!strstr(log.text, words[i])) fail_msg("no \"%s\" in:\n%s", words[i], log.text);
    assert_null(strstr(log.text, "truncated"));
    assert_null(strstr(log.text, "not used"));
    pl_dataset_free(d);

    options.drop_empty = true;
    options.max_length = 30;
    log_begin(&log);
    d = load_text(rows, &options, tok);
    pl_dataset_log(d, "hh.jsonl");
    log_end();
    assert_int_equal(d->n, 3);
    assert_int_equal(d->rows[1].source, 2);
    if (!strstr(log.text, "1 row dropped: empty answer\n") || !strstr(log.text, "hh.jsonl: 1 row truncated\n"))
        fail_msg("%s", log.text);
    pl_dataset_free(d);

    options = (pl_data_options){.preference = true, .max_length = 4};
    log_begin(&log);
    d = load_text("{\"id\":1,\"prompt\":\"Q: What is\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"
                  "{\"prompt\":\"x\",\"chosen\":\"a\",\"rejected\":\"b\",\"score\":2,\"id\":3}\n",
                  &options, tok);
    pl_dataset_log(d, "f");
    log_end();
    if (!strstr(log.text, "columns that are not used: \"id\", \"score\"\n") ||
        !strstr(log.text, "f: 1 row dropped: prompt as long as max_length\n") || !strstr(log.text, "debug: "))
        fail_msg("%s", log.text);
    pl_dataset_free(d);
    pl_tokenizer_free(tok);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *rows;
        int code;
        const char *says;
    } cases[] = {
        {"", PL_E_FORMAT, "no rows"},
        {"\n  \n", PL_E_FORMAT, "no rows"},
        {PAIR("a", "b", "c") "{\"prompt\":\"a\",", PL_E_FORMAT, ":2: "},
        {PAIR("a", "b", "c") "\n{\"prompt\":\"a\"}", PL_E_FORMAT, ":3: \"chosen\" is missing"},
        {PAIR("a", "b", "c") "[]", PL_E_FORMAT, ":2: an array"},
        {"[\n" PAIR("a", "b", "c") "]", PL_E_FORMAT, ":1: "},
        {PAIR("a", "b\xff", "c"), PL_E_FORMAT, ":1: "},
        {PAIR("a", "b", "c") PAIR("a", "b \\udc80", "c"), PL_E_FORMAT,
         ":2: line 1, column 27: half of a surrogate pair"},
        {PAIR("a", "b", "c") PAIR("a\\ud83d", "b", "c"), PL_E_FORMAT, "half of a surrogate pair"},
        {"{\"prompt\":\"a\",\"prompt\":\"b\",\"chosen\":\"c\",\"rejected\":\"d\"}", PL_E_FORMAT, ":1: "},
        {PAIR("a", "b", "c") "{\"prompt\":\"a\",\"chosen\":1,\"rejected\":\"\"}", PL_E_FORMAT,
         ":2: \"chosen\" is an integer"},
        {PAIR("a", "b", "c") "{\"prompt\":[],\"chosen\":[],\"rejected\":[]}", PL_E_UNSUPPORTED,
         ":2: \"prompt\" is a list"},
        {TRANSCRIPT("x", "y"), PL_E_FORMAT, ":1: no \"prompt\""},
    };
    pl_tokenizer *tok = open_golden("trl/llama");
    pl_data_options options = {.preference = true};
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error err = {0};
        pl_dataset *d = NULL;
        assert_int_equal(load_bytes(&d, cases[i].rows, strlen(cases[i].rows), &options, tok, 1000, &err),
                         cases[i].code);
        assert_null(d);
        if (!strstr(err.text, cases[i].says)) fail_msg("case %d: %s", (int)i, err.text);
    }
    pl_error err = {0};
    pl_dataset *d = NULL;
    assert_int_equal(load_bytes(&d, PAIR("a", "b", "c"), strlen(PAIR("a", "b", "c")), &options, tok, 40, &err),
                     PL_E_MISMATCH);
    if (!strstr(err.text, "40 entries")) fail_msg("%s", err.text);
    assert_int_equal(pl_dataset_load(&d, "/nonexistent/rows.jsonl", &options, tok, 1000, &err), PL_E_IO);
    options.drop_empty = true;
    assert_int_equal(load_bytes(&d, PAIR("a", " ", "c"), strlen(PAIR("a", " ", "c")), &options, tok, 1000, &err),
                     PL_E_RANGE);
    assert_null(d);
    pl_tokenizer_free(tok);
}

static void test_no_eos(void **state) {
    (void)state;
    char path[512];
    char *json = NULL;
    size_t len = 0;
    pl_error err;
    pl_tokenizer *tok = NULL;
    pl_dataset *d = NULL;
    snprintf(path, sizeof path, "%s/golden/trl/llama/tokenizer.json", PLUMB_TEST_DIR);
    assert_int_equal(pl_file_read(&json, &len, path, 1 << 24, &err), 0);
    assert_int_equal(pl_tokenizer_parse(&tok, json, len, NULL, 0, &err), 0);
    pl_data_options options = {.preference = true};
    assert_int_equal(load_bytes(&d, PAIR("a", "b", "c"), strlen(PAIR("a", "b", "c")), &options, tok, 1000, &err),
                     PL_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "EOS"));
    pl_tokenizer_free(tok);
    pl_free(json);
}

/* More rows than a batch holds, plain and gzip, on one thread and on several: the same data. */
static void test_batches(void **state) {
    (void)state;
    enum { ROWS = 1300 };
    static char text[ROWS * 80];
    size_t n = 0;
    for (int i = 0; i < ROWS; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, PAIR("Name %d", "yes %d", "no\\u00e9 %d"), i, i * 7, i * 3);
    char path[64];
    pl_error err;
    pl_dataset *a = NULL, *b = NULL;
    pl_tokenizer *tok = open_golden("trl/llama");
    pl_data_options options = {.preference = true};
    rows_write(path, "", 0);
    gzFile gz = gzopen(path, "wb");
    assert_int_equal(gzwrite(gz, text, (unsigned)n), (int)n);
    assert_int_equal(gzclose(gz), Z_OK);
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
#endif
    assert_int_equal(pl_dataset_load(&a, path, &options, tok, 1000, &err), 0);
    unlink(path);
#ifdef _OPENMP
    omp_set_num_threads(4);
#endif
    b = load_text(text, &options, tok);
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    assert_int_equal(a->n, ROWS);
    assert_int_equal(a->nids, b->nids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->nids * sizeof *a->ids);
    assert_string_equal(a->hash.hex, b->hash.hex);
    assert_int_equal(b->rows[ROWS - 1].line, ROWS);
    assert_int_equal(b->rows[ROWS - 1].source, ROWS - 1);
    pl_dataset_free(b);

    /* The first error in the file is the one that is told, whichever thread met one first. */
    b = NULL;
    memcpy(strstr(text, "\"Name 700\""), "\"Name\\q00\"", 10);
    memcpy(strstr(text, "\"Name 701\""), "\"Name\\q00\"", 10);
    assert_int_equal(load_bytes(&b, text, n, &options, tok, 1000, &err), PL_E_FORMAT);
    assert_non_null(strstr(err.text, ":701: "));
    pl_dataset_free(a);
    pl_tokenizer_free(tok);
}

static void test_failing_allocations(void **state) {
    (void)state;
    const char *rows = PAIR("hell", "o", "ll") "{\"extra\":1,\"prompt\":\"a\",\"chosen\":\"ab\",\"rejected\":\"z\"}\n";
    char path[64];
    pl_error err;
    pl_tokenizer *tok = open_golden("data/pieces");
    pl_data_options options = {.preference = true};
    rows_write(path, rows, strlen(rows));
    int rc = PL_E_NOMEM;
    int64_t k = 0;
    for (; rc != 0; k++) {
        pl_dataset *d = NULL;
        int64_t live = pl_test_live_bytes();
        pl_test_fail_alloc_at(k);
        rc = pl_dataset_load(&d, path, &options, tok, 1000, &err);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && !d));
        pl_dataset_free(d);
        assert_int_equal(pl_test_live_bytes(), live);
    }
    assert_true(k > 10);
    unlink(path);
    pl_tokenizer_free(tok);
}

/* The real hh-rlhf file, where it lies beside the source tree: four empty answers, five pairs whose dialogues part
 * early. */
static void test_hh_rlhf(void **state) {
    (void)state;
    static log_text log;
    const char *path = PLUMB_TEST_DIR "/../../shared/data/hh-rlhf/harmless-base-test.jsonl.gz";
    if (!pl_file_exists(path)) {
        print_message("skipped: no %s\n", path);
        skip();
    }
    pl_error err;
    pl_dataset *d = NULL;
    pl_tokenizer *tok = open_golden("trl/llama");
    pl_data_options options = {.preference = true};
    log_begin(&log);
    int rc = pl_dataset_load(&d, path, &options, tok, 1000, &err);
    if (rc == 0) pl_dataset_log(d, "hh");
    log_end();
    if (rc != 0) fail_msg("%s", err.text);
    assert_int_equal(d->n, 2312);
    assert_int_equal(d->report.empty.n, 4);
    assert_int_equal(d->report.empty.lines[0], 87);
    assert_int_equal(d->report.differing.n, 5);
    assert_int_equal(d->report.differing.lines[4], 2037);
    assert_int_equal(d->report.further.n, 5);
    assert_int_equal(d->report.identical.n, 0);
    if (!strstr(log.text, "4 rows with an empty answer") || !strstr(log.text, "5 rows with differing prompts"))
        fail_msg("%s", log.text);
    pl_dataset_free(d);
    pl_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_decoded),
        cmocka_unit_test(test_seams),
        cmocka_unit_test(test_eos),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_zero_tokens),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_eos),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_hh_rlhf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
