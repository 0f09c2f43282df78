/* base/cache.h: the cache directory: files that may be deleted at any time and are never trusted unread, and content
 * hashes that are remembered beside what identifies an unchanged file, as git and ccache do it: reading gigabytes of
 * weights again at every start would tell nothing new. */
#ifndef PL_CACHE_H
#define PL_CACHE_H

#include "base/base.h"
#include "base/hash.h"

/* dir, or where it is NULL or empty $XDG_CACHE_HOME/plumb, ~/.cache/plumb. *out owned. Makes nothing. */
int pl_cache_dir(char **out, const char *dir, pl_error *err);

/* What changes whenever a file's content does: device, inode, size, and the nanoseconds of the last changes of content
 * (mtime) and of anything (ctime, which programs cannot set back). */
typedef struct pl_stamp {
    int64_t device, inode, size, mtime_ns, ctime_ns;
    bool regular; /* a regular file: only those can be read twice */
    /* The last change is so long ago that another one would change the stamp too: time stamps are as coarse as the
     * kernel's clock ticks, and up to two seconds on some file systems. Only then may a hash be remembered. */
    bool settled;
} pl_stamp;
int pl_stamp_of(pl_stamp *out, const char *path, pl_error *err);
int pl_stamp_of_descriptor(pl_stamp *out, int fd, const char *path, pl_error *err);
bool pl_stamp_equal(const pl_stamp *a, const pl_stamp *b);
void pl_hasher_add_stamp(pl_hasher *h, const pl_stamp *s);

/* pl_hash_file, remembered in `dir` for files so long that reading them costs more than a look there. `stamp` is the
 * file's, taken before. fresh: whatever is remembered. */
int pl_hash_file_remembered(pl_hash *out, const char *path, const pl_stamp *stamp, const char *dir, bool fresh,
                            pl_error *err);

/* A hash under a key, in a file of its own in the directory. get: false when there is none, or a damaged one. put:
 * makes the directory; who cannot write there computes again, so callers may ignore its errors. */
bool pl_memo_get(pl_hash *out, const char *dir, const pl_hash *key);
int pl_memo_put(const char *dir, const pl_hash *key, const pl_hash *value, pl_error *err);

/* Marks a file of the cache as used now. */
void pl_cache_used(const char *path);
/* To be called after a file was written there: removes files of ours (by their names) that were not used for 90 days,
 * and of all others the ones not used for longest until the rest takes at most $PLUMB_CACHE_SIZE (10G unless set), but
 * nothing that was used within the hour. Cannot fail: what cannot be removed stays. Readers that have such a file open,
 * and other processes that do the same, are not disturbed. */
void pl_cache_prune(const char *dir);

#endif
