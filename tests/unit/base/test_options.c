/* Option tables: defaults, argv, YAML, strength of sources, errors and generated texts. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/options.h"
#include "unit/alloc_hook.h"

typedef struct settings {
    bool overwrite, disable_dropout;
    int bf16, schedule;
    int64_t max_length, seed;
    double beta, lr;
    const char *model, *run_name;
    pl_strlist targets, loss_type;
    pl_strmap init;
} settings;
typedef struct files {
    const char *config, *out;
} files;

static const pl_option rows[] = {
    {.name = "model_name_or_path",
     .type = PL_OPT_STR,
     .offset = offsetof(settings, model),
     .group = "Model",
     .help = "the model's directory",
     .metavar = "DIR",
     .flags = PL_OPT_REQUIRED},
    {.name = "model", .type = PL_OPT_ALIAS, .target = "model_name_or_path"},
    {.name = "bf16", .type = PL_OPT_TRIBOOL, .offset = offsetof(settings, bf16), .help = "multiply in bf16"},
    {.name = "learning_rate",
     .type = PL_OPT_F64,
     .offset = offsetof(settings, lr),
     .fallback = "5e-5",
     .min = 0,
     .max = 1,
     .flags = PL_OPT_OPEN_MIN,
     .group = "Training",
     .help = "peak learning rate"},
    {.name = "beta",
     .type = PL_OPT_F64,
     .offset = offsetof(settings, beta),
     .fallback = "0.1",
     .min = 1e-6,
     .max = 1e3,
     .help = "pull towards the reference"},
    {.name = "max_length",
     .type = PL_OPT_I64,
     .offset = offsetof(settings, max_length),
     .fallback = "1024",
     .min = 1,
     .max = HUGE_VAL,
     .flags = PL_OPT_NULLABLE,
     .help = "longest row"},
    {.name = "seed",
     .type = PL_OPT_I64,
     .offset = offsetof(settings, seed),
     .fallback = "42",
     .help = "seed of everything"},
    {.name = "lr_scheduler_type",
     .type = PL_OPT_ENUM,
     .offset = offsetof(settings, schedule),
     .fallback = "linear",
     .choices = "linear|cosine|constant|no",
     .help = "shape of the schedule"},
    {.name = "schedule", .type = PL_OPT_ALIAS, .target = "lr_scheduler_type", .flags = PL_OPT_DEPRECATED},
    {.name = "overwrite_output_dir",
     .type = PL_OPT_BOOL,
     .offset = offsetof(settings, overwrite),
     .help = "replace what is there"},
    {.name = "disable_dropout",
     .type = PL_OPT_BOOL,
     .offset = offsetof(settings, disable_dropout),
     .fallback = "true",
     .help = "no dropout"},
    {.name = "run_name", .type = PL_OPT_STR, .offset = offsetof(settings, run_name), .help = "name of the run"},
    {.name = "lora_target_modules",
     .type = PL_OPT_STRLIST,
     .offset = offsetof(settings, targets),
     .help = "layers with an adapter"},
    {.name = "loss_type",
     .type = PL_OPT_STRLIST,
     .offset = offsetof(settings, loss_type),
     .fallback = "sigmoid",
     .choices = "sigmoid|ipo",
     .help = "objectives"},
    {.name = "model_init_kwargs", .type = PL_OPT_MAP, .offset = offsetof(settings, init), .help = "more for the model"},
    {.name = "use_cpu", .type = PL_OPT_ANY, .flags = PL_OPT_IDLE, .note = "plumb uses what is there"},
    {.name = "env", .type = PL_OPT_ANY, .flags = PL_OPT_IDLE, .note = "set it in the shell"},
    {0}};
static const pl_option file_rows[] = {
    {.name = "config",
     .type = PL_OPT_STR,
     .offset = offsetof(files, config),
     .group = "Files",
     .help = "a YAML file",
     .flags = PL_OPT_NO_FILE},
    {.name = "output_dir", .type = PL_OPT_STR, .offset = offsetof(files, out), .help = "where results go"},
    {0}};
static const pl_option kto_rows[] = {
    {.name = "desirable_weight", .type = PL_OPT_F64, .fallback = "1", .help = "weight"},
    {.name = "max_lengths", .type = PL_OPT_F64, .fallback = "1", .help = "two of them"},
    {0}};
static const pl_option *const tables[] = {rows, file_rows, NULL};
static const pl_option *const kto_tables[] = {kto_rows, NULL};
static const pl_option_default dpo_defaults[] = {{"learning_rate", "1e-6"}, {NULL, NULL}};
static const pl_command dpo = {"dpo", "preference optimisation", "Aligns a model with pairs.", tables, dpo_defaults};
static const pl_command kto = {"kto", "thumbs up and down", NULL, kto_tables, NULL};
static const pl_command *const all[] = {&dpo, &kto, NULL};

typedef struct world {
    settings s;
    files f;
    pl_options *o;
    pl_error e;
    char path[64];
} world;

static void open_world(world *w) {
    memset(w, 0, sizeof *w);
    void *bases[] = {&w->s, &w->f};
    assert_int_equal(pl_options_new(&w->o, &dpo, bases, all, &w->e), 0);
    snprintf(w->path, sizeof w->path, "/tmp/plumb-options-%ld.yaml", (long)getpid());
}

static void close_world(world *w) {
    pl_options_free(w->o);
    unlink(w->path);
    assert_int_equal(pl_test_live_bytes(), 0);
}

#define ARGS(w, ...)                                                                                                   \
    pl_options_parse_args((w)->o, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                       \
                          (const char *const[]){__VA_ARGS__}, &(w)->e)

static int load(world *w, const char *text) {
    assert_int_equal(pl_file_write(w->path, text, strlen(text), NULL), 0);
    return pl_options_load_yaml(w->o, w->path, &w->e);
}

static void wants_text(const world *w, const char *part) {
    if (!strstr(w->e.text, part)) fail_msg("no `%s` in `%s`", part, w->e.text);
}

static void defaults(void **state) {
    PL_UNUSED(state);
    world w;
    open_world(&w);
    assert_true(w.s.lr == 1e-6 && w.s.beta == 0.1); /* the command's default wins */
    assert_int_equal(w.s.max_length, 1024);
    assert_int_equal(w.s.bf16, -1);
    assert_int_equal(w.s.schedule, 0);
    assert_true(w.s.disable_dropout && !w.s.overwrite);
    assert_null(w.s.model);
    assert_null(w.s.targets.items);
    assert_int_equal(w.s.loss_type.n, 1);
    assert_string_equal(w.s.loss_type.items[0], "sigmoid");
    assert_null(w.s.init.keys);
    assert_string_equal(pl_options_where(w.o, "beta"), "default");
    assert_int_equal(pl_options_finish(w.o, &w.e), PL_E_OPTION);
    wants_text(&w, "--model is missing");
    close_world(&w);
}

