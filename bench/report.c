/* bench/report.c: see report.h. */
#include "report.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

static int report_fd = -1;
static pl_buf line;

static void check(int rc, const pl_error *err) {
    if (rc == 0) return;
    fprintf(stderr, "results: %s\n", err->text);
    exit(1);
}

const char *report_path(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--json") == 0) return argv[i + 1];
    return NULL;
}

void report_open(const char *path) {
    pl_error err;
    if (!path) return;
    report_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (report_fd < 0) check(PL_FAIL(&err, PL_E_IO, "cannot write %s", path), &err);
}

static void add_string(const char *s) {
    pl_error err;
    check(pl_buf_json_string(&line, s, strlen(s), &err), &err);
}

void report_text(const char *key, const char *value) {
    pl_error err;
    check(pl_buf_puts(&line, line.len ? ", " : "{", &err), &err);
    add_string(key);
    check(pl_buf_puts(&line, ": ", &err), &err);
    add_string(value);
}

static void add_number(const char *key, const char *digits) {
    pl_error err;
    check(pl_buf_printf(&line, &err, ", \"%s\": %s", key, digits), &err);
}

void report_number(const char *key, double value) {
    char digits[32] = "null";
    if (isfinite(value)) snprintf(digits, sizeof digits, "%.6g", value);
    add_number(key, digits);
}

void report_count(const char *key, int64_t value) {
    char digits[32];
    snprintf(digits, sizeof digits, "%lld", (long long)value);
    add_number(key, digits);
}

void report_begin(const char *bench, const char *what) {
    pl_buf_clear(&line);
    report_text("bench", bench);
    report_text("what", what);
}

void report_end(void) {
    pl_error err;
    check(pl_buf_puts(&line, "}\n", &err), &err);
    if (report_fd >= 0 && write(report_fd, line.data, line.len) != (ssize_t)line.len)
        check(PL_FAIL(&err, PL_E_IO, "cannot write a line"), &err);
    pl_buf_release(&line);
}
