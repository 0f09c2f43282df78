/* init.c: plumb init: a model directory with random weights. */
#include "plumb/init.h"
#include "cli.h"

static const pl_option *const tables[] = {pl_init_option_rows, cli_log_rows, NULL};

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_init_options init = {0};
    pl_init_report report;
    cli_common common = {0};
    void *bases[] = {&init, &common};
    pl_options *o = NULL;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_init.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) {
        rc = pl_init_model(&init, &report, err);
        if (rc == 0)
            printf("%s: %lld parameters in %lld tensors, %s, %.2f MB\n", init.output_dir, (long long)report.parameters,
                   (long long)report.tensors, report.dtype, (double)report.bytes / 1e6);
    }
    pl_options_free(o);
    return rc;
}

const cli_command cli_init = {.desc = {.name = "init",
                                       .summary = "Make a model directory with random weights",
                                       .description = "To train from scratch (plumb sft), or to test with.",
                                       .tables = tables},
                              .run = run};
