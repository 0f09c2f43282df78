/* gen/json_lists.h: lists of ids and log-probs as members of a JSON object that is being written. */
#ifndef PL_JSON_LISTS_H
#define PL_JSON_LISTS_H

#include "base/buf.h"

/* ,"key":[1,2,3] */
int pl_buf_json_ids(pl_buf *b, const char *key, const int32_t *ids, int64_t n, pl_error *err);
/* ,"key":[-0.5,-1.25] with numbers that read back as the same value. */
int pl_buf_json_floats(pl_buf *b, const char *key, const float *x, int64_t n, pl_error *err);

#endif
