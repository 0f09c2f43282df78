/* plumb/options.h: one const row per option drives the command line, the YAML key, the range check, the help, the man
 * page and the shell completion.
 *
 * A command names its tables: arrays of rows, each array ending with a row without a name, each bound to one struct of
 * the caller's. A value comes from the default, the file or the command line, in this order of strength, whatever the
 * order of the calls. Errors name the option, the place ("dpo.yaml:12" or "--beta"), the value and what is allowed; an
 * unknown name also the nearest valid one, or the commands that have it. All errors here are PL_E_OPTION but
 * PL_E_NOMEM, PL_E_IO and PL_E_FORMAT. */
#ifndef PLUMB_OPTIONS_H
#define PLUMB_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plumb/error.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* type           field                unset            command line                         */
typedef enum pl_option_type {
    PL_OPT_BOOL,    /* bool              -                --key, --key true|false, --no_key */
    PL_OPT_TRIBOOL, /* int 1, 0          -1               the same, and none                 */
    PL_OPT_I64,     /* int64_t           PL_OPT_NO_I64    --key 12                           */
    PL_OPT_F64,     /* double            NaN              --key 1e-6                         */
    PL_OPT_STR,     /* const char *      NULL             --key text                         */
    PL_OPT_ENUM,    /* int, row's index  -1               --key choice                       */
    PL_OPT_STRLIST, /* pl_strlist        items == NULL    --key a b c                        */
    PL_OPT_MAP,     /* pl_strmap         keys == NULL     --key '{"a": 1}'                   */
    PL_OPT_ANY,     /* no field: any value is taken and dropped; only with PL_OPT_IDLE       */
    PL_OPT_ALIAS    /* no field: another name of the option in `target`                      */
} pl_option_type;

#define PL_OPT_NO_I64 INT64_MIN

typedef struct pl_strlist {
    const char *const *items; /* borrowed from the options, as are the strings; NULL while unset */
    int64_t n;
} pl_strlist;

typedef struct pl_strmap {
    const char *const *keys;   /* borrowed; NULL while unset */
    const char *const *values; /* texts as written; NULL for null */
    int64_t n;
} pl_strmap;

enum {
    PL_OPT_NULLABLE = 1,    /* none/null unsets it (always so when there is no default) */
    PL_OPT_REQUIRED = 2,    /* pl_options_finish fails while it is unset */
    PL_OPT_OPEN_MIN = 4,    /* the value must be greater than min, not equal */
    PL_OPT_OPEN_MAX = 8,    /* the value must be less than max */
    PL_OPT_DEPRECATED = 16, /* still works; using it leaves a note with the row's `note` */
    PL_OPT_IDLE = 32,       /* checked, not stored: has no effect here, and a note says why */
    PL_OPT_NO_RECORD = 64,  /* not part of the resolved configuration (config, resume) */
    PL_OPT_HIDDEN = 128,    /* not in help, man page and completion */
    PL_OPT_NO_FILE = 256,   /* only on the command line (config) */
    PL_OPT_LATER = 512      /* checked, not stored: does not exist yet; the default, silently, is the one value taken */
};

typedef struct pl_option {
    const char *name; /* with underscores; dashes on the command line are the same. NULL ends a table */
    pl_option_type type;
    size_t offset;        /* of the field in the struct that this table is bound to */
    const char *fallback; /* default as text; NULL: unset (BOOL: false). A STRLIST has its items apart by spaces */
    double min, max;      /* I64, F64: allowed range; both 0: any finite number */
    const char *choices;  /* ENUM, STRLIST: "a|b|c" */
    const char *group;    /* heading in the help; NULL: that of the row before */
    const char *help;     /* one line, no full stop */
    const char *metavar;  /* NULL: from the type */
    unsigned flags;
    const char *note;   /* why it is deprecated or idle */
    const char *target; /* ALIAS */
} pl_option;

typedef struct pl_option_default {
    const char *name, *text; /* name NULL ends the list; text NULL: unset */
} pl_option_default;

typedef struct pl_command {
    const char *name, *summary;        /* "dpo", one line */
    const char *description;           /* paragraphs for help and man page; NULL */
    const pl_option *const *tables;    /* ends with NULL */
    const pl_option_default *defaults; /* where this command differs from the rows; NULL: nowhere */
} pl_command;

typedef struct pl_options pl_options;

/* Sets every field to its default. bases[i] is the struct of command->tables[i]; it and the command must outlive the
 * options. all: every command of the program, NULL-terminated, for the hint "belongs to plumb sft"; may be NULL.
 * PL_E_INTERNAL for a table that contradicts itself (a default out of range, an alias of nothing, a name twice). */
int pl_options_new(pl_options **out, const pl_command *command, void *const *bases, const pl_command *const *all,
                   pl_error *err);
void pl_options_free(pl_options *o); /* strings, lists and maps in the fields die with it */

/* argv without the program's and the command's name. -h and --help only set pl_options_help_asked. */
int pl_options_parse_args(pl_options *o, int argc, const char *const *argv, pl_error *err);
bool pl_options_help_asked(const pl_options *o);
/* Every key of a YAML file; what the command line has set stays. */
int pl_options_load_yaml(pl_options *o, const char *path, pl_error *err);
/* As if from the command line; for programs that embed plumb. value NULL: unset. */
int pl_options_set(pl_options *o, const char *name, const char *value, pl_error *err);
/* Required options are there. Call last. */
int pl_options_finish(const pl_options *o, pl_error *err);

typedef enum pl_option_origin { PL_ORIGIN_DEFAULT, PL_ORIGIN_FILE, PL_ORIGIN_ARGS } pl_option_origin;
pl_option_origin pl_options_origin(const pl_options *o, const char *name);
/* For errors of the caller about this value: "dpo.yaml:12", "--beta" or "default"; "?" for an unknown name. Borrowed.
 */
const char *pl_options_where(const pl_options *o, const char *name);
/* Text of an ENUM's value, as in its row; NULL when unset or unknown. Borrowed from the options. */
const char *pl_options_choice(const pl_options *o, const char *name);
/* Lines about deprecated names and options without effect that were used. Borrowed. */
const char *const *pl_options_notes(const pl_options *o, int64_t *n);

/* The resolved configuration, `# default` behind what nobody set; load_yaml reads it back to the same values. PL_E_IO.
 */
int pl_options_print_yaml(FILE *f, const pl_options *o, pl_error *err);
/* Help of one command, 100 columns. */
int pl_command_print_help(FILE *f, const char *program, const pl_command *command, pl_error *err);
/* A bash completion script and a man page (troff, section 1) for all commands; `all` ends with NULL. */
int pl_commands_print_completion(FILE *f, const char *program, const pl_command *const *all, pl_error *err);
int pl_commands_print_man(FILE *f, const char *program, const char *version, const char *summary,
                          const pl_command *const *all, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
