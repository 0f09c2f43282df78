/* data/option_rows.h: the option rows that commands over a model and a file of rows have in common: one name, type,
 * range and default, whatever the command. For tables of pl_option; AT is the table's macro of one argument that gives
 * the offset of a field (of the row's name), HELP the row's help where commands mean something of their own. */
#ifndef PL_OPTION_ROWS_H
#define PL_OPTION_ROWS_H

#include "plumb/options.h"

#define PL_ROWS_MODEL(AT, HELP)                                                                                        \
    {.name = "model_name_or_path",                                                                                     \
     .type = PL_OPT_STR,                                                                                               \
     AT(model_name_or_path),                                                                                           \
     .flags = PL_OPT_REQUIRED,                                                                                         \
     .group = "Model",                                                                                                 \
     .metavar = "DIR",                                                                                                 \
     .help = HELP},                                                                                                    \
    {                                                                                                                  \
        .name = "model", .type = PL_OPT_ALIAS, .target = "model_name_or_path"                                          \
    }

#define PL_ROW_ADAPTER(AT, HELP)                                                                                       \
    { .name = "adapter", .type = PL_OPT_STR, AT(adapter), .metavar = "DIR", .help = HELP }

#define PL_ROWS_DATASET(AT, HELP)                                                                                      \
    {.name = "dataset_name",                                                                                           \
     .type = PL_OPT_STR,                                                                                               \
     AT(dataset_name),                                                                                                 \
     .flags = PL_OPT_REQUIRED,                                                                                         \
     .group = "Data",                                                                                                  \
     .metavar = "FILE",                                                                                                \
     .help = HELP},                                                                                                    \
    {                                                                                                                  \
        .name = "data", .type = PL_OPT_ALIAS, .target = "dataset_name"                                                 \
    }

#define PL_ROW_TEST_SPLIT(AT, HELP)                                                                                    \
    { .name = "dataset_test_split", .type = PL_OPT_STR, AT(dataset_test_split), .fallback = "test", .help = HELP }

#define PL_ROW_MAX_PROMPT_LENGTH(AT)                                                                                   \
    {                                                                                                                  \
        .name = "max_prompt_length", .type = PL_OPT_I64, AT(max_prompt_length), .min = 1, .max = 1e9,                  \
        .help = "keep the last tokens of a longer prompt, and its BOS"                                                 \
    }

#define PL_ROW_SEAM(AT)                                                                                                \
    {                                                                                                                  \
        .name = "seam", .type = PL_OPT_ENUM, AT(seam), .choices = "continue|joint|refuse", .fallback = "continue",     \
        .help = "where prompt and answer merge into one token: continue the prompt's tokens, cut as TRL does, or stop" \
    }

#define PL_ROW_DROP_EMPTY(AT, HELP)                                                                                    \
    { .name = "drop_empty", .type = PL_OPT_BOOL, AT(drop_empty), .fallback = "false", .help = HELP }

#define PL_ROW_MAX_ROWS(AT)                                                                                            \
    { .name = "max_rows", .type = PL_OPT_I64, AT(max_rows), .min = 1, .max = 1e15, .help = "only the first rows" }

/* What trains or generates: on where the machine has it. What compares numbers: off. */
#define PL_ROW_BF16(AT)                                                                                                \
    {                                                                                                                  \
        .name = "bf16", .type = PL_OPT_TRIBOOL, AT(bf16), .group = "Machine",                                          \
        .help = "round matrix operands to bf16 (default: where the machine multiplies bf16 natively)"                  \
    }
#define PL_ROW_BF16_OFF(AT)                                                                                            \
    {                                                                                                                  \
        .name = "bf16", .type = PL_OPT_TRIBOOL, AT(bf16), .fallback = "false", .group = "Machine",                     \
        .help = "round matrix operands to bf16 (none: where the machine multiplies bf16 natively)"                     \
    }

#define PL_ROW_MICRO_BATCH_TOKENS(AT, HELP)                                                                            \
    {                                                                                                                  \
        .name = "micro_batch_tokens", .type = PL_OPT_I64, AT(micro_batch_tokens), .fallback = "4096", .min = 1,        \
        .max = 1e9, .help = HELP                                                                                       \
    }

#endif
