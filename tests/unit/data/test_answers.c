/* test_answers.c: GSM8K's problems and solutions as rows, and files of answers to be scored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "data/answers.h"
#include "data/gsm8k.h"
#include "unit/alloc_hook.h"

#define FILE_NAME "answers_test.jsonl"

static void put(const char *text) { assert_int_equal(pl_file_write(FILE_NAME, text, strlen(text), NULL), 0); }

static void check_solution(const char *from, const char *want) {
    pl_buf b = {0};
    assert_int_equal(pl_gsm8k_solution(&b, from, strlen(from), NULL), 0);
    assert_string_equal(b.data, want);
    pl_buf_release(&b);
}

static void solutions(void **state) {
    (void)state;
    check_solution("A 48/2 = <<48/2=24>>24.\n#### 24", "A 48/2 = 24.\n#### 24");
    check_solution("It is 3\nA: 3\n\n", "It is 3\n#### 3");
    check_solution("A: 3", "#### 3");
    check_solution("A: not the last\nso", "A: not the last\nso");
    check_solution("no end <<1+1", "no end <<1+1");
}

#define PROBLEM(Q, A) "{\"question\": \"" Q "\", \"answer\": \"" A "\"}\n"

static const char problems[] = PROBLEM("How many?", "6 and 6 are <<6+6=12>>12.\\nSo 112 less 12, not 12.5.\\n#### 12")
    PROBLEM("How much?", "It is 1,000.\\n#### 1,000") "\n" PROBLEM("Then?", "It is 12.\\n#### 12");

static void made(pl_buf *out, pl_gsm8k_report *r, int64_t wrong, uint64_t seed) {
    pl_gsm8k_options o = {.wrong = wrong, .seed = seed};
    bool is = false;
    pl_error e;
    if (pl_gsm8k_rows(out, r, &is, FILE_NAME, &o, &e)) fail_msg("%s", e.text);
    assert_true(is);
}

/* Wrong answers are wrong: another problem's has another number at its end, a perturbed one too. */
static void wrong_answers(void **state) {
    (void)state;
    pl_buf a = {0}, b = {0}, c = {0};
    pl_gsm8k_report r;
    put(problems);
    made(&a, &r, 4, 7);
    assert_int_equal(r.problems, 3);
    assert_int_equal(r.right, 3);
    assert_int_equal(r.foreign, 6);
    assert_int_equal(r.perturbed, 6);
    int64_t lines = 0;
    for (char *line = a.data, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        *end = 0;
        bool first = strstr(line, "How many?") || strstr(line, "Then?");
        bool right = strstr(line, "\"label\":true") != NULL;
        const char *last = strstr(line, first ? "#### 12\"" : "#### 1,000\"");
        if (right != (last != NULL)) fail_msg("%s", line);
        assert_null(strstr(line, "<<"));
        if (strstr(line, "perturbed") && strstr(line, "How many?")) { /* 112 and 12.5 are other numbers */
            assert_non_null(strstr(line, "So 112 less "));
            assert_non_null(strstr(line, "not 12.5."));
            assert_non_null(strstr(line, "6 and 6 are 12.")); /* the slip is in the last step */
        }
        *end = '\n';
    }
    assert_int_equal(lines, 15);
    made(&b, &r, 4, 7);
    assert_string_equal(a.data, b.data);
    made(&c, &r, 4, 8);
    assert_string_not_equal(a.data, c.data);
    pl_buf_release(&a);
    pl_buf_release(&b);
    pl_buf_release(&c);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void other_files(void **state) {
    (void)state;
    pl_buf b = {0};
    pl_gsm8k_report r;
    pl_gsm8k_options o = {.wrong = 1};
    bool is = true;
    pl_error e;
    put("{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n");
    assert_int_equal(pl_gsm8k_rows(&b, &r, &is, FILE_NAME, &o, &e), 0);
    assert_false(is);
    put(PROBLEM("q", "a\\n#### 1") "{\"question\": \"q\"}\n");
    assert_int_equal(pl_gsm8k_rows(&b, &r, &is, FILE_NAME, &o, &e), PL_E_FORMAT);
    assert_non_null(strstr(e.text, FILE_NAME ":2"));
    pl_buf_release(&b);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void load(pl_answers *a, const char *text, int64_t max_rows) {
    pl_error e;
    put(text);
    if (pl_answers_load(a, FILE_NAME, max_rows, &e)) fail_msg("%s", e.text);
}

static void check_text(const pl_answers *a, int64_t i, const char *prompt, const char *text) {
    const pl_answer *x = &a->answer[i];
    assert_int_equal(x->prompt_n, strlen(prompt));
    assert_memory_equal(a->texts.data + x->prompt_at, prompt, x->prompt_n);
    assert_int_equal(x->text_n, strlen(text));
    assert_memory_equal(a->texts.data + x->text_at, text, x->text_n);
}

static void forms(void **state) {
    (void)state;
    pl_answers a = {0};
    load(&a,
         "{\"prompt\":\"q\",\"completion\":\"x\",\"label\":true}\n\n{\"prompt\":\"p\",\"completion\":\"y\"}\n"
         "{\"prompt\":\"q\",\"completion\":\"\",\"label\":0}\n",
         0);
    assert_int_equal(a.form, PL_ANSWERS_ONE);
    assert_true(a.n == 3 && a.nrows == 3 && a.nprompts == 2);
    check_text(&a, 2, "q", "");
    assert_true(a.answer[0].prompt == 0 && a.answer[1].prompt == 1 && a.answer[2].prompt == 0);
    assert_true(a.answer[0].label == 1 && a.answer[1].label == -1 && a.answer[2].label == 0);
    pl_answers_release(&a);

    load(&a,
         "{\"prompt\":\"q\",\"completions\":[\"x\",\"y\"],\"labels\":[1,false]}\n{\"prompt\":\"r\",\"completions\":[]}"
         "\n",
         0);
    assert_true(a.form == PL_ANSWERS_LIST && a.n == 2 && a.nrows == 2 && a.first[1] == 2 && a.first[2] == 2);
    check_text(&a, 1, "q", "y");
    pl_answers_release(&a);

    load(&a,
         "{\"prompt\":\"q\",\"chosen\":\"x\",\"rejected\":\"y\"}\n{\"prompt\":\"q\",\"chosen\":\"x\",\"rejected\":"
         "\"y\"}\n",
         1);
    assert_true(a.form == PL_ANSWERS_PAIR && a.n == 2 && a.nrows == 1);
    pl_answers_release(&a);

    load(&a, "{\"chosen\":\"\\n\\nHuman: a\\n\\nAssistant: b\",\"rejected\":\"\\n\\nHuman: a\\n\\nAssistant: c\"}\n",
         0);
    check_text(&a, 1, "\n\nHuman: a\n\nAssistant:", " c");
    pl_answers_release(&a);

    load(&a,
         "{\"question\":\"q\",\"ground_truth\":\"g\",\"m\":{\"is_correct\":true,\"solution\":\"s\\nA: 1\"},"
         "\"n\":{\"is_correct\":false,\"solution\":\"A: 2\"}}\n",
         0);
    assert_true(a.form == PL_ANSWERS_SOLUTIONS && a.n == 2 && a.nprompts == 1);
    check_text(&a, 0, "Question: q\nAnswer:\n", "s\n#### 1");
    assert_true(a.answer[0].label == 1 && a.answer[1].label == 0);
    pl_answers_release(&a);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void refusals(void **state) {
    (void)state;
    static const char *const bad[] = {"{\"text\":\"a\"}\n",
                                      "[1]\n",
                                      "{\"prompt\":\"q\",\"completion\":1}\n",
                                      "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":2}\n",
                                      "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":\"x\"}\n",
                                      "{\"prompt\":\"q\",\"completions\":\"a\"}\n",
                                      "{\"prompt\":\"q\",\"completions\":[\"a\"],\"labels\":[]}\n",
                                      "{\"prompt\":\"q\",\"completions\":[1]}\n"};
    for (int64_t i = 0; i < PL_LEN(bad); i++) {
        pl_answers a = {0};
        pl_error e;
        put(bad[i]);
        if (pl_answers_load(&a, FILE_NAME, 0, &e) != PL_E_FORMAT) fail_msg("%s is taken", bad[i]);
        if (!strstr(e.text, FILE_NAME ":1")) fail_msg("%s: no place in: %s", bad[i], e.text);
    }
    put("\n");
    pl_answers a = {0};
    assert_int_equal(pl_answers_load(&a, FILE_NAME, 0, NULL), PL_E_RANGE);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void memory(void **state) {
    (void)state;
    put("{\"prompt\":\"q\",\"completion\":\"x\",\"label\":true}\n{\"prompt\":\"p\",\"completion\":\"y\"}\n");
    for (int64_t k = 0, rc = PL_E_NOMEM; rc != 0; k++) {
        pl_answers a = {0};
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = pl_answers_load(&a, FILE_NAME, 0, &e);
        pl_test_fail_alloc_at(-1);
        if (rc != 0 && rc != PL_E_NOMEM) fail_msg("allocation %d: %s", (int)k, e.text);
        if (rc == 0) pl_answers_release(&a);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    put(problems);
    for (int64_t k = 0, rc = PL_E_NOMEM; rc != 0; k++) {
        pl_buf b = {0};
        pl_gsm8k_report r;
        pl_gsm8k_options o = {.wrong = 2};
        pl_error e;
        bool is = false;
        pl_test_fail_alloc_at(k);
        rc = pl_gsm8k_rows(&b, &r, &is, FILE_NAME, &o, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == PL_E_NOMEM || (rc == 0 && is));
        pl_buf_release(&b);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    unlink(FILE_NAME);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(solutions),   cmocka_unit_test(wrong_answers),
                                       cmocka_unit_test(other_files), cmocka_unit_test(forms),
                                       cmocka_unit_test(refusals),    cmocka_unit_test(memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
