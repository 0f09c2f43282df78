/* fuzz_safetensors.c: any bytes as a safetensors file. What is taken must lie inside the input, cover it, and be found
 * by name. */
#include <string.h>

#include "base/utf8.h"
#include "fuzz.h"
#include "plumb/tensor.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"

static void check_tensor(const pl_tensors *ts, int64_t i) {
    const pl_tensor *t = pl_tensors_at(ts, i);
    size_t bytes = 0;
    FUZZ_CHECK(pl_tensor_bytes(&bytes, t->dtype, t->ndim, t->dims, NULL) == 0 && bytes == t->bytes);
    FUZZ_CHECK(t->name[0] && pl_utf8_valid(t->name, strlen(t->name)) == strlen(t->name));
    FUZZ_CHECK(pl_tensors_find(ts, t->name) == t && pl_tensors_index(ts, t) == i);
    FUZZ_CHECK(t->bytes == 0 || (uintptr_t)t->data % pl_dtype_bytes(t->dtype) == 0);
    unsigned sum = 0;
    for (size_t k = 0; k < t->bytes; k++) sum += ((const unsigned char *)t->data)[k]; /* the sanitizer watches */
    FUZZ_CHECK(sum <= 255 * t->bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err = {0};
    pl_tensors *ts = NULL;
    int rc = pl_tensors_parse(&ts, data, size, "input", &err);
    FUZZ_CHECK((rc == 0) == (ts != NULL));
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0]);
        FUZZ_CHECK(pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
        return 0;
    }
    int64_t n = pl_tensors_count(ts);
    for (int64_t i = 0; i < n; i++) check_tensor(ts, i);
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | data[i];
    FUZZ_CHECK(pl_tensors_bytes(ts) + header + 8 == size);
    pl_tensors_metadata(ts, "format");
    pl_tensors_close(ts);
    return 0;
}
