/* commands.c: the training commands: what each has beside the options of all (config.c), TRL's names and defaults. */
#include <string.h>

#include "plumb/train.h"
#include "train/config.h"

#define AT(field) .offset = offsetof(pl_config, field)
#define LOSS_TYPE(CHOICES, FALLBACK, HELP)                                                                             \
    {                                                                                                                  \
        .name = "loss_type", .type = PL_OPT_STRLIST, AT(loss_type), .choices = CHOICES, .fallback = FALLBACK,          \
        .group = "Objective", .help = HELP                                                                             \
    }
#define DISABLE_DROPOUT                                                                                                \
    {                                                                                                                  \
        .name = "disable_dropout", .type = PL_OPT_BOOL, AT(disable_dropout), .fallback = "true",                       \
        .help = "no dropout, lora_dropout included"                                                                    \
    }
#define REFERENCE_ROWS                                                                                                 \
    {.name = "ref_model",                                                                                              \
     .type = PL_OPT_STR,                                                                                               \
     AT(ref_model),                                                                                                    \
     .metavar = "DIR",                                                                                                 \
     .help = "reference model (default: the initial policy)"},                                                         \
        {.name = "ref_adapter",                                                                                        \
         .type = PL_OPT_STR,                                                                                           \
         AT(ref_adapter),                                                                                              \
         .metavar = "DIR",                                                                                             \
         .help = "reference: the model with this PEFT adapter"},                                                       \
        {.name = "reference",                                                                                          \
         .type = PL_OPT_ENUM,                                                                                          \
         AT(reference),                                                                                                \
         .choices = "initial|current|none",                                                                            \
         .fallback = "initial",                                                                                        \
         .help = "the initial policy, the policy of the same step, or no reference at all"},                           \
        {.name = "reference_free",                                                                                     \
         .type = PL_OPT_BOOL,                                                                                          \
         AT(reference_free),                                                                                           \
         .fallback = "false",                                                                                          \
         .help = "as reference: none"},                                                                                \
        {.name = "precompute_ref_log_probs",                                                                           \
         .type = PL_OPT_BOOL,                                                                                          \
         AT(precompute_ref_log_probs),                                                                                 \
         .fallback = "false",                                                                                          \
         .help = "score all rows with the reference once, before training"},                                           \
        {.name = "sync_ref_model",                                                                                     \
         .type = PL_OPT_BOOL,                                                                                          \
         AT(sync_ref_model),                                                                                           \
         .fallback = "false",                                                                                          \
         .help = "move the reference towards the policy as training goes (TR-DPO)"},                                   \
        {.name = "ref_model_mixup_alpha",                                                                              \
         .type = PL_OPT_F64,                                                                                           \
         AT(ref_model_mixup_alpha),                                                                                    \
         .fallback = "0.6",                                                                                            \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .help = "how far: 1 makes it the policy"},                                                                    \
    {                                                                                                                  \
        .name = "ref_model_sync_steps", .type = PL_OPT_I64, AT(ref_model_sync_steps), .fallback = "512", .min = 1,     \
        .max = 1e12, .help = "steps between moves"                                                                     \
    }
#define OLD_LENGTH_ROWS                                                                                                \
    PL_ROW_LATER_I64("max_completion_length", NULL), PL_ROW_LATER_I64("max_target_length", NULL),                      \
        PL_ROW_LATER_BOOL("generate_during_eval"), PL_ROW_LATER_TRIBOOL("is_encoder_decoder"),                         \
        PL_ROW_LATER_F64("neftune_noise_alpha", NULL)

const pl_option pl_dpo_option_rows[] = {
    LOSS_TYPE("sigmoid|cdpo|hinge|ipo|sigmoid_norm|exo_pair|nca_pair|robust|bco_pair|sppo_hard|aot|aot_unpaired|"
              "apo_zero|apo_down|discopop|kto_pair|sft",
              "sigmoid", "the preference objective; several are added, with loss_weights"),
    {.name = "loss_weights",
     .type = PL_OPT_STRLIST,
     AT(loss_weights),
     .help = "a number for each loss_type (default: 1)"},
    DISABLE_DROPOUT,
    REFERENCE_ROWS,
    PL_ROW_LATER_BOOL("force_use_ref_model"),
    OLD_LENGTH_ROWS,
    {0}};

const pl_option pl_kto_option_rows[] = {
    LOSS_TYPE("kto|apo_zero_unpaired", "kto", "the objective"),
    {.name = "kl_pairing",
     .type = PL_OPT_ENUM,
     AT(kl_pairing),
     .choices = "random|fixed|batch",
     .fallback = "random",
     .help = "mismatched answers of the KL: new ones each epoch, the same, or TRL's rotation within a batch"},
    DISABLE_DROPOUT,
    REFERENCE_ROWS,
    OLD_LENGTH_ROWS,
    {0}};

const pl_option pl_orpo_option_rows[] = {DISABLE_DROPOUT, OLD_LENGTH_ROWS, {0}};

const pl_option pl_cpo_option_rows[] = {
    LOSS_TYPE("sigmoid|hinge|ipo|simpo|alphapo", "sigmoid", "the preference part of the objective"),
    DISABLE_DROPOUT,
    OLD_LENGTH_ROWS,
    {0}};

const pl_option pl_bco_option_rows[] = {DISABLE_DROPOUT, REFERENCE_ROWS, OLD_LENGTH_ROWS, {0}};

