/* Writing safetensors: the reference writer's layout, streams, failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"
#include "unit/alloc_hook.h"

#define PATH "st_write_test.safetensors"

static const float data_f32[6] = {1, 2, 3, 4, 5, 6};
static const uint8_t data_u8[3] = {7, 8, 9};
static const int64_t data_i64[1] = {-1};

static const pl_tensor small[] = {
    {.name = "b", .dtype = PL_F32, .ndim = 2, .dims = {2, 3}, .data = data_f32},
    {.name = "z", .dtype = PL_U8, .ndim = 1, .dims = {3}, .data = data_u8},
    {.name = "a", .dtype = PL_F32, .ndim = 1, .dims = {0}, .data = data_f32},
    {.name = "i", .dtype = PL_I64, .ndim = 0, .data = data_i64},
};

/* The bytes that safetensors' own writer gives for these tensors (checked by tests/reference/safetensors_bytes.py). */
static void layout(void **state) {
    (void)state;
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
        "\"z\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[32,35]}}";
    pl_error e;
    char *text = NULL;
    size_t len, n = sizeof want - 1, padded = (n + 7) / 8 * 8;
    if (pl_tensors_write(PATH, small, PL_LEN(small), NULL, 0, NULL, NULL, &e)) fail_msg("%s", e.text);
    assert_int_equal(pl_file_read(&text, &len, PATH, 1 << 20, NULL), 0);
    assert_int_equal(len, 8 + padded + 35);
    assert_int_equal((unsigned char)text[0] + 256 * (unsigned char)text[1], padded);
    for (int i = 2; i < 8; i++) assert_int_equal(text[i], 0);
    assert_memory_equal(text + 8, want, n);
    for (size_t i = n; i < padded; i++) assert_int_equal(text[8 + i], ' ');
    assert_memory_equal(text + 8 + padded, data_i64, 8);
    assert_memory_equal(text + 8 + padded + 8, data_f32, 24);
    assert_memory_equal(text + 8 + padded + 32, data_u8, 3);
    pl_free(text);
    remove(PATH);
}

static void every_dtype(void **state) {
    (void)state;
    static const char *const descending[] = {"U64", "I64", "F64",     "F32",     "U32", "I32", "BF16", "F16",
                                             "U16", "I16", "F8_E4M3", "F8_E5M2", "I8",  "U8",  "BOOL"};
    char names[PL_DTYPE_COUNT][16];
    pl_tensor list[PL_DTYPE_COUNT];
    char zeros[8] = {0};
    for (int i = 0; i < PL_DTYPE_COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        list[i] = (pl_tensor){.name = names[i], .dtype = (pl_dtype)i, .data = zeros};
    }
    pl_tensors *ts = NULL;
    assert_int_equal(pl_tensors_write(PATH, list, PL_DTYPE_COUNT, NULL, 0, NULL, NULL, NULL), 0);
    assert_int_equal(pl_tensors_open_file(&ts, PATH, NULL), 0);
    for (int64_t i = 0; i < PL_DTYPE_COUNT; i++) {
        assert_string_equal(pl_dtype_name(pl_tensors_at(ts, i)->dtype), descending[i]);
        assert_int_equal(pl_tensors_index(ts, pl_tensors_at(ts, i)), i);
    }
    pl_tensors_close(ts);
    remove(PATH);
}

typedef struct source {
    int64_t next[3]; /* element expected next, per tensor */
    int64_t calls;
    int64_t fail_at; /* call that fails; -1: none */
} source;

/* Element i of tensor t has the value 1000000 t + i. */
static int fill(void *user, int64_t index, int64_t first, int64_t count, void *bytes, pl_error *err) {
    source *s = user;
    if (s->calls++ == s->fail_at) return PL_FAIL(err, PL_E_NUMERIC, "not finite");
    assert_int_equal(first, s->next[index]);
    s->next[index] = first + count;
    for (int64_t i = 0; i < count; i++) ((int32_t *)bytes)[i] = (int32_t)(10000000 * index + first + i);
    return 0;
}

