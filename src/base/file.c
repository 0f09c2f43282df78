/* file.c: whole files, maps, lines and atomic writes. Directories are in dir.c. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buf.h"

#define CHUNK ((size_t)1 << 17)

static int fail_io(const char *path, pl_error *err) { return PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno)); }

bool pl_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

bool pl_dir_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int open_read(int *fd, const char *path, pl_error *err) {
    int f = open(path, O_RDONLY | O_CLOEXEC);
    if (f < 0) return fail_io(path, err);
    struct stat st;
    if (fstat(f, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(f);
        return PL_FAIL(err, PL_E_IO, "%s: is a directory, a file is wanted", path);
    }
    *fd = f;
    return 0;
}

/* Up to n bytes; *got is 0 only at the end. */
static int read_some(int fd, void *to, size_t n, size_t *got, const char *path, pl_error *err) {
    for (;;) {
        ssize_t k = read(fd, to, n);
        if (k >= 0) {
            *got = (size_t)k;
            return 0;
        }
        if (errno != EINTR) return fail_io(path, err);
    }
}

int pl_file_read(char **data, size_t *len, const char *path, size_t max_bytes, pl_error *err) {
    int rc, fd = -1;
    pl_buf b = {.ceiling = SIZE_MAX};
    struct stat st;
    size_t got = 1;
    PL_GO(rc, open_read(&fd, path, err));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= max_bytes)
        PL_GO(rc, pl_buf_reserve(&b, (size_t)st.st_size + 1, err)); /* one read does it; pipes grow as they come */
    while (got) {
        size_t room = b.cap > b.len + 1 ? b.cap - b.len - 1 : 0;
        if (room == 0) {
            PL_GO(rc, pl_buf_reserve(&b, CHUNK, err));
            room = b.cap - b.len - 1;
        }
        PL_GO(rc, read_some(fd, b.data + b.len, room, &got, path, err));
        b.len += got;
        if (b.len > max_bytes) PL_GO(rc, PL_FAIL(err, PL_E_RANGE, "%s: more than %zu bytes", path, max_bytes));
    }
    b.data[b.len] = 0;
    *data = b.data;
    *len = b.len;
    b = (pl_buf){0};
out:
    if (fd >= 0) close(fd);
    pl_buf_release(&b);
    return rc;
}

int pl_map_open(pl_map *m, const char *path, pl_error *err) {
    int fd;
    int rc = open_read(&fd, path, err);
    if (rc) return rc;
    struct stat st;
    pl_map map = {0};
    if (fstat(fd, &st) != 0) {
        rc = fail_io(path, err);
    } else if (!S_ISREG(st.st_mode)) {
        rc = PL_FAIL(err, PL_E_IO, "%s: not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = fail_io(path, err);
        else
            map = (pl_map){.data = p, .len = (size_t)st.st_size, .fd = fd};
    }
    if (!map.data) close(fd);
    if (rc == 0) *m = map;
    return rc;
}

int pl_map_check(const pl_map *m, const char *path, pl_error *err) {
    struct stat st;
    if (!m->data) return 0;
    if (fstat(m->fd, &st) != 0) return fail_io(path, err);
    if (st.st_size >= 0 && (size_t)st.st_size >= m->len) return 0;
    return PL_FAIL(err, PL_E_IO, "%s was cut to %lld bytes while it is in use; it had %zu", path, (long long)st.st_size,
                   m->len);
}

size_t pl_map_resident_bytes(const pl_map *m) {
    FILE *f = m->data ? fopen("/proc/self/smaps", "re") : NULL;
    char line[512];
    uintptr_t from, to, start = (uintptr_t)m->data;
    size_t kb, total = 0;
    bool ours = false;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2) /* it may have been cut into several */
            ours = from >= start && from < start + m->len;
        else if (ours && sscanf(line, "Rss: %zu kB", &kb) == 1)
            total += kb * 1024;
    }
    if (f) fclose(f);
    return total;
}

void pl_map_close(pl_map *m) {
    if (!m) return;
    if (m->data) {
        munmap((void *)(uintptr_t)m->data, m->len);
        close(m->fd);
    }
    *m = (pl_map){0};
}

/* --- lines
 * --------------------------------------------------------------------------------------------------------------- */
struct pl_lines {
    char *path;
    int fd;
    bool gzip, in_member; /* in_member: a gzip member was begun and has not ended */
    bool ended;           /* no more bytes will come */
    z_stream z;
    char *raw;       /* [CHUNK] bytes of the file, gzip only */
    char *text;      /* [CHUNK] bytes of text */
    size_t pos, len; /* what of `text` is not yet taken */
    size_t raw_pos, raw_len;
    pl_buf line;
    size_t max_line;
    int64_t number;
};

