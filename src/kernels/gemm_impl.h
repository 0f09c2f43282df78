/* kernels/gemm_impl.h: what gemm.c shares with its providers. Not for callers of the matrix product. */
#ifndef PL_GEMM_IMPL_H
#define PL_GEMM_IMPL_H

#include "kernels/gemm.h"

#if defined(PLUMB_DNNL) && !defined(PL_REAL_IS_DOUBLE)
#define PL_GEMM_HAS_DNNL 0 /* until gemm_dnnl.c is there */
#else
#define PL_GEMM_HAS_DNNL 0
#endif

/* The reference product: needs no preparation and no scratch but its stack (about 100 KB a thread). Each element of C
 * is summed by one thread in a fixed order, so its bits do not depend on the thread count. */
void pl_gemm_ref_run(const pl_ops *ops, const pl_gemm_call *call);

#if PL_GEMM_HAS_DNNL
typedef struct pl_gemm_dnnl pl_gemm_dnnl;
int pl_gemm_dnnl_new(pl_gemm_dnnl **out, pl_cpu_level level, pl_error *err);
void pl_gemm_dnnl_free(pl_gemm_dnnl *d);
int pl_gemm_dnnl_prepare(pl_gemm_dnnl *d, const pl_gemm_call *shape, pl_error *err);
int pl_gemm_dnnl_run(pl_gemm_dnnl *d, const pl_gemm_call *call, pl_error *err);
size_t pl_gemm_dnnl_bytes(const pl_gemm_dnnl *d);
const char *pl_gemm_dnnl_name(const pl_gemm_dnnl *d);
bool pl_gemm_dnnl_native_bf16(const pl_gemm_dnnl *d);
#endif

#endif
