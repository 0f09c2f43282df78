/* plumb/jsonl.h: JSON lines for programs around libplumb: one member of each row in, strings and token ids out. */
#ifndef PLUMB_JSONL_H
#define PLUMB_JSONL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plumb/error.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Rows of a plain or .gz file, one JSON object per line; blank lines are skipped, other members ignored. Errors say
 * file, line and member. */
typedef struct pl_jsonl pl_jsonl;
int pl_jsonl_open(pl_jsonl **out, const char *path, pl_error *err);
void pl_jsonl_free(pl_jsonl *j); /* NULL is fine */

/* The next row's string `key`: UTF-8 that may hold NULs, borrowed until the next call; *text is NULL at the end.
 * PL_E_FORMAT where it is missing or no string. */
int pl_jsonl_next_text(pl_jsonl *j, const char *key, const char **text, size_t *len, pl_error *err);
/* The next row's list of token ids `key`, borrowed until the next call; *ids is NULL at the end (never for an empty
 * list). PL_E_FORMAT where it is missing or holds anything but whole numbers from 0 to 2^31 - 1. */
int pl_jsonl_next_ids(pl_jsonl *j, const char *key, const int32_t **ids, int64_t *n, pl_error *err);

/* A JSON string with its quotes; bytes that are not UTF-8 become U+FFFD, non-ASCII is not escaped. PL_E_IO. */
int pl_json_print_string(FILE *f, const char *text, size_t len, pl_error *err);
/* [1,2,3]. PL_E_IO. */
int pl_json_print_ids(FILE *f, const int32_t *ids, int64_t n, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