static int fail_at(const pl_lines *l, int code, const char *why, pl_error *err) {
    return PL_FAIL(err, code, "%s:%" PRId64 ": %s", l->path, l->number + 1, why);
}

/* The first bytes tell. They stay in `raw` (gzip) or `text` (plain). */
static int detect(pl_lines *l, pl_error *err) {
    int rc = 0;
    size_t got = 1;
    while (rc == 0 && got && l->len < 2) {
        rc = read_some(l->fd, l->text + l->len, CHUNK - l->len, &got, l->path, err);
        if (rc == 0) l->len += got;
    }
    if (rc || l->len < 2 || memcmp(l->text, "\x1F\x8B", 2) != 0) return rc;
    l->gzip = true;
    l->raw = l->text;
    l->raw_len = l->len;
    l->text = NULL;
    l->len = 0;
    rc = pl_alloc((void **)&l->text, CHUNK, err);
    if (rc == 0 && inflateInit2(&l->z, 15 + 16) != Z_OK)
        rc = PL_FAIL(err, PL_E_NOMEM, "%s: no memory for zlib", l->path);
    l->in_member = rc == 0;
    return rc;
}

int pl_lines_open(pl_lines **out, const char *path, size_t max_line, pl_error *err) {
    int rc;
    pl_lines *l = NULL;
    PL_GO(rc, PL_NEW(&l, 1, err));
    l->fd = -1;
    l->max_line = max_line;
    l->line.ceiling = SIZE_MAX; /* max_line is checked here, with a better text */
    PL_GO(rc, pl_strdup(&l->path, path, err));
    PL_GO(rc, pl_alloc((void **)&l->text, CHUNK, err));
    PL_GO(rc, open_read(&l->fd, path, err));
    PL_GO(rc, detect(l, err));
    *out = l;
    l = NULL;
out:
    pl_lines_free(l);
    return rc;
}

void pl_lines_free(pl_lines *l) {
    if (!l) return;
    if (l->gzip) inflateEnd(&l->z);
    if (l->fd >= 0) close(l->fd);
    pl_buf_release(&l->line);
    pl_free(l->path);
    pl_free(l->raw);
    pl_free(l->text);
    pl_free(l);
}

/* More text from the gzip stream. A file may hold several members; it must end behind one. */
static int inflate_more(pl_lines *l, pl_error *err) {
    while (l->len == 0) {
        if (l->raw_pos == l->raw_len) {
            l->raw_pos = 0;
            int rc = read_some(l->fd, l->raw, CHUNK, &l->raw_len, l->path, err);
            if (rc) return rc;
            if (l->raw_len == 0 && l->in_member) return fail_at(l, PL_E_FORMAT, "the gzip data is cut off", err);
            if (l->raw_len == 0) {
                l->ended = true;
                return 0;
            }
        }
        if (!l->in_member && inflateReset(&l->z) != Z_OK) return fail_at(l, PL_E_INTERNAL, "zlib", err);
        l->in_member = true;
        l->z.next_in = (Bytef *)l->raw + l->raw_pos;
        l->z.avail_in = (uInt)(l->raw_len - l->raw_pos);
        l->z.next_out = (Bytef *)l->text;
        l->z.avail_out = (uInt)CHUNK;
        int z = inflate(&l->z, Z_NO_FLUSH);
        l->raw_pos = l->raw_len - l->z.avail_in;
        l->len = CHUNK - l->z.avail_out;
        if (z == Z_STREAM_END)
            l->in_member = false;
        else if (z == Z_MEM_ERROR)
            return fail_at(l, PL_E_NOMEM, "no memory for zlib", err);
        else if (z != Z_OK && z != Z_BUF_ERROR)
            return fail_at(l, PL_E_FORMAT, l->z.msg ? l->z.msg : "the gzip data is damaged", err);
    }
    return 0;
}

static int refill(pl_lines *l, pl_error *err) {
    l->pos = l->len = 0;
    if (l->gzip) return inflate_more(l, err);
    int rc = read_some(l->fd, l->text, CHUNK, &l->len, l->path, err);
    if (rc == 0 && l->len == 0) l->ended = true;
    return rc;
}

