/* model/noise.h: NEFTune (arXiv:2310.05914): uniform noise on the embeddings of training rows,
 *
 *   x[t,c] += alpha / sqrt(L C) * u,   u in [-1, 1),   L: tokens of the row, C: width.
 *
 * The noise is a function of key, row in the step, position and channel, as dropout masks are: no cut of the step, no
 * recomputation and no thread changes it. TRL takes for L the length that a row is padded to, or of all packed rows
 * together; plumb its own. The noise does not depend on any weight, so the backward pass does not see it. */
#ifndef PL_NOISE_H
#define PL_NOISE_H

#include "data/forest.h"
#include "kernels/real.h"

typedef struct pl_noise {
    double alpha; /* 0: none */
    uint64_t key; /* of seed and step */
} pl_noise;

/* Adds the noise to x [T,C]. */
void pl_noise_add(real *x, const pl_noise *noise, const pl_forest *f, int64_t C);

#endif
