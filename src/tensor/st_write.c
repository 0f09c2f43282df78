/* st_write.c: safetensors files, written as a stream: header first, then tensor by tensor, so that a merged model is
 * never whole in memory. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/utf8.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"
#include "tensor/st_header.h"

/* The reference writer sorts by this rank, descending, which aligns every tensor to its element size. */
static int rank_of(pl_dtype t) {
    static const pl_dtype ascending[] = {PL_BOOL, PL_U8,  PL_I8,  PL_F8_E5M2, PL_F8_E4M3, PL_I16, PL_U16, PL_F16,
                                         PL_BF16, PL_I32, PL_U32, PL_F32,     PL_F64,     PL_I64, PL_U64};
    _Static_assert(sizeof ascending / sizeof *ascending == PL_DTYPE_COUNT, "every dtype has a rank");
    int rank = 0;
    while (rank < PL_DTYPE_COUNT && ascending[rank] != t) rank++;
    return rank;
}

static int by_layout(const void *a, const void *b) {
    const pl_tensor *x = *(const pl_tensor *const *)a, *y = *(const pl_tensor *const *)b;
    int rx = rank_of(x->dtype), ry = rank_of(y->dtype);
    return rx != ry ? ry - rx : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const pl_tensor *const *)a)->name, (*(const pl_tensor *const *)b)->name);
}

typedef struct writer {
    const pl_tensor *tensors;
    int64_t n;
    const pl_tensor **order; /* [n] owned */
    pl_buf header;
    pl_out out;
    char *chunk; /* owned */
    pl_tensor_fill *fill;
    void *user;
    pl_error *err;
} writer;

static int check(const writer *w, const pl_tensor *t, size_t *bytes) {
    if (!t->name || !pl_st_name_ok(t->name, strlen(t->name)) || strcmp(t->name, "__metadata__") == 0 ||
        pl_utf8_valid(t->name, strlen(t->name)) != strlen(t->name))
        return PL_FAIL(w->err, PL_E_FORMAT, "a tensor name that a safetensors file cannot have");
    if ((unsigned)t->dtype >= PL_DTYPE_COUNT) return PL_FAIL(w->err, PL_E_FORMAT, "tensor %s: unknown dtype", t->name);
    int rc = pl_tensor_bytes(bytes, t->dtype, t->ndim, t->dims, w->err);
    if (rc) return pl_error_context(w->err, rc, "tensor %s", t->name);
    if (*bytes && !t->data && !w->fill)
        return PL_FAIL(w->err, PL_E_STATE, "tensor %s has neither data nor a function that fills it", t->name);
    return 0;
}

static int sort_tensors(writer *w) {
    size_t bytes;
    int rc = PL_NEW(&w->order, PL_MAX(w->n, 1), w->err);
    for (int64_t i = 0; i < w->n && rc == 0; i++) {
        w->order[i] = &w->tensors[i];
        rc = check(w, w->order[i], &bytes);
    }
    if (rc) return rc;
    if (w->n > 1) qsort(w->order, (size_t)w->n, sizeof *w->order, by_name);
    for (int64_t i = 1; i < w->n; i++)
        if (strcmp(w->order[i - 1]->name, w->order[i]->name) == 0)
            return PL_FAIL(w->err, PL_E_FORMAT, "tensor %s is written twice", w->order[i]->name);
    if (w->n > 1) qsort(w->order, (size_t)w->n, sizeof *w->order, by_layout);
    return 0;
}

static int add_meta(writer *w, const char *key, const char *value, bool first) {
    pl_buf *b = &w->header;
    int rc;
    if (!first) PL_GO(rc, pl_buf_puts(b, ",", w->err));
    PL_GO(rc, pl_buf_json_string(b, key, strlen(key), w->err));
    PL_GO(rc, pl_buf_puts(b, ":", w->err));
    rc = pl_buf_json_string(b, value, strlen(value), w->err);
out:
    return rc;
}

static int metadata(writer *w, const pl_st_meta *meta, int64_t nmeta) {
    bool has_format = false, first = true;
    int rc;
    for (int64_t i = 0; i < nmeta; i++) has_format |= strcmp(meta[i].key, "format") == 0;
    PL_GO(rc, pl_buf_puts(&w->header, "{\"__metadata__\":{", w->err));
    if (!has_format) {
        PL_GO(rc, add_meta(w, "format", "pt", true));
        first = false;
    }
    for (int64_t i = 0; i < nmeta; i++) {
        PL_GO(rc, add_meta(w, meta[i].key, meta[i].value, first));
        first = false;
    }
    rc = pl_buf_puts(&w->header, "}", w->err);
out:
    return rc;
}

static int entry(writer *w, const pl_tensor *t, size_t begin, size_t end) {
    pl_buf *b = &w->header;
    int rc;
    PL_GO(rc, pl_buf_puts(b, ",", w->err));
    PL_GO(rc, pl_buf_json_string(b, t->name, strlen(t->name), w->err));
    PL_GO(rc, pl_buf_printf(b, w->err, ":{\"dtype\":\"%s\",\"shape\":[", pl_dtype_name(t->dtype)));
    for (int d = 0; d < t->ndim; d++) PL_GO(rc, pl_buf_printf(b, w->err, "%s%" PRId64, d ? "," : "", t->dims[d]));
    rc = pl_buf_printf(b, w->err, "],\"data_offsets\":[%zu,%zu]}", begin, end);
out:
    return rc;
}

