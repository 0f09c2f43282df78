/* Files: whole reads, maps, lines of plain and gzip text, atomic writes, directories. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "unit/alloc_hook.h"

static char dir[64], path[128];

static int enter(void **state) {
    PL_UNUSED(state);
    snprintf(dir, sizeof dir, "/tmp/plumb-file-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    return 0;
}

static int leave(void **state) {
    PL_UNUSED(state);
    return pl_dir_remove(dir, NULL) || pl_dir_exists(dir) || pl_test_live_bytes() != 0;
}

static void put(const char *text, size_t n) { assert_int_equal(pl_file_write(path, text, n, NULL), 0); }

static void whole(void **state) {
    PL_UNUSED(state);
    char *data = NULL;
    size_t n = 7;
    pl_error e;
    assert_int_equal(pl_file_read(&data, &n, path, 100, &e), PL_E_IO);
    assert_non_null(strstr(e.text, path));
    assert_null(data);
    put("a\0b", 3);
    assert_int_equal(pl_file_read(&data, &n, path, 3, &e), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(data, "a\0b", 4);
    pl_free(data);
    data = NULL;
    assert_int_equal(pl_file_read(&data, &n, path, 2, &e), PL_E_RANGE);
    put("", 0);
    assert_int_equal(pl_file_read(&data, &n, path, 100, &e), 0);
    assert_int_equal(n, 0);
    assert_string_equal(data, "");
    pl_free(data);
    data = NULL;
    assert_int_equal(pl_file_read(&data, &n, dir, 100, &e), PL_E_IO);
    assert_non_null(strstr(e.text, "is a directory"));
    assert_int_equal(pl_file_read(&data, &n, "/proc/self/status", 100000, &e), 0); /* says its size is 0 */
    assert_true(n > 100 && strlen(data) == n);
    pl_free(data);
    data = NULL;
    assert_int_equal(pl_file_read(&data, &n, "/dev/zero", 1000000, &e), PL_E_RANGE);
    assert_null(data);
}

static void maps(void **state) {
    PL_UNUSED(state);
    pl_map m = {0};
    pl_error e;
    assert_int_equal(pl_map_open(&m, path, &e), PL_E_IO);
    put("", 0);
    assert_int_equal(pl_map_open(&m, path, &e), 0);
    assert_true(m.data == NULL && m.len == 0);
    pl_map_close(&m);
    put("hello", 5);
    assert_int_equal(pl_map_open(&m, path, &e), 0);
    assert_int_equal(m.len, 5);
    assert_memory_equal(m.data, "hello", 5);
    assert_int_equal(pl_map_check(&m, path, &e), 0);
    assert_int_equal(truncate(path, 9), 0); /* longer is fine */
    assert_int_equal(pl_map_check(&m, path, &e), 0);
    assert_int_equal(truncate(path, 4), 0);
    assert_int_equal(pl_map_check(&m, path, &e), PL_E_IO);
    assert_non_null(strstr(e.text, "was cut to 4 bytes while it is in use; it had 5"));
    assert_int_equal(unlink(path), 0); /* another file of that name is none of its business */
    put("x", 1);
    assert_int_equal(pl_map_check(&m, path, &e), PL_E_IO);
    pl_map_close(&m);
    assert_int_equal(pl_map_check(&m, path, &e), 0);
    pl_map_close(&m);
    pl_map_close(NULL);
    assert_int_equal(pl_map_open(&m, dir, &e), PL_E_IO);
    assert_int_equal(pl_map_open(&m, "/dev/zero", &e), PL_E_IO);
}

/* --- lines
 * ---------------------------------------------------------------------------------------------------------------- */
static void add_gzip(const char *text, size_t n, size_t cut) {
    static unsigned char out[1 << 20];
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = sizeof out;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    fwrite(out, 1, z.total_out - cut, f);
    fclose(f);
    deflateEnd(&z);
}

static int read_all(pl_buf *b, int64_t *count, size_t max_line, pl_error *e) {
    pl_lines *l = NULL;
    const char *line = "";
    size_t n;
    int rc = pl_lines_open(&l, path, max_line, e);
    for (*count = 0; rc == 0 && line;) {
        rc = pl_lines_next(l, &line, &n, e);
        if (rc || !line) continue;
        ++*count;
        assert_int_equal(pl_lines_number(l), *count);
        assert_int_equal(line[n], 0);
        rc = pl_buf_add(b, line, n, e);
        if (rc == 0) rc = pl_buf_puts(b, "|", e);
    }
    pl_lines_free(l);
    return rc;
}