static void arguments(void **state) {
    PL_UNUSED(state);
    world w;
    open_world(&w);
    assert_int_equal(ARGS(&w, "--model", "dir with space", "--learning-rate=5e-7", "--max_length", "none", "--seed",
                          "-1", "--overwrite_output_dir", "--no_disable_dropout", "--bf16", "no", "--lr_scheduler_type",
                          "no", "--lora_target_modules", "q_proj", "v_proj", "--loss_type", "ipo", "--run_name=--x",
                          "--model_init_kwargs", "{\"a\":1,\"b\":null,\"c\":\"x\"}", "--use_cpu", "--output_dir", ""),
                     0);
    assert_string_equal(w.s.model, "dir with space");
    assert_true(w.s.lr == 5e-7);
    assert_true(w.s.max_length == PL_OPT_NO_I64);
    assert_int_equal(w.s.seed, -1);
    assert_true(w.s.overwrite && !w.s.disable_dropout);
    assert_int_equal(w.s.bf16, 0);
    assert_int_equal(w.s.schedule, 3);
    assert_string_equal(pl_options_choice(w.o, "schedule"), "no");
    assert_int_equal(w.s.targets.n, 2);
    assert_string_equal(w.s.targets.items[1], "v_proj");
    assert_string_equal(w.s.loss_type.items[0], "ipo");
    assert_string_equal(w.s.run_name, "--x");
    assert_int_equal(w.s.init.n, 3);
    assert_string_equal(w.s.init.values[0], "1");
    assert_null(w.s.init.values[1]);
    assert_string_equal(w.s.init.values[2], "x");
    assert_string_equal(w.f.out, "");
    assert_string_equal(pl_options_where(w.o, "model_name_or_path"), "--model");
    int64_t n;
    const char *const *notes = pl_options_notes(w.o, &n);
    assert_int_equal(n, 1);
    assert_string_equal(notes[0], "--use_cpu: use_cpu has no effect: plumb uses what is there");
    assert_int_equal(pl_options_finish(w.o, &w.e), 0);
    assert_false(pl_options_help_asked(w.o));
    assert_int_equal(ARGS(&w, "-h"), 0);
    assert_true(pl_options_help_asked(w.o));
    close_world(&w);
}