static int build_header(writer *w, const pl_st_meta *meta, int64_t nmeta) {
    int rc;
    size_t at = 0, bytes;
    PL_GO(rc, metadata(w, meta, nmeta));
    for (int64_t i = 0; i < w->n; i++) {
        const pl_tensor *t = w->order[i];
        PL_GO(rc, pl_tensor_bytes(&bytes, t->dtype, t->ndim, t->dims, w->err));
        if (bytes > PTRDIFF_MAX - at) return PL_FAIL(w->err, PL_E_RANGE, "the size of the file overflows");
        PL_GO(rc, entry(w, t, at, at + bytes));
        at += bytes;
    }
    PL_GO(rc, pl_buf_puts(&w->header, "}", w->err));
    while (w->header.len % 8) PL_GO(rc, pl_buf_puts(&w->header, " ", w->err));
    if (w->header.len > PL_ST_MAX_HEADER)
        rc = PL_FAIL(w->err, PL_E_RANGE, "a safetensors header of %zu bytes, at most %zu", w->header.len,
                     PL_ST_MAX_HEADER);
out:
    return rc;
}

static int write_header(writer *w) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)w->header.len >> (8 * i));
    int rc = pl_out_write(&w->out, length, sizeof length, w->err);
    return rc ? rc : pl_out_write(&w->out, w->header.data, w->header.len, w->err);
}

/* Rows of a tensor, and elements of one row. */
static void row_shape(const pl_tensor *t, int64_t *rows, int64_t *row) {
    *rows = t->ndim > 1 ? t->dims[0] : 1;
    *row = 1;
    if (t->ndim == 1) *rows = t->dims[0];
    for (int d = 1; d < t->ndim; d++) *row *= t->dims[d];
}

static int64_t rows_per_chunk(const pl_tensor *t) {
    int64_t rows, row;
    row_shape(t, &rows, &row);
    int64_t fit = row ? (int64_t)(PL_ST_CHUNK / ((size_t)row * pl_dtype_bytes(t->dtype))) : rows;
    return PL_MAX(1, PL_MIN(rows, fit));
}

/* One buffer for the largest chunk of all tensors that `fill` produces. */
static int alloc_chunk(writer *w) {
    size_t most = 0;
    for (int64_t i = 0; i < w->n; i++) {
        const pl_tensor *t = &w->tensors[i];
        int64_t rows, row;
        row_shape(t, &rows, &row);
        if (t->data || rows == 0 || row == 0) continue;
        most = PL_MAX(most, (size_t)(rows_per_chunk(t) * row) * pl_dtype_bytes(t->dtype));
    }
    return most ? pl_alloc((void **)&w->chunk, most, w->err) : 0;
}

static int write_filled(writer *w, const pl_tensor *t) {
    int64_t rows, row, step = rows_per_chunk(t);
    row_shape(t, &rows, &row);
    for (int64_t at = 0; at < rows && row > 0; at += step) {
        int64_t count = PL_MIN(step, rows - at) * row;
        int rc = w->fill(w->user, t - w->tensors, at * row, count, w->chunk, w->err);
        if (rc) return pl_error_context(w->err, rc, "%s: tensor %s", w->out.path, t->name);
        rc = pl_out_write(&w->out, w->chunk, (size_t)count * pl_dtype_bytes(t->dtype), w->err);
        if (rc) return rc;
    }
    return 0;
}

static int write_data(writer *w) {
    int rc = 0;
    for (int64_t i = 0; i < w->n && rc == 0; i++) {
        const pl_tensor *t = w->order[i];
        size_t bytes;
        if (!t->data)
            rc = write_filled(w, t);
        else if ((rc = pl_tensor_bytes(&bytes, t->dtype, t->ndim, t->dims, w->err)) == 0)
            rc = pl_out_write(&w->out, t->data, bytes, w->err);
    }
    return rc;
}

int pl_tensors_write(const char *path, const pl_tensor *tensors, int64_t n, const pl_st_meta *meta, int64_t nmeta,
                     pl_tensor_fill *fill, void *user, pl_error *err) {
    int rc;
    writer w = {.tensors = tensors, .n = n, .fill = fill, .user = user, .err = err};
    rc = sort_tensors(&w);
    if (rc == 0) rc = build_header(&w, meta, nmeta);
    if (rc == 0) rc = alloc_chunk(&w);
    if (rc) {
        pl_error_context(err, rc, "%s", path);
        goto out;
    }
    PL_GO(rc, pl_out_open(&w.out, path, err));
    PL_GO(rc, write_header(&w));
    PL_GO(rc, write_data(&w));
    rc = pl_out_commit(&w.out, err);
out:
    pl_out_release(&w.out);
    pl_buf_release(&w.header);
    pl_free(w.order);
    pl_free(w.chunk);
    return rc;
}
