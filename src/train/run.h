/* train/run.h: everything that one run owns; run_open.c builds it, run.c drives it. */
#ifndef PL_RUN_H
#define PL_RUN_H

#include "model/machine.h"
#include "plumb/tokenizer.h"
#include "train/batch.h"
#include "train/checkpoint.h"
#include "train/record.h"
#include "train/schedule.h"

typedef struct pl_run {
    const pl_config *c;
    const pl_options *options;
    const pl_train_hooks *hooks;
    const char *command;
    pl_machine *machine;
    pl_backend backend;
    char *run_name;
    char *cache_dir; /* tokenized rows, reference log-probs, hashes of weights */
    int lock;        /* file descriptor, -1: none */

    pl_model model;
    pl_tokenizer *tokenizer;
    pl_dataset *train, *eval; /* eval may be NULL */
    pl_buf made[2];           /* JSON lines that were made of GSM8K problems: to train and to evaluate on */
    int64_t max_length;       /* tokens of a row at most; packed: of a bin */
    pl_bins bins;             /* of train when it is packed, else none */
    pl_peft_config peft;
    pl_hfdir_classifier classifier; /* of what is written, with a score head */
    bool is_lora;

    pl_arena model_arena, step_arena;
    size_t planned_bytes; /* what the process will hold at most */
    pl_trainable policy;
    pl_optimizer optimizer;
    pl_reference reference;
    pl_worker worker;
    pl_batcher batcher;
    int64_t *in_order;             /* 0, 1, 2, ...: the rows of passes over a whole dataset; owned */
    pl_forest_caps caps;           /* the largest micro-batch of the run */
    pl_forest_caps unit_caps;      /* the most sequences, targets and rows that the objective sees together */
    double **cached, *cached_eval; /* reference log-probs, NULL when live; of training: one list, or one per epoch */
    int64_t ncached;
    bool mismatched; /* rows have mismatched answers (KTO), those of paired_epoch */
    pl_mismatch mismatch;
    int64_t paired_epoch;

    pl_schedule schedule;
    pl_saver saver;
    pl_state state;
    pl_record record;
    bool recompute;
    bool one_batch; /* every step of the run is one micro-batch, so that gradients can lie in activations */
    bool lends;     /* and they do (model/worker.h) */
    double *scores, *score_tokens; /* of the evaluation's answers, with a score head; owned */
} pl_run;

/* Reads and checks everything, plans and takes the memory, prints the banner. After this only training can fail. */
int pl_run_open(pl_run *r, pl_error *err);
void pl_run_close(pl_run *r);
/* output_dir made, checked and locked (run_dir.c). */
int pl_run_open_dir(pl_run *r, pl_error *err);
/* Gives the rows the mismatched answers of an epoch, where the objective has such and they have others. */
int pl_run_pair_epoch(pl_run *r, int64_t epoch, pl_error *err);
/* The labelled rows of a GSM8K file into *made and *out (verifier_rows.c); *is false: it is another file. eval: rows to
 * evaluate on, with other wrong answers, and without gsm8k_solutions. */
int pl_run_gsm8k(pl_dataset **out, pl_run *r, bool eval, bool *is, const char *path, const pl_data_options *o,
                 pl_error *err);
/* The rows that were made, into the run directory: what was trained on can be read. */
int pl_run_write_made(const pl_run *r, pl_error *err);
/* With a score head: what the scores of the last evaluation are worth, into v and <out>/report.json (report.c). */
int pl_run_report(const pl_run *r, pl_values *v, pl_error *err);
/* config.yaml in the run directory. */
int pl_run_write_config(const pl_run *r, pl_error *err);
/* PL_E_MISMATCH names the options, of those that must not change in a run, that its config.yaml has other values of. */
int pl_run_compare_config(const pl_run *r, pl_error *err);

#endif
