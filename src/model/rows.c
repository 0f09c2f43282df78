/* rows.c: shares the rows of a batch out to threads.
 *
 * Most of a layer treats every token by itself. A thread takes its rows through a whole stretch of such work, block by
 * block, so that what one product writes the next one finds in the cache, and threads meet only where tokens meet:
 * before and after attention, and for the sums over tokens. */
#include "kernels/loop.h"
#include "kernels/ref/ref.h"
#include "model/linear.h"

enum { ROWS_PER_THREAD = 64 }; /* with fewer, threads share each product instead */

static int threads(void) { return PL_MIN(PL_LOOP_TEAM(), PL_MAX_THREADS); }

int pl_pass_lanes(const pl_decoder *d, int64_t T) {
    int n = threads();
    return (n > 1 || d->cached) && T < (int64_t)n * ROWS_PER_THREAD ? 0 : n;
}

int64_t pl_pass_shared_rows(const pl_decoder *d) {
    int n = threads();
    return n == 1 && !d->cached ? 0 : PL_MIN(d->max_T, (int64_t)n * ROWS_PER_THREAD);
}

/* Units of PL_ROW_SLACK rows that lane i takes: [*first, *end). */
static void lane_units(const pl_pass *whole, int i, int lanes, int64_t *first, int64_t *end) {
    int64_t units = (whole->f->T + PL_ROW_SLACK - 1) / PL_ROW_SLACK;
    *first = pl_cut(units, i, lanes);
    *end = pl_cut(units, i + 1, lanes);
}

bool pl_pass_lane_has_rows(const pl_pass *whole, int i, int lanes) {
    int64_t first, end;
    lane_units(whole, i, lanes, &first, &end);
    return first < end;
}

pl_pass pl_pass_beside(const pl_pass *p) {
    pl_pass beside = *p;
    beside.beside = true;
    beside.lora = p->beside_lora;
    return beside;
}

static int run_part(const pl_pass *part, int64_t layer, pl_rows_fn *fn, pl_error *err) {
    pl_pass beside = pl_pass_beside(part);
    int rc = part->both ? fn(&beside, layer, err) : 0;
    return rc ? rc : fn(part, layer, err);
}

/* Blocks start at multiples of PL_ROW_SLACK: what a product writes behind its last row is its own. */
static int run_lane(const pl_pass *whole, int64_t layer, pl_rows_fn *fn, int lane, int lanes, pl_error *err) {
    int64_t first, end;
    lane_units(whole, lane, lanes, &first, &end);
    int64_t mine = end - first, most = PL_GEMM_LANE_ROWS / PL_ROW_SLACK, blocks = (mine + most - 1) / most;
    int rc = 0;
    for (int64_t b = 0; rc == 0 && b < blocks; b++) {
        int64_t from = (first + pl_cut(mine, b, blocks)) * PL_ROW_SLACK;
        int64_t to = (first + pl_cut(mine, b + 1, blocks)) * PL_ROW_SLACK;
        pl_pass part = *whole;
        part.t0 = from;
        part.T = PL_MIN(to, whole->f->T) - from;
        part.first_block = b == 0;
        part.lane = lane + 1;
        rc = run_part(&part, layer, fn, err);
    }
    return rc;
}

pl_pass pl_pass_all(const pl_pass *p) {
    pl_pass all = *p;
    all.t0 = 0;
    all.T = p->f->T;
    all.lane = 0;
    return all;
}

int pl_pass_rows(const pl_pass *whole, int64_t layer, pl_rows_fn *fn, pl_error *err) {
    int lanes = pl_pass_lanes(whole->d, whole->f->T), rc = 0;
    if (lanes == 0) {
        pl_pass all = pl_pass_all(whole);
        return run_part(&all, layer, fn, err);
    }
    if (lanes == 1) return run_lane(whole, layer, fn, 0, 1, err);
        /* a loop over lanes, not one lane a thread: OpenMP may give fewer threads than were asked for */
#pragma omp parallel for schedule(static, 1) num_threads(lanes)
    for (int lane = 0; lane < lanes; lane++) {
        pl_error own;
        int bad = run_lane(whole, layer, fn, lane, lanes, &own);
#pragma omp critical(plumb_rows)
        if (bad && !rc) {
            rc = bad;
            if (err) *err = own;
        }
    }
    return rc;
}
