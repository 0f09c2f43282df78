/* Buffers, UTF-8, and numbers as text. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "unit/alloc_hook.h"

static void growing(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    for (int i = 0; i < 10000; i++) assert_int_equal(pl_buf_printf(&b, &e, "%d,", i % 10), 0);
    assert_int_equal(b.len, 20000);
    assert_int_equal(strlen(b.data), 20000);
    assert_memory_equal(b.data + 19996, "8,9,", 5);
    pl_buf_clear(&b);
    assert_string_equal(b.data, "");
    assert_int_equal(pl_buf_add(&b, "a\0b", 3, &e), 0);
    assert_int_equal(pl_buf_add(&b, NULL, 0, &e), 0);
    assert_memory_equal(b.data, "a\0b", 4);
    pl_buf_release(&b);
    assert_null(b.data);
    pl_buf_release(&b);
    pl_buf_release(NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void ceiling(void **state) {
    PL_UNUSED(state);
    pl_buf b = {.ceiling = 10};
    pl_error e;
    assert_int_equal(pl_buf_puts(&b, "12345", &e), 0);
    assert_int_equal(pl_buf_puts(&b, "67890", &e), PL_E_RANGE);
    assert_int_equal(pl_buf_printf(&b, &e, "%05d", 1), PL_E_RANGE);
    assert_string_equal(b.data, "12345"); /* as it was */
    assert_int_equal(pl_buf_puts(&b, "6789", &e), 0);
    assert_int_equal(pl_buf_reserve(&b, SIZE_MAX, &e), PL_E_RANGE);
    pl_buf_release(&b);
    assert_int_equal(b.ceiling, 10);
}

static void no_memory(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    pl_test_fail_alloc_at(0);
    assert_int_equal(pl_buf_puts(&b, "x", &e), PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    assert_int_equal(pl_buf_puts(&b, "x", &e), 0);
    pl_test_fail_alloc_at(0);
    assert_int_equal(pl_buf_printf(&b, &e, "%1000d", 1), PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    assert_string_equal(b.data, "x");
    pl_buf_release(&b);
}

static void json_string(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    static const char text[] = "\"\\\n\r\t\b\x1f\x7f\0\xC3\xA9\xF0\x9F\x98\x80\xff\xC3";
    assert_int_equal(pl_buf_json_string(&b, text, sizeof text - 1, &e), 0);
    assert_string_equal(
        b.data, "\"\\\"\\\\\\n\\r\\t\\u0008\\u001f\x7f\\u0000\xC3\xA9\xF0\x9F\x98\x80\xEF\xBF\xBD\xEF\xBF\xBD\"");
    pl_buf_release(&b);
}

static void utf8_all(void **state) {
    PL_UNUSED(state);
    for (uint32_t c = 0; c < 0x110010; c++) {
        char s[4];
        uint32_t back = 0;
        size_t n = pl_utf8_encode(s, c);
        bool good = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF);
        if (good != (n != 0)) fail_msg("U+%X: %zu bytes", c, n);
        if (!good) continue;
        if (pl_utf8_decode(s, n, &back) != n || back != c) fail_msg("U+%X does not come back", c);
        for (size_t k = 0; k < n; k++)
            if (pl_utf8_decode(s, k, &back) != 0) fail_msg("U+%X: %zu of %zu bytes were taken", c, k, n);
    }
}

static void utf8_bad(void **state) {
    PL_UNUSED(state);
    static const char *const bad[] = {"\x80",
                                      "\xBF",
                                      "\xC0\x80",
                                      "\xC1\xBF",
                                      "\xE0\x80\x80",
                                      "\xE0\x9F\xBF",
                                      "\xED\xA0\x80",
                                      "\xED\xBF\xBF",
                                      "\xF0\x80\x80\x80",
                                      "\xF0\x8F\xBF\xBF",
                                      "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80",
                                      "\xFE",
                                      "\xFF",
                                      "\xC3(",
                                      "\xE2\x82(",
                                      "\xF0\x9F\x98(",
                                      "\xF8\x88\x80\x80\x80"};
    for (int64_t i = 0; i < PL_LEN(bad); i++) {
        uint32_t c;
        assert_int_equal(pl_utf8_decode(bad[i], strlen(bad[i]), &c), 0);
        char text[16];
        snprintf(text, sizeof text, "ok%s", bad[i]);
        assert_int_equal(pl_utf8_valid(text, strlen(text)), 2);
    }
    assert_int_equal(pl_utf8_valid("", 0), 0);
    assert_int_equal(pl_utf8_valid("a\0\xC3\xA9", 4), 4);
}

static double from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void doubles_as_python(void **state) {
    PL_UNUSED(state);
    pl_lines *l = NULL;
    pl_error e;
    const char *line;
    size_t len;
    assert_int_equal(pl_lines_open(&l, PLUMB_TEST_DIR "/golden/base/doubles.txt", 100, &e), 0);
    while (pl_lines_next(l, &line, &len, &e) == 0 && line) {
        char text[32];
        pl_double_text(text, from_bits(strtoull(line, NULL, 16)));
        if (strcmp(text, line + 17) != 0) fail_msg("%s, want %s", text, line + 17);
    }
    assert_true(pl_lines_number(l) > 900);
    pl_lines_free(l);
}

static void doubles_read_back(void **state) {
    PL_UNUSED(state);
    char text[32];
    for (uint64_t i = 0; i < 200000; i++) {
        uint64_t bits = pl_rng_mix(7, i);
        if (i % 4 == 0) bits &= ~((uint64_t)1 << 62 | (uint64_t)1 << 61); /* more small ones */
        double x = from_bits(bits);
        if (!isfinite(x)) continue;
        pl_double_text(text, x);
        double y = strtod(text, NULL);
        if (memcmp(&x, &y, sizeof x) != 0) fail_msg("%s does not read back as %a", text, x);
        if (strlen(text) > 24 || !strpbrk(text, ".e")) fail_msg("%s", text);
    }
    pl_double_text(text, NAN);
    assert_string_equal(text, "NaN");
    pl_double_text(text, -INFINITY);
    assert_string_equal(text, "-Infinity");
    pl_double_text(text, -0.0);
    assert_string_equal(text, "-0.0");
    pl_buf b = {0};
    assert_int_equal(pl_buf_json_double(&b, 1e-5, NULL), 0);
    assert_string_equal(b.data, "1e-05");
    pl_buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growing),           cmocka_unit_test(ceiling),           cmocka_unit_test(no_memory),
        cmocka_unit_test(json_string),       cmocka_unit_test(utf8_all),          cmocka_unit_test(utf8_bad),
        cmocka_unit_test(doubles_as_python), cmocka_unit_test(doubles_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
