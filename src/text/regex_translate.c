/* regex_translate.c: rewrites a pattern token by token and refuses what it does not know.
 *
 * Differences that it bridges (measured over all code points against Oniguruma 6.9, Unicode data apart):
 *   \s  PCRE2 takes U+180E, Oniguruma does not         \w  Oniguruma takes marks, letter numbers, circled letters
 *   \h  a hex digit there, a blank here                 \v  one character there, a class here
 *   \p{Han}  the script there, script extensions here  ^ $  at every line in both, by PCRE2_MULTILINE
 * Refused: \b \B \R \X \K \G, back references, && and [ in a class, (?i) anywhere but around a group or at the start,
 * cases classes (\p{Lu}) under (?i), {,n}, {n}? and {n}+, names of groups, comments. */
#include "text/regex_translate.h"

#include <string.h>

#define SPACE "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                                      \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"                \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* \w is alphabetic, marks, decimal digits, connectors, and six more numbers, for Oniguruma's Latin-1 table is another
 * one */
#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"                                        \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define LATIN_NUMBERS "\\xb2\\xb3\\xb9\\xbc-\\xbe"
#define MAX_GROUPS 64

typedef struct translation {
    const char *s;
    size_t n, i;
    pl_buf *out;
    pl_error *err;
    int depth;
    bool caseless[MAX_GROUPS]; /* by depth of groups */
    bool in_class;
} translation;

static int refuse(const translation *t, const char *what) {
    return PL_FAIL(t->err, PL_E_UNSUPPORTED, "the regular expression \"%.*s\": %s at byte %zu",
                   (int)PL_MIN(t->n, (size_t)200), t->s, what, t->i);
}

static bool at(const translation *t, const char *what) {
    size_t k = strlen(what);
    return t->n - t->i >= k && memcmp(t->s + t->i, what, k) == 0;
}

static int copy(translation *t, size_t k) {
    int rc = pl_buf_add(t->out, t->s + t->i, k, t->err);
    t->i += k;
    return rc;
}

static int put(translation *t, size_t skip, const char *text) {
    t->i += skip;
    return pl_buf_puts(t->out, text, t->err);
}

/* A class such as \s, in brackets of its own unless it stands in some. */
static int put_set(translation *t, const char *set, bool negated) {
    t->i += 2;
    if (t->in_class) return pl_buf_puts(t->out, set, t->err);
    return pl_buf_printf(t->out, t->err, "[%s%s]", negated ? "^" : "", set);
}

/* \p{Name} or \P{Name}: general categories as they are, scripts as scripts proper. */
static int property(translation *t) {
    size_t k = t->i + 2;
    if (k >= t->n || t->s[k] != '{') return refuse(t, "a property without braces");
    size_t from = ++k;
    while (k < t->n && t->s[k] != '}') k++;
    if (k >= t->n) return refuse(t, "a property without end");
    const char *name = t->s + from;
    size_t len = k - from;
    if (len == 0 || len > 40) return refuse(t, "a property's name");
    bool negated = name[0] == '^', general = len - negated <= 2;
    for (size_t i = negated; i < len; i++)
        if (!((name[i] | 32) >= 'a' && (name[i] | 32) <= 'z') && name[i] != '_') return refuse(t, "a property's name");
    if (t->caseless[t->depth] && general && (name[negated] | 32) == 'l' && len - negated == 2)
        return refuse(t, "a class of one case under (?i)");
    int rc = pl_buf_printf(t->out, t->err, "\\%c{%s%s%.*s}", t->s[t->i + 1], negated ? "^" : "",
                           general ? "" : "sc:", (int)(len - negated), name + negated);
    t->i = k + 1;
    return rc;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \xHH, \x{H...}, \uHHHH at t->i. */
static int code_point(translation *t) {
    size_t k = t->i + 2;
    bool braces = k < t->n && t->s[k] == '{' && t->s[t->i + 1] == 'x';
    size_t digits = 0, want = t->s[t->i + 1] == 'u' ? 4 : braces ? 8 : 2;
    uint32_t c = 0;
    for (k += braces; k < t->n && digits < want && hex_value(t->s[k]) >= 0; k++, digits++)
        c = c * 16 + (uint32_t)hex_value(t->s[k]);
    if (digits == 0 || (!braces && digits != want)) return refuse(t, "an escape");
    if (braces && (k >= t->n || t->s[k++] != '}')) return refuse(t, "an escape");
    if (!braces && want == 2 && c > 0x7F) return refuse(t, "a byte that is no character");
    t->i = k;
    return pl_buf_printf(t->out, t->err, "\\x{%x}", (unsigned)c);
}

static int escape(translation *t) {
    if (t->n - t->i < 2) return refuse(t, "a backslash at the end");
    char c = t->s[t->i + 1];
    switch (c) {
    case 's': return put_set(t, SPACE, false);
    case 'S': return put_set(t, NOT_SPACE, false);
    case 'w': return t->in_class ? put_set(t, WORD, false) : put_set(t, WORD LATIN_NUMBERS, false);
    case 'W': return t->in_class ? refuse(t, "\\W in a class") : put_set(t, WORD LATIN_NUMBERS, true);
    case 'h': return put_set(t, "0-9a-fA-F", false);
    case 'v': return put(t, 2, "\\x0b");
    case 'p':
    case 'P': return property(t);
    case 'x':
    case 'u': return code_point(t);
    case 'A':
    case 'z':
    case 'Z': return t->in_class ? refuse(t, "an escape") : copy(t, 2);
    default: break;
    }
    if (strchr("dDnrtfae", c)) return copy(t, 2);
    if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (unsigned char)c >= 0x80)
        return refuse(t, "an escape");
    return copy(t, 2);
}

