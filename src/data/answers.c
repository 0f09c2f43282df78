/* answers.c: reads answers row by row, and numbers the prompts. */
#include "data/answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/gsm8k.h"
#include "data/reader.h"

#define MAX_LINE_BYTES ((size_t)64 << 20)

typedef struct growing {
    pl_answers a;
    int64_t cap, row_cap;
    char where[640];
} growing;

void pl_answers_release(pl_answers *a) {
    pl_free(a->answer);
    pl_free(a->first);
    pl_free(a->line);
    pl_buf_release(&a->texts);
    pl_buf_release(&a->lines);
    pl_buf_release(&a->rows);
    *a = (pl_answers){0};
}

static int add_json(pl_buf *b, pl_slice prompt, pl_slice text, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_puts(b, "{\"prompt\":", err));
    PL_GO(rc, pl_buf_json_string(b, prompt.s, prompt.n, err));
    PL_GO(rc, pl_buf_puts(b, ",\"completion\":", err));
    PL_GO(rc, pl_buf_json_string(b, text.s, text.n, err));
    rc = pl_buf_puts(b, "}\n", err);
out:
    return rc;
}

static int add_answer(growing *g, pl_slice prompt, pl_slice text, int label, pl_error *err) {
    pl_answers *a = &g->a;
    int rc;
    if (a->n == g->cap) {
        int64_t cap = PL_MAX(256, 2 * g->cap);
        PL_GO(rc, pl_realloc((void **)&a->answer, (size_t)g->cap * sizeof *a->answer, (size_t)cap * sizeof *a->answer,
                             err));
        g->cap = cap;
    }
    pl_answer x = {.row = a->nrows, .label = label, .prompt_at = a->texts.len, .prompt_n = prompt.n, .text_n = text.n};
    PL_GO(rc, pl_buf_add(&a->texts, prompt.s, prompt.n, err));
    x.text_at = a->texts.len;
    PL_GO(rc, pl_buf_add(&a->texts, text.s, text.n, err));
    PL_GO(rc, add_json(&a->rows, prompt, text, err));
    a->answer[a->n++] = x;
out:
    return rc;
}

/* true, false, 1, 0; -1 without. */
static int read_label(int *out, const growing *g, const pl_json *v, pl_error *err) {
    int64_t number = pl_json_int(v);
    *out = -1;
    if (!v) return 0;
    if (pl_json_kind_of(v) == PL_J_BOOL)
        *out = pl_json_bool(v);
    else if (pl_json_kind_of(v) == PL_J_INT && (number == 0 || number == 1))
        *out = (int)number;
    else
        return PL_FAIL(err, PL_E_FORMAT, "%s: a label is true or false (or 1 or 0)", g->where);
    return 0;
}

static int read_slice(pl_slice *out, const growing *g, const pl_json *row, const char *key, pl_error *err) {
    return pl_json_member_string(row, key, true, &out->s, &out->n, g->where, err);
}

static int read_one(growing *g, const pl_json *row, pl_error *err) {
    pl_slice prompt = {"", 0}, text;
    int label, rc;
    PL_GO(rc, read_slice(&prompt, g, row, "prompt", err));
    PL_GO(rc, read_slice(&text, g, row, "completion", err));
    PL_GO(rc, read_label(&label, g, pl_json_get(row, "label"), err));
    rc = add_answer(g, prompt, text, label, err);
out:
    return rc;
}

static int read_list(growing *g, const pl_json *row, pl_error *err) {
    const pl_json *texts = pl_json_get(row, "completions"), *labels = pl_json_get(row, "labels");
    pl_slice prompt, text;
    int rc, label;
    PL_GO(rc, read_slice(&prompt, g, row, "prompt", err));
    if (pl_json_kind_of(texts) != PL_J_ARRAY || (labels && pl_json_len(labels) != pl_json_len(texts)))
        return PL_FAIL(err, PL_E_FORMAT, "%s: completions is a list of texts, labels (if there) one as long", g->where);
    for (int64_t i = 0; i < pl_json_len(texts); i++) {
        text.s = pl_json_string(pl_json_at(texts, i), &text.n);
        if (!text.s) return PL_FAIL(err, PL_E_FORMAT, "%s: completions[%" PRId64 "] is no text", g->where, i);
        PL_GO(rc, read_label(&label, g, labels ? pl_json_at(labels, i) : NULL, err));
        PL_GO(rc, add_answer(g, prompt, text, label, err));
    }
out:
    return rc;
}

static int read_pair(growing *g, const pl_json *row, pl_error *err) {
    static const pl_data_options options = {.preference = true};
    pl_row_form form;
    pl_row_text t;
    int rc = pl_row_form_of(&form, row, &options, g->where, err);
    if (rc == 0) rc = pl_row_read(&t, row, &form, g->where, err);
    for (int i = 0; rc == 0 && i < 2; i++) rc = add_answer(g, t.prompt, t.answer[i], -1, err);
    return rc;
}

static int read_solutions(growing *g, const pl_json *row, pl_error *err) {
    pl_buf prompt = {0}, text = {0};
    pl_slice q;
    int rc, label;
    PL_GO(rc, read_slice(&q, g, row, "question", err));
    PL_GO(rc, pl_gsm8k_prompt(&prompt, q.s, q.n, err));
    for (pl_json_iter it = pl_json_first(row); it.key; it = pl_json_next(it)) {
        pl_slice s = {NULL, 0};
        s.s = pl_json_string(pl_json_get(it.value, "solution"), &s.n);
        if (!s.s || !pl_json_has(it.value, "is_correct")) continue;
        pl_buf_clear(&text);
        PL_GO(rc, pl_gsm8k_solution(&text, s.s, s.n, err));
        PL_GO(rc, read_label(&label, g, pl_json_get(it.value, "is_correct"), err));
        PL_GO(rc, add_answer(g, (pl_slice){prompt.data, prompt.len}, (pl_slice){text.data ? text.data : "", text.len},
                             label, err));
    }
out:
    pl_buf_release(&prompt);
    pl_buf_release(&text);
    return rc;
}

