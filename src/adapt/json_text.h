/* adapt/json_text.h: JSON as Python's json.dumps(x, indent=2, sort_keys=True) writes it, but for one thing: keys of
 * inner objects keep their order, which carries meaning (the first rank_pattern that matches counts). */
#ifndef PL_JSON_TEXT_H
#define PL_JSON_TEXT_H

#include "base/buf.h"
#include "base/json.h"

/* Appends v, which starts at `depth` levels of indentation. Keys of the outermost object sorted by bytes, non-ASCII as
 * \uXXXX. */
int pl_json_text_add(pl_buf *b, const pl_json *v, int depth, pl_error *err) __attribute__((warn_unused_result));
/* A string as ensure_ascii writes it. */
int pl_json_text_string(pl_buf *b, const char *s, size_t n, pl_error *err) __attribute__((warn_unused_result));

#endif
