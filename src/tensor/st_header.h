/* tensor/st_header.h: the JSON header of a safetensors file, parsed in place; internal to src/tensor. */
#ifndef PL_ST_HEADER_H
#define PL_ST_HEADER_H

#include "base/base.h"
#include "base/buf.h"
#include "plumb/tensor.h"

typedef struct pl_st_entry {
    size_t name;       /* offset in strings of the NUL-terminated name */
    size_t begin, end; /* in the data buffer */
    pl_dtype dtype;
    int ndim;
    int64_t dims[PL_MAX_DIMS];
} pl_st_entry;

typedef struct pl_st_header {
    pl_st_entry *entries; /* owned; sorted by begin, end */
    int64_t n;
    pl_buf strings; /* all names, keys and values, each NUL-terminated */
    size_t *meta;   /* owned; [2*nmeta] offsets of key, value */
    int64_t nmeta;
} pl_st_header;

/* Parses and checks n bytes of header whose data buffer has data_bytes bytes. `what` names the file in errors. */
int pl_st_header_parse(pl_st_header *out, const char *text, size_t n, size_t data_bytes, const char *what,
                       pl_error *err);
void pl_st_header_release(pl_st_header *h); /* safe on zeroed storage */
/* Whether a tensor name can be kept and printed: not empty, at most 1024 bytes, no control characters. */
bool pl_st_name_ok(const char *name, size_t n);

#endif
