/* options.c: the table of a command bound to its structs, and where values come from: defaults, argv, YAML files.
 * What one value means is in options_value.c; help, man page, completion and the resolved file are in options_text.c.
 */
#include "base/options.h"

#include <string.h>

#include "base/options_value.h"
#include "base/yaml.h"

/* --- finding
 * ------------------------------------------------------------------------------------------------------------- */
static bool same_name(const char *name, const char *given, size_t len) {
    size_t i = 0;
    for (; i < len && name[i]; i++)
        if (name[i] != (given[i] == '-' ? '_' : given[i])) return false;
    return i == len && name[i] == 0;
}

const pl_option *pl_command_find(const pl_command *command, const char *name, size_t len) {
    for (const pl_option *const *table = command->tables; *table; table++)
        for (const pl_option *row = *table; row->name; row++)
            if (same_name(row->name, name, len)) return row;
    return NULL;
}

const char *pl_command_default(const pl_command *command, const pl_option *row) {
    for (const pl_option_default *d = command->defaults; d && d->name; d++)
        if (strcmp(d->name, row->name) == 0) return d->text;
    return row->fallback;
}

static pl_option_slot *find_slot(const pl_options *o, const char *name, size_t len) {
    for (int64_t i = 0; i < o->nslots; i++)
        if (same_name(o->slots[i].row->name, name, len)) return &o->slots[i];
    return NULL;
}

/* The option that a name means, aliases followed. */
static pl_option_slot *resolve(const pl_options *o, const char *name) {
    pl_option_slot *s = find_slot(o, name, strlen(name));
    return s && s->row->type == PL_OPT_ALIAS ? find_slot(o, s->row->target, strlen(s->row->target)) : s;
}

