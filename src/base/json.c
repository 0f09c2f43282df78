/* json.c: a strict scan of the text (grammar, UTF-8, depth, number of keys), then json-c builds the tree.
 *
 * json-c alone takes more than JSON, differs between its versions in what it takes, and keeps the last of two equal
 * keys silently. The scan costs a fraction of the tree. Duplicates are found by count: when the tree holds fewer
 * members than the text has keys, a second, slower scan names the key. */
#include "base/json.h"

#include <json-c/json.h>
#include <limits.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"

#define MAX_DEPTH 64

typedef struct scan {
    const char *s;
    size_t n, i;
    int64_t keys;             /* members of all objects so far */
    const char *wrong;        /* what was wrong, at i; NULL while fine */
    struct json_object *seen; /* the slow scan: keys of the innermost object; NULL in the fast one */
    bool slow;
} scan;

static bool refuse(scan *t, const char *why) {
    if (!t->wrong) t->wrong = why;
    return false;
}

static void skip_space(scan *t) {
    while (t->i < t->n && (t->s[t->i] == ' ' || t->s[t->i] == '\n' || t->s[t->i] == '\r' || t->s[t->i] == '\t')) t->i++;
}

static bool scan_word(scan *t, const char *word) {
    size_t k = strlen(word);
    if (t->n - t->i < k || memcmp(t->s + t->i, word, k) != 0) return refuse(t, "a value is expected here");
    t->i += k;
    return true;
}

static size_t scan_digits(scan *t) {
    size_t from = t->i;
    while (t->i < t->n && t->s[t->i] >= '0' && t->s[t->i] <= '9') t->i++;
    return t->i - from;
}

