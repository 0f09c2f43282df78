/* main.c: finds the command, runs it, prints its error. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "plumb/log.h"

const cli_command *const cli_commands[] = {&cli_dpo, &cli_sft, NULL};

static void print_log(void *user, pl_log_level level, const char *text) {
    (void)user;
    if (level == PL_LOG_DEBUG) return;
    if (level == PL_LOG_INFO)
        fprintf(stderr, "%s\n", text);
    else
        fprintf(stderr, "%s: %s\n", pl_log_level_name(level), text);
}

int main(int argc, char **argv) {
    pl_error err = {0};
    pl_log_set(print_log, NULL);
    for (int i = 0; argc > 1 && cli_commands[i]; i++) {
        if (strcmp(cli_commands[i]->desc->name, argv[1]) != 0) continue;
        int rc = cli_commands[i]->run(argc - 2, (const char *const *)argv + 2, &err);
        if (rc) fprintf(stderr, "plumb %s: %s\n  (%s: %s)\n", argv[1], err.text, pl_error_name(rc), pl_error_hint(rc));
        return rc ? rc == PL_E_OPTION ? 2 : 1 : 0;
    }
    fprintf(stderr, "usage: plumb dpo|sft …\n");
    return 2;
}
