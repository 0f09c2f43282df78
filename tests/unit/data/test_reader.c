/* Columns of a row to texts: the forms, the hh-rlhf split, and every refusal with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "data/reader.h"

static pl_json *parse(const char *text) {
    pl_error err;
    pl_json *json = NULL;
    assert_int_equal(pl_json_parse(&json, text, strlen(text), "test", &err), 0);
    return json;
}

static void check_slice(pl_slice s, const char *want) {
    assert_int_equal(s.n, strlen(want));
    assert_memory_equal(s.s, want, s.n);
}

/* Form from the row itself, then the row's texts; borrowed from *json. */
static int read_alone(pl_row_text *t, pl_row_form *form, pl_json **json, const char *text, bool preference,
                      pl_error *err) {
    pl_data_options options = {.preference = preference};
    *json = parse(text);
    int rc = pl_row_form_of(form, *json, &options, "f.jsonl:7", err);
    return rc != 0 ? rc : pl_row_read(t, *json, form, "f.jsonl:7", err);
}

static void test_forms(void **state) {
    (void)state;
    pl_error err;
    pl_row_text t;
    pl_row_form form;
    pl_json *json;
    assert_int_equal(
        read_alone(&t, &form, &json, "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"score\":3}", true, &err),
        0);
    assert_int_equal(form.kind, PL_DATA_PREFERENCE);
    assert_false(form.transcripts);
    assert_int_equal(t.answers, 2);
    check_slice(t.prompt, "p");
    check_slice(t.answer[0], "c");
    check_slice(t.answer[1], "r");
    assert_false(t.empty || t.identical || t.differing || t.further_turn || t.repeated);
    assert_true(pl_row_form_uses(&form, "prompt"));
    assert_false(pl_row_form_uses(&form, "score"));
    assert_false(pl_row_form_uses(&form, "completion"));
    pl_json_free(json);

    assert_int_equal(
        read_alone(&t, &form, &json, "{\"prompt\":\"p\",\"completion\":\"c\",\"text\":\"x\"}", false, &err), 0);
    assert_int_equal(form.kind, PL_DATA_COMPLETION);
    assert_int_equal(t.answers, 1);
    check_slice(t.answer[0], "c");
    assert_false(pl_row_form_uses(&form, "text"));
    pl_json_free(json);

    assert_int_equal(read_alone(&t, &form, &json, "{\"text\":\"a\\u0000b\"}", false, &err), 0);
    assert_int_equal(form.kind, PL_DATA_TEXT);
    assert_int_equal(t.prompt.n, 0);
    assert_int_equal(t.answer[0].n, 3);
    assert_memory_equal(t.answer[0].s, "a\0b", 3);
    pl_json_free(json);
}

static void test_flags(void **state) {
    (void)state;
    static const struct {
        const char *row;
        bool empty, identical, repeated;
    } cases[] = {
        {"{\"prompt\":\"p\",\"chosen\":\" \",\"rejected\":\"r\"}", true, false, false},
        {"{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"\"}", true, false, false},
        {"{\"prompt\":\"p\",\"chosen\":\"\\u00a0\\u3000\\n\\t\",\"rejected\":\"r\"}", true, false, false},
        {"{\"prompt\":\"p\",\"chosen\":\"\\u200b\",\"rejected\":\"r\"}", false, false, false},
        {"{\"prompt\":\"p\",\"chosen\":\"same\",\"rejected\":\"same\"}", false, true, false},
        {"{\"prompt\":\"p\",\"chosen\":\"same\",\"rejected\":\"same \"}", false, false, false},
        {"{\"prompt\":\"Hi\",\"chosen\":\"Hi you\",\"rejected\":\"Hi me\"}", false, false, true},
        {"{\"prompt\":\"Hi\",\"chosen\":\"Hi you\",\"rejected\":\"me\"}", false, false, false},
        {"{\"prompt\":\"\",\"chosen\":\"a\",\"rejected\":\"b\"}", false, false, false},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error err;
        pl_row_text t;
        pl_row_form form;
        pl_json *json;
        assert_int_equal(read_alone(&t, &form, &json, cases[i].row, true, &err), 0);
        assert_int_equal(t.empty, cases[i].empty);
        assert_int_equal(t.identical, cases[i].identical);
        assert_int_equal(t.repeated, cases[i].repeated);
        pl_json_free(json);
    }
}

