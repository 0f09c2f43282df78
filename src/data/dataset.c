/* data/dataset.c: the loading of a file: lines in, rows of ids out.
 *
 * Lines are read in batches; the rows of a batch are parsed, tokenized and cut in parallel, each into its own slot;
 * then the slots are taken in the file's order. So ids, counts and the first error do not depend on the number of
 * threads. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "data/rows.h"
#include "data/seam.h"
#include "plumb/log.h"

#define SLOTS 512                      /* rows of a batch */
#define BATCH_BYTES ((size_t)16 << 20) /* of lines, after which a batch is full */
#define MAX_LINE_BYTES ((size_t)64 << 20)
#define WHERE_BYTES 640
#define MAX_EXTRA 16
#define SHOWN_SEAMS 3

/* One line on its way to a row. Buffers are reused from batch to batch. */
typedef struct slot {
    pl_buf line;
    int64_t number; /* of the line in the file */
    pl_json *json;
    pl_row_text text; /* borrowed from json */
    pl_seam_ids ids;
    int64_t prompt_first, prompt_count, answer_count[2]; /* after truncation */
    bool kept, truncated, dropped_long, dropped_empty, double_bos;
    int64_t lost_eos;
    int rc;
    pl_error err;
} slot;

typedef struct loader {
    const char *path;
    const pl_data_options *options;
    int64_t vocab_size;
    pl_seam_rule rule;
    pl_row_form form;
    bool formed;      /* the first row was seen */
    pl_lines *lines;  /* of the file; NULL: text */
    const char *text; /* what is left of it */
    size_t text_bytes;
    int64_t text_line;
    slot *slots;
    pl_rows rows;
    pl_data_report report;
    char *extra[MAX_EXTRA]; /* owned names of columns that are not used */
    int64_t nextra;         /* all of them; the first MAX_EXTRA are kept */
    int64_t shown;          /* seams */
} loader;

/* "pairs.jsonl:12", the path's end when it is very long. */
static void locate(char where[WHERE_BYTES], const char *path, int64_t line) {
    size_t n = strlen(path), most = WHERE_BYTES - 32;
    snprintf(where, WHERE_BYTES, "%s:%" PRId64, n > most ? path + n - most : path, line);
}

/* --- one row: parallel part
 * ---------------------------------------------------------------------------------------------------- */

static int fail_id(const loader *l, int32_t id, const char *where, pl_error *err) {
    pl_buf text = {0};
    size_t n = 0;
    const char *token = pl_tokenizer_token(l->rule.tok, id, &n);
    int rc = pl_slice_quote(&text, (pl_slice){token ? token : "", n}, err);
    if (rc == 0)
        rc = PL_FAIL(err, PL_E_MISMATCH,
                     "%s: the tokenizer gives id %" PRId32 " (%s), the model's vocabulary has %" PRId64
                     " entries: they do not belong together",
                     where, id, text.data, l->vocab_size);
    pl_buf_release(&text);
    return rc;
}

static int check_ids(const loader *l, const pl_ids *ids, const char *where, pl_error *err) {
    for (int64_t i = 0; i < ids->n; i++)
        if (ids->ids[i] < 0 || ids->ids[i] >= l->vocab_size) return fail_id(l, ids->ids[i], where, err);
    return 0;
}

/* Ids at the head of the prompt that max_prompt_length must not cut: what the post-processor puts there, or a BOS in
 * the text. */
static int64_t leading_ids(const loader *l, const slot *s) {
    int64_t n = 0, k = 0;
    const int32_t *leading = pl_tokenizer_leading(l->rule.tok, &n);
    while (k < n && k < s->prompt_count && s->ids.prompt.ids[k] == leading[k]) k++;
    if (k == 0 && s->prompt_count > 0 && s->ids.prompt.ids[0] == pl_tokenizer_bos(l->rule.tok)) k = 1;
    return k;
}

/* The prompt's last max_prompt_length ids behind its leading ones, which move up to them. */
static void cut_prompt(const loader *l, slot *s) {
    int64_t most = l->options->max_prompt_length, head = leading_ids(l, s);
    if (most <= 0 || s->prompt_count - head <= most) return;
    int32_t *ids = s->ids.prompt.ids;
    s->prompt_first = s->prompt_count - most - head;
    if (head > 0) memmove(ids + s->prompt_first, ids, (size_t)head * sizeof *ids);
    s->prompt_count = head + most;
    s->truncated = true;
}

static bool prompt_trains(const loader *l) {
    return l->form.kind == PL_DATA_COMPLETION && !l->options->completion_only_loss;
}