static void bad_arguments(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *a, *b, *part;
    } cases[] = {
        {"--beta", "1e-5x", "--beta: `1e-5x` is not a number; want a number from 1e-06 to 1000"},
        {"--beta", "nan", "is not a number"},
        {"--beta", "1e999", "is out of range"},
        {"--beta", "0", "is out of range"},
        {"--beta", "none", "is no value"},
        {"--beta", "", "is not a number"},
        {"--learning_rate", "0", "--learning_rate: `0` is out of range; want a number > 0 and <= 1"},
        {"--max_length", "1.5", "is not a whole number"},
        {"--max_length", "12x", "is not a whole number"},
        {"--max_length", "010", "starts with a zero"},
        {"--max_length", "0", "is out of range; want a whole number >= 1 or none"},
        {"--max_length", "99999999999999999999", "is out of range"},
        {"--max_length", "1__0", "is not a whole number"},
        {"--overwrite_output_dir", "maybe", "is neither true nor false"},
        {"--lr_scheduler_type", "cosin", "`cosin` is not a choice; want one of linear|cosine|constant|no"},
        {"--loss_type", "hinge", "`hinge` is not a choice"},
        {"--max_lenght", "5", "plumb dpo has no such option; did you mean `max_length`?"},
        {"--lora", "5", "did you mean `lora_target_modules`?"},
        {"--zzzzzzzzzzzzzzzz", "5", "the nearest is `"},
        {"--desirable_weight", "5", "it belongs to plumb kto"},
        {"--max_lengths", "5", "it belongs to plumb kto); the nearest here is `max_length`"},
        {"--no_beta", "5", "no such option"},
        {"--run_name", "--beta", "--run_name: a value is missing"},
        {"--lora_target_modules", "--beta", "a value is missing"},
        {"stray", "--beta", "an option is expected here"},
        {"--", "x", "an option is expected here"},
        {"--model_init_kwargs", "[1]", "is not a JSON object"},
        {"--model_init_kwargs", "{\"a\":[1]}", "only plain values"},
        {"--run_name", "a\xff", "not UTF-8"},
        {"--=", "x", "no such option"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        world w;
        open_world(&w);
        int rc = ARGS(&w, cases[i].a, cases[i].b);
        if (rc == 0) fail_msg("%s %s was taken", cases[i].a, cases[i].b);
        wants_text(&w, cases[i].part);
        close_world(&w);
    }
    world w;
    open_world(&w);
    assert_int_equal(ARGS(&w, "--desirable_weight", "5"), PL_E_OPTION);
    wants_text(&w, "the nearest here is `");
    close_world(&w);
    open_world(&w);
    assert_int_equal(ARGS(&w, "--beta", "1", "--beta", "2"), PL_E_OPTION);
    wants_text(&w, "beta is given twice");
    close_world(&w);
}

