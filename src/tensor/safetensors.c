/* safetensors.c: opened files and directories: maps, shards, lookup. The header's rules are in st_header.c, writing in
 * st_write.c. */
#include "tensor/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/cache.h"
#include "base/file.h"
#include "base/json.h"
#include "tensor/dtype.h"
#include "tensor/st_header.h"

#define MAX_INDEX_BYTES ((size_t)32 << 20)
#define MAX_SHARDS 4096

typedef struct st_file {
    char *path;          /* owned */
    pl_map map;          /* empty when parsed from memory */
    pl_st_header header; /* entries are released after open; names and metadata stay */
    pl_tensor *tensors;  /* owned, in order of data */
    char *copies;        /* owned: bytes of the tensors that lie unaligned in the file; NULL: none */
} st_file;

struct pl_tensors {
    char *path;
    st_file *files;
    int64_t nfiles;
    int64_t n;
    const pl_tensor **all;     /* [n] in order of file and data */
    const pl_tensor **by_name; /* [n] */
    size_t bytes;
};

static void file_release(st_file *f) {
    pl_free(f->tensors);
    pl_free(f->copies);
    pl_st_header_release(&f->header);
    pl_map_close(&f->map);
    pl_free(f->path);
}

void pl_tensors_close(pl_tensors *ts) {
    if (!ts) return;
    for (int64_t i = 0; i < ts->nfiles; i++) file_release(&ts->files[i]);
    pl_free(ts->files);
    pl_free(ts->all);
    pl_free(ts->by_name);
    pl_free(ts->path);
    pl_free(ts);
}

static bool unaligned(const pl_tensor *t) { return t->bytes && (uintptr_t)t->data % pl_dtype_bytes(t->dtype) != 0; }

/* Kernels read elements in place, so tensors that an odd header length left unaligned move to memory of ours. */
static int copy_unaligned(st_file *f, pl_error *err) {
    size_t total = 0, at = 0;
    for (int64_t i = 0; i < f->header.n; i++)
        if (unaligned(&f->tensors[i])) total += (f->tensors[i].bytes + 7) & ~(size_t)7;
    if (total == 0) return 0;
    int rc = pl_alloc((void **)&f->copies, total, err);
    if (rc) return rc;
    for (int64_t i = 0; i < f->header.n; i++) {
        pl_tensor *t = &f->tensors[i];
        if (!unaligned(t)) continue;
        memcpy(f->copies + at, t->data, t->bytes);
        t->data = f->copies + at;
        at += (t->bytes + 7) & ~(size_t)7;
    }
    return 0;
}

/* Fills f->header and f->tensors from the bytes of a whole file; f->path is set. */
static int file_parse(st_file *f, const char *bytes, size_t len, pl_error *err) {
    uint64_t n = 0;
    int rc = 0;
    if (len < 8) return PL_FAIL(err, PL_E_FORMAT, "%s: %zu bytes are too short for a safetensors file", f->path, len);
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)bytes[i];
    if (n > PL_ST_MAX_HEADER)
        return PL_FAIL(err, PL_E_FORMAT, "%s: header of %" PRIu64 " bytes, at most %zu (not a safetensors file?)",
                       f->path, n, PL_ST_MAX_HEADER);
    if (n > len - 8)
        return PL_FAIL(err, PL_E_FORMAT, "%s: the file is cut: header of %" PRIu64 " bytes in a file of %zu", f->path,
                       n, len);
    PL_GO(rc, pl_st_header_parse(&f->header, bytes + 8, (size_t)n, len - 8 - (size_t)n, f->path, err));
    PL_GO(rc, PL_NEW(&f->tensors, PL_MAX(f->header.n, 1), err));
    for (int64_t i = 0; i < f->header.n; i++) {
        const pl_st_entry *e = &f->header.entries[i];
        pl_tensor *t = &f->tensors[i];
        *t = (pl_tensor){.name = f->header.strings.data + e->name, .dtype = e->dtype, .ndim = e->ndim};
        memcpy(t->dims, e->dims, sizeof t->dims);
        t->data = bytes + 8 + n + e->begin;
        t->bytes = e->end - e->begin;
    }
    pl_free(f->header.entries);
    f->header.entries = NULL;
    rc = copy_unaligned(f, err);
out:
    return rc;
}

static int by_name(const void *a, const void *b) {
    const pl_tensor *x = *(const pl_tensor *const *)a, *y = *(const pl_tensor *const *)b;
    return strcmp(x->name, y->name);
}

