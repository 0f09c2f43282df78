/* data/dataset.h: tokenized rows: a prompt and its answers. Everything that training needs of the data file, and the
 * counts that tell what was done to it. Columns are read in reader.c, the seam is in seam.c, the loading, truncation
 * and counting in dataset.c, the words of the report in report.c, growing and hashing in rows.c, order and split in
 * order.c, mismatched answers in mismatch.c, equal prompts in share.c, names of data sets in resolve.c. */
#ifndef PL_DATASET_H
#define PL_DATASET_H

#include "base/base.h"
#include "base/hash.h"
typedef struct pl_tokenizer pl_tokenizer; /* plumb/tokenizer.h */

typedef enum pl_data_kind {
    PL_DATA_PREFERENCE, /* prompt, chosen, rejected: two answers (0 chosen, 1 rejected) */
    PL_DATA_COMPLETION, /* prompt, completion: one answer */
    PL_DATA_LABELLED,   /* prompt, completion, label: one answer; pairs become two rows */
    PL_DATA_TEXT        /* text: an empty prompt and one answer, whose first token is not scored */
} pl_data_kind;

typedef enum pl_seam { PL_SEAM_CONTINUE, PL_SEAM_JOINT, PL_SEAM_REFUSE } pl_seam;

/* Every field is in the key of cached rows (pl_dataset_key). */
typedef struct pl_data_options {
    bool preference; /* what the command needs: preference rows, or prompt/completion or text rows */
    bool labelled;   /* ... or rows with a label, or preference rows to be split into them */
    bool margin;     /* preference rows may have a number `margin` */
    pl_seam seam;
    int64_t max_length;        /* tokens of prompt + answer, keep_start; 0 = no limit */
    int64_t max_prompt_length; /* keeps the prompt's last tokens behind a leading BOS (DECISIONS 24); 0 = no limit */
    bool drop_long;            /* leave out rows with an answer beyond max_length, instead of cutting it */
    bool drop_empty;           /* leave out rows with an empty answer (DECISIONS 27) */
    bool completion_only_loss; /* false: SFT also trains on the prompt (completion rows); ignored for preference */
    const char *text_field;    /* dataset_text_field, "text" */
    int64_t max_rows;          /* 0 = all */
} pl_data_options;

typedef struct pl_span {
    int64_t first, count; /* into pl_dataset.ids */
} pl_span;

typedef struct pl_row {
    int64_t source; /* 0-based row of the file (blank lines not counted) */
    int64_t line;   /* 1-based line of the file */
    pl_span prompt;
    int64_t first_answer, answers; /* into pl_dataset.answers */
    bool label;                    /* LABELLED: desirable */
    double margin;                 /* of the data; 0 without */
} pl_row;

#define PL_DATA_LISTED 8

/* How many rows, and the lines of the first of them. */
typedef struct pl_data_note {
    int64_t n;
    int64_t lines[PL_DATA_LISTED];
} pl_data_note;

/* Counts of rows. Each appears in the output with its words on one line when it is not zero. */
typedef struct pl_data_report {
    int64_t read, kept;
    pl_seam seam;
    int64_t seam_prefix;    /* answers whose joint ids began with the prompt's */
    int64_t seam_continued; /* answers tokenized as a continuation */
    int64_t seam_cut;       /* answers whose joint ids made the prompt shorter (PL_SEAM_JOINT) */
    int64_t truncated;      /* rows with an answer or prompt cut by max_length or max_prompt_length */
    int64_t dropped_long;   /* rows whose prompt leaves no room (len(prompt) >= max_length); drop_long: longer rows */
    bool drop_long;
    pl_data_note empty;      /* rows with an empty answer: empty after trimming white space, or no token to train */
    int64_t dropped_empty;   /* rows left out: empty and drop_empty, or no token to train */
    pl_data_note differing;  /* hh-rlhf rows with differing prompts */
    pl_data_note further;    /* hh-rlhf rows whose answer holds a further turn */
    pl_data_note identical;  /* rows with chosen == rejected */
    pl_data_note repeated;   /* rows whose answers begin with the whole prompt once more */
    pl_data_note double_bos; /* rows that begin with two BOS: the text holds one, the tokenizer adds one */
    int64_t lost_eos;        /* answers whose EOS was cut away */
} pl_data_report;

