/* plumb/tensor.h: element types and views of stored tensors. */
#ifndef PLUMB_TENSOR_H
#define PLUMB_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* name, safetensors name, bytes per element */
/* clang-format off */
#define PL_DTYPES(X) \
    X(PL_F32, "F32", 4) X(PL_F16, "F16", 2) X(PL_BF16, "BF16", 2) X(PL_F64, "F64", 8) \
    X(PL_I64, "I64", 8) X(PL_I32, "I32", 4) X(PL_I16, "I16", 2) X(PL_I8, "I8", 1) \
    X(PL_U64, "U64", 8) X(PL_U32, "U32", 4) X(PL_U16, "U16", 2) X(PL_U8, "U8", 1) \
    X(PL_BOOL, "BOOL", 1) X(PL_F8_E5M2, "F8_E5M2", 1) X(PL_F8_E4M3, "F8_E4M3", 1)
/* clang-format on */

typedef enum pl_dtype {
#define PL_DTYPE_ENUM(id, name, bytes) id,
    PL_DTYPES(PL_DTYPE_ENUM)
#undef PL_DTYPE_ENUM
        PL_DTYPE_COUNT
} pl_dtype;

size_t pl_dtype_bytes(pl_dtype t);
const char *pl_dtype_name(pl_dtype t); /* "F32": the safetensors name */

#define PL_MAX_DIMS 8

/* A named, packed, row-major tensor that somebody else owns. */
typedef struct pl_tensor {
    const char *name; /* borrowed */
    pl_dtype dtype;
    int ndim;
    int64_t dims[PL_MAX_DIMS];
    const void *data; /* borrowed; aligned to the element size at most */
    size_t bytes;
} pl_tensor;

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