#define SCORE_ROWS                                                                                                     \
    PL_ROW_LATER_STR("chat_template_path", NULL), PL_ROW_LATER_STR("eos_token", NULL),                                 \
        PL_ROW_LATER_F64("neftune_noise_alpha", NULL)
const pl_option pl_reward_option_rows[] = {DISABLE_DROPOUT, SCORE_ROWS, {0}};
const pl_option pl_verifier_option_rows[] = {
    {.name = "gsm8k", .type = PL_OPT_ALIAS, .target = "dataset_name"},
    {.name = "wrong_answers",
     .type = PL_OPT_I64,
     AT(wrong_answers),
     .fallback = "2",
     .min = 0,
     .max = 100,
     .group = "Objective",
     .help = "wrong answers made for each GSM8K problem: another problem's, perturbed numbers, by turns"},
    {.name = "gsm8k_solutions",
     .type = PL_OPT_STR,
     AT(gsm8k_solutions),
     .metavar = "FILE",
     .help = "models' solutions (question, and objects with solution and is_correct) to train on as well"},
    DISABLE_DROPOUT,
    SCORE_ROWS,
    {0}};

const pl_option pl_sft_option_rows[] = {
    {.name = "dataset_text_field",
     .type = PL_OPT_STR,
     AT(dataset_text_field),
     .fallback = "text",
     .group = "Objective",
     .help = "column of plain text rows"},
    {.name = "completion_only_loss",
     .type = PL_OPT_TRIBOOL,
     AT(completion_only_loss),
     .help = "train on completions only (default: when the rows have them)"},
    LOSS_TYPE("nll|dft", "nll", "the objective"),
    {.name = "max_seq_length",
     .type = PL_OPT_ALIAS,
     .target = "max_length",
     .flags = PL_OPT_DEPRECATED,
     .note = "now called max_length"},
    {.name = "packing",
     .type = PL_OPT_BOOL,
     AT(packing),
     .fallback = "false",
     .help = "rows of a batch are bins of up to max_length tokens"},
    {.name = "packing_strategy",
     .type = PL_OPT_ENUM,
     AT(packing_strategy),
     .choices = "bfd|bfd_split|wrapped",
     .fallback = "bfd",
     .help = "best fit with longer rows truncated, or split; or cut where a bin is full"},
    {.name = "eval_packing",
     .type = PL_OPT_TRIBOOL,
     AT(eval_packing),
     .help = "pack the held-out rows too (default: as packing)"},
    {.name = "neftune_noise_alpha",
     .type = PL_OPT_F64,
     AT(neftune_noise_alpha),
     .min = 0,
     .max = 1e6,
     .help = "size of the noise on embeddings in training (NEFTune; 5 to 15)"},
    PL_ROW_LATER_BOOL("assistant_only_loss"),
    PL_ROW_LATER_STR("chat_template_path", NULL),
    PL_ROW_LATER_STR("eos_token", NULL),
    PL_ROW_LATER_MAP("dataset_kwargs"),
    PL_ROW_LATER_BOOL("shuffle_dataset"),
    {0}};

/* Where a command's defaults are not those of the rows. */
const pl_option_default pl_sft_option_defaults[] = {{"learning_rate", "2e-5"}, {NULL, NULL}};
const pl_option_default pl_dpo_option_defaults[] = {{NULL, NULL}};
const pl_option_default pl_kto_option_defaults[] = {{NULL, NULL}};
const pl_option_default pl_orpo_option_defaults[] = {{NULL, NULL}};
const pl_option_default pl_cpo_option_defaults[] = {{NULL, NULL}};
const pl_option_default pl_reward_option_defaults[] = {{"learning_rate", "1e-4"}, {NULL, NULL}};
const pl_option_default pl_verifier_option_defaults[] = {{"learning_rate", "1e-4"}, {NULL, NULL}};
const pl_option_default pl_bco_option_defaults[] = {{"learning_rate", "5e-7"}, {NULL, NULL}};

#define TABLES(NAME, UNIT, SUMMARY, DESCRIPTION)                                                                       \
    static const pl_option *const NAME##_tables[] = {pl_train_option_rows, pl_train_other_rows,                        \
                                                     pl_##NAME##_option_rows, pl_##NAME##_loss_options, NULL};
PL_TRAIN_COMMANDS(TABLES)

#define COMMAND(NAME, UNIT, SUMMARY, DESCRIPTION)                                                                      \
    {.name = #NAME,                                                                                                    \
     .summary = SUMMARY,                                                                                               \
     .description = DESCRIPTION,                                                                                       \
     .tables = NAME##_tables,                                                                                          \
     .defaults = pl_##NAME##_option_defaults},
static const pl_command commands[] = {PL_TRAIN_COMMANDS(COMMAND)};

const pl_command *pl_train_command(const char *name) {
    for (int64_t i = 0; i < PL_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

const pl_command *pl_train_command_at(int64_t i) { return i >= 0 && i < PL_LEN(commands) ? &commands[i] : NULL; }

void *const *pl_train_bases(void *bases[PL_TRAIN_TABLES], pl_config *c) {
    *c = (pl_config){.disable_dropout = false, .completion_only_loss = -1};
    bases[0] = bases[1] = bases[2] = c;
    bases[3] = &c->loss;
    return bases;
}
