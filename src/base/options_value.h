/* base/options_value.h: what one value means: raw texts into a typed value, and that into the caller's field. */
#ifndef PL_OPTIONS_VALUE_H
#define PL_OPTIONS_VALUE_H

#include "base/options.h"
#include "base/yaml.h"

typedef struct pl_option_item {
    const char *key; /* of a mapping */
    const char *text;
    bool quoted; /* never null or a boolean */
} pl_option_item;

typedef struct pl_option_raw {
    pl_yaml_kind kind;
    const pl_option_item *items; /* borrowed */
    int64_t n;
    bool args;  /* from the command line: a mapping is a JSON text there */
    bool again; /* may replace an earlier value from the same place */
} pl_option_raw;

typedef struct pl_option_value {
    int64_t i; /* I64; BOOL 0, 1; TRIBOOL -1, 0, 1; ENUM index or -1 */
    double d;
    const char *s; /* STR, and the text of an ENUM; owned by the options */
    pl_strlist list;
    pl_strmap map;
} pl_option_value;

/* PL_E_OPTION with a text without the option's name: the caller puts it in front. What the value points to is kept in
 * o. */
int pl_option_convert(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_option_value *v, pl_error *err);
void pl_option_store(pl_option_slot *s, const pl_option_value *v);
/* PL_OPT_LATER: PL_E_OPTION unless the value is the default (an empty list or mapping is an unset one). */
int pl_option_check_later(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_error *err);
int pl_option_store_default(pl_options *o, pl_option_slot *s, pl_error *err);
bool pl_option_is_unset(const pl_option_slot *s);
/* Hands a block over to the options; frees it on failure. */
int pl_options_keep(pl_options *o, void *block, pl_error *err);

#endif
