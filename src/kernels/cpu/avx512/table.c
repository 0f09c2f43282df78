/* kernels/cpu/avx512/table.c: what this level overwrites in the op table. */
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/ops.inc.h"

void pl_ops_add_avx512(pl_ops *ops) {
    ops->level = "avx512";
    add_vector_ops(ops);
}