typedef struct pl_dataset {
    pl_data_kind kind;
    int64_t n;
    pl_row *rows;     /* [n] */
    pl_span *answers; /* [n * answers per row] */
    int32_t *ids;
    int64_t nids;
    int64_t longest_row, longest_tree; /* tokens: of one prompt+answer; of prompt + all answers */
    pl_data_report report;
    char *unused;   /* owned: names of columns that are not used, quoted, for people; NULL: none */
    pl_hash hash;   /* of ids, prompt lengths and answers of all kept rows */
    int64_t *mixed; /* [n] scratch of pl_dataset_mismatch; NULL: there are no mismatched answers */
} pl_dataset;

/* Reads and tokenizes a JSON-lines file (plain or gzip), rows in parallel, with the same result for any number of
 * threads. PL_E_FORMAT names file and line; PL_E_MISMATCH for ids >= vocab_size; PL_E_UNSUPPORTED for conversational
 * rows and when the tokenizer has no EOS; PL_E_RANGE when no row is left. Logs three seams (PL_LOG_DEBUG); what else is
 * worth saying is logged by pl_dataset_log. pl_dataset_open (data/cache.h) keeps the result on disk. */
int pl_dataset_load(pl_dataset **out, const char *path, const pl_data_options *options, const pl_tokenizer *tok,
                    int64_t vocab_size, pl_error *err);
/* The same of JSON lines in memory; `name` takes the path's place in messages. */
int pl_dataset_load_text(pl_dataset **out, const char *name, const char *text, size_t n, const pl_data_options *options,
                         const pl_tokenizer *tok, int64_t vocab_size, pl_error *err);
void pl_dataset_free(pl_dataset *d);
/* Columns that are not used and the counts as lines for people, each logged through pl_log at PL_LOG_INFO ("4 rows with
 * an empty answer"). */
void pl_dataset_log(const pl_dataset *d, const char *path);
/* Moves the last part of the rows (TRL's --eval_split style: `share` of the rows, at least one, chosen by seed) into
 * *held. */
int pl_dataset_split(pl_dataset *d, pl_dataset **held, double share, uint64_t seed, pl_error *err);
/* `dataset_name` (DECISIONS 23): a file, or a directory with train*, test* and validation* files. split: "train",
 * "test"... A name that is neither is an error that says plumb never downloads. *out owned. */
int pl_dataset_resolve(char **out, const char *name, const char *split, pl_error *err);

/* Puts rows of one answer each whose prompts have equal ids together: one row with their answers, so that the prompt is
 * there once. In the order of their first rows; none gets longer than most_tok tokens by it. *sources [answers, owned]:
 * the pl_row.source that each answer came with. */
int pl_dataset_share(pl_dataset *d, int64_t **sources, int64_t most_tok, pl_error *err);

/* KTO's mismatched answers (DECISIONS 28): every row gets, as its second answer, the completion of another row (its
 * tokens are not copied), cut to what max_length (0: none) leaves behind the prompt. RANDOM: a new pairing for each
 * epoch; FIXED: that of epoch 0; BATCH: the row before it among `batch` consecutive rows, as TRL. RANDOM and FIXED pair
 * no row with one of the same prompt, where there is another. The first call makes room, the others allocate nothing.
 * PL_E_RANGE when there is one row only. */
typedef enum pl_pairing { PL_PAIRING_RANDOM, PL_PAIRING_FIXED, PL_PAIRING_BATCH } pl_pairing;
typedef struct pl_mismatch {
    pl_pairing pairing;
    uint64_t seed;
    int64_t batch, max_length;
} pl_mismatch;
/* Is answer a of each row such a one: there for an estimate, through which no gradient flows? */
static inline bool pl_answer_is_aside(const pl_dataset *d, int64_t a) { return d->mixed != NULL && a == 1; }
int pl_dataset_mismatch(pl_dataset *d, const pl_mismatch *m, int64_t epoch, pl_error *err);
/* A hash of key and of all that decides the answers of an epoch but the rows themselves. */
int pl_mismatch_key(pl_hash *out, const pl_hash *key, const pl_mismatch *m, int64_t epoch, pl_error *err);

/* Row order of one epoch: out[n]. random: PyTorch's permutation for seed + epoch (trl-spec 0); else the file's order.
 */
int pl_epoch_order(int64_t *out, int64_t n, bool random, uint64_t seed, int64_t epoch, pl_error *err);

#endif
