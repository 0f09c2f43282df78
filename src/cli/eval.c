/* eval.c: plumb eval: preference accuracy, reward margins and log-probs on held-out pairs. */
#include "cli.h"
#include "plumb/score.h"

typedef struct eval_options {
    bool json;
} eval_options;

static const pl_option rows[] = {{.name = "json",
                                  .type = PL_OPT_BOOL,
                                  .offset = offsetof(eval_options, json),
                                  .fallback = "false",
                                  .group = "Output",
                                  .help = "print one JSON object"},
                                 {0}};
static const pl_option *const tables[] = {pl_score_option_rows, pl_eval_option_rows, pl_beta_options, rows,
                                          cli_config_rows,      cli_thread_rows,     cli_log_rows,    NULL};

static void on_progress(void *user, int64_t done, int64_t total) {
    cli_progress p = {
        .what = "evaluating", .unit = "rows", .done = done, .total = total, .rates = "", .eta_seconds = -1};
    cli_ui_progress(user, &p);
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_score_options so = {0};
    pl_eval_options eo = {0};
    eval_options mine = {0};
    cli_common common = {0};
    void *bases[] = {&so, &eo, &eo.loss, &mine, &common, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_scorer *s = NULL;
    pl_eval_result result;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_eval.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) rc = pl_scorer_open(&s, machine, &so, &eo, err);
    if (rc == 0 && !done) {
        pl_score_hooks hooks = {.user = ui, .progress = on_progress, .stop = cli_stop};
        cli_catch_signals();
        rc = pl_scorer_eval(s, &result, &hooks, err);
        cli_ui_clear(ui);
        if (rc == 0)
            rc = mine.json ? pl_eval_print_json(stdout, &result, err) : pl_eval_print_text(stdout, &result, err);
    }
    pl_scorer_free(s);
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_eval = {.desc = {.name = "eval",
                                       .summary = "Measure how often a model prefers the chosen answer",
                                       .description = "With a reference (--ref_model, or the base of an --adapter) "
                                                      "also rewards, as in training.",
                                       .tables = tables},
                              .run = run};