static int form_of(pl_answer_form *out, const growing *g, const pl_json *row, pl_error *err) {
    if (pl_json_has(row, "prompt") && pl_json_has(row, "completions"))
        *out = PL_ANSWERS_LIST;
    else if (pl_json_has(row, "prompt") && pl_json_has(row, "completion"))
        *out = PL_ANSWERS_ONE;
    else if (pl_json_has(row, "chosen") && pl_json_has(row, "rejected"))
        *out = PL_ANSWERS_PAIR;
    else if (pl_gsm8k_is_solutions(row))
        *out = PL_ANSWERS_SOLUTIONS;
    else
        return PL_FAIL(err, PL_E_FORMAT,
                       "%s: rows have prompt and completion, prompt and completions, chosen and rejected, or question "
                       "and model solutions",
                       g->where);
    return 0;
}

static int read_row(growing *g, const char *line, size_t n, pl_error *err) {
    static int (*const readers[])(growing *, const pl_json *, pl_error *) = {[PL_ANSWERS_ONE] = read_one,
                                                                             [PL_ANSWERS_LIST] = read_list,
                                                                             [PL_ANSWERS_PAIR] = read_pair,
                                                                             [PL_ANSWERS_SOLUTIONS] = read_solutions};
    pl_answers *a = &g->a;
    pl_json *row = NULL;
    int rc;
    if (a->nrows + 1 >= g->row_cap) {
        int64_t cap = PL_MAX(256, 2 * g->row_cap);
        size_t was = (size_t)g->row_cap, is = (size_t)cap;
        PL_GO(rc, pl_realloc((void **)&a->first, was * sizeof *a->first, is * sizeof *a->first, err));
        PL_GO(rc, pl_realloc((void **)&a->line, was * sizeof *a->line, is * sizeof *a->line, err));
        g->row_cap = cap;
    }
    PL_GO(rc, pl_json_parse(&row, line, n, g->where, err));
    if (pl_json_kind_of(row) != PL_J_OBJECT)
        PL_GO(rc, PL_FAIL(err, PL_E_FORMAT, "%s: every line must be a JSON object (JSON lines)", g->where));
    if (a->nrows == 0) PL_GO(rc, form_of(&a->form, g, row, err));
    a->first[a->nrows] = a->n;
    a->line[a->nrows] = a->lines.len;
    PL_GO(rc, pl_buf_add(&a->lines, line, n, err));
    PL_GO(rc, readers[a->form](g, row, err));
    a->nrows++;
    a->first[a->nrows] = a->n;
    a->line[a->nrows] = a->lines.len;
out:
    pl_json_free(row);
    return rc;
}

/* --- prompts --- */

typedef struct prompt_key {
    const char *s;
    size_t n;
    int64_t answer;
} prompt_key;

static int by_prompt(const void *a, const void *b) {
    const prompt_key *x = a, *y = b;
    int c = memcmp(x->s, y->s, PL_MIN(x->n, y->n));
    if (c) return c;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return x->answer < y->answer ? -1 : 1;
}

/* prompt becomes the first answer to an equal one, then a number in their order. */
static int number_prompts(pl_answers *a, pl_error *err) {
    prompt_key *keys = NULL;
    int rc = PL_NEW(&keys, PL_MAX(a->n, 1), err);
    if (rc) return rc;
    for (int64_t i = 0; i < a->n; i++)
        keys[i] = (prompt_key){a->texts.data + a->answer[i].prompt_at, a->answer[i].prompt_n, i};
    qsort(keys, (size_t)a->n, sizeof *keys, by_prompt);
    for (int64_t i = 0; i < a->n; i++) {
        bool equal = i > 0 && keys[i].n == keys[i - 1].n && memcmp(keys[i].s, keys[i - 1].s, keys[i].n) == 0;
        a->answer[keys[i].answer].prompt = equal ? a->answer[keys[i - 1].answer].prompt : keys[i].answer;
    }
    for (int64_t i = 0; i < a->n; i++) {
        int64_t leader = a->answer[i].prompt;
        a->answer[i].prompt = leader == i ? a->nprompts++ : a->answer[leader].prompt;
    }
    pl_free(keys);
    return 0;
}

int pl_answers_load(pl_answers *out, const char *path, int64_t max_rows, pl_error *err) {
    growing g = {0};
    pl_lines *lines = NULL;
    int rc = pl_lines_open(&lines, path, MAX_LINE_BYTES, err);
    while (rc == 0 && (max_rows <= 0 || g.a.nrows < max_rows)) {
        const char *line = NULL;
        size_t n = 0;
        rc = pl_lines_next(lines, &line, &n, err);
        if (rc || !line) break;
        if (strspn(line, " \t\r") >= n) continue;
        snprintf(g.where, sizeof g.where, "%.600s:%" PRId64, path, pl_lines_number(lines));
        rc = read_row(&g, line, n, err);
    }
    if (rc == 0 && g.a.n == 0) rc = PL_FAIL(err, PL_E_RANGE, "%s: no answers", path);
    if (rc == 0) rc = number_prompts(&g.a, err);
    pl_lines_free(lines);
    if (rc == 0)
        *out = g.a;
    else
        pl_answers_release(&g.a);
    return rc;
}