static const pl_tensor big[] = {
    {.name = "rows", .dtype = PL_I32, .ndim = 2, .dims = {3001, 700}},
    {.name = "wide", .dtype = PL_I32, .ndim = 2, .dims = {2, 1100000}}, /* one row is above a chunk */
    {.name = "flat", .dtype = PL_I32, .ndim = 1, .dims = {1500000}},
};

static void streams(void **state) {
    (void)state;
    source s = {.fail_at = -1};
    pl_error e;
    pl_tensors *ts = NULL;
    const pl_st_meta meta[] = {{"made_by", "a \"test\""}, {"format", "pt"}};
    if (pl_tensors_write(PATH, big, 3, meta, 2, fill, &s, &e)) fail_msg("%s", e.text);
    assert_int_equal(pl_tensors_open_file(&ts, PATH, NULL), 0);
    assert_string_equal(pl_tensors_metadata(ts, "format"), "pt");
    assert_string_equal(pl_tensors_metadata(ts, "made_by"), "a \"test\"");
    for (int64_t t = 0; t < 3; t++) {
        const pl_tensor *x = pl_tensors_find(ts, big[t].name);
        const int32_t *v = x->data;
        int64_t n = (int64_t)(x->bytes / 4);
        assert_int_equal(n, s.next[t]);
        for (int64_t i = 0; i < n; i++)
            if (v[i] != (int32_t)(10000000 * t + i)) fail_msg("tensor %d, element %d", (int)t, (int)i);
    }
    assert_true(s.calls >= 3 + 2 + 2);
    pl_tensors_close(ts);
    remove(PATH);
}

