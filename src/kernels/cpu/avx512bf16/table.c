/* kernels/cpu/avx512bf16/table.c: what this level overwrites in the op table. */
#include "kernels/ops.h"

void pl_ops_add_avx512bf16(pl_ops *ops) { ops->level = "avx512bf16"; }
