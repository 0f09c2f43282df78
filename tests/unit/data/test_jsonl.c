/* JSON lines read member by member, and JSON text written: what comes out reads back as what went in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "base/base.h"
#include "base/json.h"
#include "plumb/jsonl.h"
#include "unit/alloc_hook.h"

static char path[] = "/tmp/plumb-jsonl-XXXXXX";

static void write_rows(const char *text, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    return fd < 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static void reads_texts(void **state) {
    (void)state;
    static const char rows[] = "{\"text\": \"a\\u0000b\", \"other\": [1, {\"text\": 2}]}\n"
                               "\n \t\r\n"
                               "{\"x\": null, \"text\": \"\"}\r\n"
                               "{\"text\": \"\\u00e9 \\ud83d\\ude42 \\\"q\\\" \\n\"}"; /* no line feed at the end */
    static const struct {
        const char *s;
        size_t n;
    } want[] = {{"a\0b", 3}, {"", 0}, {"\xC3\xA9 \xF0\x9F\x99\x82 \"q\" \n", 13}};
    pl_jsonl *j = NULL;
    pl_error err;
    for (int zipped = 0; zipped < 2; zipped++) {
        if (zipped) {
            gzFile f = gzopen(path, "wb");
            assert_int_equal(gzwrite(f, rows, sizeof rows - 1), sizeof rows - 1);
            assert_int_equal(gzclose(f), Z_OK);
        } else
            write_rows(rows, sizeof rows - 1);
        assert_int_equal(pl_jsonl_open(&j, path, &err), 0);
        const char *text = NULL;
        size_t n = 99;
        for (int64_t i = 0; i < PL_LEN(want); i++) {
            assert_int_equal(pl_jsonl_next_text(j, "text", &text, &n, &err), 0);
            assert_int_equal(n, want[i].n);
            assert_memory_equal(text, want[i].s, n);
        }
        for (int again = 0; again < 2; again++) {
            assert_int_equal(pl_jsonl_next_text(j, "text", &text, &n, &err), 0);
            assert_null(text);
            assert_int_equal(n, 0);
        }
        pl_jsonl_free(j);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

static void reads_ids(void **state) {
    (void)state;
    static const char rows[] = "{\"ids\": [0, 2147483647, 5]}\n{\"ids\": []}\n{\"ids\":[7]}\n";
    pl_jsonl *j = NULL;
    pl_error err;
    const int32_t *ids = NULL;
    int64_t n = 0;
    write_rows(rows, sizeof rows - 1);
    assert_int_equal(pl_jsonl_open(&j, path, &err), 0);
    assert_int_equal(pl_jsonl_next_ids(j, "ids", &ids, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], INT32_MAX);
    assert_int_equal(ids[2], 5);
    assert_int_equal(pl_jsonl_next_ids(j, "ids", &ids, &n, &err), 0);
    assert_non_null(ids); /* an empty list is not the end */
    assert_int_equal(n, 0);
    assert_int_equal(pl_jsonl_next_ids(j, "ids", &ids, &n, &err), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 7);
    assert_int_equal(pl_jsonl_next_ids(j, "ids", &ids, &n, &err), 0);
    assert_null(ids);
    pl_jsonl_free(j);
}

static void names_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *row, *part;
        bool ids;
    } cases[] = {
        {"{\"txt\": \"a\"}", "the row has no \"k\"", false},
        {"{\"k\": null}", "the row has no \"k\"", false},
        {"{\"k\": 3}", "\"k\" is ", false},
        {"{\"k\": [\"a\"]}", "\"k\" is ", false},
        {"[\"k\"]", "every line must be a JSON object", false},
        {"\"k\"", "every line must be a JSON object", false},
        {"{\"k\": \"a\"", ":2", false},
        {"{\"k\": \"a\"} x", ":2", false},
        {"{\"k\": \"a\", \"k\": \"b\"}", ":2", false},
        {"{\"k\": \"\xFF\"}", ":2", false},
        {"{\"k\": \"a\\ud800\"}", ":2: line 1, column 9: half of a surrogate pair", false},
        {"{\"k\": \"1 2\"}", "\"k\" is ", true},
        {"{\"k\": [1, -1]}", "\"k\"[1] is no token id", true},
        {"{\"k\": [1.0]}", "\"k\"[0] is no token id", true},
        {"{\"k\": [true]}", "\"k\"[0] is no token id", true},
        {"{\"k\": [2147483648]}", "\"k\"[0] is no token id", true},
        {"{\"k\": [99999999999999999999]}", ":2", true},
        {"{\"k\": [null]}", "\"k\"[0] is no token id", true},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        char rows[200];
        pl_jsonl *j = NULL;
        pl_error err = {0};
        const char *text = NULL;
        const int32_t *ids = NULL;
        size_t len;
        int64_t n;
        int rc;
        snprintf(rows, sizeof rows, "{\"k\": %s}\n%s\n", cases[i].ids ? "[1]" : "\"a\"", cases[i].row);
        write_rows(rows, strlen(rows));
        assert_int_equal(pl_jsonl_open(&j, path, &err), 0);
        for (int row = 0; row < 2; row++) {
            rc = cases[i].ids ? pl_jsonl_next_ids(j, "k", &ids, &n, &err)
                              : pl_jsonl_next_text(j, "k", &text, &len, &err);
            if (row == 0) assert_int_equal(rc, 0);
        }
        if (rc != PL_E_FORMAT) fail_msg("%s: rc %d", cases[i].row, rc);
        if (!strstr(err.text, cases[i].part) || !strstr(err.text, path)) fail_msg("%s: %s", cases[i].row, err.text);
        pl_jsonl_free(j);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    pl_jsonl *none = NULL;
    pl_error err;
    assert_int_equal(pl_jsonl_open(&none, "/nonexistent/rows.jsonl", &err), PL_E_IO);
    assert_null(none);
    pl_jsonl_free(NULL);
}

