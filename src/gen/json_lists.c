/* json_lists.c: what logps and generate write with --tokens. */
#include "gen/json_lists.h"

int pl_buf_json_ids(pl_buf *b, const char *key, const int32_t *ids, int64_t n, pl_error *err) {
    int rc = pl_buf_printf(b, err, ",\"%s\":[", key);
    for (int64_t i = 0; rc == 0 && i < n; i++) rc = pl_buf_printf(b, err, "%s%d", i ? "," : "", ids[i]);
    return rc ? rc : pl_buf_puts(b, "]", err);
}

int pl_buf_json_floats(pl_buf *b, const char *key, const float *x, int64_t n, pl_error *err) {
    int rc = pl_buf_printf(b, err, ",\"%s\":[", key);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        if (i) rc = pl_buf_puts(b, ",", err);
        if (rc == 0) rc = pl_buf_json_double(b, (double)x[i], err);
    }
    return rc ? rc : pl_buf_puts(b, "]", err);
}