static void yaml_file(void **state) {
    PL_UNUSED(state);
    world w;
    open_world(&w);
    assert_int_equal(ARGS(&w, "--beta", "0.5", "--config", "x"), 0);
    assert_int_equal(
        load(&w, "# a TRL recipe\nmodel_name_or_path: m/x\nbeta: 0.2\nlearning_rate: 5.0e-7\n"
                 "max_length: 1_000\nbf16: yes\nschedule: cosine\nlora_target_modules:\n- q_proj\n- v_proj\n"
                 "run_name: ~\noutput_dir: 'none'\noverwrite_output_dir: on\nmodel_init_kwargs:\n  dtype: bfloat16\n"
                 "  x: null\nenv:\n  A: b\nseed: 7\n"),
        0);
    assert_true(w.s.beta == 0.5 && w.s.lr == 5e-7); /* the command line wins, whatever the order */
    assert_int_equal(w.s.max_length, 1000);
    assert_int_equal(w.s.bf16, 1);
    assert_int_equal(w.s.schedule, 1);
    assert_int_equal(w.s.targets.n, 2);
    assert_null(w.s.run_name);
    assert_string_equal(w.f.out, "none");
    assert_true(w.s.overwrite);
    assert_string_equal(w.s.init.values[0], "bfloat16");
    assert_null(w.s.init.values[1]);
    assert_int_equal(pl_options_origin(w.o, "beta"), PL_ORIGIN_ARGS);
    assert_int_equal(pl_options_origin(w.o, "seed"), PL_ORIGIN_FILE);
    assert_non_null(strstr(pl_options_where(w.o, "learning_rate"), ".yaml:4"));
    int64_t n;
    const char *const *notes = pl_options_notes(w.o, &n);
    assert_int_equal(n, 2);
    assert_non_null(strstr(notes[0], ".yaml:7: schedule is an older name of lr_scheduler_type"));
    assert_non_null(strstr(notes[1], "env has no effect"));
    close_world(&w);
}

static void bad_yaml(void **state) {
    PL_UNUSED(state);
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"beta: 0.1\nbeta: 0.2\n", ":2: `beta` is given a second time (first in line 1)"},
        {"\n\nbetta: 1\n", ".yaml:3: betta: plumb dpo has no such option; did you mean `beta`?"},
        {"desirable_weight: 1\n", ":1: desirable_weight: plumb dpo does not use it (it belongs to plumb kto)"},
        {"a: 1\nbeta: -1\n", "a: plumb dpo has no such option"},
        {"seed: 1\nbeta: -1\n", ":2: beta: `-1` is out of range"},
        {"beta: [1]\n", ":1: beta: a list is given"},
        {"beta: {a: 1}\n", ":1: beta: a mapping is given; one value is wanted"},
        {"beta: {a: [1]}\n", ":1: beta: lists and mappings inside others are given; want a number"},
        {"lora_target_modules: [[q_proj]]\n", "lists and mappings inside others are given; want a list of texts"},
        {"beta:\n", ":1: beta: `` is no value"},
        {"config: x\n", "command line only"},
        {"learning-rate: 1\n", "did you mean `learning_rate`"},
        {"schedule: cosine\nlr_scheduler_type: linear\n", "lr_scheduler_type is given twice"},
        {"overwrite_output_dir: 2\n", "neither true nor false"},
        {"seed: \"\"\n", "is not a whole number"},
    };
    for (int64_t i = 0; i < PL_LEN(cases); i++) {
        world w;
        open_world(&w);
        assert_int_not_equal(load(&w, cases[i].text), 0);
        wants_text(&w, cases[i].part);
        close_world(&w);
    }
    world w; /* a bad value in the file is an error even where the command line overrides it */
    open_world(&w);
    assert_int_equal(ARGS(&w, "--beta", "0.5"), 0);
    assert_int_not_equal(load(&w, "beta: x\n"), 0);
    close_world(&w);
    open_world(&w);
    assert_int_equal(pl_options_load_yaml(w.o, "/nonexistent/x.yaml", &w.e), PL_E_IO);
    close_world(&w);
}