static void failures_leave_nothing(void **state) {
    (void)state;
    pl_error e;
    char **names = NULL;
    int64_t n;
    pl_dir_remove("st_write_dir", NULL);
    assert_int_equal(pl_dir_make("st_write_dir", NULL), 0);
    for (int64_t k = 0; k < 5; k++) {
        source s = {.fail_at = k};
        assert_int_equal(pl_tensors_write("st_write_dir/x", big, 3, NULL, 0, fill, &s, &e), PL_E_NUMERIC);
        assert_non_null(strstr(e.text, "st_write_dir/x: tensor "));
    }
    int rc = PL_E_NOMEM, k = 0;
    for (; rc != 0; k++) {
        source s = {.fail_at = -1};
        pl_test_fail_alloc_at(k);
        rc = pl_tensors_write("st_write_dir/x", big, 1, NULL, 0, fill, &s, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), 0);
        assert_int_equal(pl_dir_list(&names, &n, "st_write_dir", NULL), 0);
        assert_true(n == (rc == 0) || n == 1);
        if (n) { /* only the directory's sync came after it: the file is whole */
            pl_tensors *ts = NULL;
            assert_string_equal(names[0], "x");
            assert_int_equal(pl_tensors_open_file(&ts, "st_write_dir/x", NULL), 0);
            pl_tensors_close(ts);
            remove("st_write_dir/x");
        }
        pl_names_free(names, n);
    }
    assert_true(k > 3);
    assert_int_equal(pl_tensors_write("/nonexistent/x", small, 1, NULL, 0, NULL, NULL, &e), PL_E_IO);
    pl_dir_remove("st_write_dir", NULL);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        pl_tensor t[2];
        int64_t n;
        int code;
    } cases[] = {
        {{{.name = "", .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
        {{{.name = NULL, .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
        {{{.name = "a\nb", .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
        {{{.name = "a\xff", .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
        {{{.name = "__metadata__", .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
        {{{.name = "a", .dtype = PL_U8, .ndim = 1, .dims = {1}, .data = data_u8},
          {.name = "a", .dtype = PL_F32, .ndim = 1, .dims = {1}, .data = data_f32}},
         2,
         PL_E_FORMAT},
        {{{.name = "a", .dtype = PL_U8, .ndim = 1, .dims = {-1}, .data = data_u8}}, 1, PL_E_RANGE},
        {{{.name = "a", .dtype = PL_U8, .ndim = 9, .data = data_u8}}, 1, PL_E_RANGE},
        {{{.name = "a", .dtype = PL_F32, .ndim = 2, .dims = {(int64_t)1 << 32, (int64_t)1 << 32}, .data = data_u8}},
         1,
         PL_E_RANGE},
        {{{.name = "a", .dtype = PL_U8, .ndim = 1, .dims = {1}}}, 1, PL_E_STATE},
        {{{.name = "a", .dtype = (pl_dtype)99, .ndim = 1, .dims = {1}, .data = data_u8}}, 1, PL_E_FORMAT},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        pl_error e = {0};
        int rc = pl_tensors_write(PATH, cases[i].t, cases[i].n, NULL, 0, NULL, NULL, &e);
        if (rc != cases[i].code || strncmp(e.text, PATH ": ", strlen(PATH) + 2) != 0)
            fail_msg("case %d: %d %s", (int)i, rc, e.text);
        assert_false(pl_file_exists(PATH));
    }
    /* no tensor at all is a file */
    pl_tensors *ts = NULL;
    assert_int_equal(pl_tensors_write(PATH, NULL, 0, NULL, 0, NULL, NULL, NULL), 0);
    assert_int_equal(pl_tensors_open_file(&ts, PATH, NULL), 0);
    assert_int_equal(pl_tensors_count(ts), 0);
    pl_tensors_close(ts);
    remove(PATH);
}

/* A file that transformers wrote comes back byte for byte. */
static void rewrites_golden(void **state) {
    (void)state;
    static const char *const models[] = {"llama_bf16", "qwen2_tied", "qwen2_f16", "llama_bias"};
    for (int64_t m = 0; m < PL_LEN(models); m++) {
        char path[1024];
        pl_tensors *ts = NULL;
        pl_tensor list[64];
        char *a = NULL, *b = NULL;
        size_t na, nb;
        snprintf(path, sizeof path, PLUMB_TEST_DIR "/golden/models/%s/model.safetensors", models[m]);
        assert_int_equal(pl_tensors_open_file(&ts, path, NULL), 0);
        int64_t n = pl_tensors_count(ts);
        assert_true(n <= 64);
        for (int64_t i = 0; i < n; i++) list[i] = *pl_tensors_at(ts, n - 1 - i);
        assert_int_equal(pl_tensors_write(PATH, list, n, NULL, 0, NULL, NULL, NULL), 0);
        assert_int_equal(pl_file_read(&a, &na, path, 1 << 24, NULL), 0);
        assert_int_equal(pl_file_read(&b, &nb, PATH, 1 << 24, NULL), 0);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na);
        pl_free(a);
        pl_free(b);
        pl_tensors_close(ts);
        remove(PATH);
    }
}

static void dtypes(void **state) {
    (void)state;
    pl_dtype t;
    assert_true(pl_dtype_from_name(&t, "BF16", 4) && t == PL_BF16);
    assert_false(pl_dtype_from_name(&t, "BF1", 3));
    assert_true(pl_dtype_from_torch(&t, "torch.bfloat16", 14) && t == PL_BF16);
    assert_true(pl_dtype_from_torch(&t, "float32", 7) && t == PL_F32);
    assert_false(pl_dtype_from_torch(&t, "float", 3));
    assert_string_equal(pl_dtype_torch_name(PL_F16), "float16");
    assert_int_equal(pl_dtype_bytes(PL_F64), 8);
    char text[16];
    pl_dims_text(text, sizeof text, 2, (int64_t[]){3, 4});
    assert_string_equal(text, "[3,4]");
    pl_dims_text(text, sizeof text, 0, NULL);
    assert_string_equal(text, "[]");
    pl_dims_text(text, 5, 2, (int64_t[]){33, 44});
    assert_string_equal(text, "[33");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout),  cmocka_unit_test(every_dtype),
        cmocka_unit_test(streams), cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(refuses), cmocka_unit_test(rewrites_golden),
        cmocka_unit_test(dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
