/* tensor/safetensors.h: safetensors files, read through a map and written as a stream.
 *
 * The reader enforces every rule of the reference reader: header length, UTF-8, JSON shape, tensors that cover the data
 * buffer exactly and without overlap, and file length; and on top of it: no duplicate names, no control characters in
 * names, at most PL_ST_MAX_TENSORS tensors. The header is parsed in place (no JSON tree). A file is mapped, never
 * copied, except for tensors that do not lie at a multiple of their element size (files with an odd header length):
 * those are copied once, so that `data` of every pl_tensor here is aligned to its element size. */
#ifndef PL_SAFETENSORS_H
#define PL_SAFETENSORS_H

#include "base/base.h"
#include "base/hash.h"
#include "plumb/tensor.h"

#define PL_ST_MAX_HEADER ((size_t)100000000) /* bytes, as the reference reader */
#define PL_ST_MAX_TENSORS 262144             /* per file */
#define PL_ST_MAX_META 4096                  /* entries of __metadata__ */

/* The tensors of one file, or of all shards of a model directory. Immutable after open: may be read by many threads. */
typedef struct pl_tensors pl_tensors;

/* One file. PL_E_IO, PL_E_FORMAT, PL_E_UNSUPPORTED (a dtype that pl_dtype has not), PL_E_NOMEM. Owned:
 * pl_tensors_close. */
int pl_tensors_open_file(pl_tensors **out, const char *path, pl_error *err);
/* A model directory: model.safetensors, or model.safetensors.index.json and its shards. A directory that holds only
 * pytorch_model*.bin is PL_E_UNSUPPORTED with a message that says what to do. */
int pl_tensors_open(pl_tensors **out, const char *dir, pl_error *err);
/* The same reader over bytes that the caller keeps alive and unchanged; `what` names them in errors (copied). */
int pl_tensors_parse(pl_tensors **out, const void *bytes, size_t n, const char *what, pl_error *err);
void pl_tensors_close(pl_tensors *ts); /* NULL is fine; every pl_tensor of it becomes invalid */

/* PL_E_IO when a file is shorter now than when it was opened: reading its tensors would end the process with SIGBUS.
 * One fstat per file. */
int pl_tensors_check(const pl_tensors *ts, pl_error *err);

/* Adds to h what identifies the files while they are unchanged (base/cache.h). *settled: all of them are, and there is
 * no other source of bytes. PL_E_IO. */
int pl_tensors_add_stamps(pl_hasher *h, bool *settled, const pl_tensors *ts, pl_error *err);

int64_t pl_tensors_count(const pl_tensors *ts);
/* Borrowed; 0 <= i < count; in the order of the data within a file, shards in order of their names. */
const pl_tensor *pl_tensors_at(const pl_tensors *ts, int64_t i);
/* The i for which pl_tensors_at(ts, i) == t, a tensor of ts. O(files). */
int64_t pl_tensors_index(const pl_tensors *ts, const pl_tensor *t);
/* Borrowed; NULL when there is none of that name. O(log count). */
const pl_tensor *pl_tensors_find(const pl_tensors *ts, const char *name);
/* The same for a tensor that must be there with these dims: PL_E_MISMATCH, PL_E_SHAPE, naming file and tensor. */
int pl_tensors_need(const pl_tensor **out, const pl_tensors *ts, const char *name, int ndim, const int64_t *dims,
                    pl_error *err);
/* Path of the file that holds tensor t of ts (borrowed); for messages. */
const char *pl_tensors_file(const pl_tensors *ts, const pl_tensor *t);
/* Path of the directory or file that was opened (borrowed). */
const char *pl_tensors_path(const pl_tensors *ts);
/* Bytes of the maps that are in this process's memory now. */
size_t pl_tensors_resident_bytes(const pl_tensors *ts);
/* Sum of the bytes of all tensors. */
size_t pl_tensors_bytes(const pl_tensors *ts);
/* A value of __metadata__ (of the first file that has the key), NUL-terminated, borrowed; NULL when absent. */
const char *pl_tensors_metadata(const pl_tensors *ts, const char *key);

/* ---- writing
 * ------------------------------------------------------------------------------------------------------------- */

typedef struct pl_st_meta {
    const char *key, *value; /* UTF-8, borrowed */
} pl_st_meta;

/* Produces elements [first, first+count) of tensor `index` (its place in the list given to the writer) into `bytes`, in
 * the tensor's dtype. Called once per chunk, chunks of a tensor in order, each a whole number of rows (of
 * dims[1]*dims[2]*… elements). */
typedef int pl_tensor_fill(void *user, int64_t index, int64_t first, int64_t count, void *bytes, pl_error *err);

/* Writes a safetensors file as the reference writer lays it out (dtype by descending size rank, then name; header
 * padded to 8), through a temporary file that is synced and renamed. A tensor with data != NULL is written from there;
 * the others are produced by `fill` (may be NULL when there is none) in chunks of about PL_ST_CHUNK bytes. `format:
 * pt`, without which old transformers refuse a file, is added to meta unless meta has a format. `bytes` of the tensors
 * is not read. Equal tensors and meta give equal bytes. PL_E_IO, PL_E_RANGE, PL_E_FORMAT (duplicate or unprintable
 * name), PL_E_NOMEM, or what fill returns; on failure nothing is left at `path`. */
#define PL_ST_CHUNK ((size_t)4 << 20)
int pl_tensors_write(const char *path, const pl_tensor *tensors, int64_t n, const pl_st_meta *meta, int64_t nmeta,
                     pl_tensor_fill *fill, void *user, pl_error *err);

#endif
