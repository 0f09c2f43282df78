/* base/options.h: what options.c and options_text.c share, and the forms that write into a buffer. The interface is
 * plumb/options.h. */
#ifndef PL_OPTIONS_H
#define PL_OPTIONS_H

#include "base/base.h"
#include "base/buf.h"
#include "plumb/options.h"

typedef struct pl_option_slot {
    const pl_option *row; /* borrowed */
    void *field;          /* in the caller's struct; NULL when the row has none */
    const char *fallback; /* the command's default for it, else the row's */
    pl_option_origin origin;
    const char *where;      /* borrowed from `owned` or static */
    const char *file_where; /* where a file set it, even when the command line overrides; NULL */
    const char *choice;     /* ENUM: the text of the value; NULL while unset */
} pl_option_slot;

struct pl_options {
    const pl_command *command;
    const pl_command *const *all;
    pl_option_slot *slots;
    int64_t nslots;
    void **owned; /* blocks that fields and slots point to */
    int64_t nowned, owned_cap;
    const char **notes; /* the strings are in `owned` */
    int64_t nnotes, notes_cap;
    bool help_asked;
};

int pl_options_write_yaml(pl_buf *b, const pl_options *o, pl_error *err);
int pl_command_write_help(pl_buf *b, const char *program, const pl_command *command, pl_error *err);
int pl_commands_write_completion(pl_buf *b, const char *program, const pl_command *const *all, pl_error *err);
int pl_commands_write_man(pl_buf *b, const char *program, const char *version, const char *summary,
                          const pl_command *const *all, pl_error *err);

/* The i-th of "a|b|c": true and its span, false behind the last. */
bool pl_choice_at(const char *choices, int64_t i, const char **text, size_t *len);
/* The row of a name in a command's tables, NULL when there is none; '-' equals '_'. */
const pl_option *pl_command_find(const pl_command *command, const char *name, size_t len);
/* Default of a row in a command: its own, or the command's. */
const char *pl_command_default(const pl_command *command, const pl_option *row);
/* "a number > 0 and at most 1000", "a whole number from 1", "a|b|c", "true or false": into out. Returns out. */
const char *pl_option_wants(char *out, size_t size, const pl_option *row);
/* "N", "DIR", ... or "" for a flag. */
const char *pl_option_metavar(const pl_option *row);
/* In help, man page and completion? */
bool pl_option_is_listed(const pl_option *row);
/* Help, range and default as one line. */
int pl_option_describe(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err);
/* Writes b unless rc is set, releases it, and returns the first error. */
int pl_options_flush(FILE *f, pl_buf *b, int rc, pl_error *err);

#endif
