/* Reading safetensors: every rule of the format, by a hand-made file that breaks exactly that rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"
#include "unit/alloc_hook.h"

/* A file image: u64 length, header text, `data` bytes of data. Caller frees with pl_free. */
static char *image(const char *header, size_t header_len, size_t data, size_t *len) {
    char *p = NULL;
    *len = 8 + header_len + data;
    assert_int_equal(pl_alloc_zero((void **)&p, *len, NULL), 0);
    for (int i = 0; i < 8; i++) p[i] = (char)(header_len >> (8 * i));
    memcpy(p + 8, header, header_len);
    for (size_t i = 0; i < data; i++) p[8 + header_len + i] = (char)(i + 1);
    return p;
}

static int parse_n(const char *header, size_t n, size_t data, pl_error *err) {
    size_t len;
    char *p = image(header, n, data, &len);
    pl_tensors *ts = NULL;
    int rc = pl_tensors_parse(&ts, p, len, "f", err);
    if (rc) assert_null(ts);
    pl_tensors_close(ts);
    pl_free(p);
    return rc;
}

typedef struct bad {
    const char *header;
    size_t data;
    int code;
    const char *says; /* part of the message */
} bad;

#define U8(name, n, a, b) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[" a "," b "]}"

static const bad bads[] = {
    {"", 0, PL_E_FORMAT, "want {"},
    {"[]", 0, PL_E_FORMAT, "want {"},
    {"{", 0, PL_E_FORMAT, "want a string"},
    {"{}x", 0, PL_E_FORMAT, "after the end"},
    {"{}{}", 0, PL_E_FORMAT, "after the end"},
    {"{,}", 0, PL_E_FORMAT, "want a string"},
    {"{" U8("a", "1", "0", "1") ",}", 1, PL_E_FORMAT, "want a string"},
    {"{\"a\":[[[[[[[[[[[[[[[[[[[[", 0, PL_E_FORMAT, "want an object"},
    {"{\"a\":1}", 0, PL_E_FORMAT, "want an object"},
    {"{\"a\":{}}", 0, PL_E_FORMAT, "lacks dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "lacks shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}", 0, PL_E_FORMAT, "lacks data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT,
     "duplicate key"},
    {"{\"a\":{\"dtype\":\"U8\",\"x\":1,\"shape\":[0],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "unknown key"},
    {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, PL_E_UNSUPPORTED, "dtype Q4"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, PL_E_UNSUPPORTED, "dtype F4"},
    {"{\"a\":{\"dtype\":8,\"shape\":[0],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "want a string"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":0,\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "want a list"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "integer >= 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "not a fraction"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "not a fraction"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "leading zero"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9007199254740993],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "2^53"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "2^53"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, PL_E_FORMAT, "two offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, PL_E_FORMAT, "two offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, PL_E_FORMAT, "8 dimensions"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT,
     "overflow"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT,
     "overflow"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0, PL_E_FORMAT, "2^53"},
    {"{" U8("a", "2", "0", "1") "}", 1, PL_E_FORMAT, "needs 2"},
    {"{" U8("a", "1", "1", "0") "}", 1, PL_E_FORMAT, "ends at 0 before it begins at 1"},
    {"{" U8("a", "1", "1", "2") "}", 2, PL_E_FORMAT, "a gap"},
    {"{" U8("a", "1", "0", "1") "," U8("b", "1", "2", "3") "}", 3, PL_E_FORMAT, "a gap"},
    {"{" U8("a", "2", "0", "2") "," U8("b", "2", "1", "3") "}", 3, PL_E_FORMAT, "inside the previous"},
    {"{" U8("a", "2", "0", "2") "," U8("b", "2", "0", "2") "}", 2, PL_E_FORMAT, "inside the previous"},
    {"{" U8("a", "1", "0", "1") "," U8("a", "1", "1", "2") "}", 2, PL_E_FORMAT, "appears twice"},
    {"{" U8("a", "0", "0", "0") "," U8("\\u0061", "0", "0", "0") "}", 0, PL_E_FORMAT, "appears twice"},
    {"{" U8("a", "3", "0", "3") "}", 2, PL_E_FORMAT, "is cut"},
    {"{" U8("a", "3", "0", "3") "}", 4, PL_E_FORMAT, "1 bytes after"},
    {"{}", 1, PL_E_FORMAT, "1 bytes after"},
    {"{" U8("", "1", "0", "1") "}", 1, PL_E_FORMAT, "tensor name"},
    {"{" U8("a\\u0000b", "1", "0", "1") "}", 1, PL_E_FORMAT, "NUL"},
    {"{" U8("a\\nb", "1", "0", "1") "}", 1, PL_E_FORMAT, "tensor name"},
    {"{" U8("a\nb", "1", "0", "1") "}", 1, PL_E_FORMAT, "control character"},
    {"{" U8("a\\u001b[0m", "1", "0", "1") "}", 1, PL_E_FORMAT, "tensor name"},
    {"{" U8("a\\ud800", "1", "0", "1") "}", 1, PL_E_FORMAT, "lone surrogate"},
    {"{" U8("a\\udc00", "1", "0", "1") "}", 1, PL_E_FORMAT, "lone surrogate"},
    {"{" U8("a\\ud800\\u0041", "1", "0", "1") "}", 1, PL_E_FORMAT, "lone surrogate"},
    {"{" U8("a\\x", "1", "0", "1") "}", 1, PL_E_FORMAT, "bad escape"},
    {"{" U8("a\\u12", "1", "0", "1") "}", 1, PL_E_FORMAT, "bad \\u"},
    {"{" U8("a\xff", "1", "0", "1") "}", 1, PL_E_FORMAT, "not UTF-8"},
    {"{\"__metadata__\":{\"a\":1}}", 0, PL_E_FORMAT, "want a string"},
    {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, PL_E_FORMAT, "want a string"},
    {"{\"__metadata__\":[]}", 0, PL_E_FORMAT, "object of strings"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, PL_E_FORMAT, "twice"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, PL_E_FORMAT, "duplicate key"},
    {"{'a':1}", 0, PL_E_FORMAT, "want a string"},
};