static bool scan_number(scan *t) {
    if (t->s[t->i] == '-') t->i++;
    if (t->i < t->n && t->s[t->i] == 'I') return scan_word(t, "Infinity");
    size_t from = t->i, k = scan_digits(t);
    if (k == 0) return refuse(t, "a digit is expected here");
    if (k > 1 && t->s[from] == '0') return refuse(t, "a number starts with a superfluous zero");
    if (t->i < t->n && t->s[t->i] == '.') {
        t->i++;
        if (scan_digits(t) == 0) return refuse(t, "a digit is expected behind the decimal point");
    }
    if (t->i < t->n && (t->s[t->i] == 'e' || t->s[t->i] == 'E')) {
        t->i++;
        if (t->i < t->n && (t->s[t->i] == '+' || t->s[t->i] == '-')) t->i++;
        if (scan_digits(t) == 0) return refuse(t, "a digit is expected in the exponent");
    }
    return true;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The 16 bits of the \u escape at s[at]; -1: there is none, or it lacks its four hex digits. */
static int32_t unit_at(const scan *t, size_t at) {
    int32_t unit = 0;
    if (t->n - at < 6 || t->s[at] != '\\' || t->s[at + 1] != 'u') return -1;
    for (size_t k = 2; k < 6; k++) {
        int digit = hex_value(t->s[at + k]);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

/* At \u. Half of a surrogate pair is no character: json-c would put U+FFFD in its place, silently other data; Python
 * keeps it, and Hugging Face's tokenizers then refuse the text. */
static bool scan_unit(scan *t, bool *nul) {
    int32_t unit = unit_at(t, t->i);
    if (unit < 0) return refuse(t, "a \\u escape needs four hex digits");
    if (unit == 0) *nul = true;
    if (unit >= 0xD800 && unit <= 0xDFFF) {
        int32_t low = unit < 0xDC00 ? unit_at(t, t->i + 6) : -1;
        if (low < 0xDC00 || low > 0xDFFF)
            return refuse(t, "half of a surrogate pair is no character (\\ud800-\\udbff and \\udc00-\\udfff only count "
                             "together)");
        t->i += 6;
    }
    t->i += 6;
    return true;
}

/* At a backslash. */
static bool scan_escape(scan *t, bool *nul) {
    char c = t->n - t->i >= 2 ? t->s[t->i + 1] : 0;
    if (c == 0 || !strchr("\"\\/bfnrtu", c)) return refuse(t, "an unknown escape");
    if (c == 'u') return scan_unit(t, nul);
    t->i += 2;
    return true;
}

/* At the opening quote. *nul: the string holds a NUL. */
static bool scan_string(scan *t, bool *nul) {
    t->i++;
    while (t->i < t->n) {
        unsigned char c = (unsigned char)t->s[t->i];
        if (c == '"') {
            t->i++;
            return true;
        }
        if (c == '\\') {
            if (!scan_escape(t, nul)) return false;
        } else if (c < 0x20) {
            return refuse(t, "a control character in a string (a line break must be written \\n)");
        } else if (c < 0x80) {
            t->i++;
        } else {
            uint32_t point;
            size_t k = pl_utf8_decode(t->s + t->i, t->n - t->i, &point);
            if (k == 0) return refuse(t, "bytes that are not UTF-8");
            t->i += k;
        }
    }
    return refuse(t, "a string has no end");
}

/* The slow scan: adds the key at s[from..i), quotes included, to the keys seen; escapes count as what they mean. */
static bool note_key(scan *t, size_t from) {
    struct json_tokener *tok = json_tokener_new();
    if (!tok) return refuse(t, "out of memory");
    struct json_object *key = json_tokener_parse_ex(tok, t->s + from, (int)(t->i - from));
    json_tokener_free(tok);
    const char *text = key ? json_object_get_string(key) : "";
    bool ok = true;
    if (json_object_object_get_ex(t->seen, text, NULL)) {
        t->i = from;
        ok = refuse(t, "the same key a second time in one object");
    } else if (json_object_object_add(t->seen, text, NULL) != 0) {
        ok = refuse(t, "out of memory");
    }
    json_object_put(key);
    return ok;
}

static bool scan_value(scan *t, int depth);

static bool scan_member(scan *t, int depth) {
    skip_space(t);
    size_t from = t->i;
    bool nul = false;
    if (t->i >= t->n || t->s[t->i] != '"') return refuse(t, "a key in double quotes is expected here");
    if (!scan_string(t, &nul)) return false;
    if (nul) return refuse(t, "a key that holds \\u0000 (not supported)");
    t->keys++;
    if (t->slow && !note_key(t, from)) return false;
    skip_space(t);
    if (t->i >= t->n || t->s[t->i] != ':') return refuse(t, "':' is expected here");
    t->i++;
    return scan_value(t, depth);
}

/* At the opening bracket. */
static bool scan_items(scan *t, int depth, char close) {
    if (depth > MAX_DEPTH) return refuse(t, "more than 64 levels deep");
    t->i++;
    skip_space(t);
    if (t->i < t->n && t->s[t->i] == close) {
        t->i++;
        return true;
    }
    for (;;) {
        if (!(close == '}' ? scan_member(t, depth) : scan_value(t, depth))) return false;
        skip_space(t);
        if (t->i < t->n && t->s[t->i] == close) {
            t->i++;
            return true;
        }
        if (t->i >= t->n || t->s[t->i] != ',')
            return refuse(t, close == '}' ? "',' or '}' is expected here" : "',' or ']' is expected here");
        t->i++;
    }
}

static bool scan_object(scan *t, int depth) {
    struct json_object *outer = t->seen;
    if (t->slow && !(t->seen = json_object_new_object())) {
        t->seen = outer;
        return refuse(t, "out of memory");
    }
    bool ok = scan_items(t, depth, '}');
    if (t->slow) json_object_put(t->seen);
    t->seen = outer;
    return ok;
}

static bool scan_value(scan *t, int depth) {
    bool nul;
    skip_space(t);
    if (t->i >= t->n) return refuse(t, "the text ends here, a value is missing");
    switch (t->s[t->i]) {
    case '{': return scan_object(t, depth + 1);
    case '[': return scan_items(t, depth + 1, ']');
    case '"': return scan_string(t, &nul);
    case 't': return scan_word(t, "true");
    case 'f': return scan_word(t, "false");
    case 'n': return scan_word(t, "null");
    case 'N': return scan_word(t, "NaN");
    case 'I': return scan_word(t, "Infinity");
    default: break;
    }
    if (t->s[t->i] == '-' || (t->s[t->i] >= '0' && t->s[t->i] <= '9')) return scan_number(t);
    return refuse(t, "a value is expected here");
}

static bool scan_document(scan *t) {
    if (!scan_value(t, 0)) return false;
    skip_space(t);
    return t->i == t->n ? true : refuse(t, "more text behind the end of the value");
}

static int scan_failed(const scan *t, const char *what, pl_error *err) {
    int64_t line = 1, column = 1;
    for (size_t i = 0; i < t->i && i < t->n; i++) {
        column = t->s[i] == '\n' ? 1 : column + ((t->s[i] & 0xC0) != 0x80);
        line += t->s[i] == '\n';
    }
    size_t k = PL_MIN(t->n - t->i, (size_t)24);
    while (k && pl_utf8_valid(t->s + t->i, k) != k) k--;
    for (size_t i = 0; i < k; i++)
        if ((unsigned char)t->s[t->i + i] < 0x20) k = i;
    return PL_FAIL(err, PL_E_FORMAT, "%s: line %" PRId64 ", column %" PRId64 ": %s%s%.*s%s", what, line, column,
                   t->wrong, k ? ": `" : "", (int)k, t->s + t->i, k ? "`" : "");
}

static int64_t count_members(struct json_object *v) {
    int64_t sum = 0;
    if (json_object_is_type(v, json_type_object)) {
        sum = json_object_object_length(v);
        for (struct lh_entry *e = json_object_get_object(v)->head; e; e = lh_entry_next(e))
            sum += count_members((struct json_object *)lh_entry_v(e));
    } else if (json_object_is_type(v, json_type_array)) {
        size_t n = json_object_array_length(v);
        for (size_t i = 0; i < n; i++) sum += count_members(json_object_array_get_idx(v, i));
    }
    return sum;
}

/* *is_null: the text was `null`, for which json-c has no object. */
static int build(struct json_object **out, const char *text, size_t n, const char *what, pl_error *err) {
    struct json_tokener *tok = json_tokener_new_ex(MAX_DEPTH + 2);
    if (!tok) return PL_FAIL(err, PL_E_NOMEM, "%s: no memory to parse it", what);
    struct json_object *v = json_tokener_parse_ex(tok, text, (int)n);
    if (json_tokener_get_error(tok) == json_tokener_continue)
        v = json_tokener_parse_ex(tok, "", 1); /* ends a bare number */
    enum json_tokener_error e = json_tokener_get_error(tok);
    json_tokener_free(tok);
    if (e != json_tokener_success) /* the scan took the text, so what is left is memory */
        return PL_FAIL(err, PL_E_NOMEM, "%s: json-c: %s", what, json_tokener_error_desc(e));
    *out = v;
    return 0;
}

int pl_json_parse(pl_json **out, const char *text, size_t n, const char *what, pl_error *err) {
    if (n > INT_MAX) return PL_FAIL(err, PL_E_RANGE, "%s: %zu bytes of JSON, at most %d", what, n, INT_MAX);
    scan t = {.s = text, .n = n};
    if (!scan_document(&t)) return scan_failed(&t, what, err);
    struct json_object *v = NULL;
    int rc = build(&v, text, n, what, err);
    if (rc) return rc;
    if (!v) { /* a bare `null` has no tree */
        return PL_FAIL(err, PL_E_FORMAT, "%s: nothing but `null`", what);
    }
    if (count_members(v) != t.keys) {
        json_object_put(v);
        t = (scan){.s = text, .n = n, .slow = true};
        if (!scan_document(&t)) return scan_failed(&t, what, err);
        return PL_FAIL(err, PL_E_FORMAT, "%s: a key occurs twice in one object", what);
    }
    *out = v;
    return 0;
}

int pl_json_load(pl_json **out, const char *path, size_t max_bytes, pl_error *err) {
    char *text = NULL;
    size_t n;
    int rc = pl_file_read(&text, &n, path, max_bytes, err);
    if (rc == 0) rc = pl_json_parse(out, text, n, path, err);
    pl_free(text);
    return rc;
}

void pl_json_free(pl_json *root) { json_object_put(root); }

/* --- reading
 * ------------------------------------------------------------------------------------------------------------- */
pl_json_kind pl_json_kind_of(const pl_json *v) {
    switch (json_object_get_type(v)) {
    case json_type_boolean: return PL_J_BOOL;
    case json_type_int: return PL_J_INT;
    case json_type_double: return PL_J_DOUBLE;
    case json_type_string: return PL_J_STRING;
    case json_type_array: return PL_J_ARRAY;
    case json_type_object: return PL_J_OBJECT;
    case json_type_null: break;
    }
    return PL_J_NULL;
}

const char *pl_json_kind_name(pl_json_kind kind) {
    static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "an array",  "an object"};
    return (unsigned)kind < PL_LEN(names) ? names[kind] : "?";
}

pl_json *pl_json_get(const pl_json *o, const char *key) {
    struct json_object *v = NULL;
    return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) ? v : NULL;
}

bool pl_json_has(const pl_json *o, const char *key) {
    return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, NULL);
}