#define MAX_NAME 64
/* Edits (insert, delete, replace, swap neighbours) from a to b; a name that b merely continues counts as one. */
static int64_t distance(const char *a, size_t na, const char *b, size_t nb) {
    int64_t d[3][MAX_NAME + 1];
    if (na > MAX_NAME || nb > MAX_NAME) return INT64_MAX;
    if (na >= 3 && na < nb && strncmp(a, b, na) == 0) return 1;
    for (size_t j = 0; j <= nb; j++) d[0][j] = (int64_t)j;
    for (size_t i = 1; i <= na; i++) {
        int64_t *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = (int64_t)i;
        for (size_t j = 1; j <= nb; j++) {
            char x = a[i - 1] == '-' ? '_' : a[i - 1];
            row[j] = PL_MIN(PL_MIN(up[j], row[j - 1]) + 1, up[j - 1] + (x != b[j - 1]));
            if (i > 1 && j > 1 && x == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = PL_MIN(row[j], up2[j - 2] + 1);
        }
    }
    return d[na % 3][nb];
}

static const char *nearest(const pl_options *o, const char *name, size_t len, int64_t *edits) {
    const char *best = NULL;
    int64_t least = INT64_MAX;
    for (int64_t i = 0; i < o->nslots; i++) {
        const pl_option *row = o->slots[i].row;
        int64_t d = row->flags & (PL_OPT_HIDDEN | PL_OPT_IDLE | PL_OPT_LATER)
                        ? INT64_MAX
                        : distance(name, len, row->name, strlen(row->name));
        if (d < least) {
            least = d;
            best = row->name;
        }
    }
    *edits = least;
    return best;
}

/* No option has this name here. before: "dpo.yaml:3: " or "--". */
static int unknown(const pl_options *o, const char *before, const char *name, size_t len, pl_error *err) {
    int64_t edits = 0;
    const char *near = nearest(o, name, len, &edits);
    if (!near) near = "--help"; /* a name longer than any of ours */
    char owners[200] = "";
    for (const pl_command *const *c = o->all; c && *c; c++) {
        size_t used = strlen(owners);
        if (*c != o->command && pl_command_find(*c, name, len) && used + strlen((*c)->name) + 3 < sizeof owners) {
            if (used) strcat(owners, ", ");
            strcat(owners, (*c)->name);
        }
    }
    int shown = (int)PL_MIN(len, (size_t)100);
    bool close = edits <= PL_MAX((int64_t)len / 3, 2);
    if (owners[0])
        return PL_FAIL(err, PL_E_OPTION,
                       "%s%.*s: plumb %s does not use it (it belongs to plumb %s); the nearest here is `%s`", before,
                       shown, name, o->command->name, owners, near);
    return PL_FAIL(err, PL_E_OPTION, "%s%.*s: plumb %s has no such option; %s `%s`%s", before, shown, name,
                   o->command->name, close ? "did you mean" : "the nearest is", near, close ? "?" : "");
}

/* --- ownership
 * ----------------------------------------------------------------------------------------------------------- */
static int grow(void **list, int64_t n, int64_t *cap, size_t elem, pl_error *err) {
    if (n < *cap) return 0;
    int64_t more = *cap ? *cap * 2 : 16;
    int rc = pl_realloc(list, (size_t)*cap * elem, (size_t)more * elem, err);
    if (rc == 0) *cap = more;
    return rc;
}

int pl_options_keep(pl_options *o, void *block, pl_error *err) {
    int rc = grow((void **)&o->owned, o->nowned, &o->owned_cap, sizeof *o->owned, err);
    if (rc) {
        pl_free(block);
        return rc;
    }
    o->owned[o->nowned++] = block;
    return 0;
}

static int keep_text(pl_options *o, const char **out, char *text, pl_error *err) {
    int rc = pl_options_keep(o, text, err);
    if (rc == 0) *out = text;
    return rc;
}

static int add_note(pl_options *o, char *text, pl_error *err) {
    const char *note = NULL;
    int rc = keep_text(o, &note, text, err);
    if (rc == 0) rc = grow((void **)&o->notes, o->nnotes, &o->notes_cap, sizeof *o->notes, err);
    if (rc == 0) o->notes[o->nnotes++] = note;
    return rc;
}

void pl_options_free(pl_options *o) {
    if (!o) return;
    for (int64_t i = 0; i < o->nowned; i++) pl_free(o->owned[i]);
    pl_free(o->owned);
    pl_free(o->notes);
    pl_free(o->slots);
    pl_free(o);
}

/* --- making
 * -------------------------------------------------------------------------------------------------------------- */
static int bind(pl_options *o, void *const *bases, pl_error *err) {
    int64_t n = 0;
    for (const pl_option *const *table = o->command->tables; *table; table++)
        for (const pl_option *row = *table; row->name; row++) n++;
    int rc = PL_NEW(&o->slots, n ? n : 1, err);
    if (rc) return rc;
    for (int64_t t = 0; o->command->tables[t]; t++) {
        for (const pl_option *row = o->command->tables[t]; row->name; row++) {
            if (find_slot(o, row->name, strlen(row->name)))
                return PL_FAIL(err, PL_E_INTERNAL, "plumb %s has two options `%s`", o->command->name, row->name);
            bool has_field =
                row->type != PL_OPT_ANY && row->type != PL_OPT_ALIAS && !(row->flags & (PL_OPT_IDLE | PL_OPT_LATER));
            o->slots[o->nslots++] = (pl_option_slot){.row = row,
                                                     .field = has_field ? (char *)bases[t] + row->offset : NULL,
                                                     .fallback = pl_command_default(o->command, row),
                                                     .where = "default"};
        }
    }
    return 0;
}

static int check_tables(const pl_options *o, pl_error *err) {
    for (int64_t i = 0; i < o->nslots; i++) {
        const pl_option *row = o->slots[i].row;
        const pl_option_slot *target =
            row->type == PL_OPT_ALIAS ? find_slot(o, row->target, strlen(row->target)) : &o->slots[i];
        if (!target || (target->row != row && target->row->type == PL_OPT_ALIAS))
            return PL_FAIL(err, PL_E_INTERNAL, "plumb %s: `%s` is an alias of nothing", o->command->name, row->name);
    }
    for (const pl_option_default *d = o->command->defaults; d && d->name; d++)
        if (!find_slot(o, d->name, strlen(d->name)))
            return PL_FAIL(err, PL_E_INTERNAL, "plumb %s: a default for nothing, `%s`", o->command->name, d->name);
    return 0;
}

int pl_options_new(pl_options **out, const pl_command *command, void *const *bases, const pl_command *const *all,
                   pl_error *err) {
    int rc;
    pl_options *o = NULL;
    PL_GO(rc, PL_NEW(&o, 1, err));
    o->command = command;
    o->all = all;
    PL_GO(rc, bind(o, bases, err));
    PL_GO(rc, check_tables(o, err));
    for (int64_t i = 0; i < o->nslots; i++) {
        if (!o->slots[i].field) continue;
        rc = pl_option_store_default(o, &o->slots[i], err);
        if (rc) {
            if (rc != PL_E_NOMEM) rc = PL_E_INTERNAL;
            if (err) err->code = rc;
            pl_error_context(err, rc, "default of plumb %s", command->name);
            goto out;
        }
    }
    *out = o;
    o = NULL;
out:
    pl_options_free(o);
    return rc;
}

/* --- taking a value
 * -------------------------------------------------------------------------------------------------------- */
static int note_use(pl_options *o, const pl_option *used, const pl_option *meant, const char *where, pl_error *err) {
    char *text = NULL;
    int rc = 0;
    if (used->flags & PL_OPT_DEPRECATED)
        rc = pl_asprintf(&text, err, "%s: %s%s%s%s%s", where, used->name,
                         used == meant ? " is deprecated" : " is an older name of ", used == meant ? "" : meant->name,
                         used->note ? ": " : "", used->note ? used->note : "");
    if (rc == 0 && text) rc = add_note(o, text, err);
    if (rc || !(meant->flags & PL_OPT_IDLE)) return rc;
    rc = pl_asprintf(&text, err, "%s: %s has no effect: %s", where, used->name,
                     meant->note ? meant->note : "not needed here");
    return rc ? rc : add_note(o, text, err);
}

/* One value for the option that `used` names. where: borrowed for the life of the options. */
static int take(pl_options *o, pl_option_slot *used, const pl_option_raw *raw, pl_option_origin origin,
                const char *where, pl_error *err) {
    pl_option_slot *s = used->row->type == PL_OPT_ALIAS ? resolve(o, used->row->name) : used;
    const char *earlier = origin == PL_ORIGIN_FILE ? s->file_where : s->origin == PL_ORIGIN_ARGS ? s->where : NULL;
    if (earlier && !raw->again)
        return PL_FAIL(err, PL_E_OPTION, "%s: %s is given twice (first: %s)", where, s->row->name, earlier);
    pl_option_value v = {0};
    int rc = s->row->flags & PL_OPT_LATER ? pl_option_check_later(o, s->row, raw, err)
                                          : pl_option_convert(o, s->row, raw, &v, err);
    if (rc) {
        bool named = strncmp(where, "--", 2) == 0;
        return pl_error_context(err, rc, "%s%s%s", where, named ? "" : ": ", named ? "" : used->row->name);
    }
    rc = note_use(o, used->row, s->row, where, err);
    if (rc) return rc;
    if (origin == PL_ORIGIN_FILE) s->file_where = where;
    if (origin < s->origin) return 0;
    if (s->field) pl_option_store(s, &v);
    s->origin = origin;
    s->where = where;
    return 0;
}

/* --- argv
 * ------------------------------------------------------------------------------------------------------------------ */
typedef struct args {
    const char *const *v;
    int n, i;
} args;

static bool is_option(const char *arg) { return strncmp(arg, "--", 2) == 0; }

/* How many of the arguments behind --name belong to it. */
static int count_values(const args *a, const pl_option *row) {
    int n = 0;
    while (a->i + n < a->n && !is_option(a->v[a->i + n])) n++;
    switch (row->type) {
    case PL_OPT_BOOL:
    case PL_OPT_TRIBOOL: return PL_MIN(n, 1);
    case PL_OPT_STRLIST:
    case PL_OPT_ANY: return n;
    default: return PL_MIN(n, 1);
    }
}

static int take_args(pl_options *o, args *a, pl_option_slot *used, const char *text, const char *where, pl_error *err) {
    const pl_option *row = used->row->type == PL_OPT_ALIAS ? resolve(o, used->row->name)->row : used->row;
    bool flag = row->type == PL_OPT_BOOL || row->type == PL_OPT_TRIBOOL || row->type == PL_OPT_ANY;
    int n = text ? 1 : count_values(a, row);
    if (n == 0 && !flag)
        return PL_FAIL(err, PL_E_OPTION, "%s: a value is missing (%s=VALUE where it starts with --)", where, where);
    pl_option_item one = {.text = text ? text : "true"}, *items = &one;
    int rc = 0;
    if (!text && n > 0) {
        rc = PL_NEW(&items, n, err);
        if (rc) return rc;
        for (int k = 0; k < n; k++) items[k].text = a->v[a->i + k];
        a->i += n;
    }
    for (int k = 0; k < PL_MAX(n, 1); k++) items[k].quoted = items[k].text[0] == 0; /* --key "" is a text, not null */
    pl_option_raw raw = {.kind = n > 1 ? PL_Y_LIST : PL_Y_SCALAR, .items = items, .n = PL_MAX(n, 1), .args = true};
    rc = take(o, used, &raw, PL_ORIGIN_ARGS, where, err);
    if (items != &one) pl_free(items);
    return rc;
}

/* One "--name[=value]"; its values follow in a. */
static int parse_option(pl_options *o, args *a, const char *arg, pl_error *err) {
    const char *name = arg + 2, *equals = strchr(name, '='), *text = equals ? equals + 1 : NULL;
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    pl_option_slot *used = find_slot(o, name, len);
    if (!used && !text && len > 3 && strncmp(name, "no", 2) == 0 && (name[2] == '_' || name[2] == '-')) {
        pl_option_slot *plain = find_slot(o, name + 3, len - 3);
        const pl_option *row = plain ? resolve(o, plain->row->name)->row : NULL;
        if (row && (row->type == PL_OPT_BOOL || row->type == PL_OPT_TRIBOOL)) {
            used = plain;
            text = "false";
        }
    }
    if (!used) return unknown(o, "--", name, len, err);
    char *w = NULL;
    const char *where = NULL;
    int rc = pl_asprintf(&w, err, "--%s", used->row->name);
    if (rc == 0) rc = keep_text(o, &where, w, err);
    return rc ? rc : take_args(o, a, used, text, where, err);
}

int pl_options_parse_args(pl_options *o, int argc, const char *const *argv, pl_error *err) {
    args a = {.v = argv, .n = argc};
    while (a.i < a.n) {
        const char *arg = a.v[a.i++];
        if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
            o->help_asked = true;
            continue;
        }
        if (!is_option(arg) || arg[2] == 0)
            return PL_FAIL(err, PL_E_OPTION, "`%.200s`: an option is expected here, --name value (see plumb %s --help)",
                           arg, o->command->name);
        int rc = parse_option(o, &a, arg, err);
        if (rc) return rc;
    }
    return 0;
}

