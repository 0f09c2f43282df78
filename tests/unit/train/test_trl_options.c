/* Every field that TRL 1.16's trainers read (tests/golden/trl/options.json) is an option here: used, taken with a
 * line that says it has no effect, or taken at its default only, because plumb does not have it yet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "loss/objective.h"
#include "plumb/train.h"
#include "unit/alloc_hook.h"

static const char *const commands[] = {"dpo", "sft", "kto", "orpo", "cpo", "reward"};

/* Loads one line of YAML into fresh options of a command. The options are left in *o, owned by the caller. */
static int load_line(pl_options **o, pl_config *c, const char *command, const char *line, pl_error *err) {
    void *bases[PL_TRAIN_TABLES];
    char path[] = "/tmp/plumb-options-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, line, strlen(line)), (ssize_t)strlen(line));
    close(fd);
    assert_int_equal(pl_options_new(o, pl_train_command(command), pl_train_bases(bases, c), NULL, err), 0);
    int rc = pl_options_load_yaml(*o, path, err);
    unlink(path);
    return rc;
}

static int try_line(const char *command, const char *line, pl_error *err) {
    pl_options *o = NULL;
    pl_config c;
    int rc = load_line(&o, &c, command, line, err);
    pl_options_free(o);
    return rc;
}

static void takes_every_field_at_its_default(void **state) {
    (void)state;
    pl_json *golden = NULL;
    pl_error err;
    int missing = 0;
    assert_int_equal(pl_json_load(&golden, PLUMB_TEST_DIR "/golden/trl/options.json", 4 << 20, &err), 0);
    for (int64_t i = 0; i < PL_LEN(commands); i++) {
        const pl_json *fields = pl_json_get(golden, commands[i]);
        assert_true(pl_json_len(fields) >= 140);
        for (pl_json_iter it = pl_json_first(fields); it.key; it = pl_json_next(it)) {
            char line[400];
            snprintf(line, sizeof line, "%s: %s\n", it.key,
                     it.value ? json_object_to_json_string_ext(it.value, JSON_C_TO_STRING_PLAIN) : "null");
            if (try_line(commands[i], line, &err) == 0) continue;
            print_error("%s: %s", commands[i], line);
            print_error("  %s\n", err.text);
            missing++;
        }
    }
    pl_json_free(golden);
    assert_int_equal(missing, 0);
}

static const char *other_value(const pl_option *row) {
    switch (row->type) {
    case PL_OPT_BOOL:
    case PL_OPT_TRIBOOL: return "true";
    case PL_OPT_I64: return "777";
    case PL_OPT_F64: return "0.777";
    case PL_OPT_STRLIST: return "[x, y]";
    case PL_OPT_MAP: return "{a: 1}";
    default: return "other";
    }
}

static void refuses_what_does_not_exist_yet(void **state) {
    (void)state;
    int64_t later = 0;
    for (int64_t i = 0; i < PL_LEN(commands); i++) {
        const pl_option *const *tables = pl_train_command(commands[i])->tables;
        for (; *tables; tables++)
            for (const pl_option *row = *tables; row->name; row++) {
                if (!(row->flags & PL_OPT_LATER)) continue;
                char line[200];
                pl_error err;
                snprintf(line, sizeof line, "%s: %s\n", row->name, other_value(row));
                assert_int_equal(try_line(commands[i], line, &err), PL_E_OPTION);
                assert_non_null(strstr(err.text, row->name));
                assert_non_null(strstr(err.text, "plumb does not have this yet"));
                snprintf(line, sizeof line, "%s: %s\n", row->name, row->fallback ? row->fallback : "null");
                assert_int_equal(try_line(commands[i], line, &err), 0);
                later++;
            }
    }
    assert_true(later > 50);
}

