/* plumb/train.h: a training run: its configuration (TRL's names and defaults, one option row each) and the run itself.
 *
 *   pl_config c;
 *   void *bases[PL_TRAIN_TABLES];
 *   pl_options_new(&o, pl_train_command("dpo"), pl_train_bases(bases, &c), NULL, &err);
 *   pl_options_load_yaml(o, "dpo.yaml", &err); pl_options_parse_args(o, argc, argv, &err); pl_options_finish(o, &err);
 *   pl_train(&c, o, &hooks, &err);
 */
#ifndef PLUMB_TRAIN_H
#define PLUMB_TRAIN_H

#include "plumb/loss.h"
#include "plumb/machine.h"
#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum { PL_SCHED_LINEAR, PL_SCHED_COSINE, PL_SCHED_CONSTANT, PL_SCHED_CONSTANT_WARMUP };
enum { PL_WHEN_NO, PL_WHEN_STEPS, PL_WHEN_EPOCH };
enum { PL_STORE_F32, PL_STORE_F16, PL_STORE_BF16, PL_STORE_AUTO };
enum { PL_REFERENCE_INITIAL, PL_REFERENCE_CURRENT, PL_REFERENCE_NONE };
enum { PL_SAMPLE_RANDOM, PL_SAMPLE_SEQUENTIAL };

/* Everything a run can be told. Strings are borrowed from the pl_options that filled the struct. */
typedef struct pl_config {
    /* model */
    const char *model_name_or_path;
    int dtype; /* PL_STORE_*, -1 = as the file */
    const char *adapter, *ref_model, *ref_adapter;
    bool use_peft, use_rslora;
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    pl_strlist lora_target_modules;
    /* data */
    const char *dataset_name, *dataset_train_split, *dataset_test_split, *dataset_text_field;
    const char *eval_data;
    double eval_split;
    int64_t max_length, max_prompt_length; /* PL_OPT_NO_I64: none */
    int seam;                              /* continue, joint, refuse */
    bool drop_empty;
    int completion_only_loss;
    bool packing;
    int packing_strategy; /* bfd, bfd_split, wrapped */
    int eval_packing;     /* -1: as packing */
    int train_sampling_strategy;
    int64_t data_seed;
    /* run directory */
    const char *output_dir, *run_name;
    bool overwrite_output_dir, resume;
    const char *resume_from_checkpoint;
    const char *cache_dir;
    bool overwrite_cache;
    /* optimisation */
    double learning_rate;
    int64_t per_device_train_batch_size, per_device_eval_batch_size, gradient_accumulation_steps;
    double num_train_epochs;
    int64_t max_steps;
    int lr_scheduler_type;
    double warmup_steps, warmup_ratio;
    double max_grad_norm, weight_decay, adam_beta1, adam_beta2, adam_epsilon;
    double neftune_noise_alpha; /* NaN, 0: none */
    int64_t seed;
    /* objective */
    pl_strlist loss_type, loss_weights;
    pl_loss_params loss;
    int kl_pairing;        /* random, fixed, batch */
    int64_t wrong_answers; /* verifier: made for each GSM8K problem */
    const char *gsm8k_solutions;
    bool disable_dropout, precompute_ref_log_probs;
    int reference; /* initial, current, none */
    bool reference_free, sync_ref_model;
    double ref_model_mixup_alpha;
    int64_t ref_model_sync_steps;
    /* machine */
    int bf16;
    int gradient_checkpointing;
    int64_t micro_batch_tokens;
    /* logging, evaluation, saving */
    double logging_steps, eval_steps, save_steps;
    int eval_strategy, save_strategy;
    bool eval_on_start, load_best_model_at_end;
    int64_t save_total_limit;
    const char *metric_for_best_model;
    int greater_is_better;
} pl_config;

#define PL_TRAIN_TABLES 4
/* The commands that train, "dpo" for example: NULL for another name. By number from 0: NULL behind the last. */
const pl_command *pl_train_command(const char *name);
const pl_command *pl_train_command_at(int64_t i);
/* The tables of a command are {options of all, keys of TRL's files that have no effect here or do not exist yet,
 * options of the command, parameters of its objectives}; a program may build a command of its own with more tables
 * behind them.
 */
