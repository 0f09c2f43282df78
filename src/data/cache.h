/* data/cache.h: tokenized rows kept on disk, named by a hash of everything that determines them: every byte of the data
 * file, what decides the tokenizer's ids, every option, the size of the vocabulary, and the code that does it. So a hit
 * needs no further comparison; what is in a file is believed only when it is whole. */
#ifndef PL_DATA_CACHE_H
#define PL_DATA_CACHE_H

#include "data/dataset.h"

typedef struct pl_data_cache {
    const char *dir; /* NULL: nothing is kept */
    bool fresh;      /* tokenize, whatever is there, and keep the result */
} pl_data_cache;

/* pl_dataset_load, or what it gave for the same file, tokenizer and options: equal in every field. A hit is logged
 * (PL_LOG_INFO); a damaged file and a directory that cannot be written to are, too (PL_LOG_WARN), and are no errors.
 * Files that can be read only once (pipes) are loaded. Errors of pl_dataset_load; PL_E_NOMEM. */
int pl_dataset_open(pl_dataset **out, const char *path, const pl_data_options *options, const pl_tokenizer *tok,
                    int64_t vocab_size, const pl_data_cache *cache, pl_error *err);

/* --- the parts, for tests */
/* content: hash of the data file's bytes. */
int pl_dataset_key(pl_hash *out, const pl_hash *content, const pl_data_options *options, const pl_tokenizer *tok,
                   int64_t vocab_size, pl_error *err);
/* Writes through a temporary file, synced and renamed. d as pl_dataset_load left it. */
int pl_dataset_write(const char *path, const pl_dataset *d, const pl_hash *key, pl_error *err);
/* bytes[0..n) is a whole file written for this key, or PL_E_FORMAT says why not. Ids are below vocab_size. */
int pl_dataset_parse(pl_dataset **out, const char *bytes, size_t n, const pl_hash *key, int64_t vocab_size,
                     pl_error *err);

#endif
