/* ui.c: the log sink, the error at the end, the bar. */
#include "ui.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "plumb/jsonl.h"

#define REDRAW_SECONDS 0.1
#define PLAIN_SECONDS 10.0
#define MAX_COLUMNS 240
#define BAR_COLUMNS 30
#define MIN_BAR_COLUMNS 8

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- lines --- */

static void print_member(const char *before, const char *text) {
    fputs(before, stderr);
    pl_json_print_string(stderr, text, strlen(text), NULL);
}

void cli_ui_line(cli_ui *ui, pl_log_level level, const char *text) {
    cli_ui_clear(ui);
    if (ui->json) {
        print_member("{\"level\":", pl_log_level_name(level));
        print_member(",\"text\":", text);
        fputs("}\n", stderr);
    } else if (level == PL_LOG_INFO)
        fprintf(stderr, "%s\n", text);
    else
        fprintf(stderr, "%s: %s\n", pl_log_level_name(level), text);
}

static void log_line(void *user, pl_log_level level, const char *text) {
    if (level != PL_LOG_DEBUG) cli_ui_line(user, level, text);
}

void cli_ui_error(cli_ui *ui, const char *command, int rc, const pl_error *err) {
    char where[64];
    snprintf(where, sizeof where, PROGRAM "%s%s", *command ? " " : "", command);
    cli_ui_clear(ui);
    if (ui->json) {
        print_member("{\"level\":\"error\",\"text\":", err->text);
        print_member(",\"hint\":", pl_error_hint(rc));
        print_member(",\"kind\":", pl_error_name(rc));
        fputs("}\n", stderr);
    } else
        fprintf(stderr, "%s: %s\n  (%s: %s)\n", where, err->text, pl_error_name(rc), pl_error_hint(rc));
}

static bool says_json(int argc, const char *const *argv) {
    static const char name[] = "--log_format";
    for (int i = 0; i < argc; i++) {
        size_t k = 0;
        while (name[k] && (argv[i][k] == name[k] || (argv[i][k] == '-' && name[k] == '_'))) k++;
        if (name[k]) continue;
        if (argv[i][k] == '=') return strcmp(argv[i] + k + 1, "json") == 0;
        if (argv[i][k] == 0) return i + 1 < argc && strcmp(argv[i + 1], "json") == 0;
    }
    return false;
}

void cli_ui_init(cli_ui *ui, int argc, const char *const *argv) {
    const char *term = getenv("TERM");
    *ui = (cli_ui){.json = says_json(argc, argv)};
    ui->terminal = !ui->json && isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line is one write */
    pl_log_set(log_line, ui);
}

/* --- progress --- */

static int terminal_columns(void) {
    struct winsize w;
    int columns = 80;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) columns = w.ws_col;
    return columns < MAX_COLUMNS ? columns : MAX_COLUMNS;
}

static void eta_text(char out[32], double seconds) {
    out[0] = 0;
    if (!(seconds >= 0 && seconds < 1e8)) return;
    long s = (long)(seconds + 0.5);
    snprintf(out, 32, "%02ld:%02ld:%02ld left", s / 3600, s / 60 % 60, s % 60);
}

/* "training [#####.....] 12/50  00:01:12 left  3.1 pairs/s  512 tokens/s", shortened from its end to fit. Written over
 * the line that is there in one go, so that nothing flickers. */
static void draw(cli_ui *ui, const cli_progress *p) {
    char line[4 * MAX_COLUMNS], eta[32], count[64], tail[2][200];
    int room = terminal_columns() - 1, at = 0, width;
    eta_text(eta, p->eta_seconds);
    snprintf(count, sizeof count, " %lld/%lld", (long long)p->done, (long long)p->total);
    snprintf(tail[0], sizeof tail[0], "%s%s", *eta ? "  " : "", eta);
    snprintf(tail[1], sizeof tail[1], "%s%s", *p->rates ? "  " : "", p->rates);
    int fixed = (int)(strlen(p->what) + strlen(count)) + 3;
    if (fixed + MIN_BAR_COLUMNS + (int)(strlen(tail[0]) + strlen(tail[1])) > room) tail[1][0] = 0;
    if (fixed + MIN_BAR_COLUMNS + (int)strlen(tail[0]) > room) tail[0][0] = 0;
    width = room - fixed - (int)(strlen(tail[0]) + strlen(tail[1]));
    if (width > BAR_COLUMNS) width = BAR_COLUMNS;
    at = snprintf(line, sizeof line, "\r%s", p->what);
    if (width >= MIN_BAR_COLUMNS) {
        int full = p->total > 0 ? (int)(p->done * width / p->total) : 0;
        at += snprintf(line + at, sizeof line - (size_t)at, " [");
        for (int i = 0; i < width; i++) line[at++] = i < full ? '#' : '.';
        line[at++] = ']';
    }
    at += snprintf(line + at, sizeof line - (size_t)at, "%s%s%s\033[K", count, tail[0], tail[1]);
    fwrite(line, 1, (size_t)at, stderr);
    fflush(stderr);
    ui->bar = true;
}

static void print_plain(cli_ui *ui, const cli_progress *p) {
    char line[400], eta[32];
    eta_text(eta, p->eta_seconds);
    snprintf(line, sizeof line, "%s: %lld of %lld %s%s%s%s%s", p->what, (long long)p->done, (long long)p->total,
             p->unit, *p->rates ? "  " : "", p->rates, *eta ? "  " : "", eta);
    cli_ui_line(ui, PL_LOG_INFO, line);
}

void cli_ui_progress(cli_ui *ui, const cli_progress *p) {
    double t = now();
    bool last = p->done >= p->total;
    if (ui->terminal) {
        if (!last && ui->bar && t - ui->drawn_at < REDRAW_SECONDS) return;
        ui->drawn_at = t;
        if (last)
            cli_ui_clear(ui);
        else
            draw(ui, p);
        return;
    }
    if (p->silent) return;
    if (ui->plain_at == 0) ui->plain_at = t; /* what ends before the first line is due prints its last one only */
    if (!last && t - ui->plain_at < PLAIN_SECONDS) return;
    ui->plain_at = last ? 0 : t;
    print_plain(ui, p);
}

void cli_ui_clear(cli_ui *ui) {
    if (ui->bar) fputs("\r\033[K", stderr);
    ui->bar = false;
}
