/* options_value.c: typed reading of option values, and their ranges. */
#include "base/options_value.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/utf8.h"

bool pl_choice_at(const char *choices, int64_t i, const char **text, size_t *len) {
    const char *s = choices;
    while (s && i-- > 0) {
        s = strchr(s, '|');
        if (s) s++;
    }
    if (!s) return false;
    *text = s;
    *len = strcspn(s, "|");
    return true;
}

static int64_t choice_index(const char *choices, const char *word) {
    const char *text;
    size_t len;
    for (int64_t i = 0; pl_choice_at(choices, i, &text, &len); i++)
        if (strlen(word) == len && memcmp(word, text, len) == 0) return i;
    return -1;
}

/* --- ranges
 * -------------------------------------------------------------------------------------------------------------- */
static bool has_range(const pl_option *row) { return row->min != 0 || row->max != 0; }

static bool in_range(const pl_option *row, double x) {
    if (!has_range(row)) return true;
    bool above = row->flags & PL_OPT_OPEN_MIN ? x > row->min : x >= row->min;
    bool below = row->flags & PL_OPT_OPEN_MAX ? x < row->max : x <= row->max;
    return above && below;
}

static const char *range_text(char *out, size_t size, const pl_option *row) {
    bool low = has_range(row) && row->min > -HUGE_VAL, high = has_range(row) && row->max < HUGE_VAL;
    bool open_low = row->flags & PL_OPT_OPEN_MIN, open_high = row->flags & PL_OPT_OPEN_MAX;
    if (low && high && !open_low && !open_high)
        snprintf(out, size, " from %.10g to %.10g", row->min, row->max);
    else if (low && high)
        snprintf(out, size, " %s %.10g and %s %.10g", open_low ? ">" : ">=", row->min,
                 open_high ? "<" : "<=", row->max);
    else if (low)
        snprintf(out, size, " %s %.10g", open_low ? ">" : ">=", row->min);
    else if (high)
        snprintf(out, size, " %s %.10g", open_high ? "<" : "<=", row->max);
    else
        out[0] = 0;
    return out;
}

static bool nullable(const pl_option *row) {
    return row->type == PL_OPT_TRIBOOL || (row->flags & PL_OPT_NULLABLE) ||
           (!row->fallback && row->type != PL_OPT_BOOL);
}

const char *pl_option_wants(char *out, size_t size, const pl_option *row) {
    char range[100];
    const char *or_none = nullable(row) && !(row->flags & PL_OPT_REQUIRED) ? " or none" : "";
    switch (row->type) {
    case PL_OPT_BOOL:
    case PL_OPT_TRIBOOL: snprintf(out, size, "true or false%s", or_none); break;
    case PL_OPT_I64: snprintf(out, size, "a whole number%s%s", range_text(range, sizeof range, row), or_none); break;
    case PL_OPT_F64: snprintf(out, size, "a number%s%s", range_text(range, sizeof range, row), or_none); break;
    case PL_OPT_ENUM: snprintf(out, size, "one of %s%s", row->choices, or_none); break;
    case PL_OPT_STRLIST:
        if (row->choices)
            snprintf(out, size, "some of %s%s", row->choices, or_none);
        else
            snprintf(out, size, "a list of texts%s", or_none);
        break;
    case PL_OPT_MAP: snprintf(out, size, "keys and values%s", or_none); break;
    default: snprintf(out, size, "a text%s", or_none);
    }
    return out;
}

/* --- scalars
 * --------------------------------------------------------------------------------------------------------------- */
static bool is_none(const pl_option_item *item) {
    return !item->quoted && (item->text[0] == 0 || strcmp(item->text, "~") == 0 || !strcasecmp(item->text, "none") ||
                             !strcasecmp(item->text, "null"));
}

