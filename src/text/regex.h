/* text/regex.h: the patterns of tokenizer.json. They are written for Oniguruma; PCRE2 runs them after a translation
 * that keeps their meaning (\s without U+180E, \w with marks, \p{Script} without extensions). What the two engines
 * would read differently and the translation does not know is PL_E_UNSUPPORTED. A literal pattern is searched directly.
 */
#ifndef PL_REGEX_H
#define PL_REGEX_H

#include "base/base.h"

typedef struct pl_regex pl_regex; /* immutable once compiled; shared by threads */

/* Compiles a regular expression of n bytes. PL_E_UNSUPPORTED names the construct. */
int pl_regex_compile(pl_regex **out, const char *pattern, size_t n, pl_error *err);
/* A literal of n > 0 bytes in place of an expression. */
int pl_regex_literal(pl_regex **out, const char *literal, size_t n, pl_error *err);
void pl_regex_free(pl_regex *r);

/* The engine's memory for one text at a time: not shared by threads. Zero-initialise; release when done. */
typedef struct pl_regex_scratch {
    void *match, *stack, *context;
} pl_regex_scratch;
void pl_regex_scratch_release(pl_regex_scratch *s);

/* Walks the matches of r in text[0..n) (valid UTF-8): from left to right, no overlaps, no empty match right behind a
 * match. */
typedef struct pl_regex_iter {
    const char *text;
    size_t n;
    size_t next;       /* where the next search starts */
    size_t last_end;   /* end of the last match */
    bool any;          /* there was a match */
    size_t start, end; /* the match found */
} pl_regex_iter;
/* *found = false at the end. PL_E_UNSUPPORTED when the engine gives up on the text. */
int pl_regex_next(const pl_regex *r, pl_regex_scratch *s, pl_regex_iter *it, bool *found, pl_error *err);

#endif
