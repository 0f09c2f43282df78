/* train.c: plumb dpo, plumb sft: progress on the terminal, the rest is libplumb's. */
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "plumb/log.h"
#include "plumb/train.h"

typedef struct progress {
    bool terminal, bar;
} progress;

static void clear_bar(progress *p) {
    if (p->bar) fprintf(stderr, "\r\033[K");
    p->bar = false;
}

static void draw_bar(progress *p, const pl_train_event *e, const char *what) {
    enum { WIDTH = 24 };
    if (!p->terminal) return;
    int64_t full = e->done * WIDTH / (e->total > 0 ? e->total : 1);
    fprintf(stderr, "\r\033[K%s [", what);
    for (int i = 0; i < WIDTH; i++) fputc(i < full ? '#' : '.', stderr);
    fprintf(stderr, "] %lld/%lld", (long long)e->done, (long long)e->total);
    if (e->kind == PL_TRAIN_STEP) {
        long eta = (long)(e->eta_seconds + 0.5);
        fprintf(stderr, "  %02ld:%02ld:%02ld left  %.1f pairs/s  %.0f tokens/s", eta / 3600, eta / 60 % 60, eta % 60,
                e->pairs_per_second, e->tokens_per_second);
    }
    fflush(stderr);
    p->bar = true;
}

static void print_values(progress *p, const pl_train_event *e) {
    clear_bar(p);
    fprintf(stderr, "%s %lld/%lld  epoch %.2f ", e->kind == PL_TRAIN_EVAL ? "evaluation" : "step", (long long)e->done,
            (long long)e->total, e->epoch);
    for (int64_t i = 0; i < e->nvalues; i++) fprintf(stderr, " %s %.4g", e->values[i].name, e->values[i].value);
    fputc('\n', stderr);
}

static void on_event(void *user, const pl_train_event *e) {
    progress *p = user;
    switch (e->kind) {
    case PL_TRAIN_REFERENCE: draw_bar(p, e, "reference"); break;
    case PL_TRAIN_STEP: draw_bar(p, e, "training"); break;
    case PL_TRAIN_LOG:
    case PL_TRAIN_EVAL: print_values(p, e); break;
    }
    if (e->done == e->total) clear_bar(p);
}

/* The library's tables and those of the program, one list. */
enum { TABLES = PL_TRAIN_TABLES + 1 };
static const pl_option *tables[2][TABLES + 1];
static pl_command descs[2];

static const pl_command *desc_of(int which, const char *name) {
    const pl_command *c = pl_train_command(name);
    for (int i = 0; i < PL_TRAIN_TABLES; i++) tables[which][i] = c->tables[i];
    tables[which][PL_TRAIN_TABLES] = cli_common_rows;
    descs[which] = *c;
    descs[which].tables = tables[which];
    return &descs[which];
}

static int run(int which, const char *name, int argc, const char *const *argv, pl_error *err) {
    pl_config config;
    cli_common common = {0};
    void *bases[TABLES];
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    bool done = false;
    pl_train_bases(bases, &config);
    bases[PL_TRAIN_TABLES] = &common;
    int rc = cli_parse(&o, desc_of(which, name), bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) {
        progress p = {.terminal = isatty(STDERR_FILENO) != 0};
        pl_train_hooks hooks = {.user = &p, .event = on_event, .stop = cli_stop};
        cli_catch_signals();
        rc = pl_train(machine, name, &config, o, &hooks, err);
        clear_bar(&p);
    }
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

static int run_dpo(int argc, const char *const *argv, pl_error *err) { return run(0, "dpo", argc, argv, err); }
static int run_sft(int argc, const char *const *argv, pl_error *err) { return run(1, "sft", argc, argv, err); }
static const pl_command dpo_desc = {.name = "dpo"}, sft_desc = {.name = "sft"};
const cli_command cli_dpo = {&dpo_desc, run_dpo}, cli_sft = {&sft_desc, run_sft};
