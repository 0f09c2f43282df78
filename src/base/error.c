/* error.c: fills in and extends the caller's pl_error. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/utf8.h"

/* Messages quote files of strangers and are cut at fixed lengths: control characters, which could drive a terminal, and
 * bytes that are not UTF-8 (half a code point) become '?'. */
static void clean(char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t k = pl_utf8_decode(text + i, n - i, &c);
        if (k == 0 || c < 0x20 || (c >= 0x7F && c < 0xA0)) memset(text + i, '?', k ? k : 1);
        i += k ? k : 1;
    }
}

int pl_error_set(pl_error *err, int code, const char *file, int line, const char *format, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, format);
    char text[sizeof err->text];
    vsnprintf(text, sizeof text, format, ap); /* first into a copy: an argument may be the old text */
    va_end(ap);
    clean(text);
    memcpy(err->text, text, sizeof text);
    err->code = code;
    err->file = file;
    err->line = line;
    return code;
}

int pl_error_context(pl_error *err, int rc, const char *format, ...) {
    if (!err) return rc;
    char text[sizeof err->text];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n + 3 >= sizeof text) return rc; /* a context that long helps nobody */
    snprintf(text + n, sizeof text - (size_t)n, ": %.*s", (int)(sizeof text - (size_t)n - 3), err->text);
    clean(text);
    memcpy(err->text, text, sizeof text);
    return rc;
}

static const struct {
    int code;
    const char *name, *hint;
} names[] = {
#define PL_ERROR_ROW(code, number, text, hint) {code, text, hint},
    PL_ERRORS(PL_ERROR_ROW)
#undef PL_ERROR_ROW
};

const char *pl_error_name(int code) {
    for (int64_t i = 0; i < PL_LEN(names); i++)
        if (names[i].code == code) return names[i].name;
    return code == 0 ? "no error" : "unknown error";
}

const char *pl_error_hint(int code) {
    for (int64_t i = 0; i < PL_LEN(names); i++)
        if (names[i].code == code) return names[i].hint;
    return "";
}