/* json-c's readers of scalars change nothing in a string, but are not declared const. */
static struct json_object *plain(const pl_json *v) { return (struct json_object *)(uintptr_t)v; }

const char *pl_json_string(const pl_json *v, size_t *len) {
    if (!json_object_is_type(v, json_type_string)) return NULL;
    if (len) *len = (size_t)json_object_get_string_len(v);
    return json_object_get_string(plain(v));
}

int64_t pl_json_int(const pl_json *v) { return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : 0; }

double pl_json_double(const pl_json *v) {
    pl_json_kind kind = pl_json_kind_of(v);
    return kind == PL_J_INT || kind == PL_J_DOUBLE ? json_object_get_double(v) : 0;
}

bool pl_json_bool(const pl_json *v) { return json_object_is_type(v, json_type_boolean) && json_object_get_boolean(v); }

int64_t pl_json_len(const pl_json *v) {
    if (json_object_is_type(v, json_type_array)) return (int64_t)json_object_array_length(v);
    return json_object_is_type(v, json_type_object) ? json_object_object_length(v) : 0;
}

pl_json *pl_json_at(const pl_json *array, int64_t i) {
    if (!json_object_is_type(array, json_type_array) || i < 0) return NULL;
    return json_object_array_get_idx(array, (size_t)i);
}