static void test_transcripts(void **state) {
    (void)state;
#define DIALOGUE "\\n\\nHuman: Hi\\n\\nAssistant: Hello\\n\\nHuman: What?\\n\\nAssistant:"
#define PROMPT "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What?\n\nAssistant:"
#define FIRST "\n\nHuman: Hi\n\nAssistant:"
    static const struct {
        const char *chosen, *rejected, *prompt, *answer0, *answer1;
        bool differing, further, empty, identical;
    } cases[] = {
        {DIALOGUE " Yes", DIALOGUE " No", PROMPT, " Yes", " No", false, false, false, false},
        /* a shared beginning of the answers stays with the answers */
        {DIALOGUE " Not so", DIALOGUE " Nothing", PROMPT, " Not so", " Nothing", false, false, false, false},
        {DIALOGUE " ", DIALOGUE " No", PROMPT, " ", " No", false, false, true, false},
        {DIALOGUE " No", DIALOGUE " No", PROMPT, " No", " No", false, false, false, true},
        /* the dialogues part after the first answer: both hold further turns */
        {"\\n\\nHuman: Hi\\n\\nAssistant: A\\n\\nHuman: x\\n\\nAssistant: B", "\\n\\nHuman: Hi\\n\\nAssistant: C",
         FIRST, " A\n\nHuman: x\n\nAssistant: B", " C", true, true, false, false},
        {"\\n\\nHuman: Hi\\n\\nAssistant: A", "\\n\\nHuman: Hi\\n\\nAssistant: C\\n\\nAssistant: D", FIRST, " A",
         " C\n\nAssistant: D", true, true, false, false},
        /* a human turn without an answer is a further turn, but no other prompt */
        {"\\n\\nHuman: Hi\\n\\nAssistant: A\\n\\nHuman: x", "\\n\\nHuman: Hi\\n\\nAssistant: C", FIRST,
         " A\n\nHuman: x", " C", false, true, false, false},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        char row[512];
        snprintf(row, sizeof row, "{\"chosen\":\"%s\",\"rejected\":\"%s\"}", cases[i].chosen, cases[i].rejected);
        pl_error err;
        pl_row_text t;
        pl_row_form form;
        pl_json *json;
        assert_int_equal(read_alone(&t, &form, &json, row, true, &err), 0);
        assert_true(form.transcripts);
        check_slice(t.prompt, cases[i].prompt);
        check_slice(t.answer[0], cases[i].answer0);
        check_slice(t.answer[1], cases[i].answer1);
        assert_int_equal(t.differing, cases[i].differing);
        assert_int_equal(t.further_turn, cases[i].further);
        assert_int_equal(t.empty, cases[i].empty);
        assert_int_equal(t.identical, cases[i].identical);
        pl_json_free(json);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *row;
        bool preference;
        int code;
        const char *says;
    } cases[] = {
        {"[1]", true, PL_E_FORMAT, "an array"},
        {"\"text\"", false, PL_E_FORMAT, "a string"},
        {"{}", true, PL_E_FORMAT, "no columns"},
        {"{\"prompt\":\"p\",\"chosen\":\"c\",\"label\":1}", true, PL_E_FORMAT, "\"label\""},
        {"{\"prompt\":\"p\",\"completion\":\"c\"}", true, PL_E_FORMAT, "\"completion\""},
        {"{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}", false, PL_E_FORMAT, "preference file"},
        {"{\"completion\":\"c\"}", false, PL_E_FORMAT, "prompt and completion"},
        {"{\"prompt\":3,\"chosen\":\"c\",\"rejected\":\"r\"}", true, PL_E_FORMAT, "\"prompt\" is an integer"},
        {"{\"prompt\":\"p\",\"chosen\":null,\"rejected\":\"r\"}", true, PL_E_FORMAT, "\"chosen\" is null"},
        {"{\"prompt\":null,\"chosen\":\"a\",\"rejected\":\"r\"}", true, PL_E_FORMAT, "\"prompt\" is null"},
        {"{\"text\":true}", false, PL_E_FORMAT, "\"text\" is a boolean"},
        {"{\"prompt\":\"p\",\"chosen\":[{\"role\":\"user\",\"content\":\"x\"}],\"rejected\":[]}", true,
         PL_E_UNSUPPORTED, "chat template"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", false, PL_E_UNSUPPORTED, "\"messages\""},
        {"{\"conversations\":[]}", false, PL_E_UNSUPPORTED, "\"conversations\""},
        {"{\"chosen\":\"a b\",\"rejected\":\"a c\"}", true, PL_E_FORMAT, "add a prompt column"},
        {"{\"chosen\":\"x\\n\\nAssistant: b\",\"rejected\":\"y\\n\\nAssistant: c\"}", true, PL_E_FORMAT,
         "add a prompt column"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error err;
        pl_row_text t;
        pl_row_form form;
        pl_json *json;
        assert_int_equal(read_alone(&t, &form, &json, cases[i].row, cases[i].preference, &err), cases[i].code);
        if (!strstr(err.text, cases[i].says) || !strstr(err.text, "f.jsonl:7: "))
            fail_msg("row %d: \"%s\" does not say \"%s\"", (int)i, err.text, cases[i].says);
        pl_json_free(json);
    }
}

/* Rows that are fine alone, but not behind a first row of another form. */
static void test_later_rows(void **state) {
    (void)state;
    pl_error err;
    pl_row_text t;
    pl_row_form transcripts = {.kind = PL_DATA_PREFERENCE, .transcripts = true, .text_field = "text"};
    pl_row_form pairs = {.kind = PL_DATA_PREFERENCE, .text_field = "text"};
    pl_json *with = parse("{\"prompt\":\"p\",\"chosen\":\"\\n\\nAssistant: a\",\"rejected\":\"\\n\\nAssistant: b\"}");
    pl_json *without = parse("{\"chosen\":\"\\n\\nAssistant: a\",\"rejected\":\"\\n\\nAssistant: b\"}");
    assert_int_equal(pl_row_read(&t, with, &transcripts, "f:2", &err), PL_E_FORMAT);
    assert_int_equal(pl_row_read(&t, without, &pairs, "f:2", &err), PL_E_FORMAT);
    assert_non_null(strstr(err.text, "\"prompt\" is missing"));
    assert_int_equal(pl_row_read(&t, with, &pairs, "f:2", &err), 0);
    assert_int_equal(pl_row_read(&t, without, &transcripts, "f:2", &err), 0);
    pl_json_free(with);
    pl_json_free(without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),    cmocka_unit_test(test_flags),      cmocka_unit_test(test_transcripts),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_later_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