bool pl_options_help_asked(const pl_options *o) { return o->help_asked; }

int pl_options_set(pl_options *o, const char *name, const char *value, pl_error *err) {
    pl_option_slot *used = find_slot(o, name, strlen(name));
    if (!used) return unknown(o, "", name, strlen(name), err);
    char *w = NULL;
    const char *where = NULL;
    int rc = pl_asprintf(&w, err, "--%s", used->row->name);
    if (rc == 0) rc = keep_text(o, &where, w, err);
    if (rc) return rc;
    pl_option_item item = {.text = value ? value : "null", .quoted = value && !*value};
    pl_option_raw raw = {.kind = PL_Y_SCALAR, .items = &item, .n = 1, .args = true, .again = true};
    return take(o, used, &raw, PL_ORIGIN_ARGS, where, err);
}

/* --- files
 * ----------------------------------------------------------------------------------------------------------------- */
static int take_entry(pl_options *o, const pl_yaml_entry *e, const char *path, pl_error *err) {
    char *w = NULL;
    const char *where = NULL;
    int rc = pl_asprintf(&w, err, "%s:%" PRId64, path, e->line);
    if (rc == 0) rc = keep_text(o, &where, w, err);
    if (rc) return rc;
    pl_option_slot *used = find_slot(o, e->key, strlen(e->key));
    if (!used || strchr(e->key, '-')) {
        char before[300];
        snprintf(before, sizeof before, "%.290s: ", where);
        return unknown(o, before, e->key, strlen(e->key), err);
    }
    if (used->row->flags & PL_OPT_NO_FILE)
        return PL_FAIL(err, PL_E_OPTION, "%s: %s is for the command line only", where, e->key);
    pl_option_item *items = NULL;
    rc = PL_NEW(&items, PL_MAX(e->n, 1), err);
    if (rc) return rc;
    for (int64_t i = 0; i < e->n; i++)
        items[i] = (pl_option_item){.key = e->items[i].key, .text = e->items[i].text, .quoted = e->items[i].quoted};
    pl_option_raw raw = {.kind = e->kind, .items = items, .n = e->n};
    rc = take(o, used, &raw, PL_ORIGIN_FILE, where, err);
    pl_free(items);
    return rc;
}

