/* record.c: the metrics file. Each line is one write, so that a reader never sees half of one but at a crash. */
#include "train/record.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define LINE_BYTES 8192

int pl_record_open(pl_record *r, const char *dir, int64_t bytes, pl_error *err) {
    *r = (pl_record){.fd = -1};
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, "metrics.jsonl", err));
    PL_GO(rc, pl_buf_reserve(&r->line, LINE_BYTES, err));
    r->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (r->fd < 0) {
        rc = PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    off_t size = lseek(r->fd, 0, SEEK_END);
    if (size < bytes) {
        rc = PL_FAIL(err, PL_E_MISMATCH, "%s has %lld bytes, the checkpoint counts on %" PRId64, path, (long long)size,
                     bytes);
        goto out;
    }
    if (ftruncate(r->fd, bytes) != 0 || lseek(r->fd, bytes, SEEK_SET) < 0)
        rc = PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
    r->bytes = bytes;
out:
    pl_free(path);
    if (rc) pl_record_close(r);
    return rc;
}

void pl_record_close(pl_record *r) {
    if (r->fd >= 0) close(r->fd);
    pl_buf_release(&r->line);
    r->fd = -1;
}

/* Whole numbers (step, num_tokens) without a fraction, as in TRL's log only where they are counts. */
static int add_values(pl_buf *b, const pl_values *v, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; rc == 0 && v && i < v->n; i++) {
        const char *name = v->v[i].name;
        size_t n = strlen(name);
        rc = pl_buf_printf(b, err, ", \"%s\": ", name);
        if (rc) return rc;
        bool count = n >= 10 && strcmp(name + n - 10, "num_tokens") == 0;
        rc = count ? pl_buf_printf(b, err, "%.0f", v->v[i].value) : pl_buf_json_double(b, v->v[i].value, err);
    }
    return rc;
}

int pl_record_write(pl_record *r, int64_t step, double epoch, const pl_values *values, const pl_values *times,
                    pl_error *err) {
    pl_buf *b = &r->line;
    int rc;
    pl_buf_clear(b);
    PL_GO(rc, pl_buf_printf(b, err, "{\"step\": %" PRId64 ", \"epoch\": ", step));
    PL_GO(rc, pl_buf_json_double(b, epoch, err));
    PL_GO(rc, add_values(b, values, err));
    PL_GO(rc, add_values(b, times, err));
    PL_GO(rc, pl_buf_puts(b, "}\n", err));
    for (size_t done = 0; done < b->len;) {
        ssize_t n = write(r->fd, b->data + done, b->len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            rc = PL_FAIL(err, PL_E_IO, "metrics.jsonl: %s", strerror(errno));
            goto out;
        }
        done += (size_t)n;
    }
    r->bytes += (int64_t)b->len;
out:
    return rc;
}

int pl_record_sync(pl_record *r, pl_error *err) {
    return fsync(r->fd) == 0 ? 0 : PL_FAIL(err, PL_E_IO, "metrics.jsonl: %s", strerror(errno));
}

int pl_record_last_step(int64_t *step, const char *dir, pl_error *err) {
    static const char head[] = "{\"step\": ";
    char *path = NULL;
    pl_lines *lines = NULL;
    int64_t last = 0;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, "metrics.jsonl", err));
    if (pl_file_exists(path)) PL_GO(rc, pl_lines_open(&lines, path, LINE_BYTES, err));
    while (lines) {
        const char *line = NULL;
        size_t n = 0;
        PL_GO(rc, pl_lines_next(lines, &line, &n, err));
        if (!line) break;
        if (n >= sizeof head && strncmp(line, head, sizeof head - 1) == 0)
            last = strtoll(line + sizeof head - 1, NULL, 10);
    }
    *step = last;
out:
    pl_lines_free(lines);
    pl_free(path);
    return rc;
}