/* At '['. */
static int class_(translation *t) {
    int rc = copy(t, 1);
    if (rc == 0 && t->i < t->n && t->s[t->i] == '^') rc = copy(t, 1);
    if (rc) return rc;
    if (t->i < t->n && t->s[t->i] == ']') return refuse(t, "an empty class");
    t->in_class = true;
    while (t->i < t->n && t->s[t->i] != ']') {
        if (t->s[t->i] == '[') return refuse(t, "a class inside a class");
        if (at(t, "&&")) return refuse(t, "an intersection of classes");
        rc = t->s[t->i] == '\\' ? escape(t) : copy(t, 1);
        if (rc) return rc;
    }
    t->in_class = false;
    if (t->i >= t->n) return refuse(t, "a class without end");
    return copy(t, 1);
}

/* At '('. */
static int group(translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    bool caseless = t->caseless[t->depth];
    size_t k = 1;
    if (at(t, "(?i)") && t->i == 0) {
        t->caseless[0] = true;
        return copy(t, 4);
    }
    if (at(t, "(?i:")) {
        caseless = true;
        k = 4;
    } else if (at(t, "(?-i:")) {
        caseless = false;
        k = 5;
    } else if (at(t, "(?")) {
        for (k = 0; k < (size_t)PL_LEN(known) && !at(t, known[k]); k++) {
        }
        if (k == (size_t)PL_LEN(known)) return refuse(t, "a kind of group");
        k = strlen(known[k]);
    } else if (at(t, "(*")) {
        return refuse(t, "a verb");
    }
    if (t->depth + 1 >= MAX_GROUPS) return refuse(t, "groups nested too deep");
    t->caseless[++t->depth] = caseless;
    return copy(t, k);
}

/* At '{': {n}, {n,} or {n,m}; another brace stands for itself in both engines only when escaped. */
static int count(translation *t) {
    size_t k = t->i + 1, digits = 0;
    bool comma = false;
    for (; k < t->n && ((t->s[k] >= '0' && t->s[k] <= '9') || (t->s[k] == ',' && !comma)); k++) {
        if (t->s[k] == ',') comma = true;
        if (t->s[k] != ',') digits++;
        if (comma && digits == 0) return refuse(t, "{,n}");
    }
    if (digits == 0 || digits > 6 || k >= t->n || t->s[k] != '}') return refuse(t, "a brace");
    if (k + 1 < t->n && (t->s[k + 1] == '+' || (t->s[k + 1] == '?' && !comma)))
        return refuse(t, "a sign behind a counted repeat");
    return copy(t, k + 1 - t->i);
}

static int item(translation *t) {
    switch (t->s[t->i]) {
    case '\\': return escape(t);
    case '[': return class_(t);
    case '(': return group(t);
    case '{': return count(t);
    case ')':
        if (t->depth == 0) return refuse(t, "a bracket that closes nothing");
        t->depth--;
        return copy(t, 1);
    case '}': return put(t, 1, "\\}");
    case ']': return put(t, 1, "\\]");
    default: return copy(t, 1);
    }
}

int pl_regex_translate(pl_buf *out, const char *pattern, size_t n, pl_error *err) {
    translation t = {.s = pattern, .n = n, .out = out, .err = err};
    if (n > 65536) return PL_FAIL(err, PL_E_UNSUPPORTED, "a regular expression of %zu bytes", n);
    if (memchr(pattern, 0, n)) return PL_FAIL(err, PL_E_UNSUPPORTED, "a regular expression with a NUL");
    int rc = pl_buf_reserve(out, n + 1, err);
    while (rc == 0 && t.i < n) rc = item(&t);
    if (rc == 0 && t.depth != 0) rc = refuse(&t, "a group without end");
    return rc;
}
