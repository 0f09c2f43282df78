/* common.c: options of all commands, parsing, signals. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "plumb/log.h"

const pl_option cli_common_rows[] = {{.name = "config",
                                      .type = PL_OPT_STR,
                                      .offset = offsetof(cli_common, config),
                                      .group = "General",
                                      .metavar = "FILE",
                                      .help = "YAML file with options; the command line overrides it",
                                      .flags = PL_OPT_NO_FILE | PL_OPT_NO_RECORD},
                                     {.name = "threads",
                                      .type = PL_OPT_I64,
                                      .offset = offsetof(cli_common, threads),
                                      .min = 1,
                                      .max = 256,
                                      .help = "threads (default: the cores that affinity and cgroup allow)",
                                      .flags = PL_OPT_NO_RECORD},
                                     {.name = "log_format",
                                      .type = PL_OPT_ENUM,
                                      .offset = offsetof(cli_common, log_format),
                                      .choices = "plain|json",
                                      .fallback = "plain",
                                      .help = "form of the messages",
                                      .flags = PL_OPT_NO_RECORD},
                                     {0}};

static volatile sig_atomic_t stopped;

static void on_signal(int number) {
    if (stopped++) _exit(128 + number);
}

void cli_catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

int cli_stop(void *unused) {
    (void)unused;
    return stopped != 0;
}

int cli_machine(pl_machine **out, const cli_common *common, pl_error *err) {
    pl_machine_options o = {.cpu = getenv("PLUMB_CPU"),
                            .threads = common->threads == PL_OPT_NO_I64 ? 0 : common->threads};
    return pl_machine_new(out, &o, err);
}

int cli_parse(pl_options **out, const pl_command *desc, void *const *bases, cli_common *common, int argc,
              const char *const *argv, bool *done, pl_error *err) {
    pl_options *o = NULL;
    int rc = pl_options_new(&o, desc, bases, NULL, err);
    if (rc == 0) rc = pl_options_parse_args(o, argc, argv, err);
    *done = rc == 0 && pl_options_help_asked(o);
    if (*done) rc = pl_command_print_help(stdout, PL_PROGRAM, desc, err);
    if (rc == 0 && !*done && common->config) rc = pl_options_load_yaml(o, common->config, err);
    if (rc == 0 && !*done) rc = pl_options_finish(o, err);
    int64_t n = 0;
    const char *const *notes = rc ? NULL : pl_options_notes(o, &n);
    for (int64_t i = 0; i < n; i++) pl_log(PL_LOG_INFO, "%s", notes[i]);
    if (rc)
        pl_options_free(o);
    else
        *out = o;
    return rc;
}
