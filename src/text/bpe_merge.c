/* bpe_merge.c: joins neighbours by the rank of their merge, the lowest first, leftmost on ties.
 *
 * Short pieces (nearly all behind a pre-tokenizer) are scanned for the lowest rank again and again; long ones (whole
 * texts, SentencePiece style) use a heap of candidates with lazy deletion, O(n log n). */
#include <string.h>

#include "text/tok.h"

#define SCAN_MAX 48

static int give(const pl_symbol *symbol, int64_t n, pl_ids *out, pl_error *err) {
    int rc = pl_ids_reserve(out, n, err);
    if (rc) return rc;
    for (int64_t i = 0; i < n; i++)
        if (!symbol[i].gone) out->ids[out->n++] = symbol[i].id;
    return 0;
}

static int scan(const pl_bpe *b, const pl_symbol *symbol, int64_t n, pl_ids *out, pl_error *err) {
    uint32_t id[SCAN_MAX];
    const pl_merge *merge[SCAN_MAX]; /* [i]: of id[i] and id[i + 1] */
    for (int64_t i = 0; i < n; i++) id[i] = (uint32_t)symbol[i].id;
    for (int64_t i = 0; i + 1 < n; i++) merge[i] = pl_bpe_find(b, id[i], id[i + 1]);
    for (;;) {
        int64_t best = -1;
        for (int64_t i = 0; i + 1 < n; i++)
            if (merge[i] && (best < 0 || merge[i]->rank < merge[best]->rank)) best = i;
        if (best < 0) break;
        id[best] = merge[best]->id;
        int64_t tail = n - best - 2;
        memmove(&id[best + 1], &id[best + 2], (size_t)tail * sizeof *id);
        if (tail) memmove(&merge[best + 1], &merge[best + 2], (size_t)(tail - 1) * sizeof *merge);
        n--;
        if (best > 0) merge[best - 1] = pl_bpe_find(b, id[best - 1], id[best]);
        if (tail) merge[best] = pl_bpe_find(b, id[best], id[best + 1]);
    }
    int rc = pl_ids_reserve(out, n, err);
    for (int64_t i = 0; rc == 0 && i < n; i++) out->ids[out->n++] = (int32_t)id[i];
    return rc;
}

/* --- the heap
 * ------------------------------------------------------------------------------------------------------------------ */
static void sift_down(pl_candidate *heap, int64_t n, int64_t i) {
    pl_candidate c = heap[i];
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= c.key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

static void push(pl_bpe_scratch *s, pl_candidate c) {
    int64_t i = s->heap_n++;
    while (i > 0 && s->heap[(i - 1) / 2].key > c.key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = c;
}

static pl_candidate pop(pl_bpe_scratch *s) {
    pl_candidate top = s->heap[0];
    s->heap[0] = s->heap[--s->heap_n];
    if (s->heap_n) sift_down(s->heap, s->heap_n, 0);
    return top;
}

static bool candidate(const pl_bpe *b, const pl_symbol *symbol, int32_t left, pl_candidate *c) {
    const pl_merge *m = pl_bpe_find(b, (uint32_t)symbol[left].id, (uint32_t)symbol[symbol[left].next].id);
    if (m) *c = (pl_candidate){(uint64_t)m->rank << 32 | (uint32_t)left, m->id};
    return m != NULL;
}

/* A merge removes one candidate and adds at most two, and there are at most n - 1 merges. */
static int reserve_heap(pl_bpe_scratch *s, int64_t n, pl_error *err) {
    int64_t cap = 2 * n;
    if (cap <= s->heap_cap) return 0;
    pl_free(s->heap);
    s->heap = NULL;
    s->heap_cap = 0;
    int rc = PL_NEW(&s->heap, cap, err);
    if (rc == 0) s->heap_cap = cap;
    return rc;
}

static void join(const pl_bpe *b, pl_symbol *symbol, pl_candidate top, pl_bpe_scratch *s) {
    int32_t at = (int32_t)(uint32_t)top.key;
    pl_symbol *left = &symbol[at];
    if (left->gone || left->next < 0) return;
    pl_symbol *right = &symbol[left->next];
    const pl_merge *m = pl_bpe_find(b, (uint32_t)left->id, (uint32_t)right->id);
    if (!m || m->id != top.id) return; /* the neighbours have changed since */
    left->id = (int32_t)top.id;
    left->next = right->next;
    right->gone = true;
    if (left->next >= 0) symbol[left->next].prev = at;
    pl_candidate c;
    if (left->prev >= 0 && candidate(b, symbol, left->prev, &c)) push(s, c);
    if (left->next >= 0 && candidate(b, symbol, at, &c)) push(s, c);
}

int pl_bpe_merge_long(const pl_bpe *b, int64_t n, pl_bpe_scratch *s, pl_ids *out, pl_error *err) {
    pl_symbol *symbol = s->symbol;
    int rc = reserve_heap(s, n, err);
    if (rc) return rc;
    for (int64_t i = 0; i < n; i++) {
        symbol[i].prev = (int32_t)(i - 1);
        symbol[i].next = i + 1 < n ? (int32_t)(i + 1) : -1;
        symbol[i].gone = false;
    }
    s->heap_n = 0;
    for (int64_t i = 0; i + 1 < n; i++)
        if (candidate(b, symbol, (int32_t)i, &s->heap[s->heap_n])) s->heap_n++;
    for (int64_t i = s->heap_n / 2; i-- > 0;) sift_down(s->heap, s->heap_n, i);
    while (s->heap_n) join(b, symbol, pop(s), s);
    return give(symbol, n, out, err);
}

int pl_bpe_merge(const pl_bpe *b, int64_t n, pl_bpe_scratch *s, pl_ids *out, pl_error *err) {
    return n <= SCAN_MAX ? scan(b, s->symbol, n, out, err) : pl_bpe_merge_long(b, n, s, out, err);
}
