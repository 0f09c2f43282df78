/* data/reader.c: the columns of a row. All rows of a file have the form of its first one; a row that has less or other
 * columns is an error, never a guess. */
#include "data/reader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

#define MARKER "\n\nAssistant:"
#define HUMAN "\n\nHuman:"
#define LISTED_COLUMNS 12
#define QUOTED_BYTES 60

int pl_slice_quote(pl_buf *b, pl_slice s, pl_error *err) {
    size_t n = PL_MIN(s.n, (size_t)QUOTED_BYTES);
    while (n > 0 && n < s.n && (s.s[n] & 0xc0) == 0x80) n--; /* not inside a character */
    int rc = pl_buf_json_string(b, s.s, n, err);
    return rc != 0 || n == s.n ? rc : pl_buf_puts(b, "...", err);
}

/* The columns of a row that lacks what is wanted. */
static int fail_columns(const pl_json *row, const char *where, const char *wanted, pl_error *err) {
    pl_buf list = {0};
    int64_t n = 0;
    int rc = 0;
    for (pl_json_iter it = pl_json_first(row); rc == 0 && it.key && n < LISTED_COLUMNS; it = pl_json_next(it), n++) {
        if (n > 0) rc = pl_buf_puts(&list, ", ", err);
        if (rc == 0) rc = pl_slice_quote(&list, (pl_slice){it.key, strlen(it.key)}, err);
    }
    if (rc == 0)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: %s; this row has %s%s", where, wanted, n ? list.data : "no columns",
                     pl_json_len(row) > n ? ", ..." : "");
    pl_buf_release(&list);
    return rc;
}

static int check_conversational(const pl_json *row, const char *where, pl_error *err) {
    static const char *const columns[] = {"messages", "conversations", "prompt", "chosen", "rejected", "completion"};
    for (int64_t i = 0; i < PL_LEN(columns); i++) {
        pl_json_kind kind = pl_json_kind_of(pl_json_get(row, columns[i]));
        if (kind == PL_J_ARRAY || kind == PL_J_OBJECT)
            return PL_FAIL(
                err, PL_E_UNSUPPORTED,
                "%s: \"%s\" is a list of messages: conversational rows need a chat template, which is not supported "
                "yet; write them as plain text (strings)",
                where, columns[i]);
    }
    return 0;
}

int pl_row_form_of(pl_row_form *out, const pl_json *row, const pl_data_options *options, const char *where,
                   pl_error *err) {
    pl_row_form form = {.text_field = options->text_field ? options->text_field : "text"};
    if (pl_json_kind_of(row) != PL_J_OBJECT)
        return PL_FAIL(err, PL_E_FORMAT, "%s: %s; every line must be a JSON object (JSON lines)", where,
                       pl_json_kind_name(pl_json_kind_of(row)));
    int rc = check_conversational(row, where, err);
    if (rc != 0) return rc;
    bool pair = pl_json_has(row, "chosen") && pl_json_has(row, "rejected");
    bool completion = pl_json_has(row, "prompt") && pl_json_has(row, "completion");
    form.margin = options->margin;
    if (options->labelled) {
        form.kind = PL_DATA_LABELLED;
        form.split = !(completion && pl_json_has(row, "label"));
        form.transcripts = form.split && !pl_json_has(row, "prompt");
        if (form.split && !pair)
            return fail_columns(row, where, "rows with prompt, completion and label, or preference rows, are wanted",
                                err);
    } else if (options->preference) {
        if (!pair)
            return fail_columns(row, where, "preference rows have prompt, chosen and rejected, or chosen and rejected",
                                err);
        form.kind = PL_DATA_PREFERENCE;
        form.transcripts = !pl_json_has(row, "prompt");
    } else if (completion) {
        form.kind = PL_DATA_COMPLETION;
    } else if (pl_json_has(row, form.text_field)) {
        form.kind = PL_DATA_TEXT;
    } else {
        char wanted[256];
        snprintf(wanted, sizeof wanted,
                 "%srows with prompt and completion, or with \"%.60s\" (dataset_text_field), are wanted",
                 pair ? "this is a preference file; " : "", form.text_field);
        return fail_columns(row, where, wanted, err);
    }
    *out = form;
    return 0;
}

