/* What is computed: tokens that go through attention, forward and backward, of whole runs. Nothing that gets no
 * gradient is run backward, and what is run again for its gradient is without it. */
/* ctest-label: threads */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/machine.h"
#include "plumb/train.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/trl/"
#define MAX_ARGS 48
#define LAYERS 2 /* of the golden models */

/* Tokens that went through all layers. */
typedef struct work {
    int64_t forward, backward;
} work;

/* The ops that are counted, and the counts: kernels have no other way to tell. */
static pl_ops real_ops;
static work counted;

static void count_attn(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a) {
    counted.forward += a->T;
    real_ops.attn(o, lse, q, k, v, a);
}

static void count_attn_bwd(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                           const real *q, const real *k, const real *v, const pl_attn *a) {
    counted.backward += a->T;
    real_ops.attn_bwd(dq, dk, dv, delta, d_o, o, lse, q, k, v, a);
}

/* Runs a command whose options are one string, words parted by spaces. */
static work train(const char *command, const char *words) {
    char dir[] = "/tmp/plumb-work-XXXXXX", text[2000], *save = NULL;
    const char *args[MAX_ARGS];
    int n = 0;
    pl_error err = {0};
    pl_config c;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_machine *m = NULL;
    pl_machine_options mo = {.cpu = getenv("PLUMB_CPU"), .threads = 1};
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof text, "%s --out %s/run --save_strategy no --run_name r --cache_dir %s/cache", words, dir,
             dir);
    for (char *s = strtok_r(text, " ", &save); s && n < MAX_ARGS; s = strtok_r(NULL, " ", &save)) args[n++] = s;
    assert_int_equal(pl_machine_new(&m, &mo, &err), 0);
    real_ops = m->ops;
    m->ops.attn = count_attn;
    m->ops.attn_bwd = count_attn_bwd;
    counted = (work){0};
    assert_int_equal(pl_options_new(&o, pl_train_command(command), pl_train_bases(bases, &c), NULL, &err), 0);
    int rc = pl_options_parse_args(o, n, args, &err);
    if (rc == 0) rc = pl_options_finish(o, &err);
    if (rc == 0) rc = pl_train(m, command, &c, o, NULL, &err);
    if (rc) fail_msg("%s %s: %s", command, words, err.text);
    pl_options_free(o);
    pl_machine_free(m);
    assert_int_equal(pl_dir_remove(dir, &err), 0);
    work w = {counted.forward / LAYERS, counted.backward / LAYERS};
    print_message("%s %s: %d forward, %d backward\n", command, strstr(words, "--loss_type"), (int)w.forward,
                  (int)w.backward);
    return w;
}

#define STEPS " --max_length 128 --max_steps 8 --bf16 false --lr_scheduler_type constant --loss_type "
#define UNPAIRED "--model " GOLDEN "llama --data " GOLDEN "unpaired/train.jsonl --per_device_train_batch_size 5" STEPS
#define PAIRS "--model " GOLDEN "llama --data " GOLDEN "pairs/train.jsonl --per_device_train_batch_size 2" STEPS
#define CUT " --micro_batch_tokens 1"

/* apo_zero_unpaired is KTO without mismatched answers: as much goes backward. Of a step that does not fit into one
 * micro-batch, KTO scores everything, reference and policy, and then runs that again, too. */
static void mismatched_answers(void **state) {
    (void)state;
    work without = train("kto", UNPAIRED "apo_zero_unpaired"), whole = train("kto", UNPAIRED "kto"),
         cut = train("kto", UNPAIRED "kto" CUT);
    assert_true(without.backward > 0);
    assert_int_equal(without.forward, 2 * without.backward);
    assert_int_equal(whole.backward, without.backward);
    assert_true(whole.forward > without.forward);
    assert_int_equal(cut.backward, without.backward);
    assert_int_equal(cut.forward, whole.forward + without.backward);
}

/* Once the margin is met a pair of a hinge has no gradient; with such a beta, soon. The reference and the scores stay.
 */
static void no_gradient(void **state) {
    (void)state;
    work all = train("dpo", PAIRS "sigmoid --learning_rate 1e-3"),
         few = train("dpo", PAIRS "hinge --beta 1000 --learning_rate 1e-3"),
         cut = train("dpo", PAIRS "hinge --beta 1000 --learning_rate 1e-3" CUT);
    assert_int_equal(few.forward, all.forward);
    assert_true(few.backward > 0 && few.backward < all.backward);
    assert_int_equal(cut.forward, all.forward);
    assert_true(cut.backward > 0 && cut.backward < all.backward);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(mismatched_answers), cmocka_unit_test(no_gradient)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
