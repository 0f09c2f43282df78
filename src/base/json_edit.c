/* json_edit.c: edits JSON as text, so that what plumb does not know about survives to the byte. */
#include "base/json_edit.h"

#include <string.h>

#include "base/json.h"

/* Walks over JSON that pl_json_parse has already taken. */
static size_t skip_string(const char *s, size_t i) {
    for (i++; s[i] != '"'; i++)
        if (s[i] == '\\') i++;
    return i + 1;
}

static size_t skip_space(const char *s, size_t i) { return i + strspn(s + i, " \t\r\n"); }

/* Behind the value at i: to the comma or bracket of its own level that ends it. */
static size_t skip_value(const char *s, size_t i) {
    int depth = 0;
    for (;;) {
        char c = s[i];
        if (c == '"') {
            i = skip_string(s, i);
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) return i;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        i++;
    }
}

static const pl_json_edit *edit_of(const pl_json_edit *edits, int64_t n, const char *key, size_t len) {
    for (int64_t i = 0; i < n; i++)
        if (strlen(edits[i].key) == len && memcmp(edits[i].key, key, len) == 0) return &edits[i];
    return NULL;
}

/* The members that are not in the file, behind the last one if there is `any`: on lines of their own, unless the object
 * is all on one. */
static int add_missing(pl_buf *out, const pl_json *root, bool any, bool one_line, const pl_json_edit *edits,
                       int64_t nedits, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; i < nedits && rc == 0; i++) {
        if (!edits[i].add || pl_json_has(root, edits[i].key)) continue;
        rc = pl_buf_printf(out, err, "%s%s\"%s\": %s", any ? "," : "", one_line ? (any ? " " : "") : "\n  ",
                           edits[i].key, edits[i].value);
        any = true;
    }
    return rc;
}

/* s[0..n), an object, NUL-terminated. */
static int edit_object(pl_buf *out, const pl_json *root, const char *s, size_t n, const pl_json_edit *edits,
                       int64_t nedits, pl_error *err) {
    size_t kept = 0, i = skip_space(s, 0) + 1; /* s[0..kept) is in out; behind the opening brace */
    size_t last = i;                           /* behind the last value */
    bool any = false;
    int rc = 0;
    for (i = skip_space(s, i); s[i] == '"'; i = skip_space(s, i)) {
        const char *key = s + i + 1;
        i = skip_string(s, i);
        const pl_json_edit *e = edit_of(edits, nedits, key, (size_t)(s + i - 1 - key));
        i = skip_space(s, i) + 1; /* the colon */
        size_t value = skip_space(s, i), end = skip_value(s, value);
        i = end + (s[end] == ',');
        while (end > value && strchr(" \t\r\n", s[end - 1])) end--;
        last = end;
        any = true;
        if (!e) continue;
        PL_GO(rc, pl_buf_add(out, s + kept, value - kept, err));
        PL_GO(rc, pl_buf_puts(out, e->value, err));
        kept = end;
    }
    PL_GO(rc, pl_buf_add(out, s + kept, last - kept, err));
    PL_GO(rc, add_missing(out, root, any, !memchr(s, '\n', last), edits, nedits, err));
    rc = pl_buf_add(out, s + last, n - last, err);
out:
    return rc;
}

int pl_json_text_edit(pl_buf *out, const char *text, size_t n, const pl_json_edit *edits, int64_t nedits,
                      const char *what, pl_error *err) {
    pl_json *root = NULL;
    char *copy = NULL; /* NUL-terminated, so that the walk needs no bounds */
    int rc;
    PL_GO(rc, pl_json_parse(&root, text, n, what, err));
    if (pl_json_kind_of(root) != PL_J_OBJECT) PL_GO(rc, PL_FAIL(err, PL_E_FORMAT, "%s: want a JSON object", what));
    PL_GO(rc, pl_strndup(&copy, text, n, err));
    rc = edit_object(out, root, copy, n, edits, nedits, err);
out:
    pl_json_free(root);
    pl_free(copy);
    return rc;
}
