/* yaml.c: libyaml's events into the flat list. A small machine with three states: at a key of the top mapping, inside a
 * list, inside a mapping. */
#include "base/yaml.h"

#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "base/file.h"

typedef struct reader {
    yaml_parser_t parser;
    const char *what;
    pl_yaml y;
    int64_t entry_cap, item_cap;
} reader;

static int fail_at(const reader *r, size_t line0, pl_error *err, const char *why, const char *name) {
    return PL_FAIL(err, PL_E_FORMAT, "%s:%zu: %s%s%s%s", r->what, line0 + 1, why, name ? " `" : "", name ? name : "",
                   name ? "`" : "");
}

static int next_event(reader *r, yaml_event_t *e, pl_error *err) {
    if (yaml_parser_parse(&r->parser, e)) return 0;
    if (r->parser.error == YAML_MEMORY_ERROR) return PL_FAIL(err, PL_E_NOMEM, "%s: no memory to read it", r->what);
    if (r->parser.error == YAML_READER_ERROR)
        return PL_FAIL(err, PL_E_FORMAT, "%s: byte %zu: %s", r->what, r->parser.problem_offset, r->parser.problem);
    return fail_at(r, r->parser.problem_mark.line, err, r->parser.problem ? r->parser.problem : "malformed YAML", NULL);
}

static int grow(void **list, int64_t n, int64_t *cap, size_t elem, pl_error *err) {
    if (n < *cap) return 0;
    int64_t more = *cap ? *cap * 2 : 8;
    int rc = pl_realloc(list, (size_t)*cap * elem, (size_t)more * elem, err);
    if (rc == 0) *cap = more;
    return rc;
}

/* The text of a scalar event, owned. */
static int take_text(reader *r, char **out, const yaml_event_t *e, pl_error *err) {
    const char *s = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length, line = e->start_mark.line;
    if (e->data.scalar.anchor) return fail_at(r, line, err, "anchors are not supported here", NULL);
    if (e->data.scalar.tag) return fail_at(r, line, err, "tags are not supported here", NULL);
    if (memchr(s, 0, n)) return fail_at(r, line, err, "a NUL in a value", NULL);
    return pl_strndup(out, s, n, err);
}

static pl_yaml_entry *last_entry(reader *r) { return &r->y.entries[r->y.n - 1]; }

static int add_item(reader *r, const yaml_event_t *e, char **key, pl_error *err) {
    pl_yaml_entry *entry = last_entry(r);
    if (entry->n == 0) r->item_cap = 0;
    int rc = grow((void **)&entry->items, entry->n, &r->item_cap, sizeof *entry->items, err);
    if (rc) return rc;
    pl_yaml_scalar s = {.quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE,
                        .line = (int64_t)e->start_mark.line + 1};
    rc = take_text(r, &s.text, e, err);
    if (rc) return rc;
    if (key) {
        s.key = *key;
        *key = NULL;
    }
    entry->items[entry->n++] = s;
    return 0;
}

static int add_entry(reader *r, const yaml_event_t *e, pl_error *err) {
    if (e->type != YAML_SCALAR_EVENT) return fail_at(r, e->start_mark.line, err, "a key must be a plain word", NULL);
    if (r->y.n == PL_YAML_MAX_KEYS) return fail_at(r, e->start_mark.line, err, "too many keys", NULL);
    int rc = grow((void **)&r->y.entries, r->y.n, &r->entry_cap, sizeof *r->y.entries, err);
    if (rc) return rc;
    char *key = NULL;
    rc = take_text(r, &key, e, err);
    if (rc) return rc;
    for (int64_t i = 0; i < r->y.n && rc == 0; i++)
        if (strcmp(r->y.entries[i].key, key) == 0)
            rc = PL_FAIL(err, PL_E_FORMAT, "%s:%zu: `%s` is given a second time (first in line %" PRId64 ")", r->what,
                         e->start_mark.line + 1, key, r->y.entries[i].line);
    if (rc) {
        pl_free(key);
        return rc;
    }
    r->y.entries[r->y.n++] = (pl_yaml_entry){.key = key, .line = (int64_t)e->start_mark.line + 1};
    return 0;
}

