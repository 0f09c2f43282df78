/* text/vocab.h: token strings and their ids, both ways. */
#ifndef PL_VOCAB_H
#define PL_VOCAB_H

#include "base/base.h"

#define PL_VOCAB_MAX_ID                                                                                                \
    ((int64_t)1 << 22) /* ids come from a file and size arrays; today's largest vocabularies are 2^18 */

typedef struct pl_vocab {
    char *pool;     /* all strings, one after the other, each NUL-terminated */
    size_t *offset; /* [size] start in pool */
    int32_t *bytes; /* [size] length; -1: no such id */
    int32_t *slot;  /* [mask + 1] open addressing: id, or -1 */
    size_t mask, pool_used, pool_cap;
    int64_t size;  /* largest id + 1 that fits */
    int64_t count; /* strings */
} pl_vocab;

/* Room for `count` strings of pool_bytes bytes (without their NULs) in all, ids below size. PL_E_NOMEM, PL_E_RANGE. */
int pl_vocab_init(pl_vocab *v, int64_t count, int64_t size, size_t pool_bytes, pl_error *err);
void pl_vocab_release(pl_vocab *v);
/* Both string and id must be new (PL_E_FORMAT), the id in [0, size), and there must be room (PL_E_INTERNAL). */
int pl_vocab_add(pl_vocab *v, const char *s, size_t n, int64_t id, pl_error *err);
int32_t pl_vocab_find(const pl_vocab *v, const char *s, size_t n); /* -1: not there */
const char *pl_vocab_at(const pl_vocab *v, int64_t id, size_t *n); /* NULL: no such id */

#endif
