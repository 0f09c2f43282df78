/* print.c: the result of an evaluation, for programs and for people. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "plumb/score.h"

typedef struct entry {
    const char *name; /* TRL's where TRL has it */
    const pl_mean *value;
} entry;

#define MAX_ENTRIES 8

static int entries_of(entry out[MAX_ENTRIES], const pl_eval_result *r) {
    const entry with[] = {{"loss", &r->loss},
                          {"rewards/chosen", &r->rewards_chosen},
                          {"rewards/rejected", &r->rewards_rejected},
                          {"rewards/accuracies", &r->rewards_accuracies},
                          {"rewards/margins", &r->rewards_margins}};
    const entry always[] = {{"logps/chosen", &r->logps_chosen},
                            {"logps/rejected", &r->logps_rejected},
                            {"logps/accuracies", &r->logps_accuracies}};
    int n = 0;
    for (int64_t i = 0; r->has_reference && i < PL_LEN(with); i++) out[n++] = with[i];
    for (int64_t i = 0; i < PL_LEN(always); i++) out[n++] = always[i];
    return n;
}

/* JSON has no NaN: the standard error of one row is null. */
static int add_number(pl_buf *b, double x, pl_error *err) {
    return isnan(x) ? pl_buf_puts(b, "null", err) : pl_buf_json_double(b, x, err);
}

static int add_json(pl_buf *b, const pl_eval_result *r, pl_error *err) {
    entry e[MAX_ENTRIES];
    int n = entries_of(e, r), rc;
    PL_GO(rc, pl_buf_printf(b, err, "{\"rows\":%" PRId64 ",\"reference\":", r->rows));
    PL_GO(rc, r->has_reference ? pl_buf_json_string(b, r->reference, strlen(r->reference), err)
                               : pl_buf_puts(b, "null", err));
    if (r->has_reference) {
        PL_GO(rc, pl_buf_puts(b, ",\"beta\":", err));
        PL_GO(rc, pl_buf_json_double(b, r->beta, err));
    }
    for (int i = 0; i < n; i++) {
        PL_GO(rc, pl_buf_printf(b, err, ",\"%s\":", e[i].name));
        PL_GO(rc, add_number(b, e[i].value->mean, err));
    }
    PL_GO(rc, pl_buf_printf(b, err, ",\"tokens/chosen\":%" PRId64 ",\"tokens/rejected\":%" PRId64 ",\"stderr\":{",
                            r->tokens_chosen, r->tokens_rejected));
    for (int i = 0; i < n; i++) {
        PL_GO(rc, pl_buf_printf(b, err, "%s\"%s\":", i ? "," : "", e[i].name));
        PL_GO(rc, add_number(b, e[i].value->se, err));
    }
    PL_GO(rc, pl_buf_puts(b, "}}\n", err));
out:
    return rc;
}

static int add_text(pl_buf *b, const pl_eval_result *r, pl_error *err) {
    entry e[MAX_ENTRIES];
    int n = entries_of(e, r), rc;
    PL_GO(rc, pl_buf_printf(b, err, "%" PRId64 " rows, reference: %s", r->rows, r->reference));
    PL_GO(rc, r->has_reference ? pl_buf_printf(b, err, ", beta %g\n", r->beta) : pl_buf_puts(b, "\n", err));
    for (int i = 0; i < n; i++) {
        PL_GO(rc, pl_buf_printf(b, err, "%-20s %12.6g", e[i].name, e[i].value->mean));
        if (!isnan(e[i].value->se)) PL_GO(rc, pl_buf_printf(b, err, "  +- %.3g", e[i].value->se));
        PL_GO(rc, pl_buf_puts(b, "\n", err));
    }
out:
    return rc;
}

static int print(FILE *f, const pl_eval_result *r, int (*add)(pl_buf *, const pl_eval_result *, pl_error *),
                 pl_error *err) {
    pl_buf b = {0};
    int rc = add(&b, r, err);
    if (rc == 0 && fwrite(b.data, 1, b.len, f) != b.len) rc = PL_FAIL(err, PL_E_IO, "cannot write the result");
    pl_buf_release(&b);
    return rc;
}

int pl_eval_print_json(FILE *f, const pl_eval_result *r, pl_error *err) { return print(f, r, add_json, err); }

int pl_eval_print_text(FILE *f, const pl_eval_result *r, pl_error *err) { return print(f, r, add_text, err); }
