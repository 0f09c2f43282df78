/* gsm8k.c: problems and solutions into labelled rows, and the making of wrong answers. */
#include "data/gsm8k.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"

#define MAX_LINE_BYTES ((size_t)1 << 20)
#define MARK "#### "

typedef struct slice {
    const char *s;
    size_t n;
} slice;

static slice text_of(const pl_json *row, const char *key) {
    slice t = {NULL, 0};
    t.s = pl_json_string(pl_json_get(row, key), &t.n);
    return t;
}

bool pl_gsm8k_is_problem(const pl_json *row) {
    slice a = text_of(row, "answer");
    return text_of(row, "question").s && a.s && memmem(a.s, a.n, MARK, strlen(MARK)) != NULL;
}

static bool is_solution(const pl_json *v) { return text_of(v, "solution").s && pl_json_has(v, "is_correct"); }

bool pl_gsm8k_is_solutions(const pl_json *row) {
    if (!text_of(row, "question").s) return false;
    for (pl_json_iter it = pl_json_first(row); it.key; it = pl_json_next(it))
        if (is_solution(it.value)) return true;
    return false;
}

int pl_gsm8k_prompt(pl_buf *out, const char *question, size_t n, pl_error *err) {
    int rc = pl_buf_puts(out, "Question: ", err);
    if (rc == 0) rc = pl_buf_add(out, question, n, err);
    return rc ? rc : pl_buf_puts(out, "\nAnswer:\n", err);
}

/* Where the last line begins. */
static size_t last_line(slice t) {
    while (t.n > 0 && t.s[t.n - 1] == '\n') t.n--;
    while (t.n > 0 && t.s[t.n - 1] != '\n') t.n--;
    return t.n;
}

static slice trim(slice t) {
    while (t.n > 0 && strchr(" \t\r\n", t.s[t.n - 1])) t.n--;
    return t;
}

int pl_gsm8k_solution(pl_buf *out, const char *text, size_t n, pl_error *err) {
    slice t = trim((slice){text, n});
    size_t last = last_line(t);
    bool letter = t.n >= last + 2 && memcmp(t.s + last, "A:", 2) == 0;
    int rc = 0;
    for (size_t i = 0; i < t.n && rc == 0;) {
        const char *end = t.n - i >= 2 && memcmp(t.s + i, "<<", 2) == 0 ? memmem(t.s + i, t.n - i, ">>", 2) : NULL;
        if (end) {
            i = (size_t)(end - t.s) + 2;
        } else if (letter && i == last) {
            rc = pl_buf_puts(out, "####", err);
            i += 2;
        } else {
            rc = pl_buf_add(out, t.s + i++, 1, err);
        }
    }
    return rc;
}

/* The final answer of a cleaned solution: "72" of "#### 72". */
static slice answer_of(slice t) {
    size_t last = last_line(t);
    slice a = {t.s + last, t.n - last};
    if (a.n < 4 || memcmp(a.s, "####", 4) != 0) return (slice){t.s + t.n, 0};
    a.s += 4, a.n -= 4;
    while (a.n > 0 && *a.s == ' ') a.s++, a.n--;
    return trim(a);
}

static bool same(slice a, slice b) { return a.n == b.n && memcmp(a.s, b.s, a.n) == 0; }

/* --- wrong answers --- */

typedef struct problem {
    size_t question, question_n, solution, solution_n; /* in texts */
} problem;

typedef struct problems {
    pl_buf texts;
    problem *p;
    int64_t n, cap;
} problems;

