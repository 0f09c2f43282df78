/* options_text.c: what is generated from the tables: the resolved configuration and the help of a command.
 * Completion and man page are in options_man.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/options_value.h"
#include "base/utf8.h"

#define WIDTH 100
#define TEXT_COLUMN 30

/* --- the resolved configuration
 * -------------------------------------------------------------------------------------------- */
static bool is_plain_yaml(const char *s) {
    static const char *const words[] = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/";
    if (!*s || !strchr(letters, *s)) return false;
    for (int64_t i = 0; i < PL_LEN(words); i++)
        if (strcasecmp(s, words[i]) == 0) return false;
    return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/0123456789.-")] == 0;
}

/* A JSON string is a YAML one, but for a few code points that YAML wants escaped. */
static int yaml_string(pl_buf *b, const char *s, pl_error *err) {
    if (is_plain_yaml(s)) return pl_buf_puts(b, s, err);
    int rc = pl_buf_puts(b, "\"", err);
    size_t n = strlen(s);
    for (size_t i = 0; rc == 0 && i < n;) {
        uint32_t c = 0xFFFD;
        size_t k = pl_utf8_decode(s + i, n - i, &c);
        bool odd = c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF || c == 0xFFFE ||
                   c == 0xFFFF;
        if (c == '"' || c == '\\')
            rc = pl_buf_printf(b, err, "\\%c", (char)c);
        else if (odd)
            rc = pl_buf_printf(b, err, "\\u%04x", (unsigned)c);
        else
            rc = k ? pl_buf_add(b, s + i, k, err) : pl_buf_puts(b, "\xEF\xBF\xBD", err);
        i += k ? k : 1;
    }
    return rc ? rc : pl_buf_puts(b, "\"", err);
}

static int yaml_list(pl_buf *b, const pl_strlist *list, pl_error *err) {
    int rc = pl_buf_puts(b, "[", err);
    for (int64_t i = 0; rc == 0 && i < list->n; i++) {
        if (i) rc = pl_buf_puts(b, ", ", err);
        if (rc == 0) rc = yaml_string(b, list->items[i], err);
    }
    return rc ? rc : pl_buf_puts(b, "]", err);
}