static void refuses(void **state) {
    (void)state;
    for (int64_t i = 0; i < PL_LEN(bads); i++) {
        pl_error e = {0};
        int rc = parse_n(bads[i].header, strlen(bads[i].header), bads[i].data, &e);
        if (rc != bads[i].code || !strstr(e.text, bads[i].says) || strncmp(e.text, "f: ", 3) != 0)
            fail_msg("%s: rc %d, text: %s, want %d and '%s'", bads[i].header, rc, e.text, bads[i].code, bads[i].says);
    }
}

static void refuses_lengths(void **state) {
    (void)state;
    pl_error e = {0};
    pl_tensors *ts = NULL;
    char bytes[64] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    assert_int_equal(pl_tensors_parse(&ts, bytes, 10, "f", &e), 0);
    assert_int_equal(pl_tensors_count(ts), 0);
    pl_tensors_close(ts);
    ts = NULL;
    for (size_t n = 0; n < 10; n++) assert_int_equal(pl_tensors_parse(&ts, bytes, n, "f", &e), PL_E_FORMAT);
    assert_int_equal(pl_tensors_parse(&ts, bytes, 11, "f", &e), PL_E_FORMAT);
    bytes[7] = (char)0x80; /* a header of 2^63 bytes */
    assert_int_equal(pl_tensors_parse(&ts, bytes, 10, "f", &e), PL_E_FORMAT);
    assert_non_null(strstr(e.text, "at most 100000000"));
    memset(bytes, 0xFF, 8);
    assert_int_equal(pl_tensors_parse(&ts, bytes, 10, "f", &e), PL_E_FORMAT);
    assert_null(ts);
}