bool pl_row_form_uses(const pl_row_form *form, const char *column) {
    switch (form->kind) {
    case PL_DATA_TEXT: return strcmp(column, form->text_field) == 0;
    case PL_DATA_COMPLETION: return strcmp(column, "prompt") == 0 || strcmp(column, "completion") == 0;
    case PL_DATA_LABELLED:
        if (form->split) break;
        return strcmp(column, "prompt") == 0 || strcmp(column, "completion") == 0 || strcmp(column, "label") == 0;
    case PL_DATA_PREFERENCE: break;
    }
    if (form->margin && strcmp(column, "margin") == 0) return true;
    return strcmp(column, "prompt") == 0 || strcmp(column, "chosen") == 0 || strcmp(column, "rejected") == 0;
}

const char *pl_row_form_name(const pl_row_form *form) {
    switch (form->kind) {
    case PL_DATA_TEXT: return "texts";
    case PL_DATA_COMPLETION: return "prompts with completions";
    case PL_DATA_LABELLED:
        if (form->split) return "preference pairs, each two labelled rows";
        return "labelled completions";
    case PL_DATA_PREFERENCE: break;
    }
    return form->transcripts ? "preference pairs (transcripts)" : "preference pairs";
}

static int read_column(pl_slice *out, const pl_json *row, const char *column, const char *where, pl_error *err) {
    return pl_json_member_string(row, column, true, &out->s, &out->n, where, err);
}

static bool has_prefix(pl_slice t, pl_slice prefix) { return t.n >= prefix.n && memcmp(t.s, prefix.s, prefix.n) == 0; }

/* Offset of the last occurrence of `what` in t, or -1. */
static int64_t find_last(pl_slice t, const char *what) {
    size_t n = strlen(what);
    for (size_t i = t.n >= n ? t.n - n + 1 : 0; i > 0; i--)
        if (memcmp(t.s + i - 1, what, n) == 0) return (int64_t)(i - 1);
    return -1;
}

static bool contains(pl_slice t, const char *what) { return memmem(t.s, t.n, what, strlen(what)) != NULL; }

/* White space as Unicode (and Python's str.strip) has it. */
static bool is_space(uint32_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_blank(pl_slice t) {
    uint32_t c = 0;
    for (size_t i = 0, step; i < t.n; i += step) {
        step = pl_utf8_decode(t.s + i, t.n - i, &c);
        if (step == 0 || !is_space(c)) return false;
    }
    return true;
}

/* The hh-rlhf form: the prompt ends at the last "\n\nAssistant:" of the part that both transcripts share. Where a
 * transcript has a later one, the dialogues parted before their last answer: their prompts differ. */
static int split_transcripts(pl_row_text *t, const char *where, pl_error *err) {
    pl_slice *a = t->answer, shared = {a[0].s, 0};
    size_t least = PL_MIN(a[0].n, a[1].n);
    while (shared.n < least && a[0].s[shared.n] == a[1].s[shared.n]) shared.n++;
    int64_t at = find_last(shared, MARKER);
    if (at < 0)
        return PL_FAIL(
            err, PL_E_FORMAT,
            "%s: no \"prompt\", and the part that chosen and rejected share has no \"\\n\\nAssistant:\" (the hh-rlhf "
            "form); add a prompt column",
            where);
    t->differing = find_last(a[0], MARKER) != at || find_last(a[1], MARKER) != at;
    size_t cut = (size_t)at + strlen(MARKER);
    t->prompt = (pl_slice){a[0].s, cut};
    for (int i = 0; i < 2; i++) {
        a[i] = (pl_slice){a[i].s + cut, a[i].n - cut};
        t->further_turn |= contains(a[i], MARKER) || contains(a[i], HUMAN);
    }
    return 0;
}

static int read_pair(pl_row_text *t, const pl_json *row, const pl_row_form *form, const char *where, pl_error *err) {
    int rc;
    t->answers = 2;
    PL_GO(rc, read_column(&t->answer[0], row, "chosen", where, err));
    PL_GO(rc, read_column(&t->answer[1], row, "rejected", where, err));
    if (!form->transcripts) {
        PL_GO(rc, read_column(&t->prompt, row, "prompt", where, err));
    } else if (pl_json_has(row, "prompt")) {
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: a \"prompt\", which the first row of the file does not have", where);
    } else {
        rc = split_transcripts(t, where, err);
    }
out:
    return rc;
}

