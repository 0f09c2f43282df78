/* train.c: the commands that train: progress on the terminal; the rest is libplumb's. */
#include <math.h>
#include <string.h>

#include "cli.h"
#include "plumb/train.h"

/* --- progress --- */

typedef struct progress {
    cli_ui *ui;
    const char *unit; /* of the rows: "pairs", "rows" */
    char rates[80];   /* of the last step */
    double eta_seconds;
} progress;

static void keep_rates(progress *p, const pl_train_event *e) {
    snprintf(p->rates, sizeof p->rates, "%.3g %s/s  %.0f tokens/s", e->pairs_per_second, p->unit, e->tokens_per_second);
    p->eta_seconds = e->eta_seconds;
}

static int add_value(char *out, size_t size, const pl_named_value *v) {
    bool whole = v->value == floor(v->value) && fabs(v->value) < 1e15;
    return snprintf(out, size, whole ? "  %s %.0f" : "  %s %.4g", v->name, v->value);
}

static void print_values(progress *p, const pl_train_event *e) {
    char line[2000];
    bool evaluation = e->kind == PL_TRAIN_EVAL;
    size_t at = (size_t)snprintf(line, sizeof line, "%s %lld/%lld  epoch %.3g", evaluation ? "evaluation" : "step",
                                 (long long)e->done, (long long)e->total, e->epoch);
    for (int64_t i = 0; i < e->nvalues && at < sizeof line; i++)
        at += (size_t)add_value(line + at, sizeof line - at, &e->values[i]);
    if (!evaluation && !p->ui->terminal && at < sizeof line) {
        long eta = (long)(p->eta_seconds + 0.5);
        snprintf(line + at, sizeof line - at, "  (%s  %02ld:%02ld:%02ld left)", p->rates, eta / 3600, eta / 60 % 60,
                 eta % 60);
    }
    cli_ui_line(p->ui, PL_LOG_INFO, line);
}

static void on_event(void *user, const pl_train_event *e) {
    progress *p = user;
    cli_progress bar = {.done = e->done, .total = e->total, .rates = "", .eta_seconds = -1};
    switch (e->kind) {
    case PL_TRAIN_REFERENCE:
        bar.what = "reference";
        bar.unit = p->unit;
        cli_ui_progress(p->ui, &bar);
        break;
    case PL_TRAIN_STEP:
        keep_rates(p, e);
        bar.what = "training";
        bar.unit = "steps";
        bar.rates = p->rates;
        bar.eta_seconds = p->eta_seconds;
        bar.silent = true;
        cli_ui_progress(p->ui, &bar);
        break;
    case PL_TRAIN_LOG:
    case PL_TRAIN_EVAL: print_values(p, e); break;
    case PL_TRAIN_PLAN:
    case PL_TRAIN_FINAL: break; /* the log says it */
    }
}

/* --- the command --- */

enum { TABLES = PL_TRAIN_TABLES + 3 };

static int run(cli_ui *ui, const pl_command *desc, const char *unit, int argc, const char *const *argv, pl_error *err) {
    pl_config config;
    cli_common common = {0};
    void *bases[TABLES];
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    bool done = false;
    pl_train_bases(bases, &config);
    for (int i = PL_TRAIN_TABLES; i < TABLES; i++) bases[i] = &common;
    int rc = cli_parse(&o, ui, desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) {
        progress p = {.ui = ui, .unit = unit};
        pl_train_hooks hooks = {.user = &p, .event = on_event, .stop = cli_stop};
        cli_catch_signals();
        rc = pl_train(machine, desc->name, &config, o, &hooks, err);
    }
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

/* The commands of the library, each with the program's own tables behind its own. */
#define COMMAND(NAME, UNIT, SUMMARY, DESCRIPTION)                                                                      \
    static const pl_option *const NAME##_tables[] = {pl_train_option_rows,                                             \
                                                     pl_train_other_rows,                                              \
                                                     pl_##NAME##_option_rows,                                          \
                                                     pl_##NAME##_loss_options,                                         \
                                                     cli_config_rows,                                                  \
                                                     cli_thread_rows,                                                  \
                                                     cli_log_rows,                                                     \
                                                     NULL};                                                            \
    static int run_##NAME(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {                              \
        return run(ui, &cli_##NAME.desc, UNIT, argc, argv, err);                                                       \
    }                                                                                                                  \
    const cli_command cli_##NAME = {.desc = {.name = #NAME,                                                            \
                                             .summary = SUMMARY,                                                       \
                                             .description = DESCRIPTION,                                               \
                                             .tables = NAME##_tables,                                                  \
                                             .defaults = pl_##NAME##_option_defaults},                                 \
                                    .run = run_##NAME};
PL_TRAIN_COMMANDS(COMMAND)
