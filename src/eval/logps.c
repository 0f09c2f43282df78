/* logps.c: the log-probs of every answer, row by row, and their JSON. */
#include "eval/scorer.h"
#include "gen/json_lists.h"

typedef struct receiver {
    pl_scorer *s;
    pl_score_sink *sink;
    void *user;
} receiver;

static int non_finite(const pl_row *row, pl_error *err) {
    return PL_FAIL(err, PL_E_NUMERIC, "row %" PRId64 " (line %" PRId64 "): a log-prob is not finite", row->source,
                   row->line);
}

/* Sequences of a batch come row by row, answer by answer. */
static int hand_over(void *user, const pl_worker *k, int64_t first, int64_t n, pl_error *err) {
    const receiver *r = user;
    const pl_dataset *d = r->s->data;
    for (int64_t i = 0; i < n; i++) {
        const pl_row *row = &d->rows[first + i];
        pl_score_row out = {
            .row = row->source, .prompt_tokens = row->prompt.count, .prompt_ids = d->ids + row->prompt.first};
        pl_score_answer *answers[2] = {&out.chosen, &out.rejected};
        for (int64_t a = 0; a < 2; a++) {
            const pl_sequence *q = &k->forest.sequences[2 * i + a];
            const pl_span *span = &d->answers[row->first_answer + a];
            *answers[a] = (pl_score_answer){.tokens = q->ntargets,
                                            .logp = pl_worker_sequence_logp(k, 2 * i + a),
                                            .n = span->count,
                                            .ids = d->ids + span->first,
                                            .logps = k->head.logp + q->first_target};
            if (!isfinite(answers[a]->logp)) return non_finite(row, err);
        }
        int rc = r->sink(r->user, &out, err);
        if (rc) return rc;
    }
    return 0;
}

int pl_scorer_logps(pl_scorer *s, pl_score_sink *sink, void *user, const pl_score_hooks *hooks, pl_error *err) {
    receiver r = {s, sink, user};
    pl_fp_state fp;
    pl_fp_enter(&fp);
    int rc = pl_scorer_pass(s, &s->policy, pl_session_lora(&s->policy), hand_over, &r, hooks, 0, 1, err);
    pl_fp_leave(&fp);
    return rc;
}

/* --- JSON */

static int add_answer(pl_buf *b, const char *key, const pl_score_answer *a, bool tokens, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, ",\"%s\":{\"tokens\":%" PRId64 ",\"logp\":", key, a->tokens));
    PL_GO(rc, pl_buf_json_double(b, a->logp, err));
    if (tokens) PL_GO(rc, pl_buf_json_ids(b, "ids", a->ids, a->n, err));
    if (tokens) PL_GO(rc, pl_buf_json_floats(b, "logps", a->logps, a->tokens, err));
    PL_GO(rc, pl_buf_puts(b, "}", err));
out:
    return rc;
}

static int add_row(pl_buf *b, const pl_score_row *row, bool tokens, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "{\"row\":%" PRId64 ",\"prompt_tokens\":%" PRId64, row->row, row->prompt_tokens));
    if (tokens) PL_GO(rc, pl_buf_json_ids(b, "prompt_ids", row->prompt_ids, row->prompt_tokens, err));
    PL_GO(rc, add_answer(b, "chosen", &row->chosen, tokens, err));
    PL_GO(rc, add_answer(b, "rejected", &row->rejected, tokens, err));
    PL_GO(rc, pl_buf_puts(b, "}\n", err));
out:
    return rc;
}

int pl_score_row_print(FILE *f, const pl_score_row *row, bool tokens, pl_error *err) {
    pl_buf b = {0};
    int rc = add_row(&b, row, tokens, err);
    if (rc == 0 && fwrite(b.data, 1, b.len, f) != b.len) rc = PL_FAIL(err, PL_E_IO, "cannot write the log-probs");
    pl_buf_release(&b);
    return rc;
}

int pl_score_print(void *user, const pl_score_row *row, pl_error *err) {
    const pl_score_printer *p = user;
    return pl_score_row_print(p->f, row, p->tokens, err);
}