static int unfit(const pl_option *row, const char *text, const char *why, pl_error *err) {
    char wants[300];
    return PL_FAIL(err, PL_E_OPTION, "`%.100s` %s; want %s", text, why, pl_option_wants(wants, sizeof wants, row));
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Copies digits, dropping single underscores between them, as Python allows. Returns how many digits, -1 when
 * malformed. */
static int take_digits(const char **s, char **to, const char *end) {
    int n = 0;
    while (is_digit(**s) || (**s == '_' && n > 0 && is_digit((*s)[1]))) {
        if (**s != '_') {
            if (*to == end) return -1;
            *(*to)++ = **s;
            n++;
        }
        ++*s;
    }
    return n;
}

static int read_i64(const pl_option *row, const char *text, int64_t *out, pl_error *err) {
    char digits[64], *to = digits;
    const char *s = text;
    if (*s == '-' || *s == '+') *to++ = *s++;
    if (s[0] == '0' && (is_digit(s[1]) || s[1] == '_'))
        return unfit(row, text, "starts with a zero, which YAML takes for base 8", err);
    int n = take_digits(&s, &to, digits + sizeof digits - 1);
    if (n <= 0 || *s) return unfit(row, text, "is not a whole number", err);
    *to = 0;
    errno = 0;
    long long v = strtoll(digits, NULL, 10);
    if (errno || !in_range(row, (double)v) || v == PL_OPT_NO_I64) return unfit(row, text, "is out of range", err);
    *out = v;
    return 0;
}

static int read_f64(const pl_option *row, const char *text, double *out, pl_error *err) {
    char copy[128], *to = copy;
    const char *s = text, *end = copy + sizeof copy - 4;
    if (*s == '-' || *s == '+') *to++ = *s++;
    int n = take_digits(&s, &to, end), fraction = 0, exponent = 1;
    if (*s == '.' && n >= 0) {
        *to++ = *s++;
        fraction = take_digits(&s, &to, end);
    }
    bool digits = n >= 0 && fraction >= 0 && n + fraction > 0;
    if (digits && (*s == 'e' || *s == 'E')) {
        *to++ = *s++;
        if (*s == '-' || *s == '+') *to++ = *s++;
        exponent = take_digits(&s, &to, end);
    }
    if (!digits || exponent <= 0 || *s) return unfit(row, text, "is not a number", err);
    *to = 0;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* the decimal point, whatever the program's locale */
    if (!c) return PL_FAIL(err, PL_E_NOMEM, "no memory for a locale");
    double v = strtod_l(copy, NULL, c);
    freelocale(c);
    if (!isfinite(v) || !in_range(row, v)) return unfit(row, text, "is out of range", err);
    *out = v;
    return 0;
}

static int read_bool(const pl_option *row, const pl_option_item *item, int64_t *out, pl_error *err) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1", "f", "t", "n", "y"};
    for (int64_t i = 0; i < PL_LEN(words); i++) {
        if (strcasecmp(item->text, words[i]) == 0) {
            *out = i % 2;
            return 0;
        }
    }
    return unfit(row, item->text, "is neither true nor false", err);
}

static int keep_copy(pl_options *o, const char **out, const char *text, pl_error *err) {
    size_t n = strlen(text);
    if (pl_utf8_valid(text, n) != n) return PL_FAIL(err, PL_E_OPTION, "the value is not UTF-8");
    char *copy = NULL;
    int rc = pl_strndup(&copy, text, n, err);
    if (rc == 0) rc = pl_options_keep(o, copy, err);
    if (rc == 0) *out = copy;
    return rc;
}

static int read_enum(pl_options *o, const pl_option *row, const pl_option_item *item, pl_option_value *v,
                     pl_error *err) {
    v->i = choice_index(row->choices, item->text);
    if (v->i < 0 && is_none(item) && nullable(row)) return 0;
    if (v->i < 0) return unfit(row, item->text, "is not a choice", err);
    return keep_copy(o, &v->s, item->text, err);
}