int pl_lines_next(pl_lines *l, const char **line, size_t *len, pl_error *err) {
    pl_buf_clear(&l->line);
    bool any = false, whole = false;
    while (!whole && !l->ended) {
        if (l->pos == l->len) {
            int rc = refill(l, err);
            if (rc) return rc;
            continue;
        }
        const char *from = l->text + l->pos, *end = memchr(from, '\n', l->len - l->pos);
        size_t k = end ? (size_t)(end - from) : l->len - l->pos;
        if (k > l->max_line || l->line.len > l->max_line - k)
            return PL_FAIL(err, PL_E_RANGE, "%s:%" PRId64 ": a line of more than %zu bytes", l->path, l->number + 1,
                           l->max_line);
        int rc = pl_buf_add(&l->line, from, k, err);
        if (rc) return rc;
        any = true;
        whole = end != NULL;
        l->pos += k + (end ? 1 : 0);
    }
    if (!any) {
        *line = NULL;
        *len = 0;
        return 0;
    }
    if (whole && l->line.len && l->line.data[l->line.len - 1] == '\r') l->line.data[--l->line.len] = 0;
    l->number++;
    *line = l->line.data;
    *len = l->line.len;
    return 0;
}

int64_t pl_lines_number(const pl_lines *l) { return l->number; }

/* --- atomic writes
 * ------------------------------------------------------------------------------------------------------- */
int pl_out_open(pl_out *o, const char *path, pl_error *err) {
    int rc;
    pl_out n = {0};
    PL_GO(rc, pl_strdup(&n.path, path, err));
    PL_GO(rc, pl_asprintf(&n.temp, err, "%s.tmp-%ld", path, (long)getpid()));
    n.f = fopen(n.temp, "wbe");
    if (!n.f) PL_GO(rc, fail_io(n.temp, err));
    *o = n;
    n = (pl_out){0};
out:
    pl_free(n.path);
    pl_free(n.temp);
    return rc;
}

int pl_out_write(pl_out *o, const void *bytes, size_t n, pl_error *err) {
    return n == 0 || fwrite(bytes, 1, n, o->f) == n ? 0 : fail_io(o->temp, err);
}

static int sync_parent(const char *path, pl_error *err) {
    char *dir = NULL;
    size_t n = (size_t)(pl_path_base(path) - path);
    int rc = n ? pl_strndup(&dir, path, n, err) : pl_strdup(&dir, ".", err);
    if (rc == 0) rc = pl_dir_sync(dir, err);
    pl_free(dir);
    return rc;
}

int pl_out_commit(pl_out *o, pl_error *err) {
    int rc = 0;
    FILE *f = o->f;
    if (fflush(f) != 0 || ferror(f) || fsync(fileno(f)) != 0) rc = fail_io(o->temp, err);
    o->f = NULL;
    if (fclose(f) != 0 && rc == 0) rc = fail_io(o->temp, err);
    if (rc == 0 && rename(o->temp, o->path) != 0) rc = fail_io(o->path, err);
    if (rc) { /* release removes the temporary file */
        return rc;
    }
    pl_free(o->temp);
    o->temp = NULL;
    return sync_parent(o->path, err);
}

void pl_out_release(pl_out *o) {
    if (!o) return;
    if (o->f) fclose(o->f);
    if (o->temp) unlink(o->temp);
    pl_free(o->temp);
    pl_free(o->path);
    *o = (pl_out){0};
}

int pl_file_write(const char *path, const void *bytes, size_t n, pl_error *err) {
    pl_out o = {0};
    int rc;
    PL_GO(rc, pl_out_open(&o, path, err));
    PL_GO(rc, pl_out_write(&o, bytes, n, err));
    PL_GO(rc, pl_out_commit(&o, err));
out:
    pl_out_release(&o);
    return rc;
}

int pl_file_copy(const char *from, const char *to, pl_error *err) {
    int rc, fd = -1;
    pl_out o = {0};
    char *chunk = NULL;
    size_t got = 1;
    PL_GO(rc, open_read(&fd, from, err));
    PL_GO(rc, pl_alloc((void **)&chunk, CHUNK, err));
    PL_GO(rc, pl_out_open(&o, to, err));
    while (got) {
        PL_GO(rc, read_some(fd, chunk, CHUNK, &got, from, err));
        PL_GO(rc, pl_out_write(&o, chunk, got, err));
    }
    PL_GO(rc, pl_out_commit(&o, err));
out:
    if (fd >= 0) close(fd);
    pl_out_release(&o);
    pl_free(chunk);
    return rc;
}

int pl_rename_synced(const char *from, const char *to, pl_error *err) {
    if (rename(from, to) != 0) {
        if ((errno != ENOTEMPTY && errno != EEXIST) || !pl_dir_exists(from)) return fail_io(to, err);
        /* Swapping the two names leaves one whole directory under `to` at every moment. */
        if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) != 0) {
            int rc = pl_dir_remove(to, err); /* a file system without exchange */
            if (rc) return rc;
            if (rename(from, to) != 0) return fail_io(to, err);
        } else {
            int rc = pl_dir_remove(from, err);
            if (rc) return rc;
        }
    }
    return sync_parent(to, err);
}
