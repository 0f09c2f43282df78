/* YAML: what is read, with lines; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/yaml.h"
#include "unit/alloc_hook.h"

static const char recipe[] =
    "# comment\n---\nmodel: a/b  # more\nlr: 1e-5\nquoted: 'no'\n\nlist:\n- a\n- \"b c\"\n-\nflow: [1, 2.5]\n"
    "empty:\ntext: |\n  two\n  lines\nenv:\n  A: 1\n  B: ~\nnone: []\nlast: on\n";

static void reading(void **state) {
    PL_UNUSED(state);
    pl_yaml y = {0};
    pl_error e;
    if (pl_yaml_parse(&y, recipe, sizeof recipe - 1, "r.yaml", &e)) fail_msg("%s", e.text);
    static const struct {
        const char *key;
        int64_t line;
        pl_yaml_kind kind;
        int64_t n;
        const char *first;
    } want[] = {{"model", 3, PL_Y_SCALAR, 1, "a/b"},
                {"lr", 4, PL_Y_SCALAR, 1, "1e-5"},
                {"quoted", 5, PL_Y_SCALAR, 1, "no"},
                {"list", 7, PL_Y_LIST, 3, "a"},
                {"flow", 11, PL_Y_LIST, 2, "1"},
                {"empty", 12, PL_Y_SCALAR, 1, ""},
                {"text", 13, PL_Y_SCALAR, 1, "two\nlines\n"},
                {"env", 16, PL_Y_MAP, 2, "1"},
                {"none", 19, PL_Y_LIST, 0, NULL},
                {"last", 20, PL_Y_SCALAR, 1, "on"}};
    assert_int_equal(y.n, PL_LEN(want));
    for (int64_t i = 0; i < y.n; i++) {
        const pl_yaml_entry *x = &y.entries[i];
        assert_string_equal(x->key, want[i].key);
        assert_int_equal(x->line, want[i].line);
        assert_int_equal(x->kind, want[i].kind);
        assert_int_equal(x->n, want[i].n);
        if (want[i].first) assert_string_equal(x->items[0].text, want[i].first);
    }
    bool value = true;
    assert_true(y.entries[2].items[0].quoted && !pl_yaml_is_bool(&y.entries[2].items[0], &value));
    assert_true(pl_yaml_is_bool(&y.entries[9].items[0], &value) && value);
    assert_true(pl_yaml_is_null(&y.entries[5].items[0]));
    assert_true(pl_yaml_is_null(&y.entries[3].items[2]));
    assert_true(y.entries[3].items[1].quoted && y.entries[6].items[0].quoted && !y.entries[1].items[0].quoted);
    assert_string_equal(y.entries[7].items[1].key, "B");
    assert_true(pl_yaml_is_null(&y.entries[7].items[1]));
    assert_int_equal(y.entries[7].items[1].line, 18);
    pl_yaml_release(&y);
    pl_yaml_release(&y);
    pl_yaml_release(NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void typing(void **state) {
    PL_UNUSED(state);
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"};
    static const char *const neither[] = {"y", "n", "yEs", "1", "", "tRUE"};
    static const char *const null[] = {"", "~", "null", "Null", "NULL"};
    static const char *const text[] = {"none", "None", "nULL", "0"};
    bool v = false;
#define SCALAR(s) (&(pl_yaml_scalar){.text = (char *)(uintptr_t)(s)})
    for (int64_t i = 0; i < PL_LEN(yes); i++) assert_true(pl_yaml_is_bool(SCALAR(yes[i]), &v) && v);
    for (int64_t i = 0; i < PL_LEN(no); i++) assert_true(pl_yaml_is_bool(SCALAR(no[i]), &v) && !v);
    for (int64_t i = 0; i < PL_LEN(neither); i++) assert_false(pl_yaml_is_bool(SCALAR(neither[i]), &v));
    for (int64_t i = 0; i < PL_LEN(null); i++) assert_true(pl_yaml_is_null(SCALAR(null[i])));
    for (int64_t i = 0; i < PL_LEN(text); i++) assert_false(pl_yaml_is_null(SCALAR(text[i])));
}

static void empty_files(void **state) {
    PL_UNUSED(state);
    static const char *const texts[] = {"", "\n\n", "# only a comment\n", "---\n", "{}", "\xEF\xBB\xBF"};
    for (int64_t i = 0; i < PL_LEN(texts); i++) {
        pl_yaml y = {0};
        pl_error e;
        if (pl_yaml_parse(&y, texts[i], strlen(texts[i]), "t", &e)) fail_msg("%d: %s", (int)i, e.text);
        assert_int_equal(y.n, 0);
        pl_yaml_release(&y);
    }
}

static void refused(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"a: 1\nb: 2\na: 3\n", "t:3: `a` is given a second time (first in line 1)"},
        {"a:\n- *x\n", "t:2: aliases are not supported"},
        {"a:\n- [*x]\n", "t:2: aliases are not supported"},
        {"a:\n- [1\n", "t:3: "},
        {"env:\n  a: 1\n  a: 2\n", "t:3: given a second time: `a`"},
        {"env: {[1]: 2}\n", "only plain values"},
        {"a: &x 1\n", "t:1: anchors are not supported"},
        {"a: &x [1]\n", "anchors and tags"},
        {"a: 1\nb: *x\n", "t:2: "},
        {"a: !!str 1\n", "t:1: tags are not supported"},
        {"- a\n- b\n", "t:1: `key: value` lines are wanted"},
        {"just text\n", "t:1: `key: value` lines are wanted"},
        {"a: 1\n---\nb: 2\n", "t:2: a second document"},
        {"[a]: 1\n", "a key must be a plain word"},
        {"a: 'x\n", "t:2: "},
        {"a: 1\n b: 2\n", "t:2: "},
        {"\ta: 1\n", "t:1: "},
        {"a: \"x\\0y\"\n", "t:1: a NUL in a value"},
        {"a: \xFF\n", "t: byte 3: "},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_yaml y = {0};
        pl_error e = {0};
        int rc = pl_yaml_parse(&y, cases[i].text, strlen(cases[i].text), "t", &e);
        if (rc != PL_E_FORMAT || y.entries || y.n) fail_msg("`%s`: rc %d", cases[i].text, rc);
        if (!strstr(e.text, cases[i].part)) fail_msg("`%s`: %s", cases[i].text, e.text);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

static void nested(void **state) {
    PL_UNUSED(state);
    static const char *const deep[] = {"a: [[1]]\nz: 1\n", "a:\n- 1\n- b: 1\n  c: [2, {d: 3}]\nz: 1\n",
                                       "a: {b: 1, c: {d: 2}, e: 3}\nz: 1\n", "a:\n  b:\n  - 1\nz: 1\n"};
    for (int64_t i = 0; i < PL_LEN(deep); i++) {
        pl_yaml y = {0};
        pl_error e;
        if (pl_yaml_parse(&y, deep[i], strlen(deep[i]), "t", &e)) fail_msg("%s%s", deep[i], e.text);
        assert_int_equal(y.n, 2);
        assert_int_equal(y.entries[0].kind, PL_Y_DEEP);
        assert_int_equal(y.entries[0].n, 0);
        assert_int_equal(y.entries[1].kind, PL_Y_SCALAR);
        assert_string_equal(y.entries[1].key, "z");
        pl_yaml_release(&y);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

static void limits(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_yaml y = {0};
    pl_error e;
    for (int i = 0; i <= PL_YAML_MAX_KEYS; i++) assert_int_equal(pl_buf_printf(&b, &e, "k%d:\n", i), 0);
    assert_int_equal(pl_yaml_parse(&y, b.data, b.len, "t", &e), PL_E_FORMAT);
    assert_non_null(strstr(e.text, "t:2001: too many keys"));
    pl_buf_release(&b);
    assert_int_equal(pl_yaml_parse(&y, "", PL_YAML_MAX_BYTES + 1, "t", &e), PL_E_RANGE);
    assert_int_equal(pl_yaml_load(&y, "/nonexistent/r.yaml", &e), PL_E_IO);
}

static void failing_memory(void **state) {
    PL_UNUSED(state);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc && k < 200; k++) {
        pl_yaml y = {0};
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = pl_yaml_parse(&y, recipe, sizeof recipe - 1, "t", &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && y.entries == NULL));
        pl_yaml_release(&y);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(rc, 0);
    assert_true(k > 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading),        cmocka_unit_test(typing), cmocka_unit_test(empty_files),
        cmocka_unit_test(refused),        cmocka_unit_test(nested), cmocka_unit_test(limits),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