/* A bomb of tiny entries must stop at the bound, not at the end of memory. */
static void refuses_too_many(void **state) {
    (void)state;
    size_t cap = (size_t)(PL_ST_MAX_TENSORS + 2) * 64, n = 0;
    char *text = NULL;
    assert_int_equal(pl_alloc((void **)&text, cap, NULL), 0);
    text[n++] = '{';
    for (int i = 0; i <= PL_ST_MAX_TENSORS; i++)
        n += (size_t)snprintf(text + n, cap - n, "%s\"%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                              i ? "," : "", (unsigned)i);
    text[n++] = '}';
    pl_error e = {0};
    assert_int_equal(parse_n(text, n, 0, &e), PL_E_RANGE);
    assert_non_null(strstr(e.text, "262144 tensors"));
    pl_free(text);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static const char good[] = " \n{\"__metadata__\" : {\"format\":\"pt\",\"na\\u00efve\":\"a\\nb\"},"
                           "\"b\":{\"shape\":[ 2 , 3 ],\"data_offsets\":[4,28],\"dtype\":\"F32\"},"
                           "\"empty\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[4,4]},"
                           "\"scalar\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                           "\"\\ud83d\\ude00\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[28,30]}}  \t";

static void reads(void **state) {
    (void)state;
    pl_error e = {0};
    size_t len;
    char *p = image(good, sizeof good - 1, 30, &len);
    pl_tensors *ts = NULL;
    int rc = pl_tensors_parse(&ts, p, len, "f", &e);
    if (rc) fail_msg("%s", e.text);
    assert_int_equal(pl_tensors_count(ts), 4);
    assert_string_equal(pl_tensors_at(ts, 0)->name, "scalar");
    assert_string_equal(pl_tensors_at(ts, 1)->name, "empty");
    assert_string_equal(pl_tensors_at(ts, 2)->name, "b");
    assert_string_equal(pl_tensors_at(ts, 3)->name, "\xF0\x9F\x98\x80");
    assert_null(pl_tensors_at(ts, 4));
    assert_null(pl_tensors_at(ts, -1));
    const pl_tensor *b = pl_tensors_find(ts, "b");
    assert_ptr_equal(b, pl_tensors_at(ts, 2));
    assert_int_equal(b->dtype, PL_F32);
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal((uintptr_t)b->data % 4, 0);
    for (int i = 0; i < 24; i++) assert_int_equal(((const char *)b->data)[i], 5 + i);
    assert_int_equal(pl_tensors_find(ts, "scalar")->bytes, 4);
    assert_int_equal(pl_tensors_find(ts, "empty")->bytes, 0);
    assert_null(pl_tensors_find(ts, "c"));
    assert_string_equal(pl_tensors_metadata(ts, "format"), "pt");
    assert_string_equal(pl_tensors_metadata(ts, "na\xC3\xAFve"), "a\nb");
    assert_null(pl_tensors_metadata(ts, "x"));
    assert_int_equal(pl_tensors_bytes(ts), 30);
    assert_string_equal(pl_tensors_file(ts, b), "f");

    const pl_tensor *t = NULL;
    assert_int_equal(pl_tensors_need(&t, ts, "b", 2, (int64_t[]){2, 3}, &e), 0);
    assert_ptr_equal(t, b);
    assert_int_equal(pl_tensors_need(&t, ts, "b", 2, (int64_t[]){3, 2}, &e), PL_E_SHAPE);
    assert_string_equal(e.text, "f: tensor b has shape [2,3], want [3,2]");
    assert_int_equal(pl_tensors_need(&t, ts, "b", 1, (int64_t[]){2}, &e), PL_E_SHAPE);
    assert_int_equal(pl_tensors_need(&t, ts, "c", 1, (int64_t[]){2}, &e), PL_E_MISMATCH);
    pl_tensors_close(ts);
    pl_free(p);
}

/* Any header length: data must come out aligned and right. */
static void aligns(void **state) {
    (void)state;
    for (size_t pad = 0; pad < 8; pad++) {
        char header[256];
        int n = snprintf(header, sizeof header,
                         "{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                         "\"b\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[16,22]}}%*s",
                         (int)pad, "");
        size_t len;
        char *p = image(header, (size_t)n, 22, &len);
        pl_tensors *ts = NULL;
        assert_int_equal(pl_tensors_parse(&ts, p, len, "f", NULL), 0);
        const pl_tensor *a = pl_tensors_find(ts, "a"), *b = pl_tensors_find(ts, "b");
        assert_int_equal((uintptr_t)a->data % 8, 0);
        assert_int_equal((uintptr_t)b->data % 2, 0);
        for (int i = 0; i < 16; i++) assert_int_equal(((const char *)a->data)[i], 1 + i);
        for (int i = 0; i < 6; i++) assert_int_equal(((const char *)b->data)[i], 17 + i);
        pl_tensors_close(ts);
        pl_free(p);
    }
}

/* Every cut of a good file, and every single changed byte, is an error or a good file, never a crash. */
static void survives(void **state) {
    (void)state;
    size_t len;
    char *p = image(good, sizeof good - 1, 30, &len);
    pl_tensors *ts = NULL;
    for (size_t n = 0; n < len; n++) {
        char *cut = NULL; /* exact allocation, so that ASan sees reads past the end */
        assert_int_equal(pl_alloc((void **)&cut, PL_MAX(n, 1), NULL), 0);
        memcpy(cut, p, n);
        assert_int_not_equal(pl_tensors_parse(&ts, cut, n, "f", NULL), 0);
        pl_free(cut);
    }
    for (size_t i = 0; i < len - 30; i++)
        for (int bit = 0; bit < 8; bit++) {
            p[i] = (char)(p[i] ^ 1 << bit);
            if (pl_tensors_parse(&ts, p, len, "f", NULL) == 0) pl_tensors_close(ts);
            p[i] = (char)(p[i] ^ 1 << bit);
        }
    pl_free(p);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void fails_cleanly_without_memory(void **state) {
    (void)state;
    size_t len;
    char *p = image(good, sizeof good - 1, 30, &len);
    int64_t base = pl_test_live_bytes();
    pl_tensors *ts = NULL;
    int rc = PL_E_NOMEM, k = 0;
    for (; rc != 0; k++) {
        pl_test_fail_alloc_at(k);
        rc = pl_tensors_parse(&ts, p, len, "f", NULL);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && ts == NULL && pl_test_live_bytes() == base));
        assert_true(k < 1000);
    }
    pl_test_fail_alloc_at(-1);
    assert_true(k > 5);
    pl_tensors_close(ts);
    pl_free(p);
}

/* ---- directories ---- */

#define DIR "st_test_dir"
#define INDEX DIR "/model.safetensors.index.json"

static void put(const char *name, const char *text, size_t n) {
    char path[256];
    snprintf(path, sizeof path, DIR "/%s", name);
    assert_int_equal(pl_file_write(path, text, n, NULL), 0);
}

static void put_shard(const char *name, const char *header, size_t data) {
    size_t len;
    char *p = image(header, strlen(header), data, &len);
    put(name, p, len);
    pl_free(p);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

static int open_dir(pl_error *e) {
    pl_tensors *ts = NULL;
    int rc = pl_tensors_open(&ts, DIR, e);
    if (rc) assert_null(ts);
    pl_tensors_close(ts);
    return rc;
}

static void check_dir(const char *index, int code, const char *says) {
    pl_error e = {0};
    if (index) put_text("model.safetensors.index.json", index);
    int rc = open_dir(&e);
    if (rc != code || (says && !strstr(e.text, says)))
        fail_msg("rc %d, text: %s, want %d '%s'", rc, e.text, code, says);
}

static void shards(void **state) {
    (void)state;
    pl_dir_remove(DIR, NULL);
    check_dir(NULL, PL_E_IO, "no such directory");
    assert_int_equal(pl_dir_make(DIR, NULL), 0);
    check_dir(NULL, PL_E_IO, "no model.safetensors");
    put_text("pytorch_model.bin", "x");
    check_dir(NULL, PL_E_UNSUPPORTED, "pickle");

    put_shard("m-1.safetensors", "{" U8("a", "2", "0", "2") "}", 2);
    put_shard("m-2.safetensors", "{" U8("b", "3", "0", "3") "," U8("c", "1", "3", "4") "}", 4);
#define MAP(x) "{\"metadata\":{\"total_size\":6},\"weight_map\":{" x "}}"
    check_dir(MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\""), 0, NULL);
    pl_tensors *ts = NULL;
    assert_int_equal(pl_tensors_open(&ts, DIR, NULL), 0);
    assert_int_equal(pl_tensors_count(ts), 3);
    assert_string_equal(pl_tensors_at(ts, 0)->name, "a");
    assert_string_equal(pl_tensors_at(ts, 2)->name, "c");
    assert_string_equal(pl_path_base(pl_tensors_file(ts, pl_tensors_find(ts, "b"))), "m-2.safetensors");
    assert_int_equal(((const char *)pl_tensors_find(ts, "c")->data)[0], 4);
    pl_tensors_close(ts);

    check_dir(MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\""), PL_E_MISMATCH,
              "tensor b is in m-2.safetensors, the index says m-1.safetensors");
    check_dir(MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\""), PL_E_MISMATCH,
              "c of the shard is not in the index");
    check_dir(
        MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\",\"d\":\"m-2.safetensors\""),
        PL_E_MISMATCH, "tensor d is not in m-2.safetensors");
    check_dir(MAP("\"a\":\"m-3.safetensors\""), PL_E_IO, "m-3.safetensors is missing");
    check_dir(MAP("\"a\":\"../m-1.safetensors\""), PL_E_FORMAT, "plain name");
    check_dir(MAP("\"a\":\"/m-1.safetensors\""), PL_E_FORMAT, "plain name");
    check_dir(MAP("\"a\":\"..\""), PL_E_FORMAT, "plain name");
    check_dir(MAP("\"a\":\"config.json\""), PL_E_FORMAT, "plain name");
    check_dir(MAP("\"a\":\"m-1.safetensors\\u0000\""), PL_E_FORMAT, "plain name");
    check_dir(MAP("\"a\":3"), PL_E_FORMAT, "plain name");
    check_dir(MAP(""), PL_E_FORMAT, "empty");
    check_dir("{}", PL_E_FORMAT, "weight_map");
    check_dir("[]", PL_E_FORMAT, "weight_map");
    check_dir("{", PL_E_FORMAT, NULL);
    put_shard("m-2.safetensors", "{" U8("a", "3", "0", "3") "}", 3);
    check_dir(MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\""), PL_E_FORMAT, "in two shards");
    put_shard("m-2.safetensors", "{" U8("b", "3", "0", "3") "}", 2);
    check_dir(MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\""), PL_E_FORMAT,
              "m-2.safetensors: the file is cut");
    put_shard("m-2.safetensors", "{" U8("b", "3", "0", "3") "}", 3);
    int rc = PL_E_NOMEM, k = 0;
    for (int64_t base = pl_test_live_bytes(); rc != 0; k++) {
        pl_test_fail_alloc_at(k);
        rc = pl_tensors_open(&ts, DIR, NULL);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && pl_test_live_bytes() == base));
    }
    pl_test_fail_alloc_at(-1);
    pl_tensors_close(ts);

    put_shard("model.safetensors", "{" U8("z", "3", "0", "3") "}",
              3); /* a single file comes first, as in transformers */
    assert_int_equal(pl_tensors_open(&ts, DIR, NULL), 0);
    assert_int_equal(pl_tensors_count(ts), 1);
    pl_tensors_close(ts);
    pl_dir_remove(DIR, NULL);
    assert_int_equal(pl_test_live_bytes(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_lengths),
        cmocka_unit_test(refuses_too_many),
        cmocka_unit_test(reads),
        cmocka_unit_test(aligns),
        cmocka_unit_test(survives),
        cmocka_unit_test(fails_cleanly_without_memory),
        cmocka_unit_test(shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