static int read_scalar(pl_options *o, const pl_option *row, const pl_option_item *item, pl_option_value *v,
                       pl_error *err) {
    if (row->type == PL_OPT_ENUM) return read_enum(o, row, item, v, err); /* "none" may be a choice */
    if (is_none(item) && nullable(row)) {
        *v = (pl_option_value){.i = row->type == PL_OPT_I64 ? PL_OPT_NO_I64 : -1, .d = NAN};
        return 0;
    }
    if (row->type != PL_OPT_STR && is_none(item)) return unfit(row, item->text, "is no value", err);
    switch (row->type) {
    case PL_OPT_BOOL:
    case PL_OPT_TRIBOOL: return read_bool(row, item, &v->i, err);
    case PL_OPT_I64: return read_i64(row, item->text, &v->i, err);
    case PL_OPT_F64: return read_f64(row, item->text, &v->d, err);
    case PL_OPT_STR:
        if (!item->quoted && item->text[0] == 0) return unfit(row, item->text, "is no value", err);
        return keep_copy(o, &v->s, item->text, err);
    default: return PL_FAIL(err, PL_E_INTERNAL, "an option without a readable type");
    }
}

/* --- lists and mappings
 * ---------------------------------------------------------------------------------------------------- */
static int read_list(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_strlist *out, pl_error *err) {
    if (raw->kind == PL_Y_SCALAR && raw->n == 1 && is_none(&raw->items[0]) && nullable(row)) return 0;
    const char **items = NULL;
    int rc = PL_NEW(&items, PL_MAX(raw->n, 1), err);
    if (rc == 0) rc = pl_options_keep(o, items, err);
    for (int64_t i = 0; rc == 0 && i < raw->n; i++) {
        const char *text = raw->items[i].text;
        if (row->choices && choice_index(row->choices, text) < 0)
            rc = unfit(row, text, "is not a choice", err);
        else
            rc = keep_copy(o, &items[i], text, err);
    }
    if (rc == 0) *out = (pl_strlist){items, raw->n};
    return rc;
}

static int map_new(pl_options *o, const char ***keys, const char ***values, int64_t n, pl_error *err) {
    int rc = PL_NEW(keys, PL_MAX(n, 1), err);
    if (rc == 0) rc = pl_options_keep(o, *keys, err);
    if (rc == 0) rc = PL_NEW(values, PL_MAX(n, 1), err);
    return rc ? rc : pl_options_keep(o, *values, err);
}

static int json_value_text(pl_options *o, const char **out, const pl_json *v, pl_error *err) {
    char number[32];
    switch (pl_json_kind_of(v)) {
    case PL_J_NULL: *out = NULL; return 0;
    case PL_J_BOOL: return keep_copy(o, out, pl_json_bool(v) ? "true" : "false", err);
    case PL_J_INT: snprintf(number, sizeof number, "%" PRId64, pl_json_int(v)); return keep_copy(o, out, number, err);
    case PL_J_DOUBLE: pl_double_text(number, pl_json_double(v)); return keep_copy(o, out, number, err);
    case PL_J_STRING: return keep_copy(o, out, pl_json_string(v, NULL), err);
    default: return PL_FAIL(err, PL_E_OPTION, "only plain values may stand in this mapping");
    }
}

static int read_json_map(pl_options *o, const pl_option *row, const char *text, pl_strmap *out, pl_error *err) {
    pl_json *root = NULL;
    int rc = pl_json_parse(&root, text, strlen(text), "its value", err);
    if (rc) return rc;
    const char **keys = NULL, **values = NULL;
    if (pl_json_kind_of(root) != PL_J_OBJECT) PL_GO(rc, unfit(row, text, "is not a JSON object", err));
    PL_GO(rc, map_new(o, &keys, &values, pl_json_len(root), err));
    int64_t n = 0;
    for (pl_json_iter it = pl_json_first(root); it.key; it = pl_json_next(it), n++) {
        PL_GO(rc, keep_copy(o, &keys[n], it.key, err));
        PL_GO(rc, json_value_text(o, &values[n], it.value, err));
    }
    *out = (pl_strmap){keys, values, n};
out:
    pl_json_free(root);
    return rc;
}