/* Is there an answer of which nothing is trained? The very first token of a row is predicted by nothing. */
static bool has_empty_answer(const loader *l, const slot *s) {
    bool empty = false, all = prompt_trains(l);
    for (int64_t a = 0; a < s->text.answers; a++) {
        int64_t first = all ? 0 : s->prompt_count, end = s->prompt_count + s->answer_count[a];
        empty |= end <= PL_MAX(first, (int64_t)1);
    }
    return empty;
}

/* Keeps the start of prompt + answer. A prompt that leaves no room drops the row, unless the prompt itself is trained.
 */
static void cut_row(const loader *l, slot *s) {
    int64_t most = l->options->max_length;
    int32_t eos = pl_tokenizer_eos(l->rule.tok);
    for (int64_t a = 0; a < s->text.answers; a++) {
        s->answer_count[a] = s->ids.answer[a].n - s->ids.start[a];
        s->dropped_empty |= s->answer_count[a] <= 0;
    }
    s->dropped_empty |= has_empty_answer(l, s);
    if (s->dropped_empty || most <= 0) return;
    for (int64_t a = 0; l->options->drop_long && a < s->text.answers; a++)
        s->dropped_long |= s->prompt_count + s->answer_count[a] > most;
    if (s->dropped_long) return;
    if (s->prompt_count >= most && !prompt_trains(l) && l->form.kind != PL_DATA_TEXT) {
        s->dropped_long = true;
        return;
    }
    if (s->prompt_count > most) {
        s->prompt_count = most;
        s->truncated = true;
    }
    for (int64_t a = 0; a < s->text.answers; a++) {
        int64_t room = most - s->prompt_count;
        if (s->answer_count[a] <= room) continue;
        s->lost_eos += s->ids.answer[a].ids[s->ids.answer[a].n - 1] == eos;
        s->answer_count[a] = room;
        s->truncated = true;
    }
    s->dropped_empty = has_empty_answer(l, s);
}

/* Two BOS at the head of the row: the text brings one and the post-processor adds one. */
static bool begins_twice(const loader *l, const slot *s) {
    int32_t bos = pl_tokenizer_bos(l->rule.tok);
    const pl_ids *head = s->ids.prompt.n >= 2 ? &s->ids.prompt : &s->ids.answer[0];
    return bos >= 0 && head->n >= 2 && head->ids[0] == bos && head->ids[1] == bos;
}

static int process(const loader *l, slot *s, const char *where, pl_error *err) {
    int rc;
    PL_GO(rc, pl_json_parse(&s->json, s->line.data, s->line.len, where, err));
    PL_GO(rc, pl_row_read(&s->text, s->json, &l->form, where, err));
    if (s->text.empty && l->options->drop_empty) {
        s->dropped_empty = true;
        return 0;
    }
    PL_GO(rc, pl_seam_encode(&s->ids, &l->rule, &s->text, l->form.kind, where, err));
    PL_GO(rc, check_ids(l, &s->ids.prompt, where, err));
    for (int64_t a = 0; a < s->text.answers; a++) PL_GO(rc, check_ids(l, &s->ids.answer[a], where, err));
    s->prompt_count = s->ids.prompt_count;
    s->double_bos = begins_twice(l, s);
    cut_prompt(l, s);
    cut_row(l, s);
    s->kept = !s->dropped_long && !s->dropped_empty;
out:
    return rc;
}

static void process_slot(const loader *l, slot *s) {
    char where[WHERE_BYTES];
    locate(where, l->path, s->number);
    s->rc = process(l, s, where, &s->err);
}

/* --- the file: serial part
 * ----------------------------------------------------------------------------------------------------- */

