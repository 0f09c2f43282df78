/* Every golden tokenizer (tests/reference/tokenizer_goldens.py) against what `tokenizers` gave: encodings with and
 * without special tokens and as a continuation, decodings whole and streamed, texts of 1 MB; then what must hold for
 * any text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/utf8.h"
#include "plumb/tokenizer.h"
#include "unit/alloc_hook.h"

static const char *const styles[] = {"gpt2",      "llama3",  "qwen2",  "smollm",  "gpt4o",
                                     "deepseek",  "roberta", "llama2", "mistral", "gemma",
                                     "metaspace", "flags",   "words",  "splits",  "bytes_in_normalizer"};

static void ok(int rc, const pl_error *err) {
    if (rc) fail_msg("%s: %s", pl_error_name(err->code), err->text);
}

static pl_tokenizer *open_style(const char *style) {
    pl_error err;
    char *dir = NULL;
    pl_tokenizer *t = NULL;
    ok(pl_asprintf(&dir, &err, "%s/golden/tokenizer/%s", PLUMB_TEST_DIR, style), &err);
    ok(pl_tokenizer_open(&t, dir, &err), &err);
    pl_free(dir);
    return t;
}

static pl_json *load_golden(const char *style) {
    pl_error err;
    char *path = NULL;
    pl_json *v = NULL;
    ok(pl_asprintf(&path, &err, "%s/golden/tokenizer/%s/golden.json", PLUMB_TEST_DIR, style), &err);
    ok(pl_json_load(&v, path, 1 << 24, &err), &err);
    pl_free(path);
    return v;
}

static void print_ids(const char *name, const int32_t *ids, int64_t n) {
    print_error("  %s:", name);
    for (int64_t i = 0; i < n; i++) print_error(" %d", ids[i]);
    print_error("\n");
}

/* Whether got equals the array of ids. */
static bool same_ids(const pl_ids *got, const pl_json *want) {
    bool same = got->n == pl_json_len(want);
    for (int64_t i = 0; same && i < got->n; i++) same = got->ids[i] == pl_json_int(pl_json_at(want, i));
    return same;
}

static int64_t check_encode(const pl_tokenizer *t, const pl_json *row, const char *key, unsigned flags,
                            const char *style) {
    pl_error err;
    pl_ids ids = {0};
    size_t n;
    const char *text = pl_json_string(pl_json_get(row, "text"), &n);
    assert_non_null(text);
    ok(pl_tokenizer_encode(t, text, n, flags, &ids, &err), &err);
    const pl_json *want = pl_json_get(row, key);
    assert_int_equal(pl_json_kind_of(want), PL_J_ARRAY);
    bool same = same_ids(&ids, want);
    if (!same) {
        print_error("%s, %s: %s\n", style, key, text);
        print_ids("have", ids.ids, ids.n);
    }
    pl_ids_release(&ids);
    return !same;
}

static void stream(const pl_tokenizer *t, const pl_ids *ids, bool skip, pl_text *out) {
    pl_error err;
    pl_detok *d = NULL;
    ok(pl_detok_new(&d, t, skip, &err), &err);
    for (int64_t i = 0; i < ids->n; i++) {
        ok(pl_detok_feed(d, ids->ids[i], out, &err), &err);
        assert_int_equal(pl_utf8_valid(out->data ? out->data : "", out->len), out->len);
    }
    ok(pl_detok_finish(d, out, &err), &err);
    pl_detok_free(d);
}

static int64_t check_decode(const pl_tokenizer *t, const pl_json *row, const char *key, bool skip, const char *style) {
    pl_error err;
    pl_ids ids = {0};
    pl_text whole = {0}, parts = {0};
    size_t n;
    const char *want = pl_json_string(pl_json_get(row, key), &n);
    assert_non_null(want);
    const pl_json *list = pl_json_get(row, "ids");
    ok(PL_NEW(&ids.ids, pl_json_len(list), &err), &err);
    for (int64_t i = 0; i < pl_json_len(list); i++) ids.ids[ids.n++] = (int32_t)pl_json_int(pl_json_at(list, i));
    ok(pl_tokenizer_decode(t, ids.ids, ids.n, skip, &whole, &err), &err);
    stream(t, &ids, skip, &parts);
    bool same = whole.len == n && memcmp(whole.data ? whole.data : "", want, n) == 0;
    bool streamed = parts.len == n && memcmp(parts.data ? parts.data : "", want, n) == 0;
    if (!same || !streamed) {
        print_error("%s, %s: want \"%s\", whole \"%s\", streamed \"%s\"\n", style, key, want, whole.data, parts.data);
        print_ids("ids", ids.ids, ids.n);
    }
    pl_ids_release(&ids);
    pl_text_release(&whole);
    pl_text_release(&parts);
    return !same || !streamed;
}