static int yaml_map(pl_buf *b, const pl_strmap *map, pl_error *err) {
    int rc = pl_buf_puts(b, "{", err);
    for (int64_t i = 0; rc == 0 && i < map->n; i++) {
        const char *v = map->values[i];
        if (i) rc = pl_buf_puts(b, ", ", err);
        if (rc == 0) rc = yaml_string(b, map->keys[i], err);
        if (rc == 0) rc = pl_buf_puts(b, ": ", err);
        if (rc) return rc;
        bool number_or_word =
            v && *v && v[strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._")] == 0;
        rc = !v ? pl_buf_puts(b, "null", err) : number_or_word ? pl_buf_puts(b, v, err) : yaml_string(b, v, err);
    }
    return rc ? rc : pl_buf_puts(b, "}", err);
}

static int yaml_value(pl_buf *b, const pl_option_slot *s, pl_error *err) {
    if (pl_option_is_unset(s)) return pl_buf_puts(b, "null", err);
    switch (s->row->type) {
    case PL_OPT_BOOL: return pl_buf_puts(b, *(const bool *)s->field ? "true" : "false", err);
    case PL_OPT_TRIBOOL: return pl_buf_puts(b, *(const int *)s->field ? "true" : "false", err);
    case PL_OPT_I64: return pl_buf_printf(b, err, "%" PRId64, *(const int64_t *)s->field);
    case PL_OPT_F64: return pl_buf_json_double(b, *(const double *)s->field, err);
    case PL_OPT_STR: return yaml_string(b, *(const char *const *)s->field, err);
    case PL_OPT_ENUM: return yaml_string(b, s->choice, err);
    case PL_OPT_STRLIST: return yaml_list(b, s->field, err);
    case PL_OPT_MAP: return yaml_map(b, s->field, err);
    default: return 0;
    }
}

int pl_options_write_yaml(pl_buf *b, const pl_options *o, pl_error *err) {
    int rc = pl_buf_printf(b, err, "# plumb %s: the resolved configuration (`# default`: nobody set it)\n",
                           o->command->name);
    for (int64_t i = 0; rc == 0 && i < o->nslots; i++) {
        const pl_option_slot *s = &o->slots[i];
        if (!s->field || (s->row->flags & (PL_OPT_NO_RECORD | PL_OPT_NO_FILE))) continue;
        rc = pl_buf_printf(b, err, "%s: ", s->row->name);
        if (rc == 0) rc = yaml_value(b, s, err);
        if (rc == 0) rc = pl_buf_puts(b, s->origin == PL_ORIGIN_DEFAULT ? "  # default\n" : "\n", err);
    }
    return rc;
}

/* --- help
 * ------------------------------------------------------------------------------------------------------------------ */
/* Columns of a UTF-8 text, one per code point: our help texts hold nothing wider. */
static int64_t columns(const char *s, size_t n) {
    int64_t c = 0;
    for (size_t i = 0; i < n; i++) c += (s[i] & 0xC0) != 0x80;
    return c;
}

/* Adds the words of `text`, starting at column `at`, later lines at column `indent`; a line feed ends a paragraph's
 * line. */
static int wrap(pl_buf *b, const char *text, int64_t at, int64_t indent, pl_error *err) {
    int rc = 0;
    bool first = true;
    for (const char *s = text; rc == 0 && *s;) {
        if (*s == '\n' || *s == ' ') {
            if (*s == '\n') {
                rc = pl_buf_printf(b, err, "\n%*s", (int)indent, "");
                at = indent;
                first = true;
            }
            s++;
            continue;
        }
        size_t n = strcspn(s, " \n");
        int64_t wide = columns(s, n);
        if (!first && at + 1 + wide > WIDTH) {
            rc = pl_buf_printf(b, err, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            rc = pl_buf_puts(b, " ", err);
            at++;
        }
        if (rc == 0) rc = pl_buf_add(b, s, n, err);
        at += wide;
        first = false;
        s += n;
    }
    return rc ? rc : pl_buf_puts(b, "\n", err);
}

const char *pl_option_metavar(const pl_option *row) {
    if (row->metavar) return row->metavar;
    switch (row->type) {
    case PL_OPT_I64: return "N";
    case PL_OPT_F64: return "X";
    case PL_OPT_STR: return "TEXT";
    case PL_OPT_ENUM: return "CHOICE";
    case PL_OPT_STRLIST: return "A [B ...]";
    case PL_OPT_MAP: return "JSON";
    default: return "";
    }
}

int pl_option_describe(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err) {
    char wants[400];
    const char *fallback = pl_command_default(command, row);
    pl_option_wants(wants, sizeof wants, row);
    if (row->flags & PL_OPT_REQUIRED) return pl_buf_printf(b, err, "%s (required)", row->help);
    if (row->type == PL_OPT_BOOL)
        return pl_buf_printf(b, err, "%s [default: %s]", row->help, fallback ? fallback : "false");
    if (row->type == PL_OPT_STR || row->type == PL_OPT_MAP) {
        int rc = pl_buf_puts(b, row->help, err);
        return rc || !fallback ? rc : pl_buf_printf(b, err, " [default: %s]", fallback);
    }
    if (!fallback && strstr(row->help, "(default")) return pl_buf_printf(b, err, "%s [%s]", row->help, wants);
    return pl_buf_printf(b, err, "%s [%s; default: %s]", row->help, wants, fallback ? fallback : "unset");
}

/* ", --short" for each alias that is not an old name. */
static int add_aliases(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err) {
    int rc = 0;
    for (const pl_option *const *t = command->tables; *t; t++)
        for (const pl_option *a = *t; rc == 0 && a->name; a++)
            if (a->type == PL_OPT_ALIAS && !(a->flags & (PL_OPT_DEPRECATED | PL_OPT_HIDDEN)) &&
                strcmp(a->target, row->name) == 0)
                rc = pl_buf_printf(b, err, ", --%s", a->name);
    return rc;
}

bool pl_option_is_listed(const pl_option *row) {
    return row->type != PL_OPT_ALIAS && !(row->flags & (PL_OPT_HIDDEN | PL_OPT_IDLE | PL_OPT_LATER));
}

static int help_entry(pl_buf *b, const pl_command *command, const pl_option *row, pl_error *err) {
    size_t from = b->len;
    pl_buf text = {0};
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "  --%s", row->name));
    PL_GO(rc, add_aliases(b, command, row, err));
    PL_GO(rc, pl_buf_printf(b, err, "%s%s", *pl_option_metavar(row) ? " " : "", pl_option_metavar(row)));
    int64_t used = (int64_t)(b->len - from);
    if (used + 2 > TEXT_COLUMN)
        PL_GO(rc, pl_buf_printf(b, err, "\n%*s", TEXT_COLUMN, ""));
    else
        PL_GO(rc, pl_buf_printf(b, err, "%*s", (int)(TEXT_COLUMN - used), ""));
    PL_GO(rc, pl_option_describe(&text, command, row, err));
    PL_GO(rc, wrap(b, text.data, TEXT_COLUMN, TEXT_COLUMN, err));
out:
    pl_buf_release(&text);
    return rc;
}

