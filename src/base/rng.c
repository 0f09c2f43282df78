/* rng.c: Philox4x32-10, the fills made from it, and the Mersenne Twister that PyTorch orders data with. */
#include "base/rng.h"

#include <math.h>

pl_rng_block pl_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (pl_rng_block){{c0, c1, c2, c3}};
}

static uint64_t splitmix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t pl_rng_mix(uint64_t a, uint64_t b) { return splitmix(splitmix(a) ^ b); }

double pl_rng_unit64(uint64_t key, uint64_t i) {
    pl_rng_block b = pl_philox(key, 0, i);
    return (double)(((uint64_t)b.v[0] << 32 | b.v[1]) >> 11) * 0x1p-53;
}

/* Two normals from two words. The half keeps the logarithm's argument above zero; in double, so that it rounds once. */
static void box_muller(double out[2], uint32_t a, uint32_t b) {
    double r = sqrt(-2 * log(((double)a + 0.5) * 0x1p-32)), angle = 2 * M_PI * ((double)b * 0x1p-32);
    out[0] = r * cos(angle);
    out[1] = r * sin(angle);
}

void pl_rng_normal(float *out, int64_t n, float s, uint64_t key, uint64_t first) {
    double four[4];
    uint64_t have = UINT64_MAX; /* the block that `four` holds */
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = first + (uint64_t)i;
        if (at / 4 != have) {
            pl_rng_block b = pl_philox(key, 0, have = at / 4);
            box_muller(four, b.v[0], b.v[1]);
            box_muller(four + 2, b.v[2], b.v[3]);
        }
        out[i] = (float)((double)s * four[at % 4]);
    }
}

void pl_rng_uniform(float *out, int64_t n, float low, float high, uint64_t key, uint64_t first) {
    pl_rng_block b = {{0}};
    uint64_t have = UINT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = first + (uint64_t)i;
        if (at / 4 != have) b = pl_philox(key, 0, have = at / 4);
        out[i] = low + (high - low) * pl_rng_unit(b.v[at % 4]);
    }
}

/* --- MT19937 (Matsumoto and Nishimura 1998), standard integer initialiser
 * ------------------------------------------------ */
#define MT_N 624
#define MT_M 397
typedef struct mt19937 {
    uint32_t s[MT_N];
    int at;
} mt19937;

static void mt_seed(mt19937 *m, uint32_t seed) {
    m->s[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) m->s[i] = 1812433253u * (m->s[i - 1] ^ m->s[i - 1] >> 30) + i;
    m->at = MT_N;
}

static void mt_refill(mt19937 *m) {
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (m->s[i] & 0x80000000u) | (m->s[(i + 1) % MT_N] & 0x7FFFFFFFu);
        m->s[i] = m->s[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
    }
    m->at = 0;
}

static uint32_t mt_next(mt19937 *m) {
    if (m->at == MT_N) mt_refill(m);
    uint32_t y = m->s[m->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

int pl_torch_randperm(int64_t *out, int64_t n, uint64_t seed, pl_error *err) {
    if (n < 0 || n >= (int64_t)(UINT32_MAX / 20)) /* torch draws 64-bit words beyond */
        return PL_FAIL(err, PL_E_RANGE, "a permutation of %" PRId64 " rows, at most %u", n, UINT32_MAX / 20 - 1);
    mt19937 m;
    mt_seed(&m, (uint32_t)seed);
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t j = i + (int64_t)(mt_next(&m) % (uint64_t)(n - i)), old = out[i];
        out[i] = out[j];
        out[j] = old;
    }
    return 0;
}
