/* DECISIONS 15: a step allocates nothing of ours once the first one is over, and makes no primitive of a product that
 * set-up did not make: with steps that are cut in micro-batches of many lengths, short last steps and new epochs. */
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
#include "unit/alloc_hook.h"
#include "unit/shared.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/trl/"
#define DEMO PLUMB_TEST_DIR "/../demo/"

/* What to break on purpose in the third step. */
typedef enum mutation { NOTHING, ALLOCATE, MAKE_PRIMITIVE } mutation;

typedef struct watch {
    pl_machine *machine;
    mutation plant;
    int64_t steps;
    int64_t calls, late;      /* at the end of the first step; allocations seen since */
    size_t bytes, late_bytes; /* of products after set-up; grown since */
} watch;

static void on_event(void *user, const pl_train_event *e) {
    watch *w = user;
    size_t bytes = pl_gemm_bytes(w->machine->gemm);
    if (e->kind == PL_TRAIN_PLAN) w->bytes = bytes;
    if (e->kind != PL_TRAIN_STEP) return;
    if (w->steps++ == 0) w->calls = pl_test_alloc_calls();
    w->late = pl_test_alloc_calls() - w->calls;
    w->late_bytes = bytes - w->bytes;
}

/* Polled at the end of a step: what happens here happens in the run. */
static int plant(void *user) {
    watch *w = user;
    void *p = NULL;
    pl_error err;
    if (w->steps != 3) return 0;
    pl_gemm_call odd = {.kind = PL_GEMM_Y, .m = 40, .n = 37, .k = 29, .lda = 29, .ldb = 29, .ldc = 37};
    odd.b_type = PL_F32;
    if (w->plant == ALLOCATE) assert_int_equal(pl_alloc(&p, 1, &err), 0);
    if (w->plant == MAKE_PRIMITIVE) assert_int_equal(pl_gemm_prepare(w->machine->gemm, &odd, &err), 0);
    pl_free(p);
    return 0;
}

/* Watches a command (unit/shared.h, train_words) at a level, or at PLUMB_CPU's without one. */
static watch train(const char *command, const char *words, int64_t threads, const char *cpu, mutation planted) {
    watch w = {.plant = planted, .machine = machine_of(cpu ? cpu : getenv("PLUMB_CPU"), threads)};
    train_words(w.machine, command, words, &(pl_train_hooks){.user = &w, .event = on_event, .stop = plant});
    pl_machine_free(w.machine);
    w.machine = NULL;
    return w;
}

static void wants_none(const char *command, const char *words) {
    for (int64_t threads = 1; threads <= 3; threads++) {
        watch w = train(command, words, threads, NULL, NOTHING);
        print_message("%s, %d threads: %d steps, %d late allocations, %zu bytes of late products\n", command,
                      (int)threads, (int)w.steps, (int)w.late, w.late_bytes);
        if (w.steps < 4 || w.late || w.late_bytes) fail_msg("%s %s: not what a step may do", command, words);
    }
}

/* 14 rows in steps of 3 and 2: five steps an epoch, the last one short. */
#define ROWS " --per_device_train_batch_size 3 --max_length 128 --max_steps 12 --lr_scheduler_type constant"
#define PAIRS "--model " GOLDEN "llama --data " GOLDEN "pairs/train.jsonl" ROWS
#define LORA " --use_peft --lora_target_modules all-linear --lora_dropout 0.1 --disable_dropout false"

static void dpo_lora(void **state) {
    (void)state;
    wants_none("dpo", PAIRS LORA " --bf16 false");
    wants_none("dpo", PAIRS LORA " --bf16 true --micro_batch_tokens 150 --gradient_checkpointing true");
    wants_none("dpo", PAIRS " --bf16 false --micro_batch_tokens 1 --precompute_ref_log_probs --adapter " GOLDEN
                            "runs/dpo_lora/adapter_init");
    wants_none("dpo", PAIRS " --bf16 false --adapter " GOLDEN "runs/dpo_lora/adapter_init");
    wants_none("dpo", PAIRS LORA " --bf16 false --dtype bfloat16 --ref_model " GOLDEN "llama");
}

static void dpo_full(void **state) {
    (void)state;
    wants_none("dpo", PAIRS " --bf16 false");
    wants_none("dpo", PAIRS " --bf16 true --micro_batch_tokens 100");
}

#define TEXTS "--model " GOLDEN "qwen2 --data " GOLDEN "texts/train.jsonl" ROWS
#define COMPLETIONS "--model " GOLDEN "llama --data " GOLDEN "completions/train.jsonl" ROWS

static void sft_full(void **state) {
    (void)state;
    wants_none("sft", TEXTS " --bf16 false");
    wants_none("sft", COMPLETIONS " --bf16 true --micro_batch_tokens 60");
    wants_none("sft", COMPLETIONS " --completion_only_loss false --bf16 false");
    wants_none("sft", TEXTS " --packing true --neftune_noise_alpha 5 --bf16 false");
    wants_none("sft", COMPLETIONS " --packing true --packing_strategy wrapped --loss_type dft --bf16 false");
}

/* Objectives that couple rows, in one micro-batch and in several; new pairings at each epoch; a reference that moves.
 */
#define UNPAIRED "--model " GOLDEN "llama --data " GOLDEN "unpaired/train.jsonl" ROWS
static void objectives(void **state) {
    (void)state;
    wants_none("kto", UNPAIRED " --bf16 false");
    wants_none("kto", UNPAIRED " --bf16 false --micro_batch_tokens 1 --precompute_ref_log_probs");
    wants_none("bco", UNPAIRED " --bf16 false --micro_batch_tokens 1");
    wants_none("orpo", PAIRS " --bf16 false");
    wants_none("dpo", PAIRS " --bf16 false --loss_type aot --micro_batch_tokens 1");
    wants_none("dpo", PAIRS " --bf16 false --loss_type sigmoid sft --sync_ref_model --ref_model_sync_steps 2");
    wants_none("reward", PAIRS " --bf16 false");
}

/* Micro-batches of hundreds of tokens: products in several blocks and lanes. */
#define LONG "--model " DEMO "model --data " DEMO "pairs.jsonl --max_steps 4 --max_length 128 --micro_batch_tokens 1500"
static void long_batches(void **state) {
    (void)state;
    wants_none("dpo", LONG LORA " --per_device_train_batch_size 19");
    wants_none("dpo", LONG " --per_device_train_batch_size 17 --bf16 false");
}

/* The watch sees what it is there for. */
static void mutations(void **state) {
    (void)state;
    watch w = train("dpo", PAIRS LORA " --bf16 false", 1, NULL, ALLOCATE);
    assert_true(w.late == 1);
    w = train("dpo", PAIRS LORA " --bf16 false", 1, "generic", NOTHING);
    assert_true(w.late == 0);
    w = train("dpo", PAIRS LORA " --bf16 false", 1, NULL, MAKE_PRIMITIVE);
    pl_machine *m = machine_of(getenv("PLUMB_CPU"), 0);
    assert_true(w.late_bytes > 0 || strcmp(pl_gemm_name(m->gemm), "reference") == 0);
    pl_machine_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(dpo_lora),     cmocka_unit_test(dpo_full),
                                       cmocka_unit_test(sft_full),     cmocka_unit_test(objectives),
                                       cmocka_unit_test(long_batches), cmocka_unit_test(mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
