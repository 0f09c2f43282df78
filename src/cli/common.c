/* common.c: options that commands share, parsing, output files, signals. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* --- options --- */

const pl_option cli_config_rows[] = {{.name = "config",
                                      .type = PL_OPT_STR,
                                      .offset = offsetof(cli_common, config),
                                      .group = "General",
                                      .metavar = "FILE",
                                      .help = "YAML file with options; the command line overrides it",
                                      .flags = PL_OPT_NO_FILE | PL_OPT_NO_RECORD},
                                     {0}};
const pl_option cli_thread_rows[] = {{.name = "threads",
                                      .type = PL_OPT_I64,
                                      .offset = offsetof(cli_common, threads),
                                      .min = 1,
                                      .max = 256,
                                      .group = "General",
                                      .help = "threads (default: the cores that affinity and cgroup allow)",
                                      .flags = PL_OPT_NO_RECORD},
                                     {0}};
const pl_option cli_log_rows[] = {{.name = "log_format",
                                   .type = PL_OPT_ENUM,
                                   .offset = offsetof(cli_common, log_format),
                                   .choices = "plain|json",
                                   .fallback = "plain",
                                   .group = "General",
                                   .help = "form of the messages on standard error",
                                   .flags = PL_OPT_NO_RECORD | PL_OPT_NO_FILE},
                                  {0}};
const pl_option cli_output_rows[] = {{.name = "output_file",
                                      .type = PL_OPT_STR,
                                      .offset = offsetof(cli_common, output_file),
                                      .group = "Output",
                                      .metavar = "FILE",
                                      .help = "write here instead of to standard output"},
                                     {.name = "out", .type = PL_OPT_ALIAS, .target = "output_file"},
                                     {0}};

int cli_parse(pl_options **out, cli_ui *ui, const pl_command *desc, void *const *bases, const cli_common *common,
              int argc, const char *const *argv, bool *done, pl_error *err) {
    pl_options *o = NULL;
    int rc = pl_options_new(&o, desc, bases, cli_all, err);
    if (rc == 0) rc = pl_options_parse_args(o, argc, argv, err);
    *done = rc == 0 && pl_options_help_asked(o);
    if (*done) rc = pl_command_print_help(stdout, PROGRAM, desc, err);
    if (rc == 0 && !*done && common->config) rc = pl_options_load_yaml(o, common->config, err);
    if (rc == 0 && !*done) rc = pl_options_finish(o, err);
    int64_t n = 0;
    const char *const *notes = rc ? NULL : pl_options_notes(o, &n);
    for (int64_t i = 0; i < n; i++) cli_ui_line(ui, PL_LOG_INFO, notes[i]);
    if (rc)
        pl_options_free(o);
    else
        *out = o;
    return rc;
}

int cli_machine(pl_machine **out, const cli_common *common, pl_error *err) {
    pl_machine_options o = {.cpu = getenv("PLUMB_CPU"),
                            .threads = common->threads == PL_OPT_NO_I64 ? 0 : common->threads};
    int rc = pl_machine_new(out, &o, err);
    return rc == PL_E_OPTION ? pl_error_context(err, rc, "PLUMB_CPU") : rc;
}

/* --- output --- */

int cli_output_open(cli_output *o, const char *path, pl_error *err) {
    *o = (cli_output){.f = stdout, .path = path};
    if (!path) return 0;
    int n = snprintf(o->temp, sizeof o->temp, "%s.tmp-%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof o->temp) return PL_FAIL(err, PL_E_IO, "--out: the path is too long");
    o->f = fopen(o->temp, "wbe");
    return o->f ? 0 : PL_FAIL(err, PL_E_IO, "%s: %s", o->temp, strerror(errno));
}

int cli_output_close(cli_output *o, int rc, pl_error *err) {
    if (!o->f) return rc;
    bool failed = fflush(o->f) != 0 || ferror(o->f);
    if (failed && rc == 0) rc = PL_FAIL(err, PL_E_IO, "%s: %s", o->path ? o->path : "standard output", strerror(errno));
    if (!o->path) return rc;
    if (fclose(o->f) != 0 && rc == 0) rc = PL_FAIL(err, PL_E_IO, "%s: %s", o->path, strerror(errno));
    if (rc == 0 && rename(o->temp, o->path) != 0) rc = PL_FAIL(err, PL_E_IO, "%s: %s", o->path, strerror(errno));
    if (rc) unlink(o->temp);
    return rc;
}

/* --- signals --- */

static volatile sig_atomic_t stopped; /* the program's one writable global */

static void on_signal(int number) {
    static const char text[] = "\nstopping at the next safe point (once more: at once)\n";
    int kept = errno;
    if (stopped) _exit(128 + number);
    stopped = 1;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) errno = 0; /* nothing to be done about it */
    errno = kept;
}

/* A mapped file (weights) was cut by somebody, or its disk fails: there is nothing to return to. */
static void on_bus_error(int number) {
    static const char text[] =
        "\n" PROGRAM ": a file that is in use was cut, or its disk fails (SIGBUS).\n"
        "  (restore the model's files; a training run continues from its last checkpoint with --resume)\n";
    (void)number;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

void cli_catch_bus_error(void) {
    struct sigaction a = {.sa_handler = on_bus_error};
    sigemptyset(&a.sa_mask);
    sigaction(SIGBUS, &a, NULL);
}

void cli_catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

int cli_stop(void *unused) {
    (void)unused;
    return stopped != 0;
}
