/* base/hash.h: content hashes (XXH3, 128 bits, from libxxhash), for caches and for "is this the same file". Not
 * cryptographic. */
#ifndef PL_HASH_H
#define PL_HASH_H

#include "base/base.h"

typedef struct pl_hash {
    char hex[33]; /* 32 hex digits and a NUL */
} pl_hash;
typedef struct pl_hasher pl_hasher;
int pl_hasher_new(pl_hasher **out, pl_error *err);
void pl_hasher_add(pl_hasher *h, const void *bytes, size_t n);
void pl_hasher_add_text(pl_hasher *h, const char *s); /* length first, so that "a","bc" differs from "ab","c" */
void pl_hasher_add_int(pl_hasher *h, int64_t v);
pl_hash pl_hasher_digest(const pl_hasher *h);
void pl_hasher_free(pl_hasher *h);
pl_hash pl_hash_bytes(const void *bytes, size_t n);
int pl_hash_file(pl_hash *out, const char *path, pl_error *err);

#endif