/* What is written reads back to the same settings, whatever the strings hold. */
static void resolved(void **state) {
    PL_UNUSED(state);
    world w;
    open_world(&w);
    assert_int_equal(ARGS(&w, "--model", "yes", "--run_name", "a: \"b\" #\xC2\x85\xE2\x80\xA8\x7F\\ \t\xF0\x9F\x98\x80",
                          "--beta", "0.30000000000000004", "--max_length", "none", "--lora_target_modules", "1", "x,y",
                          "--model_init_kwargs", "{\"k: 1\":\"a b\",\"n\":null}", "--output_dir", "", "--bf16"),
                     0);
    pl_buf b = {0}, again = {0};
    assert_int_equal(pl_options_write_yaml(&b, w.o, &w.e), 0);
    assert_non_null(strstr(b.data, "\nbeta: 0.30000000000000004\n"));
    assert_non_null(strstr(b.data, "\nseed: 42  # default\n"));
    assert_non_null(strstr(b.data, "\nmax_length: null\n"));
    assert_non_null(strstr(b.data, "\nlearning_rate: 1e-06  # default\n"));
    assert_null(strstr(b.data, "\nconfig:"));
    world r;
    open_world(&r);
    if (load(&r, b.data)) fail_msg("%s\n%s", r.e.text, b.data);
    assert_string_equal(r.s.model, "yes");
    assert_string_equal(r.s.run_name, w.s.run_name);
    assert_string_equal(r.f.out, "");
    assert_true(r.s.beta == w.s.beta && r.s.lr == w.s.lr);
    assert_string_equal(r.s.targets.items[0], "1");
    assert_string_equal(r.s.targets.items[1], "x,y");
    assert_string_equal(r.s.init.keys[0], "k: 1");
    assert_null(r.s.init.values[1]);
    assert_int_equal(pl_options_write_yaml(&again, r.o, &r.e), 0);
    pl_buf_release(&b);
    pl_buf_release(&again);
    pl_options_free(r.o);
    close_world(&w);
}

