/* kernels/cpu/avx2/table.c: what this level overwrites in the op table. */
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/ops.inc.h"

void pl_ops_add_avx2(pl_ops *ops) {
    ops->level = "avx2";
    add_vector_ops(ops);
}