int pl_options_load_yaml(pl_options *o, const char *path, pl_error *err) {
    pl_yaml y = {0};
    int rc = pl_yaml_load(&y, path, err);
    for (int64_t i = 0; rc == 0 && i < y.n; i++) rc = take_entry(o, &y.entries[i], path, err);
    pl_yaml_release(&y);
    return rc;
}

/* --- asking
 * ---------------------------------------------------------------------------------------------------------------- */
int pl_options_finish(const pl_options *o, pl_error *err) {
    for (int64_t i = 0; i < o->nslots; i++) {
        const pl_option_slot *s = &o->slots[i];
        if (!(s->row->flags & PL_OPT_REQUIRED) || !pl_option_is_unset(s)) continue;
        const char *name = s->row->name; /* the short form, where there is one */
        for (int64_t k = 0; k < o->nslots; k++) {
            const pl_option *row = o->slots[k].row;
            if (row->type == PL_OPT_ALIAS && !(row->flags & (PL_OPT_DEPRECATED | PL_OPT_HIDDEN)) &&
                strcmp(row->target, s->row->name) == 0)
                name = row->name;
        }
        return PL_FAIL(err, PL_E_OPTION, "--%s is missing: %s", name, s->row->help);
    }
    return 0;
}

pl_option_origin pl_options_origin(const pl_options *o, const char *name) {
    const pl_option_slot *s = resolve(o, name);
    return s ? s->origin : PL_ORIGIN_DEFAULT;
}

const char *pl_options_where(const pl_options *o, const char *name) {
    const pl_option_slot *s = resolve(o, name);
    return s ? s->where : "?";
}

const char *pl_options_choice(const pl_options *o, const char *name) {
    const pl_option_slot *s = resolve(o, name);
    return s && s->row->type == PL_OPT_ENUM ? s->choice : NULL;
}

const char *const *pl_options_notes(const pl_options *o, int64_t *n) {
    *n = o->nnotes;
    return o->notes;
}
