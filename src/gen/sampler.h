/* gen/sampler.h: from one row of logits to one id. The rules are transformers' (temperature, top-k, top-p, min-p, in
 * this order), in double over f32 logits; ties and draws are decided, so that the same logits give the same id. */
#ifndef PL_SAMPLER_H
#define PL_SAMPLER_H

#include "base/arena.h"
#include "kernels/ops.h"

typedef struct pl_sampling {
    bool greedy;        /* the largest logit, the smallest id of equal ones */
    double temperature; /* > 0 */
    int64_t top_k;      /* 0: off; ids equal to the k-th stay */
    double top_p; /* 1: off. The least probable ids go while their sum is <= 1 - top_p; of equal ones the larger id
                     first */
    double min_p; /* 0: off. Ids below min_p times the largest probability go */
    uint64_t seed;
} pl_sampling;

typedef struct pl_candidate {
    double z; /* logit / temperature */
    double p; /* probability, not normalised: relative to the most probable id's 1 */
    int32_t id;
} pl_candidate;

typedef struct pl_sampler {
    const pl_ops *ops; /* borrowed */
    int64_t V;
    int64_t n;          /* kept ids of the last row */
    double below;       /* the sum of p of ids that top-p left out at once */
    pl_candidate *kept; /* [V] in rising order of id */
    pl_candidate *work; /* [V] */
    int32_t *index;     /* [V] */
} pl_sampler;

int pl_sampler_take(pl_sampler *s, const pl_ops *ops, int64_t V, pl_arena *arena, pl_error *err);
/* What may be drawn from z [V] (finite numbers or -infinity, at least one finite): s->kept. Never empty. */
void pl_sampler_filter(pl_sampler *s, const pl_sampling *p, const real *z);
/* Draws from s->kept by inversion, in rising order of id; the number drawn depends on seed, sequence and position. */
int32_t pl_sampler_draw(const pl_sampler *s, const pl_sampling *p, uint64_t sequence, uint64_t position);
/* The same id as both of these (but for rounding where it is drawn from all ids: those are not written down then). */
int32_t pl_sampler_pick(pl_sampler *s, const pl_sampling *p, const real *z, uint64_t sequence, uint64_t position);

#endif
