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

/* A file of so many bytes, last used so many days ago. */
static void put_aged(const char *dir, const char *name, int64_t bytes, double days) {
    char path[512];
    struct timespec t[2] = {{0, UTIME_OMIT}, {time(NULL) - (time_t)(days * 86400), 0}};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_true(f && ftruncate(fileno(f), bytes) == 0 && fclose(f) == 0);
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static bool is_there(const char *dir, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return pl_file_exists(path);
}

#define ROWS(digit) "rows-" digit "0112233445566778899aabbccddeeff.bin"
#define REFERENCE "reference-00112233445566778899aabbccddeeff.bin"
#define HASH "hash-00112233445566778899aabbccddeeff"

static void test_prune_by_age(void **state) {
    const char *dir = *state, *stay[] = {"rows-x.bin", "mine.bin", ROWS("a") ".old", HASH ".tmp-1", ROWS("b")},
               *go[] = {ROWS("a"), REFERENCE, HASH, REFERENCE ".tmp-77"};
    assert_int_equal(unsetenv("PLUMB_CACHE_SIZE"), 0);
    for (int i = 0; i < 3; i++) put_aged(dir, stay[i], 10, 1000); /* others' files */
    put_aged(dir, stay[3], 10, 0.5);                              /* being written */
    put_aged(dir, stay[4], 10, 89);
    for (int i = 0; i < 3; i++) put_aged(dir, go[i], 10, 91);
    put_aged(dir, go[3], 10, 2); /* its writer is dead */
    pl_cache_prune(dir);
    for (int i = 0; i < PL_LEN(stay); i++) assert_true(is_there(dir, stay[i]));
    for (int i = 0; i < PL_LEN(go); i++) assert_false(is_there(dir, go[i]));
    pl_cache_prune("/nonexistent");
}

/* The longest unused first, until the rest fits; what was used just now stays whatever the bound. */
static void test_prune_by_size(void **state) {
    const char *dir = *state;
    put_aged(dir, ROWS("1"), 400, 3);
    put_aged(dir, ROWS("2"), 400, 2);
    put_aged(dir, ROWS("3"), 400, 1);
    put_aged(dir, REFERENCE, 400, 0);
    static const char *const none[] = {"0", "2K", "1600", "1G", "", "much", "-1", "1 K", "9999999999T"};
    for (int i = 0; i < PL_LEN(none); i++) {
        assert_int_equal(setenv("PLUMB_CACHE_SIZE", none[i], 1), 0);
        pl_cache_prune(dir);
        assert_true(is_there(dir, ROWS("1")));
    }
    assert_int_equal(setenv("PLUMB_CACHE_SIZE", "1K", 1), 0);
    char used[512];
    snprintf(used, sizeof used, "%s/%s", dir, ROWS("1"));
    put_aged(dir, ROWS("1"), 400, 0.5); /* used since */
    pl_cache_prune(dir);
    assert_true(is_there(dir, ROWS("1")) && is_there(dir, REFERENCE));
    assert_false(is_there(dir, ROWS("2")) || is_there(dir, ROWS("3")));
    pl_cache_used(used);
    assert_int_equal(setenv("PLUMB_CACHE_SIZE", "1", 1), 0);
    pl_cache_prune(dir);
    assert_true(is_there(dir, ROWS("1")) && is_there(dir, REFERENCE));
    assert_int_equal(unsetenv("PLUMB_CACHE_SIZE"), 0);
}

/* A remembered hash that is asked for is used; a failing allocation removes nothing and leaks nothing. */
static void test_prune_used(void **state) {
    const char *dir = *state;
    pl_hash got;
    pl_error err;
    assert_int_equal(pl_memo_put(dir, &key, &value, &err), 0);
    put_aged(dir, ROWS("1"), 400, 200);
    char path[512];
    snprintf(path, sizeof path, "%s/hash-%s", dir, key.hex);
    struct timespec old[2] = {{0, UTIME_OMIT}, {1000, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_true(pl_memo_get(&got, dir, &key));
    int64_t live = pl_test_live_bytes();
    for (int64_t k = 0; is_there(dir, ROWS("1")); k++) {
        assert_true(k < 100);
        pl_test_fail_alloc_at(k);
        pl_cache_prune(dir);
        pl_test_fail_alloc_at(-1);
        assert_int_equal(pl_test_live_bytes(), live);
    }
    assert_true(is_there(dir, pl_path_base(path)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),
        cmocka_unit_test_setup_teardown(test_stamps, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_memo, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_remembered, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_prune_by_age, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_prune_by_size, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_prune_used, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
