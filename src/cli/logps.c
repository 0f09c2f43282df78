/* logps.c: plumb logps: log-probs of both answers of every pair, one JSON line each. */
#include "cli.h"
#include "plumb/score.h"

typedef struct logps_options {
    bool tokens;
} logps_options;

static const pl_option rows[] = {{.name = "tokens",
                                  .type = PL_OPT_BOOL,
                                  .offset = offsetof(logps_options, tokens),
                                  .fallback = "false",
                                  .group = "Output",
                                  .help = "print token ids and their log-probs too"},
                                 {0}};
static const pl_option *const tables[] = {pl_score_option_rows, rows, cli_output_rows, cli_config_rows, cli_thread_rows,
                                          cli_log_rows,         NULL};

static void on_progress(void *user, int64_t done, int64_t total) {
    cli_progress p = {.what = "scoring", .unit = "rows", .done = done, .total = total, .rates = "", .eta_seconds = -1};
    cli_ui_progress(user, &p);
}

static int score(cli_ui *ui, pl_scorer *s, const cli_common *common, bool tokens, pl_error *err) {
    cli_output out;
    int rc = cli_output_open(&out, common->output_file, err);
    if (rc) return rc;
    pl_score_printer printer = {.f = out.f, .tokens = tokens};
    pl_score_hooks hooks = {.user = ui, .progress = out.path ? on_progress : NULL, .stop = cli_stop};
    cli_catch_signals();
    rc = pl_scorer_logps(s, pl_score_print, &printer, &hooks, err);
    return cli_output_close(&out, rc, err);
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_score_options so = {0};
    logps_options lo = {0};
    cli_common common = {0};
    void *bases[] = {&so, &lo, &common, &common, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_scorer *s = NULL;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_logps.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) rc = pl_scorer_open(&s, machine, &so, NULL, err);
    if (rc == 0 && !done) rc = score(ui, s, &common, lo.tokens, err);
    pl_scorer_free(s);
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_logps = {.desc = {.name = "logps",
                                        .summary = "Print the log-probs of both answers of every pair",
                                        .description = "One JSON line per row, numbered as in the file.",
                                        .tables = tables},
                               .run = run};
