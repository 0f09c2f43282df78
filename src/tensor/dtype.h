/* tensor/dtype.h: names and sizes of element types beyond plumb/tensor.h. */
#ifndef PL_DTYPE_H
#define PL_DTYPE_H

#include "base/base.h"
#include "plumb/tensor.h"

/* "F32" -> PL_F32. false for a name that pl_dtype has not. */
bool pl_dtype_from_name(pl_dtype *out, const char *name, size_t n);
/* "float32", "torch.bfloat16", "float16", "bf16", "fp16", "fp32", ... as config.json and YAML files write them. */
bool pl_dtype_from_torch(pl_dtype *out, const char *name, size_t n);
/* "float32", "bfloat16", "float16", "float64": what config.json says; the safetensors name for the others. */
const char *pl_dtype_torch_name(pl_dtype t);
/* Bytes of a packed tensor of these dims; checks signs and overflow. PL_E_RANGE. */
int pl_tensor_bytes(size_t *out, pl_dtype t, int ndim, const int64_t *dims, pl_error *err);
/* "[49152,576]" into out[n]; always terminated, cut when too long. */
void pl_dims_text(char *out, size_t n, int ndim, const int64_t *dims);

#endif