static bool is_blank_line(const char *line, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

/* The next line, of the file or of the text; NULL at the end. */
static int next_line(loader *l, const char **line, size_t *len, int64_t *number, pl_error *err) {
    if (l->lines) {
        int rc = pl_lines_next(l->lines, line, len, err);
        *number = pl_lines_number(l->lines);
        return rc;
    }
    *line = NULL;
    if (l->text_bytes == 0) return 0;
    const char *end = memchr(l->text, '\n', l->text_bytes);
    *line = l->text;
    *len = end ? (size_t)(end - l->text) : l->text_bytes;
    size_t step = *len + (end != NULL);
    l->text += step;
    l->text_bytes -= step;
    *number = ++l->text_line;
    return 0;
}

/* Fills slots with lines; *n == 0 at the end of the file or of max_rows. */
static int read_batch(loader *l, int64_t *n, pl_error *err) {
    int64_t count = 0;
    size_t bytes = 0;
    while (count < SLOTS && bytes < BATCH_BYTES) {
        if (l->options->max_rows > 0 && l->report.read + count >= l->options->max_rows) break;
        const char *line = NULL;
        size_t len = 0;
        int64_t number = 0;
        int rc = next_line(l, &line, &len, &number, err);
        if (rc != 0) return rc;
        if (!line) break;
        if (is_blank_line(line, len)) continue;
        slot *s = &l->slots[count];
        slot fresh = {.line = s->line, .ids = s->ids, .number = number};
        *s = fresh;
        pl_buf_clear(&s->line);
        rc = pl_buf_add(&s->line, line, len, err);
        if (rc != 0) return rc;
        bytes += len;
        count++;
    }
    *n = count;
    return 0;
}

/* The first row decides the form of all. */
static int find_form(loader *l, const slot *s, pl_error *err) {
    char where[WHERE_BYTES];
    pl_json *json = NULL;
    locate(where, l->path, s->number);
    int rc = pl_json_parse(&json, s->line.data, s->line.len, where, err);
    if (rc == 0) rc = pl_row_form_of(&l->form, json, l->options, where, err);
    pl_json_free(json);
    l->formed = rc == 0;
    return rc;
}

static int note_columns(loader *l, const slot *s, pl_error *err) {
    for (pl_json_iter it = pl_json_first(s->json); it.key; it = pl_json_next(it)) {
        if (pl_row_form_uses(&l->form, it.key)) continue;
        bool known = false;
        for (int64_t i = 0; i < l->nextra && !known; i++) known = strcmp(l->extra[i], it.key) == 0;
        if (known || l->nextra == MAX_EXTRA) continue;
        int rc = pl_strdup(&l->extra[l->nextra], it.key, err);
        if (rc != 0) return rc;
        l->nextra++;
    }
    return 0;
}

static void note(pl_data_note *to, bool is, int64_t line) {
    if (!is) return;
    if (to->n < PL_DATA_LISTED) to->lines[to->n] = line;
    to->n++;
}

static void count_row(pl_data_report *r, const slot *s) {
    r->read++;
    r->seam_prefix += s->ids.prefix;
    r->seam_continued += s->ids.continued;
    r->seam_cut += s->ids.cut;
    r->truncated += s->kept && s->truncated;
    r->dropped_long += s->dropped_long;
    r->dropped_empty += s->dropped_empty;
    r->lost_eos += s->kept ? s->lost_eos : 0;
    note(&r->empty, s->text.empty || s->dropped_empty, s->number);
    note(&r->differing, s->text.differing, s->number);
    note(&r->further, s->text.further_turn, s->number);
    note(&r->identical, s->text.identical, s->number);
    note(&r->repeated, s->text.repeated, s->number);
    note(&r->double_bos, s->double_bos, s->number);
}

/* The tokens on both sides of a seam, as the vocabulary writes them, for whoever looks at a debug log. */
static int show_seam(loader *l, const slot *s, pl_error *err) {
    enum { SHOWN = 4 };
    int rc = 0;
    pl_buf text = {0};
    int64_t last = s->prompt_first + s->prompt_count, first = PL_MAX(s->prompt_first, last - SHOWN);
    for (int64_t i = first; i < last + PL_MIN(s->answer_count[0], (int64_t)SHOWN); i++) {
        int32_t id = i < last ? s->ids.prompt.ids[i] : s->ids.answer[0].ids[s->ids.start[0] + i - last];
        size_t n = 0;
        const char *token = pl_tokenizer_token(l->rule.tok, id, &n);
        if (i > first || i == last) PL_GO(rc, pl_buf_puts(&text, i == last ? " + " : "|", err));
        PL_GO(rc, pl_slice_quote(&text, (pl_slice){token ? token : "", n}, err));
    }
    pl_log(PL_LOG_DEBUG, "%s:%" PRId64 ": seam %s", l->path, s->number, text.data ? text.data : "");
    l->shown++;
out:
    pl_buf_release(&text);
    return rc;
}

/* Answers [first, first + n) of a slot as a row. */
static int add_row(loader *l, const slot *s, int64_t source, int64_t first, int64_t n, pl_error *err) {
    pl_row_ids row = {.source = source,
                      .line = s->number,
                      .answers = n,
                      .prompt_count = s->prompt_count,
                      .label = l->form.split ? first == 0 : s->text.label,
                      .margin = s->text.margin};
    row.prompt = s->prompt_count > 0 ? s->ids.prompt.ids + s->prompt_first : NULL;
    for (int64_t a = 0; a < n; a++) {
        row.answer[a] = s->ids.answer[first + a].ids + s->ids.start[first + a];
        row.answer_count[a] = s->answer_count[first + a];
    }
    return pl_rows_add(&l->rows, &row, err);
}

/* A pair as two rows with a label. */
static int add_split(loader *l, const slot *s, int64_t source, pl_error *err) {
    int rc = add_row(l, s, source, 0, 1, err);
    return rc ? rc : add_row(l, s, source, 1, 1, err);
}

static int take_slot(loader *l, slot *s, pl_error *err) {
    int rc;
    int64_t source = l->report.read;
    if (s->rc != 0) {
        if (err) *err = s->err;
        return s->rc;
    }
    count_row(&l->report, s);
    PL_GO(rc, note_columns(l, s, err));
    if (!s->kept) goto out;
    PL_GO(rc, l->form.split ? add_split(l, s, source, err) : add_row(l, s, source, 0, s->text.answers, err));
    if (l->shown < SHOWN_SEAMS && l->form.kind != PL_DATA_TEXT) PL_GO(rc, show_seam(l, s, err));
out:
    return rc;
}

static void release_json(slot *slots, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        pl_json_free(slots[i].json);
        slots[i].json = NULL;
    }
}

