/* kernels/loop.h: the loop of an op over i = 0, step, 2 step ... below n, shared by the OpenMP threads when `big`.
 *
 * A small loop does not enter the run-time at all: a parallel region costs about a microsecond even when its `if`
 * clause says one thread (libgomp makes and frees a team), more than a row of a small model takes. Inside a parallel
 * region the loop runs in the calling thread. Iterations must not depend on one another; the schedule is static, so
 * which thread runs what does not change. */
#ifndef PL_LOOP_H
#define PL_LOOP_H

#ifdef _OPENMP
#include <omp.h>
#define PL_LOOP_THREADS() (omp_get_max_threads() > 1 && !omp_in_parallel())
#define PL_LOOP_TEAM() omp_get_max_threads()
#define PL_LOOP_PRAGMA _Pragma("omp parallel for schedule(static)")
#else
#define PL_LOOP_THREADS() 0
#define PL_LOOP_TEAM() 1
#define PL_LOOP_PRAGMA
#endif

#define PL_LOOP(big, i, n, step, ...)                                                                                  \
    do {                                                                                                               \
        if ((big) && PL_LOOP_THREADS()) {                                                                              \
            PL_LOOP_PRAGMA                                                                                             \
            for (int64_t i = 0; i < (n); i += (step)) __VA_ARGS__                                                      \
        } else {                                                                                                       \
            for (int64_t i = 0; i < (n); i += (step)) __VA_ARGS__                                                      \
        }                                                                                                              \
    } while (0)

#endif