static slice question_of(const problems *all, int64_t i) {
    return (slice){all->texts.data + all->p[i].question, all->p[i].question_n};
}
static slice solution_of(const problems *all, int64_t i) {
    return (slice){all->texts.data + all->p[i].solution, all->p[i].solution_n};
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Another number of about this size: one that a slip could give. */
static double perturb(double x, uint64_t key) {
    static const double factors[] = {2, 0.5, 10, 0.1};
    static const double steps[] = {1, -1, 2, -2, 5, -5, 10, -10};
    uint64_t kind = (uint64_t)(pl_rng_unit64(key, 0) * 12);
    double y = kind < 8 ? x + steps[kind] : x * factors[kind - 8];
    if (x == (double)(int64_t)x && y != (double)(int64_t)y)
        y = x + steps[(kind - 8) % 8]; /* whole numbers stay whole */
    return y < 0 || y == x ? x + 1 + (double)(uint64_t)(pl_rng_unit64(key, 1) * 9) : y;
}

/* The number at the head of t, its commas left out; 0 when there is none. */
static double number_of(slice t) {
    char text[40];
    size_t n = 0;
    for (size_t i = 0; i < t.n && n + 1 < sizeof text; i++)
        if (digit(t.s[i]) || t.s[i] == '.' || (t.s[i] == '-' && n == 0)) text[n++] = t.s[i];
    text[n] = 0;
    return strtod(text, NULL);
}

/* Is what stands at i the whole number `what`, not a part of a longer one? */
static bool number_at(slice t, size_t i, slice what) {
    if (t.n - i < what.n || memcmp(t.s + i, what.s, what.n) != 0) return false;
    if (i > 0 && (digit(t.s[i - 1]) || t.s[i - 1] == '.')) return false;
    size_t end = i + what.n;
    if (end < t.n && digit(t.s[end])) return false;
    return !(end + 1 < t.n && t.s[end] == '.' && digit(t.s[end + 1]));
}

/* The solution with another final number, wherever that stands in its last two lines: the slip is in the last step. */
static int add_perturbed(pl_buf *out, slice t, uint64_t key, pl_error *err) {
    slice a = answer_of(t);
    char wrong[40];
    size_t from = last_line((slice){t.s, last_line(t)});
    int rc = 0;
    snprintf(wrong, sizeof wrong, "%.10g", perturb(number_of(a), key));
    for (size_t i = 0; i < t.n && rc == 0;) {
        if (i >= from && number_at(t, i, a)) {
            rc = pl_buf_puts(out, wrong, err);
            i += a.n;
        } else {
            rc = pl_buf_add(out, t.s + i++, 1, err);
        }
    }
    return rc;
}

/* A problem other than i whose answer differs; -1 when there is none nearby. */
static int64_t foreign(const problems *all, int64_t i, uint64_t key) {
    for (uint64_t k = 0; k < 100; k++) {
        int64_t j = (int64_t)(pl_rng_unit64(key, k) * (double)all->n);
        if (j != i && !same(answer_of(solution_of(all, i)), answer_of(solution_of(all, j)))) return j;
    }
    return -1;
}

/* --- rows --- */

static int add_row(pl_buf *out, slice question, slice completion, bool label, const char *kind, pl_error *err) {
    pl_buf prompt = {0};
    int rc;
    PL_GO(rc, pl_gsm8k_prompt(&prompt, question.s, question.n, err));
    PL_GO(rc, pl_buf_puts(out, "{\"prompt\":", err));
    PL_GO(rc, pl_buf_json_string(out, prompt.data, prompt.len, err));
    PL_GO(rc, pl_buf_puts(out, ",\"completion\":", err));
    PL_GO(rc, pl_buf_json_string(out, completion.s, completion.n, err));
    rc = pl_buf_printf(out, err, ",\"label\":%s,\"kind\":\"%s\"}\n", label ? "true" : "false", kind);
out:
    pl_buf_release(&prompt);
    return rc;
}

static int add_wrong(pl_buf *out, pl_gsm8k_report *r, const problems *all, int64_t i, int64_t k, uint64_t seed,
                     pl_error *err) {
    uint64_t key = pl_rng_mix(pl_rng_mix(seed, (uint64_t)i), (uint64_t)k);
    int64_t other = k % 2 == 0 ? foreign(all, i, key) : -1;
    if (other >= 0) {
        r->foreign++;
        return add_row(out, question_of(all, i), solution_of(all, other), false, "another problem's", err);
    }
    pl_buf text = {0};
    int rc = add_perturbed(&text, solution_of(all, i), key, err);
    if (rc == 0) rc = add_row(out, question_of(all, i), (slice){text.data, text.len}, false, "perturbed", err);
    pl_buf_release(&text);
    r->perturbed++;
    return rc;
}

static int add_problem(problems *all, const pl_json *row, pl_error *err) {
    slice q = text_of(row, "question"), a = text_of(row, "answer");
    if (all->n == all->cap) {
        int64_t cap = PL_MAX(256, 2 * all->cap);
        int rc = pl_realloc((void **)&all->p, (size_t)all->cap * sizeof *all->p, (size_t)cap * sizeof *all->p, err);
        if (rc) return rc;
        all->cap = cap;
    }
    problem *p = &all->p[all->n++];
    *p = (problem){.question = all->texts.len, .question_n = q.n};
    int rc = pl_buf_add(&all->texts, q.s, q.n, err);
    p->solution = all->texts.len;
    if (rc == 0) rc = pl_gsm8k_solution(&all->texts, a.s, a.n, err);
    p->solution_n = all->texts.len - p->solution;
    return rc;
}

static int add_solutions(pl_buf *out, pl_gsm8k_report *r, const pl_json *row, pl_error *err) {
    slice q = text_of(row, "question");
    int rc = 0;
    for (pl_json_iter it = pl_json_first(row); it.key && rc == 0; it = pl_json_next(it)) {
        pl_buf text = {0};
        slice s = text_of(it.value, "solution");
        if (!is_solution(it.value)) continue;
        bool right = pl_json_bool(pl_json_get(it.value, "is_correct"));
        rc = pl_gsm8k_solution(&text, s.s, s.n, err);
        if (rc == 0) rc = add_row(out, q, (slice){text.data ? text.data : "", text.len}, right, "model", err);
        pl_buf_release(&text);
        *(right ? &r->solutions_right : &r->solutions_wrong) += 1;
    }
    return rc;
}

/* Problems into *all, solutions as rows into *out. */
static int read_line(problems *all, pl_buf *out, pl_gsm8k_report *r, bool *is, bool first, const char *where,
                     const char *line, size_t n, pl_error *err) {
    pl_json *row = NULL;
    int rc = pl_json_parse(&row, line, n, where, err);
    if (rc) return rc;
    if (pl_gsm8k_is_problem(row))
        rc = add_problem(all, row, err);
    else if (pl_gsm8k_is_solutions(row))
        rc = add_solutions(out, r, row, err);
    else if (first && is)
        *is = false;
    else
        rc = PL_FAIL(err, PL_E_FORMAT,
                     "%s: want a GSM8K problem (question, and an answer that ends in #### and a number), or model "
                     "solutions to one (question, and objects with solution and is_correct)",
                     where);
    pl_json_free(row);
    return rc;
}

static int read_file(problems *all, pl_buf *out, pl_gsm8k_report *r, bool *is, const char *path, pl_error *err) {
    pl_lines *lines = NULL;
    char where[640];
    bool first = true;
    int rc = pl_lines_open(&lines, path, MAX_LINE_BYTES, err);
    while (rc == 0) {
        const char *line = NULL;
        size_t n = 0;
        rc = pl_lines_next(lines, &line, &n, err);
        if (rc && rc != PL_E_NOMEM && rc != PL_E_IO && first && is) { /* not for us to complain about */
            *is = false;
            rc = 0;
            break;
        }
        if (rc || !line) break;
        if (strspn(line, " \t\r") >= n) continue;
        snprintf(where, sizeof where, "%.600s:%" PRId64, path, pl_lines_number(lines));
        rc = read_line(all, out, r, is, first, where, line, n, err);
        if (is && !*is) break;
        first = false;
    }
    pl_lines_free(lines);
    return rc;
}

int pl_gsm8k_rows(pl_buf *out, pl_gsm8k_report *report, bool *is, const char *path, const pl_gsm8k_options *o,
                  pl_error *err) {
    problems all = {0};
    int rc;
    *report = (pl_gsm8k_report){0};
    *is = true;
    PL_GO(rc, read_file(&all, out, report, is, path, err));
    if (!*is) goto out;
    report->problems = all.n;
    for (int64_t i = 0; i < all.n; i++) {
        PL_GO(rc, add_row(out, question_of(&all, i), solution_of(&all, i), true, "given", err));
        report->right++;
        for (int64_t k = 0; k < o->wrong; k++) PL_GO(rc, add_wrong(out, report, &all, i, k, o->seed, err));
    }
    if (o->solutions) PL_GO(rc, read_file(&all, out, report, NULL, o->solutions, err));
out:
    pl_buf_release(&all.texts);
    pl_free(all.p);
    return rc;
}
