/* options_man.c: the bash completion script and the man page, from the tables of all commands. */
#include <stdio.h>
#include <string.h>

#include "base/options_value.h"

/* --- completion
 * ------------------------------------------------------------------------------------------------------------ */
static int completion_choices(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err) {
    int rc = pl_buf_printf(b, err, "        %s:--%s) words=\"", command->name, row->name);
    bool boolean = row->type == PL_OPT_BOOL || row->type == PL_OPT_TRIBOOL;
    const char *text;
    size_t len;
    if (rc == 0 && boolean) rc = pl_buf_puts(b, "true false", err);
    for (int64_t i = 0; rc == 0 && !boolean && pl_choice_at(row->choices, i, &text, &len); i++)
        rc = pl_buf_printf(b, err, "%s%.*s", i ? " " : "", (int)len, text);
    return rc ? rc : pl_buf_puts(b, "\" ;;\n", err);
}

static bool takes_words(const pl_option *row) {
    return row->choices || row->type == PL_OPT_BOOL || row->type == PL_OPT_TRIBOOL;
}

static int completion_values(pl_buf *b, const pl_command *const *all, pl_error *err) {
    int rc = 0;
    for (; *all; all++)
        for (const pl_option *const *t = (*all)->tables; *t; t++)
            for (const pl_option *row = *t; rc == 0 && row->name; row++)
                if (pl_option_is_listed(row) && takes_words(row)) rc = completion_choices(b, *all, row, err);
    return rc;
}

static int completion_names(pl_buf *b, const pl_command *const *all, pl_error *err) {
    int rc = 0;
    for (; rc == 0 && *all; all++) {
        rc = pl_buf_printf(b, err, "        %s) words=\"--help", (*all)->name);
        for (const pl_option *const *t = (*all)->tables; *t; t++)
            for (const pl_option *row = *t; rc == 0 && row->name; row++)
                if (!(row->flags & (PL_OPT_HIDDEN | PL_OPT_IDLE | PL_OPT_DEPRECATED)))
                    rc = pl_buf_printf(b, err, " --%s", row->name);
        if (rc == 0) rc = pl_buf_puts(b, "\" ;;\n", err);
    }
    return rc;
}

int pl_commands_write_completion(pl_buf *b, const char *program, const pl_command *const *all, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err,
                            "# bash completion of %s, generated from its option tables\n"
                            "_%s() {\n"
                            "    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words=\"\"\n"
                            "    local previous=${COMP_WORDS[COMP_CWORD-1]//-/_}\n"
                            "    previous=--${previous#__}\n"
                            "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                            "        COMPREPLY=($(compgen -W \"",
                            program, program));
    for (const pl_command *const *c = all; *c; c++) PL_GO(rc, pl_buf_printf(b, err, "%s ", (*c)->name));
    PL_GO(rc, pl_buf_puts(b,
                          "help --help --version\" -- \"$current\"))\n"
                          "        return\n"
                          "    fi\n"
                          "    case $command:$previous in\n",
                          err));
    PL_GO(rc, completion_values(b, all, err));
    PL_GO(rc, pl_buf_puts(b,
                          "    esac\n"
                          "    case $current in\n"
                          "    -*)\n"
                          "        case $command in\n",
                          err));
    PL_GO(rc, completion_names(b, all, err));
    PL_GO(rc, pl_buf_printf(b, err,
                            "        esac ;;\n"
                            "    esac\n"
                            "    if [ -n \"$words\" ]; then\n"
                            "        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
                            "    else\n"
                            "        COMPREPLY=($(compgen -f -- \"$current\"))\n"
                            "        compopt -o filenames 2>/dev/null\n"
                            "    fi\n"
                            "}\n"
                            "complete -F _%s %s\n",
                            program, program));
out:
    return rc;
}

/* --- the man page
 * ---------------------------------------------------------------------------------------------------------- */
/* troff: a backslash and a hyphen are escaped; a dot or quote at a line's start gets a zero-width character before it.
 */
static int troff(pl_buf *b, const char *text, pl_error *err) {
    int rc = 0;
    bool start = true;
    for (const char *s = text; rc == 0 && *s; s++) {
        if (start && (*s == '.' || *s == '\'')) rc = pl_buf_puts(b, "\\&", err);
        if (rc) return rc;
        if (*s == '\\')
            rc = pl_buf_puts(b, "\\e", err);
        else if (*s == '-')
            rc = pl_buf_puts(b, "\\-", err);
        else
            rc = pl_buf_add(b, s, 1, err);
        start = *s == '\n';
    }
    return rc;
}

static int man_option(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err) {
    pl_buf text = {0};
    int rc;
    PL_GO(rc, pl_buf_puts(b, ".TP\n\\fB\\-\\-", err));
    PL_GO(rc, troff(b, row->name, err));
    PL_GO(rc, pl_buf_puts(b, "\\fR", err));
    if (*pl_option_metavar(row)) {
        PL_GO(rc, pl_buf_puts(b, " \\fI", err));
        PL_GO(rc, troff(b, pl_option_metavar(row), err));
        PL_GO(rc, pl_buf_puts(b, "\\fR", err));
    }
    PL_GO(rc, pl_buf_puts(b, "\n", err));
    PL_GO(rc, pl_option_describe(&text, command, row, err));
    PL_GO(rc, troff(b, text.data, err));
    PL_GO(rc, pl_buf_puts(b, "\n", err));
out:
    pl_buf_release(&text);
    return rc;
}

static int man_command(pl_buf *b, const char *program, const pl_command *c, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, ".SS %s %s\n", program, c->name));
    PL_GO(rc, troff(b, c->description ? c->description : c->summary, err));
    PL_GO(rc, pl_buf_puts(b, "\n", err));
    for (const pl_option *const *t = c->tables; *t; t++)
        for (const pl_option *row = *t; row->name; row++)
            if (pl_option_is_listed(row)) PL_GO(rc, man_option(b, c, row, err));
out:
    return rc;
}

int pl_commands_write_man(pl_buf *b, const char *program, const char *version, const char *summary,
                          const pl_command *const *all, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, ".TH %s 1 \"\" \"%s %s\" \"User Commands\"\n.SH NAME\n%s \\- ", program, program,
                            version, program));
    PL_GO(rc, troff(b, summary, err));
    PL_GO(rc, pl_buf_printf(b, err, "\n.SH SYNOPSIS\n\\fB%s\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR ...]\n.SH COMMANDS\n",
                            program));
    for (const pl_command *const *c = all; *c; c++) {
        PL_GO(rc, pl_buf_printf(b, err, ".TP\n\\fB%s\\fR\n", (*c)->name));
        PL_GO(rc, troff(b, (*c)->summary, err));
        PL_GO(rc, pl_buf_puts(b, "\n", err));
    }
    PL_GO(rc, pl_buf_puts(b, ".SH OPTIONS\n", err));
    for (const pl_command *const *c = all; *c; c++) PL_GO(rc, man_command(b, program, *c, err));
out:
    return rc;
}

int pl_commands_print_completion(FILE *f, const char *program, const pl_command *const *all, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_commands_write_completion(&b, program, all, err);
    return pl_options_flush(f, &b, rc, err);
}

int pl_commands_print_man(FILE *f, const char *program, const char *version, const char *summary,
                          const pl_command *const *all, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_commands_write_man(&b, program, version, summary, all, err);
    return pl_options_flush(f, &b, rc, err);
}
