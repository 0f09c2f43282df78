/* cli/cli.h: what the commands of the program share. The program uses libplumb's public headers only. */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stdio.h>

#include "plumb/machine.h"
#include "plumb/options.h"
#include "ui.h"

#define PROGRAM "plumb"

typedef struct cli_command {
    pl_command desc;
    /* argv behind the command's name; returns 0 or PL_E_* */
    int (*run)(cli_ui *ui, int argc, const char *const *argv, pl_error *err);
} cli_command;
extern const cli_command cli_sft, cli_dpo, cli_kto, cli_orpo, cli_cpo, cli_bco, cli_reward, cli_verifier, cli_logps,
    cli_eval, cli_score, cli_generate, cli_tokenize, cli_init, cli_doctor, cli_help;
extern const pl_command *const cli_all[]; /* the commands that are listed, NULL-terminated */
extern const char cli_summary[];          /* of the program */
void cli_print_usage(FILE *f);
const pl_command *cli_find(const char *name, pl_error *err); /* NULL and PL_E_OPTION with the nearest name */

/* Options that several commands have; each table is bound to the same struct. */
typedef struct cli_common {
    const char *config;
    int64_t threads;
    int log_format; /* read by cli_ui_init already, so that errors of the options have it too */
    const char *output_file;
} cli_common;
extern const pl_option cli_config_rows[], cli_thread_rows[], cli_log_rows[], cli_output_rows[];

/* Parses argv and --config into the bound structs, prints help when asked (then *done is true), prints notes. Returned
 * owned: pl_options_free. */
int cli_parse(pl_options **out, cli_ui *ui, const pl_command *desc, void *const *bases, const cli_common *common,
              int argc, const char *const *argv, bool *done, pl_error *err);
/* The machine for these options; PLUMB_CPU is read here, once. */
int cli_machine(pl_machine **out, const cli_common *common, pl_error *err);

/* Standard output, or a file that appears under its name when it is complete. */
typedef struct cli_output {
    FILE *f;
    const char *path; /* borrowed; NULL: standard output */
    char temp[4096];
} cli_output;
int cli_output_open(cli_output *o, const char *path, pl_error *err);
/* rc: of what was written; on failure the unfinished file is removed. Returns the first error. */
int cli_output_close(cli_output *o, int rc, pl_error *err);

/* SIGBUS ends the program with a message and status 1. */
void cli_catch_bus_error(void);
/* From the first call on SIGINT and SIGTERM set a flag; a second one ends the program at once. */
void cli_catch_signals(void);
int cli_stop(void *unused); /* the flag, as a hook of the library */

#endif
