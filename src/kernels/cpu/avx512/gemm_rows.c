/* kernels/cpu/avx512/gemm_rows.c: conversions and few-row products of the matrix product at this level. */
#include "kernels/gemm_impl.h"

#if PL_GEMM_HAS_DNNL
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/gemm_rows.inc.h"

const pl_gemm_rows pl_gemm_rows_avx512 = {to_f32, to_bf16, dots, pack_y, pack_dx};
#endif