static int load_rows(loader *l, pl_error *err) {
    int rc;
    int64_t n = 0;
    PL_GO(rc, read_batch(l, &n, err));
    while (n > 0) {
        if (!l->formed) PL_GO(rc, find_form(l, &l->slots[0], err));
#pragma omp parallel for schedule(dynamic, 4) if (n > 8)
        for (int64_t i = 0; i < n; i++) process_slot(l, &l->slots[i]);
        for (int64_t i = 0; i < n; i++) PL_GO(rc, take_slot(l, &l->slots[i], err));
        release_json(l->slots, n);
        PL_GO(rc, read_batch(l, &n, err));
    }
    if (l->report.read == 0) rc = PL_FAIL(err, PL_E_FORMAT, "%s: no rows in this file", l->path);
out:
    release_json(l->slots, SLOTS);
    return rc;
}

/* The names of columns that are not used, as one text. */
static int list_extra(char **out, const loader *l, pl_error *err) {
    if (l->nextra == 0) return 0;
    pl_buf text = {0};
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < l->nextra; i++) {
        if (i > 0) rc = pl_buf_puts(&text, ", ", err);
        if (rc == 0) rc = pl_slice_quote(&text, (pl_slice){l->extra[i], strlen(l->extra[i])}, err);
    }
    if (rc == 0 && l->nextra == MAX_EXTRA) rc = pl_buf_puts(&text, ", ...", err);
    if (rc == 0) rc = pl_strdup(out, text.data, err);
    pl_buf_release(&text);
    return rc;
}

static int finish(pl_dataset **out, loader *l, pl_error *err) {
    int rc;
    char *unused = NULL;
    if (l->rows.n == 0)
        return PL_FAIL(err, PL_E_RANGE,
                       "%s: no row is left of %" PRId64 ": %" PRId64 " %s max_length, %" PRId64 " %san empty answer",
                       l->path, l->report.read, l->report.dropped_long,
                       l->options->drop_long ? "are longer than" : "have a prompt as long as", l->report.dropped_empty,
                       l->options->drop_long ? "have " : "");
    PL_GO(rc, list_extra(&unused, l, err));
    PL_GO(rc, pl_rows_finish(out, &l->rows, l->form.kind, err));
    l->report.kept = (*out)->n;
    l->report.seam = l->options->seam;
    l->report.drop_long = l->options->drop_long;
    (*out)->report = l->report;
    (*out)->unused = unused;
    unused = NULL;
out:
    pl_free(unused);
    return rc;
}

static int load(pl_dataset **out, loader l, const pl_tokenizer *tok, pl_error *err) {
    int rc;
    PL_GO(rc, pl_seam_rule_init(&l.rule, tok, l.options->seam, err));
    PL_GO(rc, PL_NEW(&l.slots, SLOTS, err));
    if (!l.text) PL_GO(rc, pl_lines_open(&l.lines, l.path, MAX_LINE_BYTES, err));
    PL_GO(rc, load_rows(&l, err));
    PL_GO(rc, finish(out, &l, err));
out:
    for (int64_t i = 0; l.slots && i < SLOTS; i++) {
        pl_buf_release(&l.slots[i].line);
        pl_seam_ids_release(&l.slots[i].ids);
    }
    pl_free(l.slots);
    for (int64_t i = 0; i < l.nextra; i++) pl_free(l.extra[i]);
    pl_rows_release(&l.rows);
    pl_lines_free(l.lines);
    return rc;
}

int pl_dataset_load(pl_dataset **out, const char *path, const pl_data_options *options, const pl_tokenizer *tok,
                    int64_t vocab_size, pl_error *err) {
    return load(out, (loader){.path = path, .options = options, .vocab_size = vocab_size}, tok, err);
}

int pl_dataset_load_text(pl_dataset **out, const char *name, const char *text, size_t n, const pl_data_options *options,
                         const pl_tokenizer *tok, int64_t vocab_size, pl_error *err) {
    loader l = {.path = name, .options = options, .vocab_size = vocab_size, .text = text, .text_bytes = n};
    return load(out, l, tok, err);
}
