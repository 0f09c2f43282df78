/* score.c: plumb score: a reward model's or a verifier's scores for a file of answers, or the best answer to each
 * prompt. */
#include "cli.h"
#include "plumb/reward.h"

typedef struct score_options {
    bool json;
    const char *report;
} score_options;

#define AT(field) .offset = offsetof(score_options, field)
static const pl_option rows[] = {
    {.name = "json", .type = PL_OPT_BOOL, AT(json), .fallback = "false", .help = "the summary as one JSON object"},
    {.name = "report_file",
     .type = PL_OPT_STR,
     AT(report),
     .metavar = "FILE",
     .help = "write the summary there, as JSON"},
    {0}};
static const pl_option *const tables[] = {pl_rate_option_rows, rows, cli_output_rows, cli_config_rows, cli_thread_rows,
                                          cli_log_rows,        NULL};

static void on_progress(void *user, int64_t done, int64_t total) {
    cli_progress p = {
        .what = "scoring", .unit = "answers", .done = done, .total = total, .rates = "", .eta_seconds = -1};
    cli_ui_progress(user, &p);
}

static int write_scores(const pl_rater *r, const char *path, pl_error *err) {
    cli_output out;
    int rc = cli_output_open(&out, path, err);
    if (rc == 0) rc = pl_rater_print(r, out.f, err);
    return cli_output_close(&out, rc, err);
}

static int write_report(const pl_rate_result *result, const char *path, pl_error *err) {
    cli_output out;
    int rc = cli_output_open(&out, path, err);
    if (rc == 0) rc = pl_rate_print_json(out.f, result, err);
    return cli_output_close(&out, rc, err);
}

/* Scores to --out, and the summary to standard output; without --out the scores have that for themselves. */
static int print(const pl_rater *r, const score_options *mine, const char *path, pl_error *err) {
    pl_rate_result result;
    int rc = pl_rater_result(r, &result, err);
    if (rc == 0) rc = write_scores(r, path, err);
    if (rc == 0 && mine->report) rc = write_report(&result, mine->report, err);
    if (rc || !path) return rc;
    return mine->json ? pl_rate_print_json(stdout, &result, err) : pl_rate_print_text(stdout, &result, err);
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_rate_options ro = {0};
    score_options mine = {0};
    cli_common common = {0};
    void *bases[] = {&ro, &mine, &common, &common, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_rater *r = NULL;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_score.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) rc = pl_rater_open(&r, machine, &ro, err);
    if (rc == 0 && !done) {
        pl_score_hooks hooks = {.user = ui, .progress = on_progress, .stop = cli_stop};
        cli_catch_signals();
        rc = pl_rater_run(r, &hooks, err);
        cli_ui_clear(ui);
        if (rc == 0) rc = print(r, &mine, common.output_file, err);
    }
    pl_rater_free(r);
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_score = {
    .desc = {.name = "score",
             .summary = "Score answers with a reward model or a verifier, or choose the best of several",
             .description =
                 "Rows have prompt and completion, prompt and completions (a list), or are pairs; labels are "
                 "read where they are there.",
             .tables = tables},
    .run = run};
