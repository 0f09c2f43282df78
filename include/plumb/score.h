/* plumb/score.h: log-probs of the answers of preference rows, and how often a model prefers the right one.
 *
 *   pl_score_options so; pl_eval_options eo;          filled from the tables below by pl_options
 *   pl_scorer_open(&s, machine, &so, NULL, &err);     `plumb logps`
 *   pl_scorer_logps(s, sink, user, NULL, &err);
 *   pl_scorer_open(&s, machine, &so, &eo, &err);      `plumb eval`
 *   pl_scorer_eval(s, &result, NULL, &err);
 *   pl_scorer_free(s);
 *
 * Rows are tokenized as for training (prompt encoded with leading special tokens, EOS behind each answer, DECISIONS of
 * the seam), scored in the order of the file, and numbered as in the file: rows that were dropped leave a gap. Messages
 * go to the log. A scorer is for one thread at a time. */
#ifndef PLUMB_SCORE_H
#define PLUMB_SCORE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "plumb/loss.h"
#include "plumb/machine.h"
#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* What is scored. Strings are borrowed from whoever filled the struct, for the life of the scorer. */
typedef struct pl_score_options {
    const char *model_name_or_path; /* directory */
    const char *adapter;            /* PEFT directory on top of it; NULL: none */
    const char *dataset_name;       /* JSON lines, or a directory with splits */
    const char *dataset_test_split; /* split of a data directory */
    int64_t max_length;             /* tokens of prompt and answer; PL_OPT_NO_I64: none */
    int64_t max_prompt_length;      /* PL_OPT_NO_I64: none */
    int seam;                       /* 0 continue, 1 joint, 2 refuse */
    bool drop_empty;
    int64_t max_rows;      /* PL_OPT_NO_I64: all */
    const char *cache_dir; /* of tokenized rows; NULL: $XDG_CACHE_HOME/plumb or ~/.cache/plumb */
    bool overwrite_cache;  /* tokenize whatever is kept there */
    int bf16;              /* -1: as the machine likes it, 0, 1 */
    int64_t micro_batch_tokens;
} pl_score_options;
/* The rows of pl_score_options; bf16 is false unless told otherwise. */
extern const pl_option pl_score_option_rows[];

/* What `plumb eval` compares with. */
typedef struct pl_eval_options {
    const char *ref_model; /* directory; NULL: the base model with the adapter off, where there is an adapter */
    bool no_reference;     /* log-prob accuracy only */
    pl_loss_params loss;   /* beta; bind pl_beta_options to &loss */
} pl_eval_options;
/* The rows of pl_eval_options but `loss`, which has its own table (pl_beta_options). */
extern const pl_option pl_eval_option_rows[];

typedef struct pl_scorer pl_scorer;

/* Opens model, adapter, reference and data, and takes all memory. eval NULL: no reference is opened. PL_E_NOMEM when
 * the plan does not fit; PL_E_RANGE when a row is longer than the model's positions (max_length cuts it); errors of the
 * files. */
int pl_scorer_open(pl_scorer **out, pl_machine *machine, const pl_score_options *options, const pl_eval_options *eval,
                   pl_error *err);
void pl_scorer_free(pl_scorer *s);
int64_t pl_scorer_rows(const pl_scorer *s);
/* The reference in words: "the base model, with the adapter off". Borrowed. */
const char *pl_scorer_reference(const pl_scorer *s);

typedef struct pl_score_hooks {
    void *user;
    void (*progress)(void *user, int64_t done, int64_t total); /* rows; NULL: none */
    int (*stop)(void *user); /* polled after each micro-batch; non-zero: PL_E_INTERRUPTED. NULL: never */
} pl_score_hooks;

typedef struct pl_score_answer {
    int64_t tokens;     /* scored tokens, EOS among them */
    double logp;        /* nats, sum over them */
    int64_t n;          /* tokens of the answer; more than `tokens` by one where nothing comes before its first token */
    const int32_t *ids; /* [n] borrowed for the call */
    const float *logps; /* [tokens] the last `tokens` of ids, nats */
} pl_score_answer;

typedef struct pl_score_row {
    int64_t row; /* of the file, from 0, blank lines not counted */
    int64_t prompt_tokens;
    const int32_t *prompt_ids; /* [prompt_tokens] borrowed for the call */
    pl_score_answer chosen, rejected;
} pl_score_row;

/* Called once per row, in the order of the file. Non-zero stops: pl_scorer_logps returns it. */
typedef int pl_score_sink(void *user, const pl_score_row *row, pl_error *err);
int pl_scorer_logps(pl_scorer *s, pl_score_sink *sink, void *user, const pl_score_hooks *hooks, pl_error *err);
/* {"row":0,"prompt_tokens":9,"chosen":{"tokens":5,"logp":-12.3},"rejected":{...}} and a newline; tokens: also
 * "prompt_ids" beside "row", and "ids" and "logps" in each answer. Numbers read back as the same double. PL_E_IO. */
int pl_score_row_print(FILE *f, const pl_score_row *row, bool tokens, pl_error *err);
/* A sink for pl_scorer_logps that prints every row: user is a pl_score_printer. */
typedef struct pl_score_printer {
    FILE *f;
    bool tokens;
} pl_score_printer;
int pl_score_print(void *user, const pl_score_row *row, pl_error *err);

/* A mean over the rows, and the standard error of it (sample standard deviation / sqrt(rows); NaN for one row). */
typedef struct pl_mean {
    double mean, se;
} pl_mean;

typedef struct pl_eval_result {
    int64_t rows;
    bool has_reference;
    char reference[256]; /* in words */
    double beta;
    /* with a reference: TRL's metrics of the sigmoid objective, a tie is not right */
    pl_mean loss, rewards_chosen, rewards_rejected, rewards_accuracies, rewards_margins;
    pl_mean logps_chosen, logps_rejected; /* sums over an answer's tokens, nats */
    pl_mean logps_accuracies;             /* log-prob of chosen > that of rejected */
    int64_t tokens_chosen, tokens_rejected;
} pl_eval_result;
int pl_scorer_eval(pl_scorer *s, pl_eval_result *out, const pl_score_hooks *hooks, pl_error *err);
/* One JSON object and a newline: the metrics under TRL's names, "logps/accuracies", and "stderr" with the standard
 * errors. Without a reference there are no rewards/... and no loss. */
int pl_eval_print_json(FILE *f, const pl_eval_result *r, pl_error *err);
/* The same as lines for people. */
int pl_eval_print_text(FILE *f, const pl_eval_result *r, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