static void goldens(void **state) {
    PL_UNUSED(state);
    for (int64_t s = 0; s < PL_LEN(styles); s++) {
        int64_t wrong = 0;
        pl_tokenizer *t = open_style(styles[s]);
        pl_json *golden = load_golden(styles[s]), *rows = pl_json_get(golden, "rows"),
                *decode = pl_json_get(golden, "decode");
        assert_true(pl_json_len(rows) > 80 && pl_json_len(decode) > 40);
        for (int64_t i = 0; i < pl_json_len(rows); i++) {
            const pl_json *row = pl_json_at(rows, i);
            wrong += check_encode(t, row, "ids", PL_ENCODE_SPECIAL, styles[s]);
            wrong += check_encode(t, row, "plain", PL_ENCODE_PLAIN, styles[s]);
            wrong += check_encode(t, row, "continued", PL_ENCODE_CONTINUE, styles[s]);
            wrong += check_decode(t, row, "decoded", false, styles[s]);
            wrong += check_decode(t, row, "skipped", true, styles[s]);
        }
        for (int64_t i = 0; i < pl_json_len(decode); i++) {
            wrong += check_decode(t, pl_json_at(decode, i), "decoded", false, styles[s]);
            wrong += check_decode(t, pl_json_at(decode, i), "skipped", true, styles[s]);
        }
        assert_int_equal(wrong, 0);
        pl_json_free(golden);
        pl_tokenizer_free(t);
    }
    assert_int_equal(pl_test_live_bytes(), 0);
}

static uint64_t fnv(const pl_ids *ids) {
    uint64_t h = 0xCBF29CE484222325u;
    for (int64_t i = 0; i < ids->n; i++)
        for (int k = 0; k < 32; k += 8) h = (h ^ ((uint32_t)ids->ids[i] >> k & 255)) * 0x100000001B3u;
    return h;
}

static void check_big(const pl_tokenizer *t, const pl_json *row, const char *style) {
    pl_error err;
    pl_buf text = {0};
    pl_ids ids = {0};
    size_t n;
    char hex[17];
    const char *unit = pl_json_string(pl_json_get(row, "unit"), &n);
    for (int64_t i = pl_json_int(pl_json_get(row, "times")); i > 0; i--) ok(pl_buf_add(&text, unit, n, &err), &err);
    ok(pl_tokenizer_encode(t, text.data, text.len, PL_ENCODE_SPECIAL, &ids, &err), &err);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)fnv(&ids));
    if (ids.n != pl_json_int(pl_json_get(row, "n")) || strcmp(hex, pl_json_string(pl_json_get(row, "fnv"), NULL)) != 0)
        fail_msg("%s: %zu bytes of \"%s\": %lld ids", style, text.len, unit, (long long)ids.n);
    pl_buf_release(&text);
    pl_ids_release(&ids);
}

static void big_texts(void **state) {
    PL_UNUSED(state);
    for (int64_t s = 0; s < PL_LEN(styles); s++) {
        pl_tokenizer *t = open_style(styles[s]);
        pl_json *golden = load_golden(styles[s]), *big = pl_json_get(golden, "big");
        assert_true(pl_json_len(big) >= 5);
        for (int64_t i = 0; i < pl_json_len(big); i++) check_big(t, pl_json_at(big, i), styles[s]);
        pl_json_free(golden);
        pl_tokenizer_free(t);
    }
}

/* What a pipeline that loses nothing must give back, and so must prompt and continuation, cut anywhere. */
static void check_seam(const pl_tokenizer *t, const char *text, size_t n, size_t cut, const char *style) {
    pl_error err;
    pl_ids ids = {0};
    pl_text back = {0};
    ok(pl_tokenizer_encode(t, text, cut, PL_ENCODE_LEADING, &ids, &err), &err);
    ok(pl_tokenizer_encode(t, text + cut, n - cut, PL_ENCODE_CONTINUE, &ids, &err), &err);
    ok(pl_tokenizer_decode(t, ids.ids, ids.n, true, &back, &err), &err);
    if (back.len != n || memcmp(back.data ? back.data : "", text, n) != 0)
        fail_msg("%s: cut at byte %zu: \"%s\" comes back as \"%s\"", style, cut, text, back.data);
    pl_ids_release(&ids);
    pl_text_release(&back);
}

static void seam(void **state) {
    PL_UNUSED(state);
    static const char *const lossless[] = {"gpt2",     "llama3", "smollm",  "gpt4o",
                                           "deepseek", "llama2", "mistral", "gemma"};
    static const char text[] =
        "Q: What is 12 + 3?\nA:  It's 15, na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80\t\r\n  end ";
    for (int64_t s = 0; s < PL_LEN(lossless); s++) {
        pl_tokenizer *t = open_style(lossless[s]);
        for (size_t cut = 1; cut < sizeof text; cut++)
            if (((unsigned char)text[cut] & 0xC0) != 0x80) check_seam(t, text, sizeof text - 1, cut, lossless[s]);
        pl_tokenizer_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(goldens), cmocka_unit_test(big_texts), cmocka_unit_test(seam)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
