/* options.c: the options of `plumb logps` and `plumb eval`. Names and meanings are those of the training commands. */
#include "data/option_rows.h"
#include "plumb/score.h"

#define AT(field) .offset = offsetof(pl_score_options, field)

const pl_option pl_score_option_rows[] = {
    PL_ROWS_MODEL(AT, "Hugging Face model directory"),
    PL_ROW_ADAPTER(AT, "PEFT adapter on top of the model"),

    PL_ROWS_DATASET(AT, "preference rows: JSON lines (plain or .gz), or a directory with test* files"),
    PL_ROW_TEST_SPLIT(AT, "split of a data directory"),
    {.name = "max_length",
     .type = PL_OPT_I64,
     AT(max_length),
     .min = 1,
     .max = 1e9,
     .help = "tokens of prompt and answer, the start is kept (default: all)"},
    PL_ROW_MAX_PROMPT_LENGTH(AT),
    PL_ROW_SEAM(AT),
    PL_ROW_DROP_EMPTY(AT, "leave out rows with an empty answer"),
    {.name = "cache_dir",
     .type = PL_OPT_STR,
     AT(cache_dir),
     .metavar = "DIR",
     .help = "tokenized rows are kept here (default: ~/.cache/plumb)"},
    {.name = "overwrite_cache",
     .type = PL_OPT_BOOL,
     AT(overwrite_cache),
     .fallback = "false",
     .help = "tokenize anew, whatever is there"},
    PL_ROW_MAX_ROWS(AT),

    PL_ROW_BF16_OFF(AT),
    PL_ROW_MICRO_BATCH_TOKENS(AT, "tokens computed at a time; a longer row goes alone"),
    {0}};

#undef AT
#define AT(field) .offset = offsetof(pl_eval_options, field)

const pl_option pl_eval_option_rows[] = {
    {.name = "ref_model",
     .type = PL_OPT_STR,
     AT(ref_model),
     .group = "Reference",
     .metavar = "DIR",
     .help = "model that rewards are measured from (default with --adapter: the model without it)"},
    {.name = "no_reference",
     .type = PL_OPT_BOOL,
     AT(no_reference),
     .fallback = "false",
     .help = "compare log-probs only, no rewards"},
    {0}};