static void wants_lines(const char *text, size_t n, const char *want, int64_t count) {
    for (int gzip = 0; gzip < 2; gzip++) {
        pl_buf b = {0};
        pl_error e = {0};
        int64_t got;
        unlink(path);
        if (gzip)
            add_gzip(text, n, 0);
        else
            put(text, n);
        if (read_all(&b, &got, 1000, &e)) fail_msg("%s", e.text);
        assert_string_equal(b.data ? b.data : "", want);
        assert_int_equal(got, count);
        pl_buf_release(&b);
    }
}

static void lines(void **state) {
    PL_UNUSED(state);
    wants_lines("", 0, "", 0);
    wants_lines("a", 1, "a|", 1);
    wants_lines("a\n", 2, "a|", 1);
    wants_lines("\n", 1, "|", 1);
    wants_lines("a\r\n\r\nb\rc\n\nd", 11, "a||b\rc||d|", 5);
    wants_lines("\x1F", 1, "\x1F|", 1); /* one byte of the gzip magic */
}

static void long_lines(void **state) {
    PL_UNUSED(state);
    enum { N = 600000 };
    char *text = NULL;
    pl_error e;
    assert_int_equal(PL_NEW(&text, N, &e), 0);
    for (int i = 0; i < N; i++) text[i] = (char)(i % 300000 == 299999 ? '\n' : 'a' + i * 7 % 26);
    for (int gzip = 0; gzip < 2; gzip++) {
        unlink(path);
        if (gzip)
            add_gzip(text, N, 0);
        else
            put(text, N);
        for (int fits = 0; fits < 2; fits++) {
            pl_buf b = {0};
            int64_t count;
            assert_int_equal(read_all(&b, &count, fits ? 299999 : 299998, &e), fits ? 0 : PL_E_RANGE);
            if (!fits) assert_non_null(strstr(e.text, "/f:1: a line of more than 299998 bytes"));
            if (fits) assert_int_equal(count, 2);
            if (fits) assert_memory_equal(b.data, text, 299999);
            pl_buf_release(&b);
        }
    }
    pl_free(text);
}

static void gzip_members(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    int64_t count;
    unlink(path);
    add_gzip("one\ntw", 6, 0);
    add_gzip("", 0, 0);
    add_gzip("o\nthree\n", 8, 0);
    assert_int_equal(read_all(&b, &count, 100, &e), 0);
    assert_string_equal(b.data, "one|two|three|");
    pl_buf_release(&b);
}

static void gzip_damaged(void **state) {
    PL_UNUSED(state);
    static const char text[] = "one\ntwo\nthree\n";
    for (size_t cut = 1; cut < 30; cut++) { /* cut off anywhere: the checksum, the data, the header */
        pl_buf b = {0};
        pl_error e;
        int64_t count;
        unlink(path);
        add_gzip(text, sizeof text - 1, cut);
        if (read_all(&b, &count, 100, &e) != PL_E_FORMAT) fail_msg("%zu bytes are missing, and nobody said so", cut);
        if (!strstr(e.text, "the gzip data is cut off") || !strstr(e.text, "/f:")) fail_msg("%s", e.text);
        pl_buf_release(&b);
    }
    pl_buf b = {0};
    pl_error e;
    int64_t count;
    unlink(path);
    add_gzip(text, sizeof text - 1, 0);
    FILE *f = fopen(path, "ab");
    fputs("garbage", f);
    fclose(f);
    assert_int_equal(read_all(&b, &count, 100, &e), PL_E_FORMAT);
    pl_buf_clear(&b);
    f = fopen(path, "r+b");
    fseek(f, 14, SEEK_SET);
    fputc(0xFF, f);
    fclose(f);
    assert_int_equal(read_all(&b, &count, 100, &e), PL_E_FORMAT);
    pl_buf_release(&b);
}

