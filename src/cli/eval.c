/* eval.c: plumb eval: preference accuracy, reward margins and log-probs on held-out pairs. */
#include "cli.h"
#include "plumb/reward.h"
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

/* A log-prob evaluation, printed. */
static int eval_policy(cli_ui *ui, pl_machine *machine, const pl_score_options *so, const pl_eval_options *eo,
                       bool json, pl_error *err) {
    pl_score_hooks hooks = {.user = ui, .progress = on_progress, .stop = cli_stop};
    pl_scorer *s = NULL;
    pl_eval_result result;
    int rc = pl_scorer_open(&s, machine, so, eo, err);
    if (rc == 0) rc = pl_scorer_eval(s, &result, &hooks, err);
    cli_ui_clear(ui);
    if (rc == 0) rc = json ? pl_eval_print_json(stdout, &result, err) : pl_eval_print_text(stdout, &result, err);
    pl_scorer_free(s);
    return rc;
}

/* The scores of a reward model or a verifier, on pairs or on labelled answers. */
static int eval_scores(cli_ui *ui, pl_machine *machine, const pl_score_options *so, const pl_eval_options *eo,
                       bool json, pl_error *err) {
    pl_score_hooks hooks = {.user = ui, .progress = on_progress, .stop = cli_stop};
    pl_rate_options ro = {.data = *so};
    pl_rater *r = NULL;
    pl_rate_result result;
    int rc = eo->ref_model ? PL_FAIL(err, PL_E_OPTION, "ref_model: a reward model's scores have no reference") : 0;
    if (rc == 0) rc = pl_rater_open(&r, machine, &ro, err);
    if (rc == 0) rc = pl_rater_run(r, &hooks, err);
    cli_ui_clear(ui);
    if (rc == 0) rc = pl_rater_result(r, &result, err);
    if (rc == 0 && !result.has_quality)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: the rows are no pairs and have no labels: nothing says what is right",
                     so->dataset_name);
    if (rc == 0)
        rc = json ? pl_quality_print_json(stdout, &result.quality, err)
                  : pl_quality_print_text(stdout, &result.quality, err);
    pl_rater_free(r);
    return rc;
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_score_options so = {0};
    pl_eval_options eo = {0};
    eval_options mine = {0};
    cli_common common = {0};
    void *bases[] = {&so, &eo, &eo.loss, &mine, &common, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    bool done = false, scored = false;
    int rc = cli_parse(&o, ui, &cli_eval.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) rc = pl_is_reward_model(&scored, so.model_name_or_path, so.adapter, err);
    if (rc == 0 && !done) {
        cli_catch_signals();
        rc = (scored ? eval_scores : eval_policy)(ui, machine, &so, &eo, mine.json, err);
    }
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_eval = {.desc = {.name = "eval",
                                       .summary = "Measure how often a model prefers the chosen answer",
                                       .description = "With a reference (--ref_model, or the base of an --adapter) "
                                                      "also rewards, as in training. A reward model or a verifier "
                                                      "is measured by its scores.",
                                       .tables = tables},
                              .run = run};