static int read_map(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_strmap *out, pl_error *err) {
    if (raw->kind == PL_Y_SCALAR && is_none(&raw->items[0]) && nullable(row)) return 0;
    if (raw->kind == PL_Y_SCALAR) return read_json_map(o, row, raw->items[0].text, out, err);
    if (raw->kind != PL_Y_MAP) return PL_FAIL(err, PL_E_OPTION, "a list is given; want keys and values");
    const char **keys = NULL, **values = NULL;
    int rc = map_new(o, &keys, &values, raw->n, err);
    for (int64_t i = 0; rc == 0 && i < raw->n; i++) {
        rc = keep_copy(o, &keys[i], raw->items[i].key, err);
        if (rc == 0 && !is_none(&raw->items[i])) rc = keep_copy(o, &values[i], raw->items[i].text, err);
    }
    if (rc == 0) *out = (pl_strmap){keys, values, raw->n};
    return rc;
}

int pl_option_convert(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_option_value *v,
                      pl_error *err) {
    if (row->type == PL_OPT_ANY) return 0;
    if (raw->kind == PL_Y_DEEP) {
        char wants[300];
        return PL_FAIL(err, PL_E_OPTION, "lists and mappings inside others are given; want %s",
                       pl_option_wants(wants, sizeof wants, row));
    }
    if (row->type == PL_OPT_MAP) return read_map(o, row, raw, &v->map, err);
    if (raw->kind == PL_Y_MAP) return PL_FAIL(err, PL_E_OPTION, "a mapping is given; one value is wanted");
    if (row->type == PL_OPT_STRLIST) return read_list(o, row, raw, &v->list, err);
    bool choice = row->type == PL_OPT_ENUM && raw->n == 1; /* TRL's loss_type is a list, mostly of one */
    if (choice) return read_scalar(o, row, &raw->items[0], v, err);
    if (raw->kind == PL_Y_LIST || raw->n != 1) return PL_FAIL(err, PL_E_OPTION, "a list is given; one value is wanted");
    return read_scalar(o, row, &raw->items[0], v, err);
}

/* --- options that do not exist yet
 * ----------------------------------------------------------------------------------------------------------- */
static bool same_value(const pl_option *row, const pl_option_value *a, const pl_option_value *b) {
    switch (row->type) {
    case PL_OPT_I64:
    case PL_OPT_BOOL:
    case PL_OPT_TRIBOOL: return a->i == b->i;
    case PL_OPT_F64: return a->d == b->d || (isnan(a->d) && isnan(b->d));
    case PL_OPT_STR:
    case PL_OPT_ENUM: return a->s == b->s || (a->s && b->s && strcmp(a->s, b->s) == 0);
    case PL_OPT_STRLIST: return a->list.n == 0;
    case PL_OPT_MAP: return a->map.n == 0;
    default: return false;
    }
}

int pl_option_check_later(pl_options *o, const pl_option *row, const pl_option_raw *raw, pl_error *err) {
    pl_option_item item = {.text = row->fallback, .quoted = true};
    pl_option_raw fallback = {.kind = PL_Y_SCALAR, .items = &item, .n = 1};
    pl_option_value got = {0};
    pl_option_value want = {.i = row->type == PL_OPT_I64 ? PL_OPT_NO_I64 : row->type == PL_OPT_BOOL ? 0 : -1, .d = NAN};
    int rc = row->fallback ? pl_option_convert(o, row, &fallback, &want, err) : 0;
    if (rc == 0) rc = pl_option_convert(o, row, raw, &got, err);
    if (rc == PL_E_NOMEM || (rc == 0 && same_value(row, &got, &want))) return rc;
    bool scalar = raw->kind == PL_Y_SCALAR && raw->n == 1;
    return PL_FAIL(err, PL_E_OPTION, "%s%.60s%splumb does not have this yet; only the default, %s, is taken%s%s",
                   scalar ? "`" : "", scalar ? raw->items[0].text : "", scalar ? "`: " : "",
                   row->fallback ? row->fallback : "none", row->note ? ": " : "", row->note ? row->note : "");
}

