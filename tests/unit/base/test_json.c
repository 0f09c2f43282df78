/* JSON: what is taken, what is refused and where, typed reads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "unit/alloc_hook.h"

static pl_json *parse(const char *text) {
    pl_json *v = NULL;
    pl_error e;
    if (pl_json_parse(&v, text, strlen(text), "t", &e)) fail_msg("%s: %s", text, e.text);
    return v;
}

static void values(void **state) {
    PL_UNUSED(state);
    pl_json *o = parse(
        " {\"i\": -9007199254740993, \"big\": 123456789012345678901, \"d\": 1e-3, \"n\": null, \"t\": true, \"f\": "
        "false,"
        "\"s\": \"a\\u0000\\u00e9\\ud83d\\ude00\\ud800\\udc00\\uDBFF\\uDFFFx\", \"nan\": NaN, \"inf\": -Infinity, "
        "\"a\": [1, [2], {}]} \n");
    assert_int_equal(pl_json_kind_of(o), PL_J_OBJECT);
    assert_int_equal(pl_json_len(o), 10);
    assert_true(pl_json_int(pl_json_get(o, "i")) == -9007199254740993);
    assert_true(pl_json_int(pl_json_get(o, "big")) == INT64_MAX); /* saturates */
    assert_true(pl_json_double(pl_json_get(o, "d")) == 1e-3);
    assert_true(pl_json_int(pl_json_get(o, "d")) == 0);
    assert_true(pl_json_double(pl_json_get(o, "i")) == -9007199254740992.0);
    assert_true(pl_json_has(o, "n") && pl_json_get(o, "n") == NULL);
    assert_false(pl_json_has(o, "absent"));
    assert_true(pl_json_bool(pl_json_get(o, "t")) && !pl_json_bool(pl_json_get(o, "f")));
    size_t n = 0;
    const char *s = pl_json_string(pl_json_get(o, "s"), &n);
    assert_int_equal(n, 17);
    assert_memory_equal(s, "a\0\xC3\xA9\xF0\x9F\x98\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBFx", 17);
    assert_true(isnan(pl_json_double(pl_json_get(o, "nan"))));
    assert_true(isinf(pl_json_double(pl_json_get(o, "inf"))));
    pl_json *a = pl_json_get(o, "a");
    assert_int_equal(pl_json_len(a), 3);
    assert_int_equal(pl_json_int(pl_json_at(a, 0)), 1);
    assert_int_equal(pl_json_kind_of(pl_json_at(a, 2)), PL_J_OBJECT);
    assert_null(pl_json_at(a, 3));
    assert_null(pl_json_at(a, -1));
    assert_null(pl_json_at(o, 0));
    assert_null(pl_json_get(a, "x"));
    assert_null(pl_json_string(a, NULL));
    assert_int_equal(pl_json_len(NULL), 0);
    assert_int_equal(pl_json_kind_of(NULL), PL_J_NULL);
    static const char *const keys[] = {"i", "big", "d", "n", "t", "f", "s", "nan", "inf", "a"};
    int64_t k = 0;
    for (pl_json_iter it = pl_json_first(o); it.key; it = pl_json_next(it)) assert_string_equal(it.key, keys[k++]);
    assert_int_equal(k, 10);
    assert_null(pl_json_first(a).key);
    pl_json_free(o);
    pl_json_free(NULL);
}

static void scalars(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *text;
        pl_json_kind kind;
    } cases[] = {{"12", PL_J_INT},      {" -0 ", PL_J_INT},        {"1.5", PL_J_DOUBLE},
                 {"1E+2", PL_J_DOUBLE}, {"\"x\"", PL_J_STRING},    {"true", PL_J_BOOL},
                 {"[]", PL_J_ARRAY},    {"Infinity", PL_J_DOUBLE}, {"1e400", PL_J_DOUBLE}};
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_json *v = parse(cases[i].text);
        assert_int_equal(pl_json_kind_of(v), cases[i].kind);
        pl_json_free(v);
    }
}

