/* sampler.c: filters and draws. Each filter keeps the candidates in rising order of id. */
#include "gen/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

#define TAG "sampler"

int pl_sampler_take(pl_sampler *s, int64_t V, pl_arena *arena, pl_error *err) {
    *s = (pl_sampler){.V = V};
    int rc = PL_TAKE(arena, &s->kept, V, TAG, err);
    return rc ? rc : PL_TAKE(arena, &s->work, V, TAG, err);
}

/* --- top-k: the k-th largest logit by a heap whose root is the smallest of the k largest so far */

static void sift_down(real *heap, int64_t n, int64_t i) {
    for (;;) {
        int64_t least = i, l = 2 * i + 1;
        if (l < n && heap[l] < heap[least]) least = l;
        if (l + 1 < n && heap[l + 1] < heap[least]) least = l + 1;
        if (least == i) return;
        real t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static real kth_largest(real *heap, const real *z, int64_t n, int64_t k) {
    memcpy(heap, z, (size_t)k * sizeof *heap);
    for (int64_t i = k / 2; i-- > 0;) sift_down(heap, k, i);
    for (int64_t i = k; i < n; i++)
        if (z[i] > heap[0]) {
            heap[0] = z[i];
            sift_down(heap, k, 0);
        }
    return heap[0];
}

static void collect(pl_sampler *s, const pl_sampling *p, const real *z) {
    bool cut = p->top_k > 0 && p->top_k < s->V;
    real least = cut ? kth_largest((real *)s->work, z, s->V, p->top_k) : -INFINITY, max = -INFINITY;
    for (int64_t v = 0; v < s->V; v++) max = z[v] > max ? z[v] : max;
    s->n = 0;
    for (int64_t v = 0; v < s->V; v++) {
        if (z[v] < least || z[v] == -INFINITY) continue;
        double scaled = (double)z[v] / p->temperature;
        s->kept[s->n++] =
            (pl_candidate){.z = scaled, .p = exp(scaled - (double)max / p->temperature), .id = (int32_t)v};
    }
}

static double total(const pl_sampler *s) {
    double sum = 0;
    for (int64_t i = 0; i < s->n; i++) sum += s->kept[i].p;
    return sum;
}

/* The order in which top-p takes away: less probable first, of equal ones the larger id first. */
static int compare(const void *a, const void *b) {
    const pl_candidate *x = a, *y = b;
    if (x->z != y->z) return x->z < y->z ? -1 : 1;
    return (x->id < y->id) - (x->id > y->id);
}

/* Candidates that are each below the removed mass / n go together, whatever their order, so only the others are sorted:
 * a few hundred of a vocabulary of 150,000. */
static void cut_top_p(pl_sampler *s, double top_p) {
    double sum = total(s), remove = (1 - top_p) * sum, small = remove / (double)s->n, gone = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (s->kept[i].p <= small && s->kept[i].p < 1)
            gone += s->kept[i].p;
        else
            s->work[n++] = s->kept[i];
    }
    qsort(s->work, (size_t)n, sizeof *s->work, compare);
    int64_t first = 0;
    while (first < n - 1 && gone + s->work[first].p <= remove) gone += s->work[first++].p;
    pl_candidate last = s->work[first]; /* the least probable one that stays */
    int64_t kept = 0;
    for (int64_t i = 0; i < s->n; i++)
        if (compare(&s->kept[i], &last) >= 0) s->kept[kept++] = s->kept[i];
    s->n = kept;
}

/* The most probable candidate has p = 1. */
static void cut_min_p(pl_sampler *s, double min_p) {
    int64_t kept = 0;
    for (int64_t i = 0; i < s->n; i++)
        if (!(s->kept[i].p < min_p)) s->kept[kept++] = s->kept[i];
    s->n = kept;
}

void pl_sampler_filter(pl_sampler *s, const pl_sampling *p, const real *z) {
    collect(s, p, z);
    if (p->top_p < 1) cut_top_p(s, p->top_p);
    if (p->min_p > 0) cut_min_p(s, p->min_p);
}

int32_t pl_sampler_draw(const pl_sampler *s, const pl_sampling *p, uint64_t sequence, uint64_t position) {
    double u = pl_rng_unit64(pl_rng_mix(p->seed, sequence), position) * total(s), sum = 0;
    for (int64_t i = 0; i < s->n; i++) {
        sum += s->kept[i].p;
        if (u < sum) return s->kept[i].id;
    }
    return s->kept[s->n - 1].id; /* rounding */
}
