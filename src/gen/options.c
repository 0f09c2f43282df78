/* options.c: the options of `plumb generate`, and what they say together. */
#include <math.h>
#include <stdio.h>

#include "data/option_rows.h"
#include "gen/generator.h"

#define AT(field) .offset = offsetof(pl_generate_options, field)

const pl_option pl_generate_option_rows[] = {
    PL_ROWS_MODEL(AT, "Hugging Face model directory"),
    PL_ROW_ADAPTER(AT, "PEFT adapter on top of the model"),

    {.name = "max_new_tokens",
     .type = PL_OPT_I64,
     AT(max_new_tokens),
     .min = 1,
     .max = 1e9,
     .group = "Generation",
     .help = "tokens to add at most (default: 256, or what the model's positions leave)"},
    {.name = "temperature",
     .type = PL_OPT_F64,
     AT(temperature),
     .min = 0,
     .max = 1000,
     .help = "divides the logits; 0 is greedy (default: greedy, or 1 when another sampling option is set)"},
    {.name = "top_k",
     .type = PL_OPT_I64,
     AT(top_k),
     .min = 0,
     .max = 1e9,
     .help = "sample among the k most probable tokens; 0: all of them"},
    {.name = "top_p",
     .type = PL_OPT_F64,
     AT(top_p),
     .min = 0,
     .max = 1,
     .flags = PL_OPT_OPEN_MIN,
     .help = "sample among the most probable tokens that make up this share"},
    {.name = "min_p",
     .type = PL_OPT_F64,
     AT(min_p),
     .min = 0,
     .max = 1,
     .help = "sample among tokens with at least this share of the largest probability"},
    {.name = "num_return_sequences",
     .type = PL_OPT_I64,
     AT(num_return_sequences),
     .fallback = "1",
     .min = 1,
     .max = 100000,
     .help = "samples per prompt"},
    {.name = "seed",
     .type = PL_OPT_I64,
     AT(seed),
     .fallback = "42",
     .min = 0,
     .max = 4294967295.0,
     .help = "of the samples"},
    {.name = "ignore_eos", .type = PL_OPT_BOOL, AT(ignore_eos), .fallback = "false", .help = "go on to max_new_tokens"},
    PL_ROW_MAX_PROMPT_LENGTH(AT),

    PL_ROW_BF16(AT),
    {.name = "batch_size",
     .type = PL_OPT_I64,
     AT(batch_size),
     .fallback = "16",
     .min = 1,
     .max = 4096,
     .help = "sequences at a time at most"},
    {0}};

void pl_generate_options_init(pl_generate_options *o) {
    *o = (pl_generate_options){.max_new_tokens = PL_OPT_NO_I64,
                               .temperature = NAN,
                               .top_k = PL_OPT_NO_I64,
                               .top_p = NAN,
                               .min_p = NAN,
                               .num_return_sequences = 1,
                               .seed = 42,
                               .max_prompt_length = PL_OPT_NO_I64,
                               .bf16 = -1,
                               .batch_size = 16};
}

/* For structs that were filled by hand; the option rows have checked the others. */
static int check_ranges(const pl_generate_options *o, pl_error *err) {
    const char *bad = NULL;
    if (!o->model_name_or_path) bad = "model_name_or_path";
    if (o->max_new_tokens != PL_OPT_NO_I64 && o->max_new_tokens < 1) bad = "max_new_tokens";
    if (!isnan(o->temperature) && !(o->temperature >= 0 && isfinite(o->temperature))) bad = "temperature";
    if (o->top_k != PL_OPT_NO_I64 && o->top_k < 0) bad = "top_k";
    if (!isnan(o->top_p) && !(o->top_p > 0 && o->top_p <= 1)) bad = "top_p";
    if (!isnan(o->min_p) && !(o->min_p >= 0 && o->min_p <= 1)) bad = "min_p";
    if (o->num_return_sequences < 1) bad = "num_return_sequences";
    if (o->max_prompt_length != PL_OPT_NO_I64 && o->max_prompt_length < 1) bad = "max_prompt_length";
    if (o->batch_size < 1) bad = "batch_size";
    return bad ? PL_FAIL(err, PL_E_OPTION, "%s is out of its range", bad) : 0;
}

int pl_sampling_of(pl_sampling *out, const pl_generate_options *o, pl_error *err) {
    int rc = check_ranges(o, err);
    if (rc) return rc;
    const char *cut = o->top_k != PL_OPT_NO_I64 ? "top_k"
                      : !isnan(o->top_p)        ? "top_p"
                      : !isnan(o->min_p)        ? "min_p"
                                                : NULL;
    if (o->temperature == 0 && cut)
        return PL_FAIL(err, PL_E_OPTION, "temperature 0 always takes the most probable token, so %s has no meaning",
                       cut);
    pl_sampling s = {.greedy = o->temperature == 0 || (isnan(o->temperature) && !cut),
                     .temperature = isnan(o->temperature) || o->temperature == 0 ? 1 : o->temperature,
                     .top_k = o->top_k == PL_OPT_NO_I64 ? 0 : o->top_k,
                     .top_p = isnan(o->top_p) ? 1 : o->top_p,
                     .min_p = isnan(o->min_p) ? 0 : o->min_p,
                     .seed = (uint64_t)o->seed};
    if (s.greedy && o->num_return_sequences > 1)
        return PL_FAIL(err, PL_E_OPTION,
                       "num_return_sequences %" PRId64 ": greedy samples are all the same; set temperature, top_k, "
                       "top_p or min_p",
                       o->num_return_sequences);
    *out = s;
    return 0;
}

void pl_sampling_words(char *out, size_t size, const pl_sampling *s) {
    char top_k[32] = "", top_p[40] = "", min_p[40] = "";
    if (s->top_k > 0) snprintf(top_k, sizeof top_k, ", top_k %" PRId64, s->top_k);
    if (s->top_p < 1) snprintf(top_p, sizeof top_p, ", top_p %g", s->top_p);
    if (s->min_p > 0) snprintf(min_p, sizeof min_p, ", min_p %g", s->min_p);
    if (s->greedy)
        snprintf(out, size, "greedy");
    else
        snprintf(out, size, "temperature %g%s%s%s, seed %" PRIu64, s->temperature, top_k, top_p, min_p, s->seed);
}
