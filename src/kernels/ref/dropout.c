/* kernels/ref/dropout.c: masks from position alone: channels 4b .. 4b+3 of row t take the four words of
 * Philox(key, row_id[t], b); a word w keeps its element iff unit(w) >= p. So any cut of the batch draws the same masks.
 */
#include "base/rng.h"
#include "kernels/ref/ref.h"

void pl_ref_dropout(real *y, bool accumulate, const real *x, const uint64_t *row_id, uint64_t key, real p, int64_t T,
                    int64_t C) {
    real kept = 1 / (1 - p);
#pragma omp parallel for schedule(static) if (T * C > PL_SERIAL_ELEMS / 8)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t c0 = 0; c0 < C; c0 += 4) {
            pl_rng_block block = pl_philox(key, row_id[t], (uint64_t)c0 / 4);
            for (int64_t c = c0; c < PL_MIN(C, c0 + 4); c++) {
                real v = x[t * C + c] * ((real)pl_rng_unit(block.v[c - c0]) >= p ? kept : 0);
                y[t * C + c] = accumulate ? y[t * C + c] + v : v;
            }
        }
    }
}