static void texts(void **state) {
    PL_UNUSED(state);
    pl_buf b = {0};
    pl_error e;
    assert_int_equal(pl_command_write_help(&b, "plumb", &dpo, &e), 0);
    assert_non_null(strstr(b.data, "  --model_name_or_path, --model DIR\n"));
    assert_non_null(
        strstr(b.data, "  --learning_rate X           peak learning rate [a number > 0 and <= 1; default: 1e-6]\n"));
    assert_non_null(strstr(b.data, "\nFiles:\n"));
    assert_non_null(strstr(b.data, "schedule (now lr_scheduler_type)"));
    assert_non_null(strstr(b.data, "use_cpu, env"));
    for (const char *s = b.data; *s; s += strcspn(s, "\n") + 1) assert_true(strcspn(s, "\n") <= 100);
    pl_buf_clear(&b);
    assert_int_equal(pl_commands_write_completion(&b, "plumb", all, &e), 0);
    assert_non_null(strstr(b.data, "dpo:--lr_scheduler_type) words=\"linear cosine constant no\""));
    assert_non_null(strstr(b.data, "kto) words=\"--help --desirable_weight --max_lengths\""));
    pl_buf_clear(&b);
    assert_int_equal(pl_commands_write_man(&b, "plumb", "0.1", "aligns language models", all, &e), 0);
    assert_non_null(strstr(b.data, ".TP\n\\fB\\-\\-learning_rate\\fR \\fIX\\fR\npeak learning rate"));
    pl_buf_release(&b);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void bad_tables(void **state) {
    PL_UNUSED(state);
    static const pl_option bad_default[] = {{.name = "a", .type = PL_OPT_F64, .fallback = "2", .max = 1, .help = ""},
                                            {0}};
    static const pl_option bad_alias[] = {{.name = "a", .type = PL_OPT_ALIAS, .target = "b"}, {0}};
    static const pl_option twice[] = {{.name = "a", .type = PL_OPT_ANY, .flags = PL_OPT_IDLE},
                                      {.name = "a", .type = PL_OPT_ANY, .flags = PL_OPT_IDLE},
                                      {0}};
    static const pl_option *const lists[][2] = {{bad_default, NULL}, {bad_alias, NULL}, {twice, NULL}};
    for (int64_t i = 0; i < PL_LEN(lists); i++) {
        pl_command c = {.name = "x", .summary = "", .tables = lists[i]};
        double field;
        pl_options *o = NULL;
        pl_error e;
        assert_int_equal(pl_options_new(&o, &c, (void *[]){&field}, NULL, &e), PL_E_INTERNAL);
        assert_null(o);
    }
    assert_int_equal(pl_test_live_bytes(), 0);
}

static void embedding(void **state) {
    PL_UNUSED(state);
    world w;
    open_world(&w);
    assert_int_equal(pl_options_set(w.o, "beta", "0.3", &w.e), 0);
    assert_int_equal(pl_options_set(w.o, "beta", "0.4", &w.e), 0);
    assert_int_equal(pl_options_set(w.o, "max_length", NULL, &w.e), 0);
    assert_true(w.s.beta == 0.4 && w.s.max_length == PL_OPT_NO_I64);
    assert_int_equal(pl_options_set(w.o, "nope", "1", &w.e), PL_E_OPTION);
    close_world(&w);
}

static int whole_run(pl_error *e, const char *path) {
    settings s;
    files f;
    pl_options *o = NULL;
    pl_buf b = {0};
    int rc = pl_options_new(&o, &dpo, (void *[]){&s, &f}, all, e);
    const char *const argv[] = {"--model", "m",         "--lora_target_modules", "a",
                                "b",       "--use_cpu", "--model_init_kwargs",   "{\"a\":1}"};
    if (rc == 0) rc = pl_options_parse_args(o, PL_LEN(argv), argv, e);
    if (rc == 0) rc = pl_options_load_yaml(o, path, e);
    if (rc == 0) rc = pl_options_write_yaml(&b, o, e);
    if (rc == 0) rc = pl_command_write_help(&b, "plumb", &dpo, e);
    if (rc == 0) rc = pl_commands_write_completion(&b, "plumb", all, e);
    if (rc == 0) rc = pl_commands_write_man(&b, "plumb", "1", "x", all, e);
    pl_buf_release(&b);
    pl_options_free(o);
    return rc;
}

static void failing_memory(void **state) {
    PL_UNUSED(state);
    char path[64];
    snprintf(path, sizeof path, "/tmp/plumb-options-mem-%ld.yaml", (long)getpid());
    static const char text[] = "beta: 0.2\nschedule: cosine\nenv:\n  A: b\nloss_type: [ipo]\n";
    assert_int_equal(pl_file_write(path, text, sizeof text - 1, NULL), 0);
    int rc = PL_E_NOMEM;
    int64_t k = 0;
    for (; rc && k < 5000; k++) {
        pl_error e = {0};
        pl_test_fail_alloc_at(k);
        rc = whole_run(&e, path);
        pl_test_fail_alloc_at(-1);
        if (rc && (rc != PL_E_NOMEM || !e.text[0])) fail_msg("allocation %d: rc %d, %s", (int)k, rc, e.text);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
    assert_int_equal(rc, 0);
    assert_true(k > 40);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),       cmocka_unit_test(arguments),  cmocka_unit_test(bad_arguments),
        cmocka_unit_test(yaml_file),      cmocka_unit_test(bad_yaml),   cmocka_unit_test(resolved),
        cmocka_unit_test(texts),          cmocka_unit_test(bad_tables), cmocka_unit_test(embedding),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