static void strings_read_back(void **state) {
    (void)state;
    char all[256 + 8], printed[2048];
    size_t n = 0;
    for (int c = 0; c < 0x80; c++) all[n++] = (char)c;
    memcpy(all + n, "\xC3\xA9\xF0\x9F\x99\x82", 6);
    n += 6;
    FILE *f = fmemopen(printed, sizeof printed, "w");
    assert_int_equal(pl_json_print_string(f, all, n, NULL), 0);
    assert_int_equal(fclose(f), 0);
    assert_null(strchr(printed, '\n'));
    assert_non_null(strstr(printed, "\xC3\xA9\xF0\x9F\x99\x82")); /* not escaped */
    pl_json *list = NULL;
    char text[2100];
    int len = snprintf(text, sizeof text, "[%s]", printed);
    assert_int_equal(pl_json_parse(&list, text, (size_t)len, "t", NULL), 0);
    size_t back = 0;
    const char *s = pl_json_string(pl_json_at(list, 0), &back);
    assert_int_equal(back, n);
    assert_memory_equal(s, all, n);
    pl_json_free(list);

    memset(printed, 0, sizeof printed);
    f = fmemopen(printed, sizeof printed, "w");
    assert_int_equal(pl_json_print_string(f, "a\xFF\xC3z", 4, NULL), 0); /* not UTF-8 */
    assert_int_equal(fclose(f), 0);
    assert_string_equal(printed, "\"a\xEF\xBF\xBD\xEF\xBF\xBDz\"");
}

static void prints_ids(void **state) {
    (void)state;
    static const int32_t ids[] = {0, 17, INT32_MAX};
    static const char *const want[] = {"[]", "[0]", "[0,17]", "[0,17,2147483647]"};
    for (int64_t n = 0; n < PL_LEN(want); n++) {
        char printed[100] = {0};
        FILE *f = fmemopen(printed, sizeof printed, "w");
        assert_int_equal(pl_json_print_ids(f, ids, n, NULL), 0);
        assert_int_equal(fclose(f), 0);
        assert_string_equal(printed, want[n]);
    }
}

static void reports_failed_writes(void **state) {
    (void)state;
    pl_error err;
    FILE *f = fopen("/dev/full", "w");
    if (!f) skip();
    setvbuf(f, NULL, _IONBF, 0);
    assert_int_equal(pl_json_print_string(f, "abc", 3, &err), PL_E_IO);
    assert_int_equal(pl_json_print_ids(f, (const int32_t[]){1}, 1, &err), PL_E_IO);
    fclose(f);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    static const char rows[] =
        "{\"k\": [1, 2, 3]}\n{\"k\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]}\n";
    write_rows(rows, sizeof rows - 1);
    int rc = PL_E_NOMEM;
    int64_t k = 0;
    for (; rc != 0; k++) {
        pl_jsonl *j = NULL;
        pl_error err;
        const int32_t *ids = NULL;
        int64_t n = 0;
        pl_test_fail_alloc_at(k);
        rc = pl_jsonl_open(&j, path, &err);
        for (int row = 0; rc == 0 && row < 2; row++) rc = pl_jsonl_next_ids(j, "k", &ids, &n, &err);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        if (rc == 0) assert_int_equal(n, 17);
        pl_jsonl_free(j);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_true(k > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_texts),
        cmocka_unit_test(reads_ids),
        cmocka_unit_test(names_what_is_wrong),
        cmocka_unit_test(strings_read_back),
        cmocka_unit_test(prints_ids),
        cmocka_unit_test(reports_failed_writes),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
