/* log.c: the sink, plumb's one writable global, and the line that goes to it. */
#include "plumb/log.h"

#include <stdarg.h>
#include <stdio.h>

static pl_log_sink *sink;
static void *sink_user;

void pl_log_set(pl_log_sink *s, void *user) {
    sink = s;
    sink_user = user;
}

void pl_log(pl_log_level level, const char *format, ...) {
    if (!sink) return;
    char text[2048];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    sink(sink_user, level, text);
}

const char *pl_log_level_name(pl_log_level level) {
    static const char *const names[] = {"debug", "info", "warning", "error"};
    return names[level];
}