extern const pl_option pl_train_option_rows[], pl_train_other_rows[];
/* X(name, what its rows are called, summary, description) for each of them. pl_NAME_option_rows, pl_NAME_loss_options
 * and pl_NAME_option_defaults are its own tables. */
#define PL_PAIR_ROWS_TEXT "Rows have prompt, chosen and rejected, or whole transcripts in chosen and rejected."
#define PL_LABEL_ROWS_TEXT                                                                                             \
    "Rows have prompt, completion and label (true: desirable); preference rows become two such rows each. GSM8K "      \
    "problems "                                                                                                        \
    "(question, answer) become such rows, with wrong answers made of them."
#define PL_MARGIN_TEXT " A number `margin` in a row is how much better chosen is."
#define PL_VERIFIER_ROWS_TEXT                                                                                          \
    "Rows have prompt, completion and label (true: right); preference rows become two such rows each. GSM8K problems " \
    "(question, answer) become such rows, with wrong answers made of them."
#define PL_TRAIN_COMMANDS(X)                                                                                           \
    X(sft, "rows", "Fine-tune a model on completions or text (SFT)", "Rows have prompt and completion, or text.")      \
    X(dpo, "pairs", "Align a model to preference pairs (DPO and its family)", PL_PAIR_ROWS_TEXT)                       \
    X(kto, "rows", "Align a model to good and bad answers (KTO)", PL_LABEL_ROWS_TEXT)                                  \
    X(orpo, "pairs", "Fine-tune and align in one, without a reference (ORPO)", PL_PAIR_ROWS_TEXT)                      \
    X(cpo, "pairs", "Align without a reference (CPO, SimPO, AlphaPO)", PL_PAIR_ROWS_TEXT)                              \
    X(bco, "rows", "Align a model to good and bad answers (BCO)", PL_LABEL_ROWS_TEXT)                                  \
    X(reward, "pairs", "Train a reward model on preference pairs", PL_PAIR_ROWS_TEXT PL_MARGIN_TEXT)                   \
    X(verifier, "rows", "Train a model that tells right answers from wrong ones", PL_VERIFIER_ROWS_TEXT)
#define PL_TRAIN_DECLARE(NAME, UNIT, SUMMARY, DESCRIPTION)                                                             \
    extern const pl_option pl_##NAME##_option_rows[], pl_##NAME##_loss_options[];                                      \
    extern const pl_option_default pl_##NAME##_option_defaults[];
PL_TRAIN_COMMANDS(PL_TRAIN_DECLARE)
/* Binds every table of a training command to c; returns bases. */
void *const *pl_train_bases(void *bases[PL_TRAIN_TABLES], pl_config *c);

typedef struct pl_named_value {
    const char *name;
    double value;
} pl_named_value;

typedef enum pl_train_event_kind {
    PL_TRAIN_PLAN,      /* memory is taken: planned_bytes is what the process will hold at most */
    PL_TRAIN_REFERENCE, /* rows of the reference pass: done of total */
    PL_TRAIN_STEP,      /* an optimizer step ended: done of total; values of this step */
    PL_TRAIN_LOG,       /* every logging_steps: means over the window, as TRL prints them */
    PL_TRAIN_EVAL,      /* an evaluation ended: its values */
    PL_TRAIN_FINAL      /* the final model is written: in `path` */
} pl_train_event_kind;

typedef struct pl_train_event {
    pl_train_event_kind kind;
    int64_t done, total;
    double epoch;
    const pl_named_value *values; /* borrowed for the call */
    int64_t nvalues;
    double eta_seconds, pairs_per_second, tokens_per_second;
    const char *path;     /* borrowed for the call; NULL but for PL_TRAIN_FINAL */
    size_t planned_bytes; /* PLAN: weights, trained tensors, a step, and the rest of the process */
} pl_train_event;

typedef struct pl_train_hooks {
    void *user;
    void (*event)(void *user, const pl_train_event *e); /* NULL: none */
    int (*stop)(void *user); /* polled after each step; non-zero: save and stop. NULL: never */
} pl_train_hooks;

/* Runs training to its end: PL_E_INTERRUPTED when a stop was asked and a checkpoint was written. `o` is the options
 * that filled c (for the resolved configuration and error places). Messages go to the log. */
int pl_train(pl_machine *machine, const char *command, const pl_config *c, const pl_options *o,
             const pl_train_hooks *hooks, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
