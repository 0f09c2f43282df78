/* main.c: finds the command, runs it, prints its error.
 * Exit status: 0 done; 2 usage or options; 130 interrupted (training: after a checkpoint was saved); 1 anything else.
 */
#include <string.h>

#include "cli.h"
#include "spin.h"

static const cli_command *const commands[] = {
    &cli_sft,  &cli_dpo,   &cli_kto,      &cli_orpo,     &cli_cpo,  &cli_bco,    &cli_reward, &cli_verifier, &cli_logps,
    &cli_eval, &cli_score, &cli_generate, &cli_tokenize, &cli_init, &cli_doctor, &cli_help,   NULL};
const pl_command *const cli_all[] = {&cli_sft.desc,
                                     &cli_dpo.desc,
                                     &cli_kto.desc,
                                     &cli_orpo.desc,
                                     &cli_cpo.desc,
                                     &cli_bco.desc,
                                     &cli_reward.desc,
                                     &cli_verifier.desc,
                                     &cli_logps.desc,
                                     &cli_eval.desc,
                                     &cli_score.desc,
                                     &cli_generate.desc,
                                     &cli_tokenize.desc,
                                     &cli_init.desc,
                                     &cli_doctor.desc,
                                     &cli_help.desc,
                                     NULL};
const char cli_summary[] = "align open language models to preferences";

void cli_print_usage(FILE *f) {
    fprintf(f, PROGRAM " " PLUMB_VERSION ": %s\n\nUsage: " PROGRAM " COMMAND [--option value ...]\n\nCommands:\n",
            cli_summary);
    for (int i = 0; commands[i]; i++) fprintf(f, "  %-10s %s\n", commands[i]->desc.name, commands[i]->desc.summary);
    fputs("\n" PROGRAM " COMMAND --help lists the options of a command.\n"
          "Options may also come from a YAML file: --config FILE.\n",
          f);
}

/* Edits (insert, delete, replace) from a to b, both short. */
static int edits(const char *a, const char *b) {
    enum { MAX = 24 };
    int row[MAX + 1], na = (int)strnlen(a, MAX), nb = (int)strnlen(b, MAX);
    for (int j = 0; j <= nb; j++) row[j] = j;
    for (int i = 1; i <= na; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

static const cli_command *find(const char *name, pl_error *err) {
    const char *near = "help";
    int least = 1000;
    for (int i = 0; commands[i]; i++) {
        const char *c = commands[i]->desc.name;
        if (strcmp(c, name) == 0) return commands[i];
        if (edits(name, c) < least) {
            least = edits(name, c);
            near = c;
        }
    }
    pl_error_set(err, PL_E_OPTION, __FILE__, __LINE__, "there is no command `%.100s`; %s `%s`", name,
                 least <= 3 ? "did you mean" : "the nearest is", near);
    return NULL;
}

const pl_command *cli_find(const char *name, pl_error *err) {
    const cli_command *c = find(name, err);
    return c ? &c->desc : NULL;
}

static int exit_code(int rc) { return rc == 0 ? 0 : rc == PL_E_OPTION ? 2 : rc == PL_E_INTERRUPTED ? 130 : 1; }

int main(int argc, char **argv) {
    const char *const *args = (const char *const *)argv;
    pl_error err = {0};
    cli_ui ui;
    cli_spin_shortly(argv);
    cli_ui_init(&ui, argc - 1, args + 1);
    cli_catch_bus_error();
    if (argc < 2) {
        cli_print_usage(stderr);
        return 2;
    }
    const char *name = args[1];
    if (strcmp(name, "--version") == 0) name = "version";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
    int rc = 0;
    if (strcmp(name, "version") == 0) {
        puts(PROGRAM " " PLUMB_VERSION);
    } else if (name[0] == '-') {
        rc = PL_FAIL(&err, PL_E_OPTION, "`%.100s`: a command is expected first (see " PROGRAM " --help)", name);
        name = "";
    } else {
        const cli_command *c = find(name, &err);
        rc = c ? c->run(&ui, argc - 2, args + 2, &err) : PL_E_OPTION;
        if (!c) name = "";
    }
    cli_ui_clear(&ui);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = PL_FAIL(&err, PL_E_IO, "standard output could not be written");
    if (rc) cli_ui_error(&ui, name, rc, &err);
    return exit_code(rc);
}
