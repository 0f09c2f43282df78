/* cli/cli.h: what the commands share. The program uses libplumb's public headers only. */
#ifndef PL_CLI_H
#define PL_CLI_H

#include <stdbool.h>
#include <stdio.h>

#include "plumb/machine.h"
#include "plumb/options.h"

#define PL_PROGRAM "plumb"

typedef struct cli_command {
    const pl_command *desc;
    int (*run)(int argc, const char *const *argv,
               pl_error *err); /* argv behind the command's name; returns 0 or PL_E_* */
} cli_command;
extern const cli_command *const cli_commands[]; /* NULL-terminated */
extern const pl_command *const cli_descs[];     /* the same order, NULL-terminated */

extern const cli_command cli_dpo, cli_sft;

/* Options every command has. */
typedef struct cli_common {
    const char *config;
    int64_t threads;
    int log_format; /* 0 plain, 1 json */
} cli_common;
extern const pl_option cli_common_rows[];

/* Parses argv and --config into the bound structs, prints help when asked (then *done is true), prints notes. */
int cli_parse(pl_options **out, const pl_command *desc, void *const *bases, cli_common *common, int argc,
              const char *const *argv, bool *done, pl_error *err);
/* The machine for these options; PLUMB_CPU is read here, once. */
int cli_machine(pl_machine **out, const cli_common *common, pl_error *err);
/* 0, then 1 after the first SIGINT or SIGTERM; the second one ends the program. */
int cli_stop(void *unused);
void cli_catch_signals(void);

#endif
