/* cache.c: where the cache is, what identifies an unchanged file, and remembered hashes.
 *
 * A remembered hash is the file "hash-<key>": 32 hex digits of the value, 32 of the hash of key and value. It is read
 * by its exact length, so a cut or foreign file is none. */
#include "base/cache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"

#define HEX 32
#define LONG_FILE (16 << 20)                 /* bytes: 2 ms of hashing */
#define SETTLED_NS (3 * INT64_C(1000000000)) /* FAT counts in two seconds, the coarsest */

int pl_cache_dir(char **out, const char *dir, pl_error *err) {
    if (dir && *dir) return pl_strdup(out, dir, err);
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) return pl_asprintf(out, err, "%s/plumb", xdg);
    return pl_asprintf(out, err, "%s/.cache/plumb", home && *home ? home : "/tmp");
}

/* --- stamps */

static int64_t nanoseconds(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

static void fill_stamp(pl_stamp *out, const struct stat *st) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t now = nanoseconds(t);
    *out = (pl_stamp){.device = (int64_t)st->st_dev,
                      .inode = (int64_t)st->st_ino,
                      .size = (int64_t)st->st_size,
                      .mtime_ns = nanoseconds(st->st_mtim),
                      .ctime_ns = nanoseconds(st->st_ctim),
                      .regular = S_ISREG(st->st_mode)};
    out->settled = PL_MAX(out->mtime_ns, out->ctime_ns) < now - SETTLED_NS;
}

int pl_stamp_of(pl_stamp *out, const char *path, pl_error *err) {
    struct stat st;
    if (stat(path, &st) != 0) return PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
    fill_stamp(out, &st);
    return 0;
}

int pl_stamp_of_descriptor(pl_stamp *out, int fd, const char *path, pl_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
    fill_stamp(out, &st);
    return 0;
}

bool pl_stamp_equal(const pl_stamp *a, const pl_stamp *b) {
    return a->device == b->device && a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

void pl_hasher_add_stamp(pl_hasher *h, const pl_stamp *s) {
    pl_hasher_add_int(h, s->device);
    pl_hasher_add_int(h, s->inode);
    pl_hasher_add_int(h, s->size);
    pl_hasher_add_int(h, s->mtime_ns);
    pl_hasher_add_int(h, s->ctime_ns);
}

/* --- remembered hashes */

static int memo_path(char **out, const char *dir, const pl_hash *key, pl_error *err) {
    return pl_asprintf(out, err, "%s/hash-%s", dir, key->hex);
}

/* text: value, then the check. */
static void memo_text(char text[2 * HEX + 1], const pl_hash *key, const pl_hash *value) {
    memcpy(text, key->hex, HEX);
    memcpy(text + HEX, value->hex, HEX);
    pl_hash check = pl_hash_bytes(text, 2 * HEX);
    memcpy(text, value->hex, HEX);
    memcpy(text + HEX, check.hex, HEX + 1);
}

bool pl_memo_get(pl_hash *out, const char *dir, const pl_hash *key) {
    char *path = NULL, *data = NULL, want[2 * HEX + 1];
    size_t n = 0;
    pl_error ignored;
    pl_hash value;
    bool good = memo_path(&path, dir, key, &ignored) == 0 && pl_file_exists(path) &&
                pl_file_read(&data, &n, path, 2 * HEX, &ignored) == 0 && n == 2 * HEX;
    if (good) {
        memcpy(value.hex, data, HEX);
        value.hex[HEX] = 0;
        memo_text(want, key, &value);
        good = memcmp(want, data, 2 * HEX) == 0;
    }
    if (good) *out = value;
    if (good) pl_cache_used(path);
    pl_free(data);
    pl_free(path);
    return good;
}

int pl_memo_put(const char *dir, const pl_hash *key, const pl_hash *value, pl_error *err) {
    char *path = NULL, text[2 * HEX + 1];
    int rc;
    PL_GO(rc, pl_dir_make(dir, err));
    PL_GO(rc, memo_path(&path, dir, key, err));
    memo_text(text, key, value);
    PL_GO(rc, pl_file_write(path, text, 2 * HEX, err));
out:
    pl_free(path);
    return rc;
}

int pl_hash_file_remembered(pl_hash *out, const char *path, const pl_stamp *stamp, const char *dir, bool fresh,
                            pl_error *err) {
    if (stamp->size < LONG_FILE || !stamp->settled) return pl_hash_file(out, path, err);
    pl_hasher *h = NULL;
    pl_stamp after;
    pl_error ignored;
    int rc;
    PL_GO(rc, pl_hasher_new(&h, err));
    pl_hasher_add_text(h, "content of a file");
    pl_hasher_add_stamp(h, stamp);
    pl_hash key = pl_hasher_digest(h);
    if (!fresh && pl_memo_get(out, dir, &key)) goto out;
    PL_GO(rc, pl_hash_file(out, path, err));
    PL_GO(rc, pl_stamp_of(&after, path, err));
    if (pl_stamp_equal(&after, stamp)) (void)pl_memo_put(dir, &key, out, &ignored);
out:
    pl_hasher_free(h);
    return rc;
}
