/* user.c: a program of somebody else that uses libplumb through its public headers. */
#include <stdio.h>
#include <string.h>

#include <plumb/error.h>
#include <plumb/options.h>

typedef struct settings {
    double beta;
} settings;

static const pl_option rows[] = {{.name = "beta",
                                  .type = PL_OPT_F64,
                                  .offset = offsetof(settings, beta),
                                  .fallback = "0.1",
                                  .min = 1e-6,
                                  .max = 1e3,
                                  .help = "pull towards the reference"},
                                 {0}};
static const pl_option *const tables[] = {rows, NULL};
static const pl_command command = {.name = "user", .summary = "a test", .tables = tables};

int main(void) {
    settings s;
    void *bases[] = {&s};
    pl_options *o = NULL;
    pl_error err;
    if (pl_options_new(&o, &command, bases, NULL, &err)) return 1;
    if (pl_options_set(o, "beta", "0.25", &err) || s.beta != 0.25) return 2;
    if (pl_options_set(o, "bete", "0.25", &err) != PL_E_OPTION || !strstr(err.text, "beta")) return 3;
    pl_options_free(o);
    printf("%s: %s\n", pl_error_name(err.code), err.text);
    return 0;
}
