/* generate.c: plumb generate: text for one prompt, as it comes, or JSON lines for a file of prompts. */
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "plumb/generate.h"

typedef struct input_options {
    const char *prompt, *dataset_name, *split;
    int64_t max_rows;
    bool json, tokens;
} input_options;

#define AT(field) .offset = offsetof(input_options, field)
static const pl_option rows[] = {
    {.name = "prompt", .type = PL_OPT_STR, AT(prompt), .group = "Prompts", .help = "the text to go on from"},
    {.name = "dataset_name",
     .type = PL_OPT_STR,
     AT(dataset_name),
     .metavar = "FILE",
     .help = "JSON lines (plain or .gz) with prompts, or preference rows; or a directory with splits"},
    {.name = "data", .type = PL_OPT_ALIAS, .target = "dataset_name"},
    {.name = "dataset_test_split",
     .type = PL_OPT_STR,
     AT(split),
     .fallback = "test",
     .help = "split of a data directory"},
    {.name = "max_rows", .type = PL_OPT_I64, AT(max_rows), .min = 1, .max = 1e15, .help = "only the first rows"},
    {.name = "json",
     .type = PL_OPT_BOOL,
     AT(json),
     .fallback = "false",
     .group = "Output",
     .help = "JSON lines for --prompt too"},
    {.name = "tokens",
     .type = PL_OPT_BOOL,
     AT(tokens),
     .fallback = "false",
     .help = "JSON lines have token ids and their log-probs"},
    {0}};
static const pl_option *const tables[] = {
    pl_generate_option_rows, rows, cli_output_rows, cli_config_rows, cli_thread_rows, cli_log_rows, NULL};

typedef struct job {
    cli_ui *ui;
    cli_output out;
    bool json, tokens, terminal;
    bool several; /* samples of one prompt: printed whole, with a line between them */
    int64_t done, total;
} job;

/* A model may say anything; a terminal must not obey it: control characters become U+FFFD there. */
static void print_text(const job *j, const char *text, size_t len) {
    for (size_t i = 0; j->terminal && i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = c == 0xC2 && i + 1 < len && (unsigned char)text[i + 1] < 0xA0; /* U+0080 to U+009F */
        if ((c >= 0x20 || c == '\n' || c == '\t') && c != 0x7F && !c1) {
            fputc(c, j->out.f);
            continue;
        }
        fputs("\xEF\xBF\xBD", j->out.f);
        i += c1;
    }
    if (!j->terminal) fwrite(text, 1, len, j->out.f);
    fflush(j->out.f);
}

static int on_piece(void *user, int64_t prompt, int64_t sample, const char *text, size_t len) {
    (void)prompt;
    (void)sample;
    print_text(user, text, len);
    return 0;
}

static int on_done(void *user, const pl_completion *c, pl_error *err) {
    job *j = user;
    int rc = 0;
    j->done++;
    if (j->json) {
        rc = pl_completion_print(j->out.f, c, j->tokens, err);
    } else {
        if (j->several) {
            fprintf(j->out.f, "--- %lld\n", (long long)c->sample + 1);
            print_text(j, c->text, c->text_len);
        }
        fputc('\n', j->out.f);
    }
    if (j->out.path) {
        cli_progress p = {.what = "generating",
                          .unit = "sequences",
                          .done = j->done,
                          .total = j->total,
                          .rates = "",
                          .eta_seconds = -1};
        cli_ui_progress(j->ui, &p);
    }
    return rc ? rc : ferror(j->out.f) ? PL_FAIL(err, PL_E_IO, "the text could not be written") : 0;
}

static int generate(job *j, pl_generator *g, const pl_prompt *prompts, int64_t n, const cli_common *common,
                    int64_t samples, pl_error *err) {
    char line[400];
    pl_generate_stats stats = {0};
    int rc = cli_output_open(&j->out, common->output_file, err);
    if (rc) return rc;
    j->total = n * samples;
    j->several = samples > 1;
    j->terminal = isatty(fileno(j->out.f)) != 0;
    pl_generate_hooks hooks = {
        .user = j, .piece = j->json || j->several ? NULL : on_piece, .done = on_done, .stop = cli_stop};
    cli_catch_signals();
    rc = pl_generate(g, prompts, n, &hooks, &stats, err);
    rc = cli_output_close(&j->out, rc, err);
    if (rc) return rc;
    snprintf(line, sizeof line, "%s; %lld prompt tokens, %lld new tokens, %.0f tokens/s", pl_generator_describe(g),
             (long long)stats.prompt_tokens, (long long)stats.new_tokens,
             stats.seconds > 0 ? (double)stats.new_tokens / stats.seconds : 0.0);
    cli_ui_line(j->ui, PL_LOG_INFO, line);
    return 0;
}

static int check(const input_options *in, pl_error *err) {
    if (!in->prompt == !in->dataset_name)
        return PL_FAIL(err, PL_E_OPTION, "%s: give --prompt TEXT or --data FILE",
                       in->prompt ? "--prompt and --data are both there" : "there is nothing to go on from");
    return 0;
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    pl_generate_options go = {0};
    input_options in = {0};
    cli_common common = {0};
    void *bases[] = {&go, &in, &common, &common, &common, &common};
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_generator *g = NULL;
    pl_prompts *file = NULL;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_generate.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = check(&in, err);
    if (rc == 0 && in.dataset_name) rc = pl_prompts_load(&file, in.dataset_name, in.split, in.max_rows, err);
    if (rc == 0 && !done) rc = cli_machine(&machine, &common, err);
    if (rc == 0 && !done) rc = pl_generator_open(&g, machine, &go, err);
    if (rc == 0 && !done) {
        pl_prompt one = {.text = in.prompt, .len = in.prompt ? strlen(in.prompt) : 0};
        job j = {.ui = ui, .json = in.json || in.tokens || file, .tokens = in.tokens};
        rc = generate(&j, g, file ? file->items : &one, file ? file->n : 1, &common, go.num_return_sequences, err);
    }
    pl_prompts_free(file);
    pl_generator_free(g);
    pl_machine_free(machine);
    pl_options_free(o);
    return rc;
}

const cli_command cli_generate = {
    .desc = {.name = "generate",
             .summary = "Generate text: greedy, or sampled",
             .description = "--prompt prints the new text as it comes; --data prints a JSON line per completion. "
                            "Greedy, unless temperature, top_k, top_p or min_p is set.",
             .tables = tables},
    .run = run};
