/* vocab.c: one pool of strings, an array by id, a hash table by string. */
#include "text/vocab.h"

#include <string.h>

static uint64_t hash(const char *s, size_t n) {
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        s += 8, n -= 8;
    }
    uint64_t w = 0;
    for (size_t i = 0; i < n; i++) w |= (uint64_t)(unsigned char)s[i] << (8 * i);
    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    return h ^ (h >> 29);
}

int pl_vocab_init(pl_vocab *v, int64_t count, int64_t size, size_t pool_bytes, pl_error *err) {
    int rc;
    pl_vocab t = {.size = size, .mask = 15};
    if (size < 0 || size > PL_VOCAB_MAX_ID)
        return PL_FAIL(err, PL_E_RANGE, "a vocabulary of %" PRId64 " ids, at most %" PRId64, size, PL_VOCAB_MAX_ID);
    while ((int64_t)t.mask < 2 * count) t.mask = 2 * t.mask + 1;
    t.pool_cap = pool_bytes + (size_t)count + 1;
    PL_GO(rc, pl_alloc((void **)&t.pool, t.pool_cap, err));
    PL_GO(rc, PL_NEW(&t.offset, size, err));
    PL_GO(rc, PL_NEW(&t.bytes, size, err));
    PL_GO(rc, PL_NEW(&t.slot, (int64_t)t.mask + 1, err));
    memset(t.bytes, 0xFF, (size_t)size * sizeof *t.bytes);
    memset(t.slot, 0xFF, (t.mask + 1) * sizeof *t.slot);
    *v = t;
    return 0;
out:
    pl_vocab_release(&t);
    return rc;
}

void pl_vocab_release(pl_vocab *v) {
    pl_free(v->pool);
    pl_free(v->offset);
    pl_free(v->bytes);
    pl_free(v->slot);
    *v = (pl_vocab){0};
}

/* The slot that holds s, or the free one where it belongs. */
static size_t find_slot(const pl_vocab *v, const char *s, size_t n) {
    size_t i = (size_t)hash(s, n) & v->mask;
    for (;; i = (i + 1) & v->mask) {
        int32_t id = v->slot[i];
        if (id < 0) return i;
        if ((size_t)v->bytes[id] == n && memcmp(v->pool + v->offset[id], s, n) == 0) return i;
    }
}

int pl_vocab_add(pl_vocab *v, const char *s, size_t n, int64_t id, pl_error *err) {
    if (id < 0 || id >= v->size)
        return PL_FAIL(err, PL_E_RANGE, "token \"%.60s\" has id %" PRId64 ", want 0 to %" PRId64, s, id, v->size - 1);
    if (v->bytes[id] >= 0)
        return PL_FAIL(err, PL_E_FORMAT, "tokens \"%.60s\" and \"%.60s\" have the same id %" PRId64,
                       v->pool + v->offset[id], s, id);
    if ((size_t)v->count * 2 > v->mask || n >= INT32_MAX || v->pool_cap - v->pool_used <= n)
        return PL_FAIL(err, PL_E_INTERNAL, "the vocabulary table is full");
    size_t i = find_slot(v, s, n);
    if (v->slot[i] >= 0) return PL_FAIL(err, PL_E_FORMAT, "token \"%.60s\" occurs twice", s);
    v->slot[i] = (int32_t)id;
    v->offset[id] = v->pool_used;
    v->bytes[id] = (int32_t)n;
    memcpy(v->pool + v->pool_used, s, n);
    v->pool[v->pool_used + n] = 0;
    v->pool_used += n + 1;
    v->count++;
    return 0;
}

int32_t pl_vocab_find(const pl_vocab *v, const char *s, size_t n) { return v->slot ? v->slot[find_slot(v, s, n)] : -1; }

const char *pl_vocab_at(const pl_vocab *v, int64_t id, size_t *n) {
    if (id < 0 || id >= v->size || v->bytes[id] < 0) return NULL;
    if (n) *n = (size_t)v->bytes[id];
    return v->pool + v->offset[id];
}
