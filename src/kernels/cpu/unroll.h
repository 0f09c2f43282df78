/* kernels/cpu/unroll.h: loops over registers. An array of vectors stays in registers only where every index is known
 * when compiling: its loops must be unrolled whole, at any optimization level. */
#ifndef PL_UNROLL_H
#define PL_UNROLL_H

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINED static inline __attribute__((always_inline))

#endif
