/* base/yaml.h: a flat configuration file in YAML, read into a list of keys with their lines.
 *
 * Flat means: each value is a scalar, a list of scalars, or one mapping of scalars. What is nested deeper is walked
 * over and marked: only options that are not used take it. Aliases, anchors, tags and several documents are refused by
 * line. Scalars keep their text and whether they were quoted: the option that takes the value knows its type. PyYAML
 * reads `1e-5` as a string and argparse turns it into a number later; `no`, `on`, `~` are booleans and null only where
 * they are not quoted. */
#ifndef PL_YAML_H
#define PL_YAML_H

#include "base/base.h"

#define PL_YAML_MAX_BYTES ((size_t)1 << 20)
#define PL_YAML_MAX_KEYS 2000

typedef enum pl_yaml_kind {
    PL_Y_SCALAR,
    PL_Y_LIST,
    PL_Y_MAP,
    PL_Y_DEEP /* a list or mapping that holds others; no items */
} pl_yaml_kind;

typedef struct pl_yaml_scalar {
    char *key;   /* owned; NULL but in a mapping */
    char *text;  /* owned, UTF-8 without NUL; "" for an empty value */
    bool quoted; /* in quotes, or a block scalar */
    int64_t line;
} pl_yaml_scalar;

typedef struct pl_yaml_entry {
    char *key; /* owned */
    int64_t line;
    pl_yaml_kind kind;
    pl_yaml_scalar *items; /* owned; exactly one for a scalar */
    int64_t n;
} pl_yaml_entry;

typedef struct pl_yaml {
    pl_yaml_entry *entries; /* owned, in file order */
    int64_t n;
} pl_yaml;

/* `what` names the source in errors, which read "what:line: ...". PL_E_FORMAT, PL_E_NOMEM. On failure *out is
 * untouched. */
int pl_yaml_parse(pl_yaml *out, const char *text, size_t len, const char *what, pl_error *err);
int pl_yaml_load(pl_yaml *out, const char *path, pl_error *err);
void pl_yaml_release(pl_yaml *y); /* safe on zeroed storage */

/* PyYAML's null and booleans; a quoted scalar is neither. *value is written when it is a boolean. */
bool pl_yaml_is_null(const pl_yaml_scalar *s);
bool pl_yaml_is_bool(const pl_yaml_scalar *s, bool *value);

#endif