/* The lists over all files; a name that appears twice is an error. */
static int build_lists(pl_tensors *ts, pl_error *err) {
    int rc;
    for (int64_t f = 0; f < ts->nfiles; f++) ts->n += ts->files[f].header.n;
    PL_GO(rc, PL_NEW(&ts->all, PL_MAX(ts->n, 1), err));
    PL_GO(rc, PL_NEW(&ts->by_name, PL_MAX(ts->n, 1), err));
    int64_t k = 0;
    for (int64_t f = 0; f < ts->nfiles; f++)
        for (int64_t i = 0; i < ts->files[f].header.n; i++) {
            const pl_tensor *t = &ts->files[f].tensors[i];
            ts->all[k] = ts->by_name[k] = t;
            ts->bytes += t->bytes;
            k++;
        }
    if (ts->n > 1) qsort(ts->by_name, (size_t)ts->n, sizeof *ts->by_name, by_name);
    for (int64_t i = 1; i < ts->n; i++) {
        const pl_tensor *a = ts->by_name[i - 1], *b = ts->by_name[i];
        if (strcmp(a->name, b->name) != 0) continue;
        const char *fa = pl_tensors_file(ts, a), *fb = pl_tensors_file(ts, b);
        if (strcmp(fa, fb) == 0) return PL_FAIL(err, PL_E_FORMAT, "%s: tensor %.200s appears twice", fa, a->name);
        return PL_FAIL(err, PL_E_FORMAT, "tensor %.200s is in two shards: %s and %s", a->name, fa, fb);
    }
out:
    return rc;
}

static int new_tensors(pl_tensors **out, const char *path, int64_t nfiles, pl_error *err) {
    int rc;
    pl_tensors *ts = NULL;
    PL_GO(rc, PL_NEW(&ts, 1, err));
    PL_GO(rc, pl_strdup(&ts->path, path, err));
    PL_GO(rc, PL_NEW(&ts->files, nfiles, err));
    ts->nfiles = nfiles;
    *out = ts;
    ts = NULL;
out:
    pl_tensors_close(ts);
    return rc;
}

int pl_tensors_parse(pl_tensors **out, const void *bytes, size_t n, const char *what, pl_error *err) {
    int rc;
    pl_tensors *ts = NULL;
    PL_GO(rc, new_tensors(&ts, what, 1, err));
    PL_GO(rc, pl_strdup(&ts->files[0].path, what, err));
    PL_GO(rc, file_parse(&ts->files[0], bytes, n, err));
    PL_GO(rc, build_lists(ts, err));
    *out = ts;
    ts = NULL;
out:
    pl_tensors_close(ts);
    return rc;
}

static int file_open(st_file *f, const char *path, pl_error *err) {
    int rc;
    PL_GO(rc, pl_strdup(&f->path, path, err));
    PL_GO(rc, pl_map_open(&f->map, path, err));
    rc = file_parse(f, f->map.data, f->map.len, err);
out:
    return rc;
}

int pl_tensors_open_file(pl_tensors **out, const char *path, pl_error *err) {
    int rc;
    pl_tensors *ts = NULL;
    PL_GO(rc, new_tensors(&ts, path, 1, err));
    PL_GO(rc, file_open(&ts->files[0], path, err));
    PL_GO(rc, build_lists(ts, err));
    *out = ts;
    ts = NULL;
out:
    pl_tensors_close(ts);
    return rc;
}

/* ---- sharded models
 * ------------------------------------------------------------------------------------------------------- */

/* A shard is named by a plain base name: an index from a stranger must not reach outside its directory. */
static bool plain_name(const char *s, size_t n) {
    if (!pl_st_name_ok(s, n) || n > 255 || strlen(s) != n || strchr(s, '/') || strchr(s, '\\') || s[0] == '.')
        return false;
    return n > 12 && strcmp(s + n - 12, ".safetensors") == 0;
}

static int by_string(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct shard names of the weight map, sorted; the array is owned, the names are borrowed from the JSON. */
static int shard_names(const char ***out, int64_t *n, const pl_json *map, const char *index, pl_error *err) {
    int rc;
    int64_t count = 0, total = pl_json_len(map);
    const char **names = NULL;
    PL_GO(rc, PL_NEW(&names, PL_MAX(total, 1), err));
    for (pl_json_iter it = pl_json_first(map); it.key; it = pl_json_next(it)) {
        size_t len = 0;
        const char *s = pl_json_string(it.value, &len);
        if (!s || !plain_name(s, len))
            PL_GO(rc, PL_FAIL(err, PL_E_FORMAT,
                              "%s: weight_map of %.200s: want the plain name of a .safetensors file in the "
                              "same directory",
                              index, it.key));
        names[count++] = s;
    }
    if (count > 1) qsort(names, (size_t)count, sizeof *names, by_string);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0) names[kept++] = names[i];
    if (kept == 0) PL_GO(rc, PL_FAIL(err, PL_E_FORMAT, "%s: weight_map is empty", index));
    if (kept > MAX_SHARDS)
        PL_GO(rc, PL_FAIL(err, PL_E_RANGE, "%s: %" PRId64 " shards, at most %d", index, kept, MAX_SHARDS));
    *out = names;
    *n = kept;
    names = NULL;
out:
    pl_free(names);
    return rc;
}

