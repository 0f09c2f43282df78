/* base/json.h: json-c, wrapped once: size and depth limits, UTF-8 and duplicate-key checks, and typed reads that say
 * what they wanted. Values are borrowed json_object pointers; the root is owned by the caller (pl_json_free). */
#ifndef PL_JSON_H
#define PL_JSON_H

#include "base/base.h"

typedef struct json_object pl_json;

/* Parses n bytes of strict UTF-8 JSON (Python's NaN and Infinity too); trailing bytes other than white space are an
 * error, so are duplicate keys and half of a surrogate pair (\ud800 without its partner). `what` names the source in
 * errors ("config.json", "pairs.jsonl:12"). PL_E_FORMAT, PL_E_NOMEM. */
int pl_json_parse(pl_json **out, const char *text, size_t n, const char *what, pl_error *err);
/* A whole file of at most max_bytes. PL_E_IO when it cannot be read. */
int pl_json_load(pl_json **out, const char *path, size_t max_bytes, pl_error *err);
void pl_json_free(pl_json *root);

typedef enum pl_json_kind {
    PL_J_NULL,
    PL_J_BOOL,
    PL_J_INT,
    PL_J_DOUBLE,
    PL_J_STRING,
    PL_J_ARRAY,
    PL_J_OBJECT
} pl_json_kind;
pl_json_kind pl_json_kind_of(const pl_json *v);
const char *pl_json_kind_name(pl_json_kind kind);

/* Object members: NULL when absent or when o is no object. `null` members return a value of kind PL_J_NULL only by
 * pl_json_has; pl_json_get gives NULL for both: use pl_json_has to tell absent from null. */
pl_json *pl_json_get(const pl_json *o, const char *key);
bool pl_json_has(const pl_json *o, const char *key);

/* Scalars. String bytes are borrowed and may hold NULs: use the length. */
const char *pl_json_string(const pl_json *v, size_t *len);
int64_t pl_json_int(const pl_json *v);   /* 0 unless INT */
double pl_json_double(const pl_json *v); /* of INT or DOUBLE */
bool pl_json_bool(const pl_json *v);
int64_t pl_json_len(const pl_json *v); /* elements of an array or members of an object */
pl_json *pl_json_at(const pl_json *array, int64_t i);

/* Typed members. Absent and null leave *out at its default when required is false. PL_E_FORMAT names `what` and the
 * key. */
int pl_json_member_int(const pl_json *o, const char *key, bool required, int64_t *out, const char *what, pl_error *err);
int pl_json_member_double(const pl_json *o, const char *key, bool required, double *out, const char *what,
                          pl_error *err);
int pl_json_member_bool(const pl_json *o, const char *key, bool required, bool *out, const char *what, pl_error *err);
int pl_json_member_string(const pl_json *o, const char *key, bool required, const char **out, size_t *len,
                          const char *what, pl_error *err);

/* Walks an object in file order: for (pl_json_iter it = pl_json_first(o); it.key; it = pl_json_next(it)). */
typedef struct pl_json_iter {
    const char *key;
    pl_json *value; /* NULL for null */
    void *entry;
} pl_json_iter;
pl_json_iter pl_json_first(const pl_json *o);
pl_json_iter pl_json_next(pl_json_iter it);

#endif