/* The same value in another spelling is the same value. */
static void reads_defaults_in_any_spelling(void **state) {
    (void)state;
    static const char *const good[] = {
        "label_smoothing: 0\n",   "label_smoothing: 0.0\n", "fp16: False\n",       "fp16: no\n",
        "dataset_mixer: {}\n",    "loss_weights: []\n",     "loss_weights: ~\n",   "label_smoothing_factor: 0e0\n",
        "loss_type: [sigmoid]\n", "loss_type: sigmoid\n",   "chat_template: ~\n",  "ref_model_sync_steps: 512\n",
        "optim: adamw_torch\n",   "push_to_hub: false\n",   "warmup_ratio: 0.1\n", "activation_checkpointing: true\n"};
    static const char *const bad[] = {"label_smoothing: 0.5\n",
                                      "fp16: True\n",
                                      "dataset_mixer: {HuggingFaceH4/ultrafeedback_binarized: 1.0}\n",
                                      "loss_type: [sigmoid, no_such_loss]\n",
                                      "loss_type: nll\n",
                                      "chat_template: \"{{ messages }}\"\n",
                                      "truncation_mode: keep_end\n",
                                      "optim: sgd\n",
                                      "fp16: maybe\n",
                                      "no_such_field: null\n"};
    pl_error err;
    for (int64_t i = 0; i < PL_LEN(good); i++)
        if (try_line("dpo", good[i], &err)) fail_msg("%s%s", good[i], err.text);
    for (int64_t i = 0; i < PL_LEN(bad); i++) assert_int_equal(try_line("dpo", bad[i], &err), PL_E_OPTION);
    assert_int_equal(try_line("sft", "max_seq_length: 512\n", &err), 0);
    assert_int_equal(try_line("sft", "packing: true\n", &err), 0);
    assert_int_equal(try_line("sft", "packing_strategy: ffd\n", &err), PL_E_OPTION);
    assert_int_equal(try_line("dpo", "datasets:\n- path: a\n  split: train\n", &err), PL_E_OPTION);
    assert_non_null(strstr(err.text, "plumb does not have this yet"));
    assert_int_equal(try_line("dpo", "fsdp_config: {a: {b: [1]}}\n", &err), 0);
    assert_int_equal(try_line("dpo", "dataset_mixer: {a: 1}\n", &err), PL_E_OPTION);
    assert_non_null(strstr(err.text, "one file"));
}

static void says_what_has_no_effect(void **state) {
    (void)state;
    pl_options *o = NULL;
    pl_config c;
    pl_error err;
    int64_t n = 0;
    assert_int_equal(load_line(&o, &c, "dpo", "torch_compile: true\nfp16: false\n", &err), 0);
    const char *const *notes = pl_options_notes(o, &n);
    assert_int_equal(n, 1);
    assert_non_null(strstr(notes[0], "torch_compile has no effect"));
    pl_options_free(o);
}

/* Every loss_type that a command takes is a row of the objective table, and every row is offered. */
static void offers_the_objectives_there_are(void **state) {
    (void)state;
    const pl_command *command;
    for (int i = 0; (command = pl_train_command_at(i)); i++) {
        const pl_option *row = NULL;
        const pl_option *const *tables = command->tables;
        for (; *tables && !row; tables++)
            for (const pl_option *o = *tables; o->name && !row; o++)
                if (strcmp(o->name, "loss_type") == 0) row = o;
        if (!row) { /* one objective only, of the command's name */
            assert_non_null(pl_objective_find(command->name, command->name));
            continue;
        }
        char names[512], *at = names, *name;
        snprintf(names, sizeof names, "|%s|", row->choices);
        for (int j = 0; pl_objectives[j]; j++) {
            char quoted[64];
            snprintf(quoted, sizeof quoted, "|%s|", pl_objectives[j]->name);
            if (strcmp(pl_objectives[j]->command, command->name) == 0) assert_non_null(strstr(names, quoted));
        }
        while ((name = strsep(&at, "|")))
            if (*name) assert_non_null(pl_objective_find(command->name, name));
    }
}

static void survives_failing_allocations(void **state) {
    (void)state;
    int rc = PL_E_NOMEM;
    for (int64_t k = 0; rc != 0; k++) {
        pl_options *o = NULL;
        pl_config c;
        pl_error err;
        void *bases[PL_TRAIN_TABLES];
        assert_int_equal(pl_options_new(&o, pl_train_command("dpo"), pl_train_bases(bases, &c), NULL, &err), 0);
        pl_test_fail_alloc_at(k);
        rc = pl_options_set(o, "f_divergence_type", "reverse_kl", &err);
        pl_test_fail_alloc_at(-1);
        assert_true(rc == 0 || rc == PL_E_NOMEM);
        pl_options_free(o);
        assert_int_equal(pl_test_live_bytes(), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_every_field_at_its_default), cmocka_unit_test(refuses_what_does_not_exist_yet),
        cmocka_unit_test(reads_defaults_in_any_spelling),   cmocka_unit_test(says_what_has_no_effect),
        cmocka_unit_test(offers_the_objectives_there_are),  cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