/* Index and shards must tell the same story. */
static int check_index(const pl_tensors *ts, const pl_json *map, const char *index, pl_error *err) {
    for (pl_json_iter it = pl_json_first(map); it.key; it = pl_json_next(it)) {
        const char *shard = pl_json_string(it.value, NULL);
        const pl_tensor *t = pl_tensors_find(ts, it.key);
        if (!t)
            return PL_FAIL(err, PL_E_MISMATCH, "%s: tensor %.200s is not in %s, nor in another shard", index, it.key,
                           shard);
        const char *in = pl_path_base(pl_tensors_file(ts, t));
        if (strcmp(in, shard) != 0)
            return PL_FAIL(err, PL_E_MISMATCH, "%s: tensor %.200s is in %s, the index says %s", index, it.key, in,
                           shard);
    }
    for (int64_t i = 0; i < ts->n; i++)
        if (!pl_json_has(map, ts->all[i]->name))
            return PL_FAIL(err, PL_E_MISMATCH, "%s: tensor %.200s of the shard is not in the index",
                           pl_tensors_file(ts, ts->all[i]), ts->all[i]->name);
    return 0;
}

static int open_sharded(pl_tensors **out, const char *dir, const char *index, pl_error *err) {
    int rc;
    int64_t n;
    pl_json *root = NULL;
    const char **names = NULL;
    char *path = NULL;
    pl_tensors *ts = NULL;
    PL_GO(rc, pl_json_load(&root, index, MAX_INDEX_BYTES, err));
    pl_json *map = pl_json_get(root, "weight_map");
    if (pl_json_kind_of(map) != PL_J_OBJECT)
        PL_GO(rc, PL_FAIL(err, PL_E_FORMAT, "%s: weight_map: want an object of tensor names and file names", index));
    PL_GO(rc, shard_names(&names, &n, map, index, err));
    PL_GO(rc, new_tensors(&ts, dir, n, err));
    for (int64_t i = 0; i < n; i++) {
        PL_GO(rc, pl_path_join(&path, dir, names[i], err));
        if (!pl_file_exists(path))
            PL_GO(rc, PL_FAIL(err, PL_E_IO, "%s: the shard %s is missing (incomplete download?)", index, names[i]));
        PL_GO(rc, file_open(&ts->files[i], path, err));
        pl_free(path);
        path = NULL;
    }
    PL_GO(rc, build_lists(ts, err));
    PL_GO(rc, check_index(ts, map, index, err));
    *out = ts;
    ts = NULL;
out:
    pl_tensors_close(ts);
    pl_free(path);
    pl_free(names);
    pl_json_free(root);
    return rc;
}

static int no_weights(const char *dir, pl_error *err) {
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    if (!pl_dir_exists(dir)) return pl_dir_missing(dir, err);
    for (int64_t i = 0; i < PL_LEN(pickles); i++) {
        char *path = NULL;
        int rc = pl_path_join(&path, dir, pickles[i], err);
        if (rc) return rc;
        bool there = pl_file_exists(path);
        pl_free(path);
        if (there)
            return PL_FAIL(err, PL_E_UNSUPPORTED,
                           "%s: holds only %s, a pickle, which plumb never unpacks; convert it with transformers' "
                           "save_pretrained(dir, safe_serialization=True)",
                           dir, pickles[i]);
    }
    return PL_FAIL(err, PL_E_IO, "%s: no model.safetensors and no model.safetensors.index.json", dir);
}

int pl_tensors_open(pl_tensors **out, const char *dir, pl_error *err) {
    int rc;
    char *single = NULL, *index = NULL;
    PL_GO(rc, pl_path_join(&single, dir, "model.safetensors", err));
    PL_GO(rc, pl_path_join(&index, dir, "model.safetensors.index.json", err));
    if (pl_file_exists(single))
        rc = pl_tensors_open_file(out, single, err);
    else if (pl_file_exists(index))
        rc = open_sharded(out, dir, index, err);
    else
        rc = no_weights(dir, err);
out:
    pl_free(single);
    pl_free(index);
    return rc;
}

