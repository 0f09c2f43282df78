/* error.c: fills in and extends the caller's pl_error. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

/* A text that was cut must not end inside a code point. */
static void trim(char *text, size_t size) {
    size_t n = strlen(text), i = n;
    if (n + 1 < size) return;
    while (i > 0 && n - i < 4 && (text[i - 1] & 0xC0) == 0x80) i--;
    if (i > 0 && (text[i - 1] & 0xC0) == 0xC0) text[i - 1] = 0;
}

int pl_error_set(pl_error *err, int code, const char *file, int line, const char *format, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, format);
    char text[sizeof err->text];
    vsnprintf(text, sizeof text, format, ap); /* first into a copy: an argument may be the old text */
    va_end(ap);
    trim(text, sizeof text);
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
    trim(text, sizeof text);
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
