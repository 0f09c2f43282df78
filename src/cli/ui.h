/* cli/ui.h: messages, errors and progress on standard error. A terminal gets one bar that is redrawn in place; anything
 * else gets plain lines, or JSON lines with --log_format json. */
#ifndef CLI_UI_H
#define CLI_UI_H

#include <stdbool.h>
#include <stdint.h>

#include "plumb/error.h"
#include "plumb/log.h"

typedef struct cli_ui {
    bool json;       /* every line is {"level":...,"text":...} */
    bool terminal;   /* bars are possible */
    bool bar;        /* one is on the screen */
    double drawn_at; /* when it was drawn, seconds; 0: not yet */
    double plain_at; /* when the last plain progress line was printed */
} cli_ui;

/* Looks at the terminal and for --log_format among the arguments, and becomes the library's log sink. */
void cli_ui_init(cli_ui *ui, int argc, const char *const *argv);
void cli_ui_line(cli_ui *ui, pl_log_level level, const char *text);
/* The error that ends a command: what, then what to do. */
void cli_ui_error(cli_ui *ui, const char *command, int rc, const pl_error *err);

typedef struct cli_progress {
    const char *what, *unit; /* "training", "steps" */
    int64_t done, total;
    const char *rates;  /* "3.1 pairs/s  512 tokens/s"; "" for none */
    double eta_seconds; /* < 0: unknown */
    bool silent;        /* no plain lines: the caller prints its own */
} cli_progress;
void cli_ui_progress(cli_ui *ui, const cli_progress *p);
void cli_ui_clear(cli_ui *ui); /* takes the bar away */

#endif