static void lines_no_memory(void **state) {
    PL_UNUSED(state);
    unlink(path);
    add_gzip("one\ntwo\n", 8, 0);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc && k < 50; k++) {
        pl_error e;
        pl_lines *l = NULL;
        const char *line;
        size_t n;
        pl_test_fail_alloc_at(k);
        rc = pl_lines_open(&l, path, 100, &e);
        if (rc == 0) rc = pl_lines_next(l, &line, &n, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        pl_lines_free(l);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(rc, 0);
    assert_true(k > 4);
}

/* --- writing
 * ---------------------------------------------------------------------------------------------------------------- */
static void atomic(void **state) {
    PL_UNUSED(state);
    pl_out o = {0};
    pl_error e;
    char *data = NULL;
    size_t n;
    put("old", 3);
    assert_int_equal(pl_out_open(&o, path, &e), 0);
    assert_int_equal(pl_out_write(&o, "new text", 8, &e), 0);
    assert_int_equal(pl_file_read(&data, &n, path, 100, &e), 0);
    assert_string_equal(data, "old"); /* until it is committed */
    pl_free(data);
    pl_out_release(&o); /* given up */
    char **names = NULL;
    int64_t count;
    assert_int_equal(pl_dir_list(&names, &count, dir, &e), 0);
    assert_int_equal(count, 1); /* no temporary file is left */
    pl_names_free(names, count);
    assert_int_equal(pl_out_open(&o, path, &e), 0);
    fprintf(o.f, "%s", "newer");
    assert_int_equal(pl_out_commit(&o, &e), 0);
    pl_out_release(&o);
    assert_int_equal(pl_file_read(&data, &n, path, 100, &e), 0);
    assert_string_equal(data, "newer");
    pl_free(data);
    assert_int_equal(pl_file_write("/nonexistent/x", "a", 1, &e), PL_E_IO);
    pl_out_release(NULL);
}

/* What cannot be written whole leaves the old file. The limit on the file's size stands for a full disk. */
static void full_disk(void **state) {
    PL_UNUSED(state);
    pl_error e;
    char *big = NULL, *data = NULL;
    size_t n;
    struct rlimit old, small;
    assert_int_equal(PL_NEW(&big, 1 << 20, &e), 0);
    put("old", 3);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 100000;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = pl_file_write(path, big, 1 << 20, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, before);
    pl_free(big);
    assert_int_equal(rc, PL_E_IO);
    assert_int_equal(pl_file_read(&data, &n, path, 100, &e), 0);
    assert_string_equal(data, "old");
    pl_free(data);
    char **names = NULL;
    int64_t count;
    assert_int_equal(pl_dir_list(&names, &count, dir, &e), 0);
    assert_int_equal(count, 1);
    pl_names_free(names, count);
}

static void write_no_memory(void **state) {
    PL_UNUSED(state);
    char copy[160];
    snprintf(copy, sizeof copy, "%s.copy", path);
    put("text", 4);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc && k < 20; k++) {
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = pl_file_copy(path, copy, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(rc, 0);
    assert_true(k > 3);
}

static void copies(void **state) {
    PL_UNUSED(state);
    char copy[160];
    pl_error e;
    char *big = NULL, *data = NULL;
    size_t n;
    snprintf(copy, sizeof copy, "%s.copy", path);
    assert_int_equal(PL_NEW(&big, 300001, &e), 0);
    memset(big, 'q', 300001);
    put(big, 300001);
    assert_int_equal(pl_file_copy(path, copy, &e), 0);
    assert_int_equal(pl_file_read(&data, &n, copy, 1000000, &e), 0);
    assert_int_equal(n, 300001);
    assert_memory_equal(data, big, n);
    pl_free(data);
    pl_free(big);
    assert_int_equal(pl_file_copy("/nonexistent", copy, &e), PL_E_IO);
    assert_int_equal(pl_file_copy(dir, copy, &e), PL_E_IO);
}

/* --- directories
 * ------------------------------------------------------------------------------------------------------------ */
static void paths(void **state) {
    PL_UNUSED(state);
    char *p = NULL;
    static const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        assert_int_equal(pl_path_join(&p, cases[i][0], cases[i][1], NULL), 0);
        assert_string_equal(p, cases[i][2]);
        pl_free(p);
    }
    assert_string_equal(pl_path_base("a/b/c"), "c");
    assert_string_equal(pl_path_base("c"), "c");
    assert_string_equal(pl_path_base("a/"), "");
}

static void directories(void **state) {
    PL_UNUSED(state);
    char deep[160], other[160];
    pl_error e;
    snprintf(deep, sizeof deep, "%s/x/y//z/", dir);
    assert_int_equal(pl_dir_make(deep, &e), 0);
    assert_int_equal(pl_dir_make(deep, &e), 0);
    assert_true(pl_dir_exists(deep) && !pl_file_exists(deep));
    assert_int_equal(pl_dir_sync(deep, &e), 0);
    put("t", 1);
    assert_true(pl_file_exists(path) && !pl_dir_exists(path));
    assert_int_equal(pl_dir_make(path, &e), PL_E_IO);
    snprintf(other, sizeof other, "%s/g", path);
    assert_int_equal(pl_dir_make(other, &e), PL_E_IO);
    assert_int_equal(pl_dir_make("", &e), PL_E_IO);
    snprintf(other, sizeof other, "%s/x/B", dir);
    assert_int_equal(pl_file_write(other, "", 0, &e), 0);
    snprintf(deep, sizeof deep, "%s/x/link", dir);
    assert_int_equal(symlink(path, deep), 0);
    snprintf(deep, sizeof deep, "%s/x", dir);
    char **names = NULL;
    int64_t n = 0;
    assert_int_equal(pl_dir_list(&names, &n, deep, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "B");
    assert_string_equal(names[1], "link");
    assert_string_equal(names[2], "y");
    pl_names_free(names, n);
    assert_int_equal(pl_dir_remove(deep, &e), 0);
    assert_false(pl_dir_exists(deep));
    assert_true(pl_file_exists(path)); /* a link is removed, not what it points to */
    assert_int_equal(pl_dir_remove(deep, &e), 0);
    assert_int_equal(pl_dir_list(&names, &n, deep, &e), PL_E_IO);
    assert_int_equal(pl_dir_make("relative-plumb-test/a", &e), 0);
    assert_int_equal(pl_dir_remove("relative-plumb-test", &e), 0);
}

static void many_names(void **state) {
    PL_UNUSED(state);
    char deep[160];
    char **names = NULL;
    int64_t n = 0;
    pl_error e;
    for (int i = 0; i < 100; i++) {
        snprintf(deep, sizeof deep, "%s/many/d%02d", dir, i);
        assert_int_equal(pl_dir_make(deep, &e), 0);
    }
    snprintf(deep, sizeof deep, "%s/many", dir);
    int rc = PL_E_NOMEM, k = 0;
    for (; rc && k < 200; k++) {
        pl_test_fail_alloc_at(k);
        rc = pl_dir_list(&names, &n, deep, &e);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || (rc == PL_E_NOMEM && names == NULL && pl_test_live_bytes() == 0));
    }
    assert_int_equal(n, 100);
    for (int i = 0; i + 1 < 100; i++) assert_true(strcmp(names[i], names[i + 1]) < 0);
    pl_names_free(names, n);
}

static void renames(void **state) {
    PL_UNUSED(state);
    char a[160], b[160], file[200];
    pl_error e;
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    for (int round = 0; round < 2; round++) { /* the second time b exists and is not empty */
        snprintf(file, sizeof file, "%s/round%d", a, round);
        assert_int_equal(pl_dir_make(a, &e), 0);
        assert_int_equal(pl_file_write(file, "x", 1, &e), 0);
        if (pl_rename_synced(a, b, &e)) fail_msg("%s", e.text);
        assert_false(pl_dir_exists(a));
        snprintf(file, sizeof file, "%s/round%d", b, round);
        assert_true(pl_file_exists(file));
        snprintf(file, sizeof file, "%s/round%d", b, 1 - round);
        assert_false(pl_file_exists(file));
    }
    assert_int_equal(pl_rename_synced("/nonexistent/q", b, &e), PL_E_IO);
    put("f", 1);
    assert_int_equal(pl_rename_synced(path, b, &e), PL_E_IO); /* a file does not replace a directory */
    assert_true(pl_dir_exists(b) && pl_file_exists(path));
}

int main(void) {
#define T(test) cmocka_unit_test_setup_teardown(test, enter, leave)
    const struct CMUnitTest tests[] = {
        T(whole),           T(maps),       T(lines),     T(long_lines),      T(gzip_members), T(gzip_damaged),
        T(lines_no_memory), T(atomic),     T(full_disk), T(write_no_memory), T(copies),       T(paths),
        T(directories),     T(many_names), T(renames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
