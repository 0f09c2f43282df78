/* cache_prune.c: what is removed from the cache directory, and when a file of it was last used: its mtime, which every
 * use sets, because file systems seldom keep the time of reading. Files with other names than ours are not ours. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cache.h"
#include "base/file.h"
#include "plumb/log.h"

#define DAY INT64_C(86400)
#define UNUSED_SECONDS (90 * DAY)
#define HALF_WRITTEN_SECONDS DAY /* a file of a writer that was killed */
#define SPARED_SECONDS 3600      /* what runs that are at work may count on */
#define MOST_BYTES (INT64_C(10) << 30)

typedef struct entry {
    const char *name;
    int64_t used, bytes; /* seconds since 1970 */
} entry;

void pl_cache_used(const char *path) { (void)utimensat(AT_FDCWD, path, NULL, 0); }

/* "rows-<32 hex digits>.bin" and the like, or such a name with the ".tmp-<pid>" of a file that is being written. */
static bool is_ours(const char *name, bool *half_written) {
    static const char *const kinds[][2] = {{"rows-", ".bin"}, {"reference-", ".bin"}, {"hash-", ""}};
    for (int i = 0; i < (int)PL_LEN(kinds); i++) {
        size_t n = strlen(kinds[i][0]), tail = strlen(kinds[i][1]);
        if (strncmp(name, kinds[i][0], n) != 0 || strspn(name + n, "0123456789abcdef") != 32) continue;
        const char *end = name + n + 32;
        if (strncmp(end, kinds[i][1], tail) != 0) continue;
        *half_written = strncmp(end + tail, ".tmp-", 5) == 0;
        return *half_written || end[tail] == 0;
    }
    return false;
}

/* PLUMB_CACHE_SIZE: bytes, or with K, M, G or T; 0: no bound. */
static int64_t most_bytes(void) {
    const char *text = getenv("PLUMB_CACHE_SIZE"), *unit = NULL;
    static const char units[] = "KMGT";
    char *end = NULL;
    if (!text || !*text) return MOST_BYTES;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    int shift = 0;
    if (end != text && *end && (unit = strchr(units, *end)) != NULL) shift = 10 * (int)(unit - units + 1), end++;
    if (errno == 0 && end != text && *end == 0 && n >= 0 && n <= INT64_MAX >> shift) return n << shift;
    pl_log(PL_LOG_WARN, "PLUMB_CACHE_SIZE is '%s', not a size such as 500M or 10G (0: no bound): taken as 10G", text);
    return MOST_BYTES;
}

static int by_use(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->used != y->used) return x->used < y->used ? -1 : 1;
    return strcmp(x->name, y->name);
}

static bool remove_entry(const char *dir, const entry *e) {
    char *path = NULL;
    pl_error ignored;
    bool gone = pl_path_join(&path, dir, e->name, &ignored) == 0 && unlink(path) == 0;
    pl_free(path);
    return gone;
}

/* Our files, those first that were not used for longest. Half-written ones are removed here, and are not among them. */
static int64_t find_entries(entry *out, const char *dir, char **names, int64_t n, int64_t now) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        char *path = NULL;
        pl_error ignored;
        struct stat st;
        bool half = false;
        if (!is_ours(names[i], &half) || pl_path_join(&path, dir, names[i], &ignored)) continue;
        bool there = lstat(path, &st) == 0 && S_ISREG(st.st_mode);
        pl_free(path);
        if (!there) continue;
        entry e = {names[i], (int64_t)st.st_mtim.tv_sec, (int64_t)st.st_size};
        if (!half)
            out[count++] = e;
        else if (e.used < now - HALF_WRITTEN_SECONDS)
            (void)remove_entry(dir, &e);
    }
    if (count) qsort(out, (size_t)count, sizeof *out, by_use);
    return count;
}

static void prune(const char *dir, const entry *e, int64_t n, int64_t now, int64_t most) {
    int64_t total = 0, removed = 0, freed = 0;
    for (int64_t i = 0; i < n; i++) total += e[i].bytes;
    for (int64_t i = 0; i < n && e[i].used < now - SPARED_SECONDS; i++) {
        bool old = e[i].used<now - UNUSED_SECONDS, much = most> 0 && total - freed > most;
        if ((!old && !much) || !remove_entry(dir, &e[i])) continue;
        removed++;
        freed += e[i].bytes;
    }
    if (removed)
        pl_log(PL_LOG_INFO, "cache: %" PRId64 " file%s removed from %s (%.1f MB, not used for longest)", removed,
               removed == 1 ? "" : "s", dir, (double)freed / 1e6);
}

void pl_cache_prune(const char *dir) {
    char **names = NULL;
    entry *entries = NULL;
    int64_t n = 0, now = (int64_t)time(NULL);
    pl_error ignored;
    if (pl_dir_list(&names, &n, dir, &ignored)) return;
    if (PL_NEW(&entries, PL_MAX(n, 1), &ignored) == 0)
        prune(dir, entries, find_entries(entries, dir, names, n, now), now, most_bytes());
    pl_free(entries);
    pl_names_free(names, n);
}
