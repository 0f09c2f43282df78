/* base/rng.h: random numbers.
 * Philox4x32-10 (Salmon et al. 2011): a pure function of key and counter, so that a draw depends on seed and position,
 * never on threads. MT19937 only for the data order, which must be PyTorch's. */
#ifndef PL_RNG_H
#define PL_RNG_H

#include "base/base.h"

typedef struct pl_rng_block {
    uint32_t v[4];
} pl_rng_block;
pl_rng_block pl_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);
/* Mixes words into one 64-bit key (splitmix64 chain); order matters. */
uint64_t pl_rng_mix(uint64_t a, uint64_t b);
/* [0,1) with 24 bits, exact in float. */
static inline float pl_rng_unit(uint32_t w) { return (float)(w >> 8) * 0x1p-24f; }
/* Uniform double in [0,1) with 53 bits, at position i of stream `key`. */
double pl_rng_unit64(uint64_t key, uint64_t i);
/* Fills with normals of std s (Box-Muller), element i from counter i: independent of how it is cut. */
void pl_rng_normal(float *out, int64_t n, float s, uint64_t key, uint64_t first);
void pl_rng_uniform(float *out, int64_t n, float low, float high, uint64_t key, uint64_t first);

/* torch.randperm(n) on the CPU with a generator seeded `seed`: out[n]. n < 2^32 / 20 else PL_E_RANGE. */
int pl_torch_randperm(int64_t *out, int64_t n, uint64_t seed, pl_error *err);

#endif