/* *v: the member, NULL when it is absent or null and not required. */
static int member(const pl_json *o, const char *key, bool required, const char *wanted, pl_json **v, const char *what,
                  pl_error *err) {
    *v = pl_json_get(o, key);
    if (*v || !required) return 0;
    if (pl_json_has(o, key)) return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" is null, want %s", what, key, wanted);
    return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" is missing, want %s", what, key, wanted);
}

static int unfit(const pl_json *v, const char *key, const char *wanted, const char *what, pl_error *err) {
    return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" is %s, want %s", what, key, pl_json_kind_name(pl_json_kind_of(v)),
                   wanted);
}

int pl_json_member_int(const pl_json *o, const char *key, bool required, int64_t *out, const char *what,
                       pl_error *err) {
    pl_json *v;
    int rc = member(o, key, required, "an integer", &v, what, err);
    if (rc || !v) return rc;
    if (pl_json_kind_of(v) != PL_J_INT) return unfit(v, key, "an integer", what, err);
    *out = pl_json_int(v);
    return 0;
}

int pl_json_member_double(const pl_json *o, const char *key, bool required, double *out, const char *what,
                          pl_error *err) {
    pl_json *v;
    int rc = member(o, key, required, "a number", &v, what, err);
    if (rc || !v) return rc;
    pl_json_kind kind = pl_json_kind_of(v);
    if (kind != PL_J_INT && kind != PL_J_DOUBLE) return unfit(v, key, "a number", what, err);
    *out = pl_json_double(v);
    return 0;
}

int pl_json_member_bool(const pl_json *o, const char *key, bool required, bool *out, const char *what, pl_error *err) {
    pl_json *v;
    int rc = member(o, key, required, "true or false", &v, what, err);
    if (rc || !v) return rc;
    if (pl_json_kind_of(v) != PL_J_BOOL) return unfit(v, key, "true or false", what, err);
    *out = pl_json_bool(v);
    return 0;
}

int pl_json_member_string(const pl_json *o, const char *key, bool required, const char **out, size_t *len,
                          const char *what, pl_error *err) {
    pl_json *v;
    int rc = member(o, key, required, "a string", &v, what, err);
    if (rc || !v) return rc;
    if (pl_json_kind_of(v) != PL_J_STRING) return unfit(v, key, "a string", what, err);
    *out = pl_json_string(v, len);
    return 0;
}

static pl_json_iter iter_at(struct lh_entry *e) {
    if (!e) return (pl_json_iter){0};
    return (pl_json_iter){(const char *)lh_entry_k(e), (pl_json *)lh_entry_v(e), e};
}

pl_json_iter pl_json_first(const pl_json *o) {
    return iter_at(json_object_is_type(o, json_type_object) ? json_object_get_object(o)->head : NULL);
}

pl_json_iter pl_json_next(pl_json_iter it) { return iter_at(lh_entry_next((struct lh_entry *)it.entry)); }
