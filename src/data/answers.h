/* data/answers.h: a file of answers to be scored: which answers there are, to which prompts, with which labels. */
#ifndef PL_ANSWERS_H
#define PL_ANSWERS_H

#include "base/buf.h"

typedef enum pl_answer_form {
    PL_ANSWERS_ONE,      /* prompt, completion, label if there is one */
    PL_ANSWERS_LIST,     /* prompt, completions, labels if there are some */
    PL_ANSWERS_PAIR,     /* prompt, chosen, rejected; or two transcripts */
    PL_ANSWERS_SOLUTIONS /* GSM8K: question, and objects with solution and is_correct */
} pl_answer_form;

typedef struct pl_answer {
    int64_t row;    /* of the file, blank lines not counted */
    int64_t prompt; /* equal prompts have the same number, from 0 in the order of the file */
    int label;      /* -1: none */
    size_t prompt_at, prompt_n, text_at, text_n; /* in pl_answers.texts */
} pl_answer;

typedef struct pl_answers {
    pl_answer_form form; /* of all rows */
    int64_t n, nrows, nprompts;
    pl_answer *answer; /* [n] row by row; owned */
    int64_t *first;    /* [nrows + 1] answers of a row; owned */
    size_t *line;      /* [nrows + 1] where its JSON begins in lines; owned */
    pl_buf texts, lines;
    pl_buf rows; /* JSON lines of prompt and completion, one for each answer */
} pl_answers;

/* PL_E_FORMAT names file and line. max_rows 0: all. Release with pl_answers_release (safe on zeroed storage). */
int pl_answers_load(pl_answers *out, const char *path, int64_t max_rows, pl_error *err);
void pl_answers_release(pl_answers *a);

#endif
