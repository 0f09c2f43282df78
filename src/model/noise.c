/* noise.c: noise on embeddings, from position alone: channels 4b .. 4b+3 of token t take the four words of
 * Philox(key, dropout_id[t], b). */
#include "model/noise.h"

#include "base/rng.h"
#include "kernels/loop.h"

enum { SERIAL_ELEMS = 4096 }; /* that are not worth a parallel region */

static void add_to_token(real *x, double size, uint64_t key, uint64_t id, int64_t C) {
    for (int64_t c0 = 0; c0 < C; c0 += 4) {
        pl_rng_block block = pl_philox(key, id, (uint64_t)c0 / 4);
        for (int64_t c = c0; c < PL_MIN(C, c0 + 4); c++)
            x[c] += (real)(size * (2 * (double)pl_rng_unit(block.v[c - c0]) - 1));
    }
}

void pl_noise_add(real *x, const pl_noise *noise, const pl_forest *f, int64_t C) {
    if (noise->alpha <= 0) return;
    for (int64_t tree = 0; tree < f->ntrees; tree++) {
        int64_t first = f->tree_first[tree], n = f->tree_first[tree + 1] - first;
        double size = noise->alpha / sqrt((double)f->tree_length[tree] * (double)C);
        PL_LOOP(n * C > SERIAL_ELEMS, t, n, 1,
                { add_to_token(x + (first + t) * C, size, noise->key, f->dropout_id[first + t], C); });
    }
}
