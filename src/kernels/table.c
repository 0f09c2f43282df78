/* kernels/table.c: fills the op table: the reference first, then what each level overwrites. */
#include "kernels/ops.h"

void pl_ops_init(pl_ops *ops, pl_cpu_level level) {
    pl_ops_add_ref(ops);
#if defined(PLUMB_X86) && !defined(PL_REAL_IS_DOUBLE)
    pl_cpu_level have = pl_cpu_detect();
    if (level > have) level = have;
    if (level >= PL_CPU_AVX2) pl_ops_add_avx2(ops);
    if (level >= PL_CPU_AVX512) pl_ops_add_avx512(ops);
    if (level >= PL_CPU_AVX512_BF16) pl_ops_add_avx512bf16(ops);
#else
    PL_UNUSED(level);
#endif
}
