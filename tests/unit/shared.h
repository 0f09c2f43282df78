/* shared.h: what tests of whole models share: paths of goldens, a machine, a training run of one line of options.
 * Include behind cmocka.h. */
#ifndef UNIT_SHARED_H
#define UNIT_SHARED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "plumb/machine.h"
#include "plumb/train.h"

/* A call that ends in `err` and must succeed. */
#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        pl_error must_err = {0};                                                                                       \
        pl_error *err = &must_err;                                                                                     \
        if ((call) != 0) fail_msg("%s: %s", #call, must_err.text);                                                     \
    } while (0)

/* Path below tests/golden; valid until the next eight calls. */
static inline const char *golden(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/golden/%s", PLUMB_TEST_DIR, name);
    return path;
}

static inline pl_machine *machine_of(const char *cpu, int64_t threads) {
    pl_machine *m = NULL;
    pl_machine_options o = {.cpu = cpu, .threads = threads};
    MUST(pl_machine_new(&m, &o, err));
    return m;
}

/* The machine of a program's tests: machine_setup_1 and machine_teardown go to cmocka_run_group_tests. */
static __attribute__((unused)) pl_machine *machine;

static inline int machine_setup_1(void **state) {
    (void)state;
    machine = machine_of(NULL, 1);
    return 0;
}

static inline int machine_setup_2(void **state) {
    (void)state;
    machine = machine_of(NULL, 2);
    return 0;
}

static inline int machine_teardown(void **state) {
    (void)state;
    pl_machine_free(machine);
    return 0;
}

/* Trains by a command whose options are one string, words parted by spaces, into a directory that is removed again. */
static inline void train_words(pl_machine *m, const char *command, const char *words, const pl_train_hooks *hooks) {
    enum { MAX_ARGS = 48 };
    char dir[] = "/tmp/plumb-train-XXXXXX", text[2000], *save = NULL;
    const char *args[MAX_ARGS];
    int n = 0;
    pl_error err = {0};
    pl_config c;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    assert_non_null(mkdtemp(dir));
    int len = snprintf(text, sizeof text, "%s --out %s/run --save_strategy no --run_name r --cache_dir %s/cache", words,
                       dir, dir);
    assert_in_range(len, 0, sizeof text - 1);
    char *word = strtok_r(text, " ", &save);
    for (; word && n < MAX_ARGS; word = strtok_r(NULL, " ", &save)) args[n++] = word;
    assert_null(word);
    assert_int_equal(pl_options_new(&o, pl_train_command(command), pl_train_bases(bases, &c), NULL, &err), 0);
    int rc = pl_options_parse_args(o, n, args, &err);
    if (rc == 0) rc = pl_options_finish(o, &err);
    if (rc == 0) rc = pl_train(m, command, &c, o, hooks, &err);
    if (rc) fail_msg("%s %s: %s", command, words, err.text);
    pl_options_free(o);
    assert_int_equal(pl_dir_remove(dir, &err), 0);
}

#endif
