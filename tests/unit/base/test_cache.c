/* The cache directory: where it is, stamps that change with a file, remembered hashes that are whole or none. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cache.h"
#include "base/file.h"
#include "unit/alloc_hook.h"

static const pl_hash key = {"00112233445566778899aabbccddeeff"}, value = {"ffeeddccbbaa99887766554433221100"};

static int make_dir(void **state) {
    char *dir = strdup("/tmp/plumb-memo-XXXXXX");
    *state = dir;
    return dir && mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    pl_error err;
    int rc = pl_dir_remove(*state, &err);
    free(*state);
    return rc;
}

static void expect_dir(const char *given, const char *want) {
    pl_error err;
    char *dir = NULL;
    assert_int_equal(pl_cache_dir(&dir, given, &err), 0);
    assert_string_equal(dir, want);
    pl_free(dir);
}

static void test_place(void **state) {
    (void)state;
    assert_int_equal(setenv("HOME", "/home/x", 1), 0);
    assert_int_equal(setenv("XDG_CACHE_HOME", "/var/c", 1), 0);
    expect_dir("here", "here");
    expect_dir(NULL, "/var/c/plumb");
    expect_dir("", "/var/c/plumb");
    assert_int_equal(setenv("XDG_CACHE_HOME", "", 1), 0);
    expect_dir(NULL, "/home/x/.cache/plumb");
    assert_int_equal(unsetenv("XDG_CACHE_HOME"), 0);
    expect_dir(NULL, "/home/x/.cache/plumb");
}

static pl_stamp stamp_of(const char *path) {
    pl_stamp s;
    pl_error err;
    if (pl_stamp_of(&s, path, &err)) fail_msg("%s", err.text);
    return s;
}

/* Sets the content's time back to what it was: the other time cannot be set. */
static void test_stamps(void **state) {
    char path[256], other[256];
    pl_error err;
    snprintf(path, sizeof path, "%s/f", (const char *)*state);
    snprintf(other, sizeof other, "%s/g", (const char *)*state);
    assert_int_equal(pl_file_write(path, "abc", 3, &err), 0);
    pl_stamp a = stamp_of(path), same = stamp_of(path);
    assert_true(a.regular && !a.settled && a.size == 3);
    assert_true(pl_stamp_equal(&a, &same));
    struct timespec tick = {0, 30 * 1000 * 1000}, old[2] = {{1, 0}, {1, 0}};
    nanosleep(&tick, NULL); /* longer than a tick of the kernel's clock */
    struct timespec kept[2] = {{0, UTIME_OMIT}, {a.mtime_ns / 1000000000, a.mtime_ns % 1000000000}};
    FILE *f = fopen(path, "r+");
    assert_true(f && fputc('x', f) == 'x' && fclose(f) == 0);
    assert_int_equal(utimensat(AT_FDCWD, path, kept, 0), 0);
    pl_stamp b = stamp_of(path);
    assert_int_equal(b.mtime_ns, a.mtime_ns);
    assert_int_equal(b.size, a.size);
    assert_false(pl_stamp_equal(&a, &b));
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_false(stamp_of(path).settled); /* an old content's time, but just now something changed */
    assert_int_equal(pl_file_copy(path, other, &err), 0);
    pl_stamp c = stamp_of(other), d = stamp_of(*state);
    assert_false(pl_stamp_equal(&b, &c));
    assert_false(d.regular);
    assert_int_equal(pl_stamp_of(&a, "/nonexistent", &err), PL_E_IO);
}

static void test_memo(void **state) {
    char dir[256], path[512], *text = NULL;
    size_t n = 0;
    pl_hash got = {{0}}, other = key;
    pl_error err;
    snprintf(dir, sizeof dir, "%s/a/b", (const char *)*state);
    assert_false(pl_memo_get(&got, dir, &key));
    assert_int_equal(pl_memo_put(dir, &key, &value, &err), 0);
    assert_true(pl_memo_get(&got, dir, &key));
    assert_string_equal(got.hex, value.hex);
    other.hex[0] = '1';
    assert_false(pl_memo_get(&got, dir, &other));
    snprintf(path, sizeof path, "%s/hash-%s", dir, key.hex);
    assert_int_equal(pl_file_read(&text, &n, path, 1000, &err), 0);
    assert_int_equal(n, 64);
    snprintf(path, sizeof path, "%s/hash-%s", dir, other.hex); /* a file under another name is not its value */
    assert_int_equal(pl_file_write(path, text, n, &err), 0);
    assert_false(pl_memo_get(&got, dir, &other));
    snprintf(path, sizeof path, "%s/hash-%s", dir, key.hex);
    for (size_t i = 0; i <= n; i++) { /* cut at i; the byte at i changed */
        assert_int_equal(pl_file_write(path, text, i, &err), 0);
        assert_int_equal(pl_memo_get(&got, dir, &key), i == n);
        if (i == n) break;
        text[i] = (char)(text[i] ^ 1);
        assert_int_equal(pl_file_write(path, text, n, &err), 0);
        assert_false(pl_memo_get(&got, dir, &key));
        text[i] = (char)(text[i] ^ 1);
    }
    pl_free(text);
    char below[600];
    snprintf(below, sizeof below, "%s/x", path); /* below a file */
    assert_int_equal(pl_memo_put(below, &key, &value, &err), PL_E_IO);
}

/* A short file is read every time, so a change is seen whatever the stamp says. */
static void test_remembered(void **state) {
    char path[256];
    pl_hash a, b, c;
    pl_error err;
    snprintf(path, sizeof path, "%s/f", (const char *)*state);
    assert_int_equal(pl_file_write(path, "abc", 3, &err), 0);
    pl_stamp s = stamp_of(path);
    assert_int_equal(pl_hash_file_remembered(&a, path, &s, *state, false, &err), 0);
    assert_string_equal(a.hex, pl_hash_bytes("abc", 3).hex);
    assert_int_equal(pl_file_write(path, "abd", 3, &err), 0);
    assert_int_equal(pl_hash_file_remembered(&b, path, &s, *state, false, &err), 0);
    assert_string_equal(b.hex, pl_hash_bytes("abd", 3).hex);
    /* A long one: remembered for its stamp, told apart by it, and read when asked to. */
    enum { LONG = (16 << 20) + 1 };
    FILE *f = fopen(path, "w");
    assert_true(f && fseek(f, LONG - 1, SEEK_SET) == 0 && fputc('x', f) == 'x' && fclose(f) == 0);
    s = stamp_of(path);
    s.settled = true;
    assert_int_equal(pl_hash_file_remembered(&a, path, &s, *state, false, &err), 0);
    f = fopen(path, "r+");
    assert_true(f && fputc('y', f) == 'y' && fclose(f) == 0);
    assert_int_equal(pl_hash_file_remembered(&b, path, &s, *state, false, &err), 0);
    assert_string_equal(b.hex, a.hex); /* the caller's stamp is an old one: nothing was read */
    assert_int_equal(pl_hash_file_remembered(&c, path, &s, *state, true, &err), 0);
    assert_string_not_equal(c.hex, a.hex);
    pl_stamp now = stamp_of(path);
    assert_int_equal(pl_hash_file_remembered(&b, path, &now, *state, false, &err), 0);
    assert_string_equal(b.hex, c.hex);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),
        cmocka_unit_test_setup_teardown(test_stamps, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_memo, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_remembered, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
