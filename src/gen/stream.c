/* stream.c: a sequence while it grows: its text piece by piece, its end, and the order in which sequences are handed
 * over. */
#include <string.h>

#include "gen/generator.h"

void pl_gen_sequence_release(pl_gen_sequence *s) {
    pl_detok_free(s->detok);
    *s = (pl_gen_sequence){0};
}

/* Ids of a padded vocabulary that are no tokens have no text. */
static int feed(pl_gen_job *j, pl_gen_sequence *s, int32_t id, pl_error *err) {
    if (!pl_tokenizer_token(j->g->session.tokenizer, id, NULL)) return 0;
    return pl_detok_feed(s->detok, id, &j->piece, err);
}

static int feed_prompt(pl_gen_job *j, pl_gen_sequence *s, pl_error *err) {
    const pl_gen_prompt *p = &j->prompts[s->prompt];
    int rc = 0;
    j->piece.len = 0;
    for (int64_t i = 0; rc == 0 && i < p->n; i++) rc = feed(j, s, j->ids.ids[p->first + i], err);
    return rc;
}

/* The decoder runs over the prompt first, because a token's text may depend on the one before it. What it then still
 * holds back of the prompt's own text comes with the first new tokens, and is skipped there: `finish` tells how much
 * that is, and begins anew. */
static int begin_text(pl_gen_job *j, pl_gen_sequence *s, pl_error *err) {
    const pl_tokenizer *t = j->g->session.tokenizer;
    if (!t) return 0;
    int rc;
    PL_GO(rc, pl_detok_new(&s->detok, t, true, err));
    PL_GO(rc, feed_prompt(j, s, err));
    size_t given = j->piece.len;
    PL_GO(rc, pl_detok_finish(s->detok, &j->piece, err));
    s->skip = j->piece.len - given;
    PL_GO(rc, feed_prompt(j, s, err));
out:
    return rc;
}

int pl_gen_sequence_begin(pl_gen_job *j, pl_gen_sequence *s, int64_t prompt, int64_t sample, int64_t slot,
                          pl_error *err) {
    const pl_gen_prompt *p = &j->prompts[prompt];
    pl_gen_result *r = &j->results[prompt * j->samples + sample];
    *s = (pl_gen_sequence){.active = true,
                           .prompt = prompt,
                           .sample = sample,
                           .slot = slot,
                           .pending = j->ids.ids[p->first + p->n - 1],
                           .result = r};
    int rc = PL_NEW(&r->ids, p->limit, err);
    if (rc == 0) rc = PL_NEW(&r->logps, p->limit, err);
    return rc ? rc : begin_text(j, s, err);
}

static int add_text(pl_text *to, const char *s, size_t n, pl_error *err) {
    if (n + 1 > to->cap - to->len) {
        size_t cap = PL_MAX(to->len + n + 1, 2 * to->cap);
        int rc = pl_realloc((void **)&to->data, to->cap, cap, err);
        if (rc) return rc;
        to->cap = cap;
    }
    if (n) memcpy(to->data + to->len, s, n);
    to->len += n;
    to->data[to->len] = 0;
    return 0;
}

/* Hands on j->piece. */
static int emit(pl_gen_job *j, pl_gen_sequence *s, pl_error *err) {
    size_t skip = PL_MIN(s->skip, j->piece.len), n = j->piece.len - skip;
    const char *text = j->piece.data + skip;
    s->skip -= skip;
    if (n == 0) return 0;
    int rc = add_text(&s->result->text, text, n, err);
    if (rc || !j->hooks->piece) return rc;
    rc = j->hooks->piece(j->hooks->user, s->prompt, s->sample, text, n);
    return rc ? PL_FAIL(err, rc, "stopped by the receiver of the text") : 0;
}

static bool is_eos(const pl_generator *g, int32_t id) {
    for (int i = 0; i < g->neos; i++)
        if (g->eos[i] == id) return true;
    return false;
}

static int end(pl_gen_job *j, pl_gen_sequence *s, pl_finish why, pl_error *err) {
    int rc = 0;
    j->piece.len = 0;
    if (s->detok) rc = pl_detok_finish(s->detok, &j->piece, err);
    if (rc == 0) rc = emit(j, s, err);
    s->result->finish = why;
    s->result->done = true;
    pl_gen_sequence_release(s);
    return rc;
}

int pl_gen_sequence_take(pl_gen_job *j, pl_gen_sequence *s, int32_t id, double logp, pl_error *err) {
    pl_gen_result *r = s->result;
    bool stop = is_eos(j->g, id);
    int rc;
    r->ids[r->tokens] = id;
    r->logps[r->tokens++] = (float)logp;
    s->pending = id;
    j->stats.new_tokens++;
    if (s->detok && !stop) {
        j->piece.len = 0;
        PL_GO(rc, feed(j, s, id, err));
        PL_GO(rc, emit(j, s, err));
    }
    if (stop) return end(j, s, PL_FINISH_STOP, err);
    rc = r->tokens == j->prompts[s->prompt].limit ? end(j, s, PL_FINISH_LENGTH, err) : 0;
out:
    return rc;
}

static int hand_over(pl_gen_job *j, int64_t at, pl_error *err) {
    pl_gen_result *r = &j->results[at];
    int64_t prompt = at / j->samples;
    pl_completion c = {.prompt = prompt,
                       .sample = at % j->samples,
                       .row = j->given[prompt].row,
                       .prompt_ids = j->ids.ids + j->prompts[prompt].first,
                       .prompt_tokens = j->prompts[prompt].n,
                       .ids = r->ids,
                       .logps = r->logps,
                       .tokens = r->tokens,
                       .text = r->text.data ? r->text.data : "",
                       .text_len = r->text.len,
                       .prompt_text = j->given[prompt].text,
                       .prompt_len = j->given[prompt].text ? j->given[prompt].len : 0,
                       .finish = r->finish};
    int rc = j->hooks->done ? j->hooks->done(j->hooks->user, &c, err) : 0;
    pl_free(r->ids);
    pl_free(r->logps);
    pl_text_release(&r->text);
    *r = (pl_gen_result){.done = true};
    return rc;
}

int pl_gen_deliver(pl_gen_job *j, pl_error *err) {
    int rc = 0;
    while (rc == 0 && j->delivered < j->n * j->samples && j->results[j->delivered].done)
        rc = hand_over(j, j->delivered++, err);
    return rc;
}