static void refused(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "line 1, column 1: the text ends here"},
        {"{\"a\": 1", "',' or '}' is expected"},
        {"{\"a\" 1}", "':' is expected"},
        {"{a: 1}", "a key in double quotes"},
        {"{'a': 1}", "a key in double quotes"},
        {"{\"a\": 1,}", "column 9: a key in double quotes"},
        {"[1,]", "column 4: a value is expected"},
        {"[1 2]", "',' or ']'"},
        {"\n[1,\n x]", "line 3, column 2: a value is expected here: `x]`"},
        {"{} {}", "line 1, column 4: more text behind the end"},
        {"01", "superfluous zero"},
        {"-", "a digit is expected"},
        {"+1", "a value is expected"},
        {"1.", "behind the decimal point"},
        {".5", "a value is expected"},
        {"1e", "in the exponent"},
        {"0x10", "more text behind"},
        {"nul", "a value is expected"},
        {"True", "a value is expected"},
        {"nan", "a value is expected"},
        {"-inf", "a digit is expected"},
        {"null", "nothing but `null`"},
        {"/* c */ 1", "a value is expected"},
        {"\"a", "a string has no end"},
        {"\"a\\x\"", "an unknown escape"},
        {"\"\\u12g4\"", "four hex digits"},
        {"\"\\u12", "four hex digits"},
        {"\"ab\\ud800x\"", "column 4: half of a surrogate pair"}, /* json-c: U+FFFD */
        {"\"\\ud800\"", "half of a surrogate pair"},
        {"\"\\uDBFF\\n\"", "half of a surrogate pair"},
        {"\"\\ud83d\\ud83d\\ude00\"", "column 2: half of a surrogate pair"},
        {"\"\\ud83d\\ude00\\ude00\"", "column 14: half of a surrogate pair"},
        {"\"\\udc00\\ud800\"", "column 2: half of a surrogate pair"},
        {"\"\\ud83d\\ue000\"", "half of a surrogate pair"},
        {"\"\\ud83d\\u00e9\"", "half of a surrogate pair"},
        {"\"\\ud83d\\\\ude00\"", "half of a surrogate pair"}, /* a backslash and five letters */
        {"\"\\ud83d\\ude0", "half of a surrogate pair"},
        {"\"\\ud83d", "half of a surrogate pair"},
        {"{\"\\udfff\": 1}", "half of a surrogate pair"},
        {"\"a\tb\"", "control character"},
        {"\"\xC3(\"", "column 2: bytes that are not UTF-8"},
        {"\"\xED\xA0\x80\"", "not UTF-8"},
        {"\xEF\xBB\xBF{}", "a value is expected"},
        {"{\"a\\u0000b\": 1}", "not supported"},
        {"{\"a\": 1, \"b\": {\"a\": 1}, \"a\": 2}", "column 25: the same key a second time in one object: `\"a\": 2}`"},
        {"[{\"x\": 1, \"\\u0078\": 2}]", "the same key a second time"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error e = {0};
        pl_json *v = NULL;
        int rc = pl_json_parse(&v, cases[i].text, strlen(cases[i].text), "file", &e);
        if (rc != PL_E_FORMAT || v) fail_msg("`%s`: rc %d", cases[i].text, rc);
        if (strncmp(e.text, "file: ", 6) != 0 || !strstr(e.text, cases[i].part))
            fail_msg("`%s`: %s", cases[i].text, e.text);
    }
}

static void lengths_count(void **state) {
    PL_UNUSED(state);
    pl_json *v = NULL;
    pl_error e;
    static const char text[] = {'[', '1', ']', 'x', 'x'};
    assert_int_equal(pl_json_parse(&v, text, 3, "t", &e), 0); /* nothing behind n is read */
    pl_json_free(v);
    assert_int_equal(pl_json_parse(&v, "12345", 2, "t", &e), 0);
    assert_int_equal(pl_json_int(v), 12);
    pl_json_free(v);
    v = NULL;
    assert_int_equal(pl_json_parse(&v, "[1]\0", 4, "t", &e), PL_E_FORMAT);
    assert_null(v);
}

static void depth(void **state) {
    PL_UNUSED(state);
    char text[400];
    for (int n = 63; n <= 66; n++) {
        for (int objects = 0; objects < 2; objects++) {
            pl_buf b = {0};
            pl_json *v = NULL;
            pl_error e;
            for (int i = 0; i < n; i++) assert_int_equal(pl_buf_puts(&b, objects ? "{\"a\":" : "[", &e), 0);
            assert_int_equal(pl_buf_puts(&b, "1", &e), 0);
            for (int i = 0; i < n; i++) assert_int_equal(pl_buf_puts(&b, objects ? "}" : "]", &e), 0);
            assert_int_equal(pl_json_parse(&v, b.data, b.len, "t", &e), n <= 64 ? 0 : PL_E_FORMAT);
            pl_json_free(v);
            pl_buf_release(&b);
        }
    }
    memset(text, '[', sizeof text);
    pl_json *v = NULL;
    assert_int_equal(pl_json_parse(&v, text, sizeof text, "t", NULL), PL_E_FORMAT);
}

