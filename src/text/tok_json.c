/* tok_json.c: what the parsers of the tokenizer's parts share. */
#include <string.h>

#include "text/tok.h"
#include "text/unichar.h"

int pl_tok_type(const char **out, const pl_json *o, const char *what, pl_error *err) {
    size_t n;
    if (pl_json_kind_of(o) != PL_J_OBJECT)
        return PL_FAIL(err, PL_E_FORMAT, "%s: %s, want an object", what, pl_json_kind_name(pl_json_kind_of(o)));
    return pl_json_member_string(o, "type", true, out, &n, what, err);
}

static bool listed(const char *keys, const char *key) {
    size_t n = strlen(key);
    for (const char *p = keys; *p;) {
        size_t k = strcspn(p, " ");
        if (k == n && memcmp(p, key, n) == 0) return true;
        p += k + (p[k] == ' ');
    }
    return false;
}

int pl_tok_keys(const pl_json *o, const char *keys, const char *what, pl_error *err) {
    for (pl_json_iter it = pl_json_first(o); it.entry; it = pl_json_next(it))
        if (strcmp(it.key, "type") != 0 && !listed(keys, it.key))
            return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: key \"%.60s\"", what, it.key);
    return 0;
}

int pl_tok_pattern(pl_regex **out, const pl_json *o, const char *what, pl_error *err) {
    pl_json *p = pl_json_get(o, "pattern"), *literal = pl_json_get(p, "String"), *regex = pl_json_get(p, "Regex");
    size_t n = 0;
    int rc;
    if (pl_json_len(p) != 1 || pl_json_kind_of(literal ? literal : regex) != PL_J_STRING)
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"pattern\" wants {\"String\": ...} or {\"Regex\": ...}", what);
    const char *s = pl_json_string(literal ? literal : regex, &n);
    rc = literal ? pl_regex_literal(out, s, n, err) : pl_regex_compile(out, s, n, err);
    return rc ? pl_error_context(err, rc, "%s", what) : 0;
}

int pl_tok_char(char **out, const pl_json *o, const char *key, const char *what, pl_error *err) {
    const char *s;
    size_t n, len;
    int rc = pl_json_member_string(o, key, true, &s, &n, what, err);
    if (rc) return rc;
    if (n) pl_char_at(s, n, &len);
    if (n == 0 || len != n || s[0] == 0)
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" must be one character", what, key);
    return pl_strndup(out, s, n, err);
}
