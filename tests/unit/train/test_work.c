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

#include "model/machine.h"
#include "unit/shared.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/trl/"
#define LAYERS 2 /* of the golden models */

/* Tokens that went through all layers. */
typedef struct work {
    int64_t forward, backward;
    int64_t still; /* steps without a backward pass, whose gradient must be zero whatever lies in its memory */
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

static void on_event(void *user, const pl_train_event *e) {
    int64_t *seen = user;
    if (e->kind != PL_TRAIN_STEP) return;
    bool still = counted.backward == *seen;
    *seen = counted.backward;
    counted.still += still;
    for (int64_t i = 0; still && i < e->nvalues; i++)
        if (strcmp(e->values[i].name, "grad_norm") == 0) assert_true(e->values[i].value == 0);
}

/* What a command computes (unit/shared.h, train_words). */
static work train(const char *command, const char *words) {
    pl_machine *m = machine_of(getenv("PLUMB_CPU"), 1);
    int64_t seen = 0;
    pl_train_hooks hooks = {.user = &seen, .event = on_event};
    real_ops = m->ops;
    m->ops.attn = count_attn;
    m->ops.attn_bwd = count_attn_bwd;
    counted = (work){0};
    train_words(m, command, words, &hooks);
    pl_machine_free(m);
    work w = {counted.forward / LAYERS, counted.backward / LAYERS, counted.still};
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
    assert_true(all.still == 0 && few.still > 0);
    assert_int_equal(cut.forward, all.forward);
    assert_true(cut.backward > 0 && cut.backward < all.backward);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(mismatched_answers), cmocka_unit_test(no_gradient)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