static const char *group_of(const pl_option *table, const pl_option *row) {
    while (row > table && !row->group) row--;
    return row->group ? row->group : "Options";
}

/* A group may be spread over tables; it is printed where it occurs first. */
static bool group_seen_before(const pl_command *command, const pl_option *table, const pl_option *row) {
    const char *group = group_of(table, row);
    for (const pl_option *const *t = command->tables; *t; t++) {
        for (const pl_option *r = *t; r->name; r++) {
            if (r == row) return false;
            if (pl_option_is_listed(r) && strcmp(group_of(*t, r), group) == 0) return true;
        }
    }
    return false;
}

static int help_group(pl_buf *b, const pl_command *command, const char *group, pl_error *err) {
    int rc = pl_buf_printf(b, err, "\n%s:\n", group);
    for (const pl_option *const *t = command->tables; *t; t++)
        for (const pl_option *row = *t; rc == 0 && row->name; row++)
            if (pl_option_is_listed(row) && strcmp(group_of(*t, row), group) == 0)
                rc = help_entry(b, command, row, err);
    return rc;
}

static int help_leftovers(pl_buf *b, const pl_command *command, bool idle, pl_error *err) {
    pl_buf names = {0};
    int rc = 0;
    for (const pl_option *const *t = command->tables; *t; t++) {
        for (const pl_option *row = *t; rc == 0 && row->name; row++) {
            if (row->flags & PL_OPT_HIDDEN) continue;
            if (idle && (row->flags & PL_OPT_IDLE))
                rc = pl_buf_printf(&names, err, "%s%s", names.len ? ", " : "", row->name);
            else if (!idle && row->type == PL_OPT_ALIAS && (row->flags & PL_OPT_DEPRECATED))
                rc = pl_buf_printf(&names, err, "%s%s (now %s)", names.len ? ", " : "", row->name, row->target);
        }
    }
    if (rc == 0 && names.len)
        rc = pl_buf_printf(b, err, "\n%s:\n  ",
                           idle ? "Taken, with a line that says they have no effect" : "Older names, still taken");
    if (rc == 0 && names.len) rc = wrap(b, names.data, 2, 2, err);
    pl_buf_release(&names);
    return rc;
}

int pl_command_write_help(pl_buf *b, const char *program, const pl_command *command, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "%s %s: %s\n\nUsage: %s %s [--option value ...]\n", program, command->name,
                            command->summary, program, command->name));
    if (command->description) {
        PL_GO(rc, pl_buf_puts(b, "\n", err));
        PL_GO(rc, wrap(b, command->description, 0, 0, err));
    }
    for (const pl_option *const *t = command->tables; *t; t++)
        for (const pl_option *row = *t; row->name; row++)
            if (pl_option_is_listed(row) && !group_seen_before(command, *t, row))
                PL_GO(rc, help_group(b, command, group_of(*t, row), err));
    PL_GO(rc, help_leftovers(b, command, false, err));
    PL_GO(rc, help_leftovers(b, command, true, err));
out:
    return rc;
}

/* --- the forms with a FILE
 * ------------------------------------------------------------------------------------------------- */
int pl_options_flush(FILE *f, pl_buf *b, int rc, pl_error *err) {
    if (rc == 0 && b->len && fwrite(b->data, 1, b->len, f) != b->len)
        rc = PL_FAIL(err, PL_E_IO, "the text could not be written");
    pl_buf_release(b);
    return rc;
}

int pl_options_print_yaml(FILE *f, const pl_options *o, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_options_write_yaml(&b, o, err);
    return pl_options_flush(f, &b, rc, err);
}

int pl_command_print_help(FILE *f, const char *program, const pl_command *command, pl_error *err) {
    pl_buf b = {0};
    int rc = pl_command_write_help(&b, program, command, err);
    return pl_options_flush(f, &b, rc, err);
}
