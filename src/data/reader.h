/* data/reader.h: from a parsed JSON row to the texts of a prompt and its answers. Knows the columns, knows no
 * tokenizer. */
#ifndef PL_READER_H
#define PL_READER_H

#include "base/buf.h"
#include "base/json.h"
#include "data/dataset.h"

/* What the first row of a file decides for all of them. */
typedef struct pl_row_form {
    pl_data_kind kind;
    bool transcripts;       /* chosen and rejected hold whole dialogues, there is no prompt column (DECISIONS 27) */
    bool split;             /* LABELLED, and the rows are pairs: chosen is desirable, rejected is not */
    bool margin;            /* preference rows may have a margin */
    const char *text_field; /* borrowed from the options */
} pl_row_form;

typedef struct pl_slice {
    const char *s; /* UTF-8, may hold NULs */
    size_t n;
} pl_slice;

/* The texts of one row, borrowed from its JSON. */
typedef struct pl_row_text {
    pl_slice prompt, answer[2];
    int64_t answers;
    bool label;        /* of rows with one */
    double margin;     /* 0 without */
    bool differing;    /* transcripts: the dialogues differ before their last answer */
    bool further_turn; /* transcripts: an answer goes on with another turn */
    bool empty;        /* an answer is empty after trimming white space */
    bool identical;    /* both answers are the same */
    bool repeated;     /* every answer begins with the whole prompt: it is probably in there twice */
} pl_row_text;

/* `where` ("pairs.jsonl:12") begins every error. PL_E_FORMAT; PL_E_UNSUPPORTED for conversational rows. */
int pl_row_form_of(pl_row_form *out, const pl_json *row, const pl_data_options *options, const char *where,
                   pl_error *err);
int pl_row_read(pl_row_text *out, const pl_json *row, const pl_row_form *form, const char *where, pl_error *err);
/* Appends s as a JSON string for a message: one line, at most 60 bytes of it. */
int pl_slice_quote(pl_buf *b, pl_slice s, pl_error *err);
/* Whether the form uses a column of this name. */
bool pl_row_form_uses(const pl_row_form *form, const char *column);
/* What a file of this form holds, for people: "preference pairs". */
const char *pl_row_form_name(const pl_row_form *form);

#endif
