/* help.c: plumb help: the list of commands, a command's options, the man page and the shell completion. */
#include "cli.h"

typedef struct help_options {
    bool man, completion;
} help_options;

static const pl_option rows[] = {{.name = "man",
                                  .type = PL_OPT_BOOL,
                                  .offset = offsetof(help_options, man),
                                  .fallback = "false",
                                  .group = "Output",
                                  .help = "print the man page"},
                                 {.name = "completion",
                                  .type = PL_OPT_BOOL,
                                  .offset = offsetof(help_options, completion),
                                  .fallback = "false",
                                  .help = "print the bash completion script"},
                                 {0}};
static const pl_option *const tables[] = {rows, cli_log_rows, NULL};

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    help_options h = {0};
    cli_common common = {0};
    void *bases[] = {&h, &common};
    pl_options *o = NULL;
    bool done = false;
    if (argc > 0 && argv[0][0] != '-') {
        const pl_command *c = cli_find(argv[0], err);
        return c ? pl_command_print_help(stdout, PROGRAM, c, err) : PL_E_OPTION;
    }
    int rc = cli_parse(&o, ui, &cli_help.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) {
        if (h.man)
            rc = pl_commands_print_man(stdout, PROGRAM, PLUMB_VERSION, cli_summary, cli_all, err);
        else if (h.completion)
            rc = pl_commands_print_completion(stdout, PROGRAM, cli_all, err);
        else
            cli_print_usage(stdout);
    }
    pl_options_free(o);
    return rc;
}

const cli_command cli_help = {.desc = {.name = "help",
                                       .summary = "List the commands, or the options of one",
                                       .description = "plumb help COMMAND prints what plumb COMMAND --help prints.",
                                       .tables = tables},
                              .run = run};