static void members(void **state) {
    PL_UNUSED(state);
    pl_json *o = parse("{\"i\": 7, \"d\": 0.5, \"b\": true, \"s\": \"x\", \"n\": null}");
    pl_error e;
    int64_t i = 1;
    double d = 1;
    bool b = false;
    const char *s = "kept";
    size_t n = 9;
    assert_int_equal(pl_json_member_int(o, "i", true, &i, "c", &e), 0);
    assert_int_equal(i, 7);
    assert_int_equal(pl_json_member_int(o, "n", false, &i, "c", &e), 0);
    assert_int_equal(pl_json_member_int(o, "absent", false, &i, "c", &e), 0);
    assert_int_equal(i, 7);
    assert_int_equal(pl_json_member_int(o, "absent", true, &i, "c", &e), PL_E_FORMAT);
    assert_string_equal(e.text, "c: \"absent\" is missing, want an integer");
    assert_int_equal(pl_json_member_int(o, "n", true, &i, "c", &e), PL_E_FORMAT);
    assert_string_equal(e.text, "c: \"n\" is null, want an integer");
    assert_int_equal(pl_json_member_int(o, "d", false, &i, "c", &e), PL_E_FORMAT);
    assert_string_equal(e.text, "c: \"d\" is a number, want an integer");
    assert_int_equal(pl_json_member_double(o, "d", true, &d, "c", &e), 0);
    assert_true(d == 0.5);
    assert_int_equal(pl_json_member_double(o, "i", true, &d, "c", &e), 0);
    assert_true(d == 7);
    assert_int_equal(pl_json_member_double(o, "s", true, &d, "c", &e), PL_E_FORMAT);
    assert_int_equal(pl_json_member_bool(o, "b", true, &b, "c", &e), 0);
    assert_true(b);
    assert_int_equal(pl_json_member_bool(o, "i", true, &b, "c", &e), PL_E_FORMAT);
    assert_int_equal(pl_json_member_string(o, "n", false, &s, &n, "c", &e), 0);
    assert_string_equal(s, "kept");
    assert_int_equal(pl_json_member_string(o, "s", true, &s, &n, "c", &e), 0);
    assert_string_equal(s, "x");
    assert_int_equal(n, 1);
    assert_int_equal(pl_json_member_string(o, "i", true, &s, &n, "c", &e), PL_E_FORMAT);
    assert_int_equal(pl_json_member_string(NULL, "i", true, &s, &n, "c", &e), PL_E_FORMAT);
    pl_json_free(o);
}

static void from_file(void **state) {
    PL_UNUSED(state);
    char path[64];
    pl_json *v = NULL;
    pl_error e;
    snprintf(path, sizeof path, "/tmp/plumb-json-%ld.json", (long)getpid());
    assert_int_equal(pl_file_write(path, "{\"a\": 1}\n", 9, &e), 0);
    assert_int_equal(pl_json_load(&v, path, 100, &e), 0);
    pl_json_free(v);
    v = NULL;
    assert_int_equal(pl_json_load(&v, path, 8, &e), PL_E_RANGE);
    pl_test_fail_alloc_at(0);
    assert_int_equal(pl_json_load(&v, path, 100, &e), PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    unlink(path);
    assert_int_equal(pl_json_load(&v, path, 100, &e), PL_E_IO);
    assert_null(v);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* A vocabulary of 60,000 keys; and twice the same key far apart. Quadratic work would take minutes, the bound is
 * seconds. */
static void many_keys(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    pl_json *v = NULL;
    clock_t from = clock();
    for (int i = 0; i < 60000; i++)
        assert_int_equal(pl_buf_printf(&b, &e, "%c\"token%d\":%d", i ? ',' : '{', i == 59999 ? 0 : i, i), 0);
    assert_int_equal(pl_buf_puts(&b, "}", &e), 0);
    assert_int_equal(pl_json_parse(&v, b.data, b.len, "t", &e), PL_E_FORMAT);
    assert_non_null(strstr(e.text, "`\"token0\":59999}`"));
    memcpy(strstr(b.data, "\"token0\""), "\"tokenX\"", 8);
    assert_int_equal(pl_json_parse(&v, b.data, b.len, "t", &e), 0);
    assert_int_equal(pl_json_len(v), 60000);
    pl_json_free(v);
    pl_buf_release(&b);
    assert_true((double)(clock() - from) / CLOCKS_PER_SEC < 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),        cmocka_unit_test(scalars),   cmocka_unit_test(refused),
        cmocka_unit_test(lengths_count), cmocka_unit_test(depth),     cmocka_unit_test(members),
        cmocka_unit_test(from_file),     cmocka_unit_test(many_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