static bool is_number(const pl_json *v) { return pl_json_kind_of(v) == PL_J_INT || pl_json_kind_of(v) == PL_J_DOUBLE; }

/* The label of a row: true or false, or as a number 1 or 0. */
static int read_label(bool *out, const pl_json *row, const char *where, pl_error *err) {
    const pl_json *label = pl_json_get(row, "label");
    if (pl_json_kind_of(label) == PL_J_BOOL)
        *out = pl_json_bool(label);
    else if (is_number(label) && (pl_json_double(label) == 0 || pl_json_double(label) == 1))
        *out = pl_json_double(label) == 1;
    else
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"label\" must be true or false (desirable or not)", where);
    return 0;
}

static int read_completion(pl_row_text *t, const pl_json *row, const char *where, pl_error *err) {
    int rc = read_column(&t->prompt, row, "prompt", where, err);
    return rc ? rc : read_column(&t->answer[0], row, "completion", where, err);
}

static int read_labelled(pl_row_text *t, const pl_json *row, const char *where, pl_error *err) {
    int rc = read_completion(t, row, where, err);
    return rc ? rc : read_label(&t->label, row, where, err);
}

static int read_margin(double *out, const pl_json *row, const char *where, pl_error *err) {
    const pl_json *margin = pl_json_get(row, "margin");
    if (!margin) return 0;
    if (!is_number(margin) || !isfinite(pl_json_double(margin)))
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"margin\" must be a finite number", where);
    *out = pl_json_double(margin);
    return 0;
}

int pl_row_read(pl_row_text *out, const pl_json *row, const pl_row_form *form, const char *where, pl_error *err) {
    int rc;
    pl_row_text t = {.answers = 1, .prompt = {"", 0}};
    if (pl_json_kind_of(row) != PL_J_OBJECT)
        return PL_FAIL(err, PL_E_FORMAT, "%s: %s; every line must be a JSON object (JSON lines)", where,
                       pl_json_kind_name(pl_json_kind_of(row)));
    PL_GO(rc, check_conversational(row, where, err));
    switch (form->kind) {
    case PL_DATA_PREFERENCE:
        PL_GO(rc, read_pair(&t, row, form, where, err));
        if (form->margin) PL_GO(rc, read_margin(&t.margin, row, where, err));
        break;
    case PL_DATA_LABELLED:
        if (form->split)
            PL_GO(rc, read_pair(&t, row, form, where, err));
        else
            PL_GO(rc, read_labelled(&t, row, where, err));
        break;
    case PL_DATA_COMPLETION: PL_GO(rc, read_completion(&t, row, where, err)); break;
    case PL_DATA_TEXT: PL_GO(rc, read_column(&t.answer[0], row, form->text_field, where, err)); break;
    }
    t.repeated = t.prompt.n > 0;
    for (int64_t a = 0; a < t.answers; a++) {
        t.empty |= is_blank(t.answer[a]);
        t.repeated &= has_prefix(t.answer[a], t.prompt);
    }
    t.identical = t.answers == 2 && t.answer[0].n == t.answer[1].n && has_prefix(t.answer[0], t.answer[1]);
    *out = t;
out:
    return rc;
}
