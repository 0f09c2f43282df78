/* kernels/cpu/avx512bf16/table.c: bf16 rounding by the machine's own instruction. It takes denormals as zero, so that
 * vectors which hold one go the way of integers: all levels give the same bits. */
#include "kernels/cpu/vec_avx512.h"

static inline void store_bf16(uint16_t *p, vf a);
#define STORE_BF16(p, a) store_bf16((p), (a))

#include "kernels/cpu/ops.inc.h"

static inline void store_bf16(uint16_t *p, vf a) {
    vi u = vf_as_vi(a); /* by its bits: vfpclassps sees no denormals while the thread takes them as zero */
    unsigned nonzero = _mm512_test_epi32_mask(u, vi_set(0x7fffffff));
    if (__builtin_expect(nonzero != _mm512_test_epi32_mask(u, vi_set(0x7f800000)), 0))
        v16_narrow(p, bf16_bits(a));
    else
        v16_round(p, a);
}

void pl_ops_add_avx512bf16(pl_ops *ops) {
    ops->level = "avx512bf16";
    add_vector_ops(ops);
}
