/* kernels/cpu/avx2/table.c: what this level overwrites in the op table. */
#include "kernels/ops.h"

void pl_ops_add_avx2(pl_ops *ops) { ops->level = "avx2"; }