/* ---- access
 * --------------------------------------------------------------------------------------------------------------- */

int64_t pl_tensors_count(const pl_tensors *ts) { return ts->n; }

const pl_tensor *pl_tensors_at(const pl_tensors *ts, int64_t i) { return i >= 0 && i < ts->n ? ts->all[i] : NULL; }

static int name_against(const void *key, const void *item) {
    return strcmp(key, (*(const pl_tensor *const *)item)->name);
}

const pl_tensor *pl_tensors_find(const pl_tensors *ts, const char *name) {
    const pl_tensor **hit = bsearch(name, ts->by_name, (size_t)ts->n, sizeof *ts->by_name, name_against);
    return hit ? *hit : NULL;
}

/* The file that holds t, -1 when t is not of ts; *first is the index of that file's first tensor. */
static int64_t file_of(const pl_tensors *ts, const pl_tensor *t, int64_t *first) {
    *first = 0;
    for (int64_t i = 0; i < ts->nfiles; i++) {
        const st_file *f = &ts->files[i];
        uintptr_t start = (uintptr_t)f->tensors, at = (uintptr_t)t;
        if (at >= start && at < start + (uintptr_t)f->header.n * sizeof *t) return i;
        *first += f->header.n;
    }
    return -1;
}

int pl_tensors_check(const pl_tensors *ts, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; rc == 0 && ts && i < ts->nfiles; i++)
        rc = pl_map_check(&ts->files[i].map, ts->files[i].path, err);
    return rc;
}

int pl_tensors_add_stamps(pl_hasher *h, bool *settled, const pl_tensors *ts, pl_error *err) {
    *settled = true;
    pl_hasher_add_int(h, ts->nfiles);
    for (int64_t i = 0; i < ts->nfiles; i++) {
        pl_stamp s = {0};
        if (ts->files[i].map.data) {
            int rc = pl_stamp_of_descriptor(&s, ts->files[i].map.fd, ts->files[i].path, err);
            if (rc) return rc;
        }
        *settled &= s.settled && s.regular;
        pl_hasher_add_stamp(h, &s);
    }
    return 0;
}

const char *pl_tensors_file(const pl_tensors *ts, const pl_tensor *t) {
    int64_t first, i = file_of(ts, t, &first);
    return i < 0 ? ts->path : ts->files[i].path;
}

int64_t pl_tensors_index(const pl_tensors *ts, const pl_tensor *t) {
    int64_t first, i = file_of(ts, t, &first);
    return i < 0 ? -1 : first + (t - ts->files[i].tensors);
}

const char *pl_tensors_path(const pl_tensors *ts) { return ts->path; }

size_t pl_tensors_resident_bytes(const pl_tensors *ts) {
    size_t bytes = 0;
    for (int64_t i = 0; ts && i < ts->nfiles; i++) bytes += pl_map_resident_bytes(&ts->files[i].map);
    return bytes;
}

size_t pl_tensors_bytes(const pl_tensors *ts) { return ts->bytes; }

const char *pl_tensors_metadata(const pl_tensors *ts, const char *key) {
    for (int64_t f = 0; f < ts->nfiles; f++) {
        const pl_st_header *h = &ts->files[f].header;
        for (int64_t i = 0; i < h->nmeta; i++)
            if (strcmp(h->strings.data + h->meta[2 * i], key) == 0) return h->strings.data + h->meta[2 * i + 1];
    }
    return NULL;
}

int pl_tensors_need(const pl_tensor **out, const pl_tensors *ts, const char *name, int ndim, const int64_t *dims,
                    pl_error *err) {
    const pl_tensor *t = pl_tensors_find(ts, name);
    if (!t) return PL_FAIL(err, PL_E_MISMATCH, "%s: tensor %.200s is missing", ts->path, name);
    bool same = t->ndim == ndim;
    for (int i = 0; same && i < ndim; i++) same = t->dims[i] == dims[i];
    if (!same) {
        char have[128], want[128];
        pl_dims_text(have, sizeof have, t->ndim, t->dims);
        pl_dims_text(want, sizeof want, ndim, dims);
        return PL_FAIL(err, PL_E_SHAPE, "%s: tensor %.200s has shape %s, want %s", pl_tensors_file(ts, t), name, have,
                       want);
    }
    *out = t;
    return 0;
}
