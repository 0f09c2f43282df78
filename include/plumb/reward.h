/* plumb/reward.h: models with a score head (reward models, verifiers): scores for files of answers, the best of several
 * answers, and how good the scores are.
 *
 *   pl_rate_options o;                                 filled from pl_rate_option_rows
 *   pl_rater_open(&r, machine, &o, &err);
 *   pl_rater_run(r, NULL, &err);
 *   pl_rater_print(r, stdout, &err);                   a line for each row, or for each prompt (best_of)
 *   pl_rater_result(r, &result, &err);
 *   pl_rater_free(r);
 *
 * A score is read at the last token of an answer, behind which an EOS is put as in training. A rater is for one thread
 * at a time. */
#ifndef PLUMB_REWARD_H
#define PLUMB_REWARD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "plumb/machine.h"
#include "plumb/options.h"
#include "plumb/score.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define PL_QUALITY_BINS 10
/* Answers whose probability of being right (or of a pair's preferred one being the chosen one) lies in one tenth of its
 * range. Empty: n is 0 and the rest NaN. */
typedef struct pl_quality_bin {
    int64_t n;
    double low, high;
    double predicted, observed; /* means: what the scores say, what is so */
} pl_quality_bin;

/* What scores are worth on held-out rows. NaN where a value is not defined. */
typedef struct pl_quality {
    bool pairs;          /* pairs of answers; else single answers with labels */
    int64_t n, positive; /* pairs, or answers; answers that are right */
    double accuracy, se; /* chosen above rejected (a tie is wrong); score > 0 exactly where right; standard error */
    double auc;          /* labels: right above wrong, a tie is half */
    double loss;         /* mean -log sigmoid of the difference, or of the signed score: nats */
    double mean_good, mean_bad; /* scores of chosen (right) and rejected (wrong) answers */
    double ece;                 /* expected calibration error over the bins: sum n/N |predicted - observed| */
    pl_quality_bin bins[PL_QUALITY_BINS];
    double length_pearson, length_spearman; /* correlation of score and tokens over all answers */
    double length_accuracy;  /* of a rule that prefers the longer answer (a tie is half); labels: its AUC */
    int64_t shorter, longer; /* pairs: where the chosen answer is the shorter, the longer one */
    double shorter_accuracy, longer_accuracy;
} pl_quality;

/* One JSON object and a newline; lines for people. PL_E_IO. */
int pl_quality_print_json(FILE *f, const pl_quality *q, pl_error *err);
int pl_quality_print_text(FILE *f, const pl_quality *q, pl_error *err);

/* What is scored, and what is done with the answers. Of data, dataset_name is a file of answers, answers beyond
 * max_length get no score, and cache_dir and overwrite_cache are not used. */
typedef struct pl_rate_options {
    pl_score_options data;
    bool best_of;
} pl_rate_options;
extern const pl_option pl_rate_option_rows[];

/* Choosing the best of several answers to a prompt by their scores. */
typedef struct pl_best_result {
    int64_t prompts, labelled; /* prompts; those whose answers all have labels */
    double answers;            /* mean number of answers of a prompt */
    double best, random, any;  /* share of right answers: the best scored one (ties: the first), one at random, any */
} pl_best_result;

typedef struct pl_rate_result {
    int64_t rows, answers, unscored; /* rows of the file; answers in them; answers that are too long */
    double mean, least, most;        /* scores */
    bool has_quality;                /* the rows are pairs, or all have labels */
    pl_quality quality;
    bool has_best;
    pl_best_result best;
} pl_rate_result;

typedef struct pl_rater pl_rater;

/* *is: DIR is a reward model (config.json), or the adapter (may be NULL) is one's. PL_E_IO, PL_E_FORMAT. */
int pl_is_reward_model(bool *is, const char *dir, const char *adapter, pl_error *err);
/* Opens model and data, and takes all memory. Rows: prompt and completion (label may be there); prompt and completions,
 * a list (labels may be one too); prompt, chosen and rejected, or transcripts; GSM8K's model solutions (question, and
 * objects with solution and is_correct). Answers beyond max_length (default: the model's positions) get no score.
 * PL_E_UNSUPPORTED for a causal model without a reward model's adapter; errors of the files. */
int pl_rater_open(pl_rater **out, pl_machine *machine, const pl_rate_options *options, pl_error *err);
void pl_rater_free(pl_rater *r);
/* Scores everything. PL_E_NUMERIC names the row; PL_E_INTERRUPTED. */
int pl_rater_run(pl_rater *r, const pl_score_hooks *hooks, pl_error *err);
/* Each row as it was read, with "score", "scores", or "chosen_score" and "rejected_score" behind its members (null
 * where an answer is too long); best_of: {"row","prompt","completion","score","answers"} of the best answer to each
 * prompt, with its "label" if it has one. PL_E_IO. */
int pl_rater_print(const pl_rater *r, FILE *f, pl_error *err);
int pl_rater_result(const pl_rater *r, pl_rate_result *out, pl_error *err);
/* One JSON object and a newline; lines for people. */
int pl_rate_print_json(FILE *f, const pl_rate_result *r, pl_error *err);
int pl_rate_print_text(FILE *f, const pl_rate_result *r, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
