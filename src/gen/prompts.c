/* prompts.c: the prompts of a data file. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "data/reader.h"
#include "plumb/generate.h"

#define MAX_LINE_BYTES ((size_t)64 << 20)
#define WHERE_BYTES 640

typedef struct growing {
    pl_buf text;
    pl_prompt *items; /* text is set at the end: the buffer moves while it grows */
    int64_t n, cap;
} growing;

static bool is_blank(const char *line, size_t len) { return strspn(line, " \t\r") >= len; }

static int add(growing *g, pl_slice prompt, int64_t row, pl_error *err) {
    if (g->n == g->cap) {
        int64_t cap = PL_MAX(64, 2 * g->cap);
        int rc = pl_realloc((void **)&g->items, (size_t)g->cap * sizeof *g->items, (size_t)cap * sizeof *g->items, err);
        if (rc) return rc;
        g->cap = cap;
    }
    g->items[g->n++] = (pl_prompt){.len = prompt.n, .row = row};
    return pl_buf_add(&g->text, prompt.s, prompt.n, err);
}

/* A `prompt` column, or what two transcripts share. */
static int read_row(pl_slice *out, const pl_json *row, const char *where, pl_error *err) {
    static const pl_data_options options = {.preference = true};
    const pl_json *prompt = pl_json_get(row, "prompt");
    if (pl_json_kind_of(prompt) == PL_J_STRING) {
        out->s = pl_json_string(prompt, &out->n);
        return 0;
    }
    if (pl_json_kind_of(row) == PL_J_OBJECT && !pl_json_has(row, "prompt") && !pl_json_has(row, "chosen"))
        return PL_FAIL(err, PL_E_FORMAT,
                       "%s: a row with a string \"prompt\" is wanted, or with chosen and rejected transcripts", where);
    pl_row_form form;
    pl_row_text text;
    int rc = pl_row_form_of(&form, row, &options, where, err);
    if (rc == 0) rc = pl_row_read(&text, row, &form, where, err);
    if (rc == 0) *out = text.prompt;
    return rc;
}

static int read_line(growing *g, const char *path, int64_t number, int64_t row, const char *line, size_t len,
                     pl_error *err) {
    char where[WHERE_BYTES];
    pl_json *json = NULL;
    pl_slice prompt;
    snprintf(where, sizeof where, "%.600s:%" PRId64, path, number);
    int rc = pl_json_parse(&json, line, len, where, err);
    if (rc == 0) rc = read_row(&prompt, json, where, err);
    if (rc == 0) rc = add(g, prompt, row, err);
    pl_json_free(json);
    return rc;
}

static int read_file(growing *g, const char *path, int64_t max_rows, pl_error *err) {
    pl_lines *lines = NULL;
    int rc = pl_lines_open(&lines, path, MAX_LINE_BYTES, err);
    while (rc == 0 && (max_rows <= 0 || g->n < max_rows)) {
        const char *line = NULL;
        size_t len = 0;
        rc = pl_lines_next(lines, &line, &len, err);
        if (rc || !line) break;
        if (!is_blank(line, len)) rc = read_line(g, path, pl_lines_number(lines), g->n, line, len, err);
    }
    pl_lines_free(lines);
    return rc == 0 && g->n == 0 ? PL_FAIL(err, PL_E_RANGE, "%s: no rows", path) : rc;
}

int pl_prompts_load(pl_prompts **out, const char *dataset_name, const char *split, int64_t max_rows, pl_error *err) {
    growing g = {0};
    pl_prompts *p = NULL;
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_dataset_resolve(&path, dataset_name, split ? split : "test", err));
    PL_GO(rc, read_file(&g, path, max_rows, err));
    PL_GO(rc, PL_NEW(&p, 1, err));
    PL_GO(rc, pl_buf_reserve(&g.text, 1, err)); /* an empty prompt has a text too */
    *p = (pl_prompts){.n = g.n, .items = g.items, .text = g.text.data};
    size_t at = 0;
    for (int64_t i = 0; i < p->n; i++) {
        p->items[i].text = p->text + at;
        at += p->items[i].len;
    }
    *out = p;
    g = (growing){0};
out:
    pl_free(path);
    pl_free(g.items);
    pl_buf_release(&g.text);
    return rc;
}

void pl_prompts_free(pl_prompts *p) {
    if (!p) return;
    pl_free(p->items);
    pl_free(p->text);
    pl_free(p);
}
