/* plumb/generate.h: text from a model: greedy or sampled, several sequences at a time, with a KV cache.
 *
 *   pl_generator_open(&g, machine, &options, &err);
 *   pl_prompt p = {.text = "Once upon a time", .len = strlen("Once upon a time")};
 *   pl_generate(g, &p, 1, &hooks, &err);
 *   pl_generator_free(g);
 *
 * A prompt is encoded as in training: leading special tokens (BOS) where the tokenizer adds them, no trailing ones. A
 * sequence ends with any of the eos ids of config.json, generation_config.json and the tokenizer, or after
 * max_new_tokens. What is drawn depends on seed, prompt number, sample number and position only, never on how sequences
 * share a batch. A generator is for one thread at a time. */
#ifndef PLUMB_GENERATE_H
#define PLUMB_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plumb/machine.h"
#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Greedy, unless one of temperature, top_k, top_p, min_p is set: then it samples, with temperature 1 and nothing cut
 * where they are unset. temperature 0 is greedy, and contradicts the other three. The order is that of transformers:
 * temperature, top_k (keeps ties with the k-th), top_p, min_p. generation_config.json gives eos ids only. */
typedef struct pl_generate_options {
    const char *model_name_or_path; /* directory; strings are borrowed for the life of the generator */
    const char *adapter;            /* PEFT directory on top of it; NULL: none */
    int64_t max_new_tokens;
    double temperature;           /* NaN: unset */
    int64_t top_k;                /* PL_OPT_NO_I64: unset; 0: off */
    double top_p, min_p;          /* NaN: unset */
    int64_t num_return_sequences; /* samples per prompt; more than one only when sampling */
    int64_t seed;
    int64_t max_prompt_length; /* keeps the last tokens and a leading BOS; PL_OPT_NO_I64: none */
    bool ignore_eos;           /* always max_new_tokens */
    int bf16;                  /* -1: as the machine likes it, 0, 1 */
    int64_t batch_size;        /* sequences at a time at most */
} pl_generate_options;
extern const pl_option pl_generate_option_rows[];
/* Defaults of all rows, for programs that fill the struct by hand. */
void pl_generate_options_init(pl_generate_options *o);

typedef struct pl_generator pl_generator;

/* PL_E_OPTION for contradictory options; errors of the files. */
int pl_generator_open(pl_generator **out, pl_machine *machine, const pl_generate_options *options, pl_error *err);
void pl_generator_free(pl_generator *g);
/* "greedy", or "temperature 0.8, top_k 50, seed 7". Borrowed. */
const char *pl_generator_describe(const pl_generator *g);

typedef struct pl_prompt {
    const char *text; /* UTF-8, may hold NULs; NULL: `ids` are given */
    size_t len;
    const int32_t *ids; /* taken as they are, when text is NULL */
    int64_t n;
    int64_t row; /* comes back in pl_completion.row; not otherwise used */
} pl_prompt;

typedef enum pl_finish { PL_FINISH_STOP, PL_FINISH_LENGTH } pl_finish; /* an eos id came; max_new_tokens */
const char *pl_finish_name(pl_finish f);                               /* "stop", "length" */

typedef struct pl_completion {
    int64_t prompt, sample, row; /* index of the prompt, of the sample of it, the prompt's row */
    const int32_t *prompt_ids;
    int64_t prompt_tokens;
    const int32_t *ids; /* the new tokens, the eos id that ended them included */
    const float *logps; /* [tokens] nats, of the model's own distribution (temperature 1, nothing cut) */
    int64_t tokens;
    const char *text; /* what the new tokens add to the prompt's text, without special tokens; UTF-8, NUL-terminated */
    size_t text_len;
    const char *prompt_text; /* the prompt's text as given, NULL when ids were given */
    size_t prompt_len;
    pl_finish finish;
} pl_completion; /* everything borrowed for the call */

typedef struct pl_generate_hooks {
    void *user;
    /* A piece of text of a sequence, as soon as no later token can change it. NULL: none. Pieces of different sequences
     * alternate; with one prompt and one sample they come in order. Non-zero stops: pl_generate returns it. */
    int (*piece)(void *user, int64_t prompt, int64_t sample, const char *text, size_t len);
    /* A finished sequence; in the order of prompts, then samples. NULL: none. Non-zero stops. */
    int (*done)(void *user, const pl_completion *c, pl_error *err);
    int (*stop)(void *user); /* polled after each step; non-zero: PL_E_INTERRUPTED. NULL: never */
} pl_generate_hooks;

typedef struct pl_generate_stats {
    int64_t prompt_tokens, new_tokens, steps;
    double seconds;
} pl_generate_stats;

/* Generates for prompts[0..n). stats may be NULL. PL_E_RANGE for an empty prompt, and where prompt and new tokens
 * exceed the model's positions; PL_E_NOMEM; PL_E_NUMERIC. */
int pl_generate(pl_generator *g, const pl_prompt *prompts, int64_t n, const pl_generate_hooks *hooks,
                pl_generate_stats *stats, pl_error *err);

/* {"row":0,"sample":0,"prompt":"...","completion":"...","tokens":12,"finish":"stop"} and a newline; ids: also
 * "prompt_ids", "ids" and "logps". PL_E_IO. */
int pl_completion_print(FILE *f, const pl_completion *c, bool ids, pl_error *err);

/* Prompts of a data file: JSON lines (plain or .gz) with a string `prompt`; or preference rows without one, whose
 * prompt is what both transcripts share (hh-rlhf). A directory means its `split`. Owned: pl_prompts_free. */
typedef struct pl_prompts {
    int64_t n;
    pl_prompt *items;
    char *text; /* of all items */
} pl_prompts;
int pl_prompts_load(pl_prompts **out, const char *dataset_name, const char *split, int64_t max_rows, pl_error *err);
void pl_prompts_free(pl_prompts *p);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
