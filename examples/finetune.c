/* finetune.c: a program of its own that fine-tunes a model and then asks the result something, with libplumb's public
 * headers only.
 *
 *   finetune MODEL ROWS OUT PROMPT [--option value ...]
 *
 * MODEL is a Hugging Face model directory, ROWS a file of JSON lines with `prompt` and `completion` (or `text`), OUT
 * the run directory to make. The options are those of `plumb sft`. How to compile it: see README.md here. */
#include <stdio.h>
#include <string.h>

#include <plumb/generate.h>
#include <plumb/log.h>
#include <plumb/train.h>

/* --- what the library tells --- */

static void print_message(void *user, pl_log_level level, const char *text) {
    (void)user;
    fprintf(stderr, "%s: %s\n", pl_log_level_name(level), text);
}

typedef struct result {
    char model[4096]; /* where the final model is */
} result;

static void on_event(void *user, const pl_train_event *e) {
    result *r = user;
    if (e->kind == PL_TRAIN_FINAL) snprintf(r->model, sizeof r->model, "%s", e->path);
    if (e->kind != PL_TRAIN_STEP) return;
    printf("step %lld of %lld", (long long)e->done, (long long)e->total);
    for (int64_t i = 0; i < e->nvalues; i++)
        if (strcmp(e->values[i].name, "loss") == 0) printf("  loss %.4f", e->values[i].value);
    printf("  %.0f tokens/s, %.0f s left\n", e->tokens_per_second, e->eta_seconds);
}

/* --- training --- */

/* Values of this program first, the user's arguments over them. */
static int set_options(pl_options *o, char *const argv[], int argc, pl_error *err) {
    const char *const own[][2] = {{"model_name_or_path", argv[1]},
                                  {"dataset_name", argv[2]},
                                  {"output_dir", argv[3]},
                                  {"learning_rate", "2e-4"},
                                  {"use_peft", "true"}};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof own / sizeof own[0]; i++)
        rc = pl_options_set(o, own[i][0], own[i][1], err);
    for (int i = 5; rc == 0 && i + 1 < argc; i += 2) /* one value each, and a later one wins */
        rc = pl_options_set(o, argv[i] + (strncmp(argv[i], "--", 2) == 0 ? 2 : 0), argv[i + 1], err);
    return rc ? rc : pl_options_finish(o, err);
}

static int train(result *out, pl_machine *machine, char *const argv[], int argc, pl_error *err) {
    pl_config config;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_train_hooks hooks = {.user = out, .event = on_event};
    int rc = pl_options_new(&o, pl_train_command("sft"), pl_train_bases(bases, &config), NULL, err);
    if (rc == 0) rc = set_options(o, argv, argc, err);
    if (rc == 0) rc = pl_train(machine, "sft", &config, o, &hooks, err);
    pl_options_free(o);
    return rc;
}

/* --- generating --- */

static int print_piece(void *user, int64_t prompt, int64_t sample, const char *text, size_t len) {
    (void)prompt;
    (void)sample;
    return fwrite(text, 1, len, user) == len ? 0 : PL_E_IO;
}

static int generate(pl_machine *machine, const char *model, const char *text, pl_error *err) {
    pl_generate_options options;
    pl_generate_options_init(&options);
    options.model_name_or_path = model;
    options.max_new_tokens = 40;
    pl_generator *g = NULL;
    pl_prompt prompt = {.text = text, .len = strlen(text)};
    pl_generate_hooks hooks = {.user = stdout, .piece = print_piece};
    pl_generate_stats stats = {0};
    int rc = pl_generator_open(&g, machine, &options, err);
    if (rc == 0) {
        printf("%s", text);
        rc = pl_generate(g, &prompt, 1, &hooks, &stats, err);
        printf("\n(%lld new tokens, %s)\n", (long long)stats.new_tokens, pl_generator_describe(g));
    }
    pl_generator_free(g);
    return rc;
}

int main(int argc, char *argv[]) {
    if (argc < 5 || argc % 2 == 0) {
        fprintf(stderr, "usage: finetune MODEL ROWS OUT PROMPT [--option value ...]\n");
        return 2;
    }
    result result = {0};
    pl_machine *machine = NULL;
    pl_error err;
    pl_log_set(print_message, NULL);
    int rc = pl_machine_new(&machine, NULL, &err);
    if (rc == 0) rc = train(&result, machine, argv, argc, &err);
    if (rc == 0) rc = generate(machine, result.model, argv[4], &err);
    pl_machine_free(machine);
    if (rc) fprintf(stderr, "finetune: %s\n  (%s: %s)\n", err.text, pl_error_name(rc), pl_error_hint(rc));
    return rc ? 1 : 0;
}