/* The rest of a list or mapping inside one: walked over, nothing is kept. */
static int skip_nested(reader *r, pl_error *err) {
    int rc = 0;
    for (int64_t depth = 1; rc == 0 && depth > 0;) {
        yaml_event_t e;
        rc = next_event(r, &e, err);
        if (rc) return rc;
        if (e.type == YAML_SEQUENCE_START_EVENT || e.type == YAML_MAPPING_START_EVENT) depth++;
        if (e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT) depth--;
        if (e.type == YAML_ALIAS_EVENT) rc = fail_at(r, e.start_mark.line, err, "aliases are not supported here", NULL);
        yaml_event_delete(&e);
    }
    return rc;
}

static void drop_items(pl_yaml_entry *entry) {
    for (int64_t i = 0; i < entry->n; i++) {
        pl_free(entry->items[i].key);
        pl_free(entry->items[i].text);
    }
    pl_free(entry->items);
    entry->items = NULL;
    entry->n = 0;
}

static bool is_nested(yaml_event_type_t type) {
    return type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT;
}

static int read_list(reader *r, pl_error *err) {
    pl_yaml_kind kind = PL_Y_LIST;
    for (;;) {
        yaml_event_t e;
        int rc = next_event(r, &e, err);
        if (rc) return rc;
        yaml_event_type_t type = e.type;
        if (type == YAML_SCALAR_EVENT)
            rc = add_item(r, &e, NULL, err);
        else if (type == YAML_ALIAS_EVENT)
            rc = fail_at(r, e.start_mark.line, err, "aliases are not supported here", NULL);
        yaml_event_delete(&e);
        if (rc == 0 && is_nested(type)) {
            kind = PL_Y_DEEP;
            rc = skip_nested(r, err);
        }
        if (rc) return rc;
        if (type == YAML_SEQUENCE_END_EVENT) break;
    }
    last_entry(r)->kind = kind;
    if (kind == PL_Y_DEEP) drop_items(last_entry(r));
    return 0;
}

static int check_map_key(const reader *r, const pl_yaml_entry *entry, const char *key, size_t line, pl_error *err) {
    for (int64_t i = 0; i < entry->n; i++)
        if (strcmp(entry->items[i].key, key) == 0) return fail_at(r, line, err, "given a second time:", key);
    return entry->n < PL_YAML_MAX_KEYS ? 0 : fail_at(r, line, err, "too many keys", NULL);
}

static int read_map(reader *r, pl_error *err) {
    pl_yaml_entry *entry = last_entry(r);
    entry->kind = PL_Y_MAP;
    char *key = NULL; /* read, and waiting for its value */
    bool deep = false;
    int rc = 0;
    for (yaml_event_type_t type = YAML_NO_EVENT; rc == 0 && type != YAML_MAPPING_END_EVENT;) {
        yaml_event_t e;
        rc = next_event(r, &e, err);
        if (rc) break;
        type = e.type;
        if (type == YAML_SCALAR_EVENT && !key) {
            rc = take_text(r, &key, &e, err);
            if (rc == 0) rc = check_map_key(r, entry, key, e.start_mark.line, err);
        } else if (type == YAML_SCALAR_EVENT) {
            rc = add_item(r, &e, &key, err);
        } else if (type != YAML_MAPPING_END_EVENT && (!key || !is_nested(type))) {
            rc = fail_at(r, e.start_mark.line, err, "only plain values may stand under", entry->key);
        }
        yaml_event_delete(&e);
        if (rc == 0 && key && is_nested(type)) {
            deep = true;
            pl_free(key);
            key = NULL;
            rc = skip_nested(r, err);
        }
    }
    pl_free(key);
    if (rc == 0 && deep) {
        entry->kind = PL_Y_DEEP;
        drop_items(entry);
    }
    return rc;
}

