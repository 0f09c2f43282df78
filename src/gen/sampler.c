/* sampler.c: filters and draws. Each filter keeps the candidates in rising order of id. Of a large vocabulary only
 * those are collected that a filter may keep: passes over all ids are vector ops. */
#include "gen/sampler.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

#define TAG "sampler"

#define BLOCK 1024 /* ids whose probabilities are summed, and drawn from, at a time */

int pl_sampler_take(pl_sampler *s, const pl_ops *ops, int64_t V, pl_arena *arena, pl_error *err) {
    int rc;
    *s = (pl_sampler){.ops = ops, .V = V};
    PL_GO(rc, PL_TAKE(arena, &s->kept, V, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->work, V, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &s->index, V, TAG, err));
out:
    return rc;
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

/* The largest logits of blocks, in s->work. */
static real *block_maxima(pl_sampler *s, const real *z, real *max) {
    real *maxima = (real *)s->work;
    s->ops->block_max(maxima, z, s->V);
    *max = -INFINITY;
    for (int64_t b = 0; b * PL_BLOCK_MAX < s->V; b++) *max = maxima[b] > *max ? maxima[b] : *max;
    return maxima;
}

/* The k-th largest logit. The k-th largest of the blocks' maxima is no larger, so only ids from there on are looked at.
 */
static real top_k_limit(pl_sampler *s, const real *z, real *maxima, int64_t k) {
    int64_t blocks = (s->V + PL_BLOCK_MAX - 1) / PL_BLOCK_MAX;
    if (k > blocks) return kth_largest(maxima, z, s->V, k);
    int64_t n = s->ops->select(s->index, z, kth_largest(maxima + blocks, maxima, blocks, k), s->V);
    real *some = maxima;
    for (int64_t i = 0; i < n; i++) some[i] = z[s->index[i]];
    return kth_largest(some + n, some, n, k);
}

/* p [BLOCK] of block b of all ids; returns their sum. */
static double block_exp(const pl_sampler *s, const pl_sampling *p, const real *z, real max, int64_t b, double *out) {
    return s->ops->exp_sum(out, z + b * BLOCK, 1 / p->temperature, max, PL_MIN(BLOCK, s->V - b * BLOCK));
}

static double sum_all(const pl_sampler *s, const pl_sampling *p, const real *z, real max) {
    double sum = 0, unused[BLOCK];
    for (int64_t b = 0; b * BLOCK < s->V; b++) sum += block_exp(s, p, z, max, b, unused);
    return sum;
}

/* A logit not above the one at which p is `least`. */
static real logit_at(const pl_sampling *p, real max, double least) {
    double z = (double)max + p->temperature * log(least);
    return (real)(z - 4 * FLT_EPSILON * (fabs(z) + fabs((double)max)));
}

static void collect(pl_sampler *s, const pl_sampling *p, const real *z) {
    real max, least = -INFINITY, *maxima = block_maxima(s, z, &max);
    double all = 0;
    if (p->top_k > 0 && p->top_k < s->V) {
        least = top_k_limit(s, z, maxima, p->top_k);
    } else if (p->top_p < 1) { /* ids that are each below the removed mass / V go together */
        all = sum_all(s, p, z, max);
        least = logit_at(p, max, (1 - p->top_p) * all / (double)s->V);
    } else if (p->min_p > 0) {
        least = logit_at(p, max, p->min_p);
    }
    int64_t n = s->ops->select(s->index, z, least, s->V);
    s->n = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t v = s->index[i];
        if (z[v] == -INFINITY) continue;
        double scaled = (double)z[v] / p->temperature;
        s->kept[s->n++] = (pl_candidate){.z = scaled, .p = exp(scaled - (double)max / p->temperature), .id = v};
    }
    double kept = 0;
    for (int64_t i = 0; all > 0 && i < s->n; i++) kept += s->kept[i].p;
    s->below = all > 0 && n < s->V ? fmax(0, all - kept) : 0;
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
    double gone = s->below, remove = (1 - top_p) * (total(s) + gone), small = (remove - gone) / (double)s->n;
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

/* From all ids: no list of them is made. */
static int32_t draw_from_all(pl_sampler *s, const pl_sampling *p, const real *z, double u) {
    real max;
    (void)block_maxima(s, z, &max);
    double *sums = (double *)s->work, one[BLOCK], sum = 0;
    int64_t blocks = (s->V + BLOCK - 1) / BLOCK, b = 0, id = 0;
    for (int64_t i = 0; i < blocks; i++) sum += sums[i] = block_exp(s, p, z, max, i, one);
    u *= sum;
    sum = 0;
    for (; b + 1 < blocks && !(u < sum + sums[b]); b++) sum += sums[b];
    while (b > 0 && !(sums[b] > 0)) b--; /* rounding */
    (void)block_exp(s, p, z, max, b, one);
    for (int64_t i = 0; i < PL_MIN(BLOCK, s->V - b * BLOCK); i++) {
        if (!(one[i] > 0)) continue;
        id = b * BLOCK + i;
        sum += one[i];
        if (u < sum) break;
    }
    return (int32_t)id;
}

int32_t pl_sampler_pick(pl_sampler *s, const pl_sampling *p, const real *z, uint64_t sequence, uint64_t position) {
    bool all = (p->top_k <= 0 || p->top_k >= s->V) && p->top_p >= 1 && p->min_p <= 0;
    if (all) return draw_from_all(s, p, z, pl_rng_unit64(pl_rng_mix(p->seed, sequence), position));
    pl_sampler_filter(s, p, z);
    return pl_sampler_draw(s, p, sequence, position);
}
