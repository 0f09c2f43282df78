/* kernels/fp.c: denormals as zero, per thread: one denormal operand can slow a product by a factor of seventy. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define FLUSH_BITS 0x8040u /* FTZ | DAZ */
static uint32_t control_get(void) { return _mm_getcsr(); }
static void control_set(uint32_t c) { _mm_setcsr(c); }
#elif defined(__aarch64__)
#define FLUSH_BITS (1u << 24) /* FZ */
static uint32_t control_get(void) {
    uint64_t c;
    __asm__ volatile("mrs %0, fpcr" : "=r"(c));
    return (uint32_t)c;
}
static void control_set(uint32_t c) { __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)c)); }
#else
#define FLUSH_BITS 0u
static uint32_t control_get(void) { return 0; }
static void control_set(uint32_t c) { PL_UNUSED(c); }
#endif

#ifdef _OPENMP
/* Thread i of the team is the same thread at enter and at leave: the run-time keeps its pool while the count is
 * unchanged. */
void pl_fp_enter(pl_fp_state *s) {
    s->threads = PL_MIN(omp_get_max_threads(), PL_MAX_THREADS);
#pragma omp parallel num_threads(s->threads)
    {
        uint32_t c = control_get();
        s->saved[omp_get_thread_num()] = c;
        control_set(c | FLUSH_BITS);
    }
}

void pl_fp_leave(const pl_fp_state *s) {
#pragma omp parallel num_threads(s->threads)
    control_set((control_get() & ~FLUSH_BITS) | (s->saved[omp_get_thread_num()] & FLUSH_BITS));
}
#else
void pl_fp_enter(pl_fp_state *s) {
    s->threads = 1;
    s->saved[0] = control_get();
    control_set(s->saved[0] | FLUSH_BITS);
}

void pl_fp_leave(const pl_fp_state *s) { control_set((control_get() & ~FLUSH_BITS) | (s->saved[0] & FLUSH_BITS)); }
#endif