static int read_value(reader *r, pl_error *err) {
    yaml_event_t e;
    int rc = next_event(r, &e, err);
    if (rc) return rc;
    size_t line = e.start_mark.line;
    yaml_event_type_t type = e.type;
    if (type == YAML_SCALAR_EVENT)
        rc = add_item(r, &e, NULL, err);
    else if (type == YAML_ALIAS_EVENT)
        rc = fail_at(r, line, err, "aliases are not supported here", NULL);
    else if ((type == YAML_SEQUENCE_START_EVENT && (e.data.sequence_start.anchor || e.data.sequence_start.tag)) ||
             (type == YAML_MAPPING_START_EVENT && (e.data.mapping_start.anchor || e.data.mapping_start.tag)))
        rc = fail_at(r, line, err, "anchors and tags are not supported here", NULL);
    yaml_event_delete(&e);
    if (rc == 0 && type == YAML_SEQUENCE_START_EVENT) rc = read_list(r, err);
    if (rc == 0 && type == YAML_MAPPING_START_EVENT) rc = read_map(r, err);
    return rc;
}

static int read_top(reader *r, pl_error *err) {
    for (;;) {
        yaml_event_t e;
        int rc = next_event(r, &e, err);
        if (rc) return rc;
        yaml_event_type_t type = e.type;
        if (type != YAML_MAPPING_END_EVENT) rc = add_entry(r, &e, err);
        yaml_event_delete(&e);
        if (rc || type == YAML_MAPPING_END_EVENT) return rc;
        rc = read_value(r, err);
        if (rc) return rc;
    }
}

static int read_stream(reader *r, pl_error *err) {
    int documents = 0;
    for (;;) {
        yaml_event_t e;
        int rc = next_event(r, &e, err);
        if (rc) return rc;
        yaml_event_type_t type = e.type;
        size_t line = e.start_mark.line;
        bool null = type == YAML_SCALAR_EVENT && e.data.scalar.length == 0; /* a document of comments only */
        yaml_event_delete(&e);
        switch (type) {
        case YAML_STREAM_END_EVENT: return 0;
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT: break;
        case YAML_DOCUMENT_START_EVENT:
            if (documents++) return fail_at(r, line, err, "a second document; one is wanted", NULL);
            break;
        case YAML_MAPPING_START_EVENT:
            rc = read_top(r, err);
            if (rc) return rc;
            break;
        default:
            if (!null) return fail_at(r, line, err, "`key: value` lines are wanted", NULL);
        }
    }
}

int pl_yaml_parse(pl_yaml *out, const char *text, size_t len, const char *what, pl_error *err) {
    if (len > PL_YAML_MAX_BYTES)
        return PL_FAIL(err, PL_E_RANGE, "%s: %zu bytes, at most %zu", what, len, PL_YAML_MAX_BYTES);
    reader r = {.what = what};
    if (!yaml_parser_initialize(&r.parser)) return PL_FAIL(err, PL_E_NOMEM, "%s: no memory to read it", what);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    int rc = read_stream(&r, err);
    yaml_parser_delete(&r.parser);
    if (rc) {
        pl_yaml_release(&r.y);
        return rc;
    }
    *out = r.y;
    return 0;
}

int pl_yaml_load(pl_yaml *out, const char *path, pl_error *err) {
    char *text = NULL;
    size_t n;
    int rc = pl_file_read(&text, &n, path, PL_YAML_MAX_BYTES, err);
    if (rc == 0) rc = pl_yaml_parse(out, text, n, path, err);
    pl_free(text);
    return rc;
}

void pl_yaml_release(pl_yaml *y) {
    if (!y) return;
    for (int64_t i = 0; i < y->n; i++) {
        pl_yaml_entry *e = &y->entries[i];
        for (int64_t k = 0; k < e->n; k++) {
            pl_free(e->items[k].key);
            pl_free(e->items[k].text);
        }
        pl_free(e->items);
        pl_free(e->key);
    }
    pl_free(y->entries);
    *y = (pl_yaml){0};
}

static bool one_of(const char *text, const char *const *words, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0) return true;
    return false;
}

bool pl_yaml_is_null(const pl_yaml_scalar *s) {
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    return !s->quoted && one_of(s->text, words, PL_LEN(words));
}

bool pl_yaml_is_bool(const pl_yaml_scalar *s, bool *value) {
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"};
    if (s->quoted) return false;
    bool is_yes = one_of(s->text, yes, PL_LEN(yes));
    if (!is_yes && !one_of(s->text, no, PL_LEN(no))) return false;
    *value = is_yes;
    return true;
}