/* --- fields
 * ---------------------------------------------------------------------------------------------------------------- */
void pl_option_store(pl_option_slot *s, const pl_option_value *v) {
    switch (s->row->type) {
    case PL_OPT_BOOL: *(bool *)s->field = v->i != 0; break;
    case PL_OPT_TRIBOOL: *(int *)s->field = (int)v->i; break;
    case PL_OPT_ENUM:
        *(int *)s->field = (int)v->i;
        s->choice = v->s;
        break;
    case PL_OPT_I64: *(int64_t *)s->field = v->i; break;
    case PL_OPT_F64: *(double *)s->field = v->d; break;
    case PL_OPT_STR: *(const char **)s->field = v->s; break;
    case PL_OPT_STRLIST: *(pl_strlist *)s->field = v->list; break;
    case PL_OPT_MAP: *(pl_strmap *)s->field = v->map; break;
    case PL_OPT_ANY:
    case PL_OPT_ALIAS: break;
    }
}

static int store_words(pl_options *o, pl_option_slot *s, pl_error *err) {
    char *copy = NULL;
    int rc = pl_strdup(&copy, s->fallback, err);
    if (rc == 0) rc = pl_options_keep(o, copy, err);
    if (rc) return rc;
    pl_option_item items[32];
    int64_t n = 0;
    for (char *rest = NULL, *word = strtok_r(copy, " ", &rest); word && n < PL_LEN(items);
         word = strtok_r(NULL, " ", &rest))
        items[n++] = (pl_option_item){.text = word, .quoted = true};
    pl_option_raw raw = {.kind = PL_Y_LIST, .items = items, .n = n};
    pl_option_value v = {0};
    rc = pl_option_convert(o, s->row, &raw, &v, err);
    if (rc == 0) pl_option_store(s, &v);
    return rc;
}

int pl_option_store_default(pl_options *o, pl_option_slot *s, pl_error *err) {
    pl_option_value v = {.i = s->row->type == PL_OPT_I64    ? PL_OPT_NO_I64
                              : s->row->type == PL_OPT_BOOL ? 0
                                                            : -1,
                         .d = NAN};
    int rc = 0;
    if (s->fallback && s->row->type == PL_OPT_STRLIST) {
        rc = store_words(o, s, err);
    } else {
        pl_option_item item = {.text = s->fallback, .quoted = true};
        pl_option_raw raw = {.kind = PL_Y_SCALAR, .items = &item, .n = 1};
        if (s->fallback) rc = pl_option_convert(o, s->row, &raw, &v, err);
        if (rc == 0) pl_option_store(s, &v);
    }
    return rc ? pl_error_context(err, rc, "%s", s->row->name) : 0;
}

bool pl_option_is_unset(const pl_option_slot *s) {
    switch (s->row->type) {
    case PL_OPT_TRIBOOL:
    case PL_OPT_ENUM: return *(const int *)s->field < 0;
    case PL_OPT_I64: return *(const int64_t *)s->field == PL_OPT_NO_I64;
    case PL_OPT_F64: return isnan(*(const double *)s->field);
    case PL_OPT_STR: return *(const char *const *)s->field == NULL;
    case PL_OPT_STRLIST: return ((const pl_strlist *)s->field)->items == NULL;
    case PL_OPT_MAP: return ((const pl_strmap *)s->field)->keys == NULL;
    default: return false;
    }
}
