/* dir.c: paths and directories. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static int fail_io(const char *path, pl_error *err) { return PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno)); }

int pl_path_join(char **out, const char *dir, const char *name, pl_error *err) {
    size_t n = strlen(dir);
    return pl_asprintf(out, err, "%s%s%s", dir, n == 0 || dir[n - 1] == '/' ? "" : "/", name);
}

const char *pl_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "organisation/name", as the Hub names what it holds; not when there is such a folder here. */
static bool is_hub_name(const char *s) {
    const char *slash = strchr(s, '/');
    if (!slash || slash == s || !slash[1] || *s == '.') return false;
    char owner[128];
    snprintf(owner, sizeof owner, "%.*s", (int)(slash - s), s);
    if (pl_dir_exists(owner)) return false;
    for (; *s; s++) {
        bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9');
        if (!letter && *s != '-' && *s != '_' && *s != '.' && s != slash) return false;
    }
    return true;
}

int pl_dir_missing(const char *path, pl_error *err) {
    bool hub = is_hub_name(path);
    return PL_FAIL(err, PL_E_IO,
                   "%s: no such directory here. plumb never downloads: get it first (from the Hugging Face Hub: "
                   "`hf download %s --local-dir DIR`) and give its directory",
                   path, hub ? path : "NAME");
}

int pl_dir_make(const char *path, pl_error *err) {
    char *p = NULL;
    int rc = pl_strdup(&p, path, err);
    if (rc) return rc;
    for (char *s = p; *s && rc == 0; s++) {
        bool last = s[1] == 0;
        if ((*s != '/' && !last) || s == p) {
            if (!(last && *s != '/')) continue;
        }
        char kept = *s;
        if (!last) *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) rc = fail_io(p, err);
        *s = kept;
    }
    if (rc == 0 && !pl_dir_exists(path))
        rc = *path ? PL_FAIL(err, PL_E_IO, "%s: exists and is no directory", path)
                   : PL_FAIL(err, PL_E_IO, "an empty directory name");
    pl_free(p);
    return rc;
}

int pl_dir_sync(const char *path, pl_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_io(path, err);
    int rc = 0;
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) rc = fail_io(path, err); /* some file systems cannot */
    close(fd);
    return rc;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void pl_names_free(char **names, int64_t n) {
    for (int64_t i = 0; i < n; i++) pl_free(names[i]);
    pl_free(names);
}

static int add_name(char ***list, int64_t *n, int64_t *cap, const char *name, pl_error *err) {
    if (*n == *cap) {
        int64_t more = *cap ? *cap * 2 : 32;
        int rc = pl_realloc((void **)list, (size_t)*cap * sizeof **list, (size_t)more * sizeof **list, err);
        if (rc) return rc;
        *cap = more;
    }
    int rc = pl_strdup(&(*list)[*n], name, err);
    if (rc == 0) ++*n;
    return rc;
}

int pl_dir_list(char ***names, int64_t *n, const char *path, pl_error *err) {
    DIR *d = opendir(path);
    if (!d) return fail_io(path, err);
    char **list = NULL;
    int64_t count = 0, cap = 0;
    int rc = 0;
    struct dirent *e;
    while (errno = 0, rc == 0 && (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = add_name(&list, &count, &cap, e->d_name, err);
    if (rc == 0 && errno) rc = fail_io(path, err);
    closedir(d);
    if (rc) {
        pl_names_free(list, count);
        return rc;
    }
    if (count) qsort(list, (size_t)count, sizeof *list, by_bytes);
    *names = list;
    *n = count;
    return 0;
}

int pl_dir_remove(const char *path, pl_error *err) {
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : fail_io(path, err);
    if (!S_ISDIR(st.st_mode)) return unlink(path) == 0 ? 0 : fail_io(path, err);
    char **names = NULL, *child = NULL;
    int64_t n = 0;
    int rc;
    PL_GO(rc, pl_dir_list(&names, &n, path, err));
    for (int64_t i = 0; i < n; i++) {
        PL_GO(rc, pl_path_join(&child, path, names[i], err));
        rc = pl_dir_remove(child, err);
        pl_free(child);
        child = NULL;
        if (rc) goto out;
    }
    if (rmdir(path) != 0) rc = fail_io(path, err);
out:
    pl_free(child);
    pl_names_free(names, n);
    return rc;
}
