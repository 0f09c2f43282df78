/* dtype.c: names and sizes of element types. */
#include "tensor/dtype.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *torch;
    size_t bytes;
} types[PL_DTYPE_COUNT] = {
#define ROW(id, text, size) [id] = {text, text, size},
    PL_DTYPES(ROW)
#undef ROW
};

static const struct {
    const char *name;
    pl_dtype type;
} torch_names[] = {{"float32", PL_F32}, {"bfloat16", PL_BF16}, {"float16", PL_F16}, {"float64", PL_F64},
                   {"float", PL_F32},   {"half", PL_F16},      {"double", PL_F64},  {"fp32", PL_F32},
                   {"bf16", PL_BF16},   {"fp16", PL_F16},      {"f32", PL_F32},     {"f16", PL_F16}};

size_t pl_dtype_bytes(pl_dtype t) { return (unsigned)t < PL_DTYPE_COUNT ? types[t].bytes : 0; }

const char *pl_dtype_name(pl_dtype t) { return (unsigned)t < PL_DTYPE_COUNT ? types[t].name : "?"; }

bool pl_dtype_from_name(pl_dtype *out, const char *name, size_t n) {
    for (int i = 0; i < PL_DTYPE_COUNT; i++) {
        if (strlen(types[i].name) != n || memcmp(types[i].name, name, n) != 0) continue;
        *out = (pl_dtype)i;
        return true;
    }
    return false;
}

bool pl_dtype_from_torch(pl_dtype *out, const char *name, size_t n) {
    if (n > 6 && memcmp(name, "torch.", 6) == 0) {
        name += 6;
        n -= 6;
    }
    for (int64_t i = 0; i < PL_LEN(torch_names); i++) {
        if (strlen(torch_names[i].name) != n || memcmp(torch_names[i].name, name, n) != 0) continue;
        *out = torch_names[i].type;
        return true;
    }
    return false;
}

const char *pl_dtype_torch_name(pl_dtype t) {
    for (int64_t i = 0; i < PL_LEN(torch_names); i++)
        if (torch_names[i].type == t) return torch_names[i].name;
    return pl_dtype_name(t);
}

int pl_tensor_bytes(size_t *out, pl_dtype t, int ndim, const int64_t *dims, pl_error *err) {
    if (ndim < 0 || ndim > PL_MAX_DIMS) return PL_FAIL(err, PL_E_RANGE, "%d dimensions, at most %d", ndim, PL_MAX_DIMS);
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (dims[i] < 0) return PL_FAIL(err, PL_E_RANGE, "dimension %d is %" PRId64, i, dims[i]);
        if (dims[i] == 0) empty = true;
    }
    /* the product of the other dims is checked even beside a 0, as the reference reader does */
    size_t bytes = pl_dtype_bytes(t);
    for (int i = 0; i < ndim; i++)
        if (dims[i] != 0 && __builtin_mul_overflow(bytes, (size_t)dims[i], &bytes))
            return PL_FAIL(err, PL_E_RANGE, "the size of the tensor overflows");
    if (bytes > PTRDIFF_MAX) return PL_FAIL(err, PL_E_RANGE, "the size of the tensor overflows");
    *out = empty ? 0 : bytes;
    return 0;
}

void pl_dims_text(char *out, size_t n, int ndim, const int64_t *dims) {
    size_t at = 0;
    if (n == 0) return;
    for (int i = 0; i <= ndim; i++) {
        char piece[32];
        int k = i == ndim ? snprintf(piece, sizeof piece, "%s]", ndim == 0 ? "[" : "")
                          : snprintf(piece, sizeof piece, "%s%" PRId64, i == 0 ? "[" : ",", dims[i]);
        if (at + (size_t)k >= n) break;
        memcpy(out + at, piece, (size_t)k);
        at += (size_t)k;
    }
    out[at] = 0;
}
