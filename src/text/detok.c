/* detok.c: ids to text. The decoder runs as a chain of stages; each takes tokens, possibly in fragments, and hands on
 * what no later token can change. So the whole decode and the streaming one are the same code.
 * Fragments are always whole characters. */
#include <string.h>

#include "base/utf8.h"
#include "text/tok.h"
#include "text/unichar.h"

/* --- stages
 * --------------------------------------------------------------------------------------------------------------------
 */
typedef struct stage {
    pl_buf token;    /* the fragments so far of a token that is needed whole */
    pl_buf held;     /* bytes that wait for the end of a character or of a run of byte tokens */
    int64_t tokens;  /* tokens that have ended */
    int64_t cut;     /* STRIP: characters taken off the front of this token */
    int64_t stopped; /* STRIP: characters at the end that may have to go */
    bool body;       /* STRIP: the front of this token is over */
} stage;

struct pl_detok {
    const pl_tokenizer *t;
    bool skip_special;
    int64_t tokens; /* fed and not left out */
    stage stage[PL_TOK_STEPS];
    pl_regex_scratch regex;
    pl_buf *out; /* during a call */
    pl_error *err;
};

/* Text goes to stage k; last: the token ends here. */
static int feed(pl_detok *d, int k, const char *s, size_t n, bool last);

static int give(pl_detok *d, int k, const char *s, size_t n, bool last) {
    return n || last ? feed(d, k + 1, s, n, last) : 0;
}

/* ByteLevel: how many bytes at s are complete: a character (*valid), or a maximal wrong part, which becomes one U+FFFD;
 * 0: more bytes are needed to tell. */
static size_t next_char(const char *s, size_t n, bool *valid) {
    const unsigned char *u = (const unsigned char *)s;
    uint32_t c;
    size_t k = pl_utf8_decode(s, n, &c);
    *valid = k > 0;
    if (k) return k;
    size_t want = u[0] >= 0xC2 && u[0] <= 0xDF   ? 2
                  : u[0] >= 0xE0 && u[0] <= 0xEF ? 3
                  : u[0] >= 0xF0 && u[0] <= 0xF4 ? 4
                                                 : 0;
    if (want == 0) return 1;
    unsigned lo = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned hi = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    for (k = 1; k < want; k++, lo = 0x80, hi = 0xBF) {
        if (k == n) return 0;
        if (u[k] < lo || u[k] > hi) return k;
    }
    return k;
}

static int give_valid(pl_detok *d, int k, bool finish) {
    pl_buf *held = &d->stage[k].held;
    size_t i = 0, from = 0;
    int rc = 0;
    while (rc == 0 && i < held->len) {
        bool valid;
        size_t n = next_char(held->data + i, held->len - i, &valid);
        if (n == 0 && !finish) break;
        if (!valid) {
            rc = give(d, k, held->data + from, i - from, false);
            if (rc == 0) rc = give(d, k, "\xEF\xBF\xBD", 3, false);
            from = i + (n ? n : held->len - i);
        }
        i += n ? n : held->len - i;
    }
    if (rc == 0) rc = give(d, k, held->data ? held->data + from : "", i - from, false);
    held->len -= i;
    if (held->len) memmove(held->data, held->data + i, held->len);
    return rc;
}

/* A token of the alphabet gives its bytes, any other its own. */
static int bytes_token(pl_detok *d, int k, const char *s, size_t n) {
    pl_buf *held = &d->stage[k].held;
    size_t old = held->len, len;
    int rc = pl_buf_reserve(held, n, d->err);
    if (rc) return rc;
    for (size_t i = 0; i < n; i += len) {
        int b = pl_char_to_byte(pl_char_at(s + i, n - i, &len));
        if (b < 0) {
            held->len = old;
            rc = pl_buf_add(held, s, n, d->err);
            break;
        }
        held->data[held->len++] = (char)b;
    }
    return rc ? rc : give_valid(d, k, false);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0xHH>" -> the byte; -1: another token. Rust's parser takes a plus sign before one digit. */
static int byte_token(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = s[3] == '+' ? 0 : hex_value(s[3]), low = hex_value(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens has ended: its text when all of it is UTF-8, else one U+FFFD for each byte. */
static int end_run(pl_detok *d, int k) {
    pl_buf *held = &d->stage[k].held;
    int rc = 0;
    size_t n = held->len;
    if (n == 0) return 0;
    held->len = 0;
    if (pl_utf8_valid(held->data, n) == n) return give(d, k, held->data, n, true);
    for (size_t i = 0; rc == 0 && i < n; i++) rc = give(d, k, "\xEF\xBF\xBD", 3, true);
    return rc;
}

static int fallback_token(pl_detok *d, int k, const char *s, size_t n) {
    int b = byte_token(s, n);
    if (b >= 0) {
        char c = (char)b;
        return pl_buf_add(&d->stage[k].held, &c, 1, d->err);
    }
    int rc = end_run(d, k);
    return rc ? rc : give(d, k, s, n, true);
}

static int replace_token(pl_detok *d, int k, const char *s, size_t n) {
    const pl_dec_step *step = &d->t->decoder.step[k];
    pl_regex_iter it = {.text = s, .n = n};
    size_t from = 0;
    int rc = 0;
    for (bool found = n > 0; rc == 0 && found;) {
        rc = pl_regex_next(step->pattern, &d->regex, &it, &found, d->err);
        if (rc || !found) break;
        rc = give(d, k, s + from, it.start - from, false);
        if (rc == 0) rc = give(d, k, step->content, step->content_len, false);
        from = it.end;
    }
    return rc ? rc : give(d, k, s + from, n - from, true);
}

/* Metaspace: the replacement becomes a blank, in the first token nothing. */
static int meta(pl_detok *d, int k, const char *s, size_t n, bool last) {
    const pl_dec_step *step = &d->t->decoder.step[k];
    stage *g = &d->stage[k];
    int rc = 0;
    while (rc == 0 && n) {
        const char *p = memmem(s, n, step->content, step->content_len);
        size_t before = p ? (size_t)(p - s) : n;
        rc = give(d, k, s, before, false);
        if (rc == 0 && p && !(g->tokens == 0 && step->drop_first)) rc = give(d, k, " ", 1, false);
        before += p ? step->content_len : 0;
        s += before;
        n -= before;
    }
    g->tokens += last;
    return rc || !last ? rc : give(d, k, "", 0, true);
}

static int give_stopped(pl_detok *d, int k, int64_t keep) {
    const pl_dec_step *step = &d->t->decoder.step[k];
    int rc = 0;
    for (; rc == 0 && d->stage[k].stopped > keep; d->stage[k].stopped--)
        rc = give(d, k, step->content, step->content_len, false);
    return rc;
}

/* Strip: up to `start` characters off the front of a token, up to `stop` off its end. */
static int strip(pl_detok *d, int k, const char *s, size_t n, bool last) {
    const pl_dec_step *step = &d->t->decoder.step[k];
    stage *g = &d->stage[k];
    int rc = 0;
    for (size_t i = 0, len; rc == 0 && i < n; i += len) {
        pl_char_at(s + i, n - i, &len);
        bool same = len == step->content_len && memcmp(s + i, step->content, len) == 0;
        if (!g->body && same && g->cut < step->start) {
            g->cut++;
            continue;
        }
        g->body = true;
        if (same && step->stop > 0) {
            g->stopped++;
            rc = give_stopped(d, k, step->stop);
            continue;
        }
        rc = give_stopped(d, k, 0);
        if (rc == 0) rc = give(d, k, s + i, len, false);
    }
    if (rc || !last) return rc;
    g->cut = g->stopped = 0;
    g->body = false;
    return give(d, k, "", 0, true);
}

/* Stages that look at whole tokens: fragments are collected. */
static int whole_token(pl_detok *d, int k, const char *s, size_t n, bool last) {
    pl_buf *token = &d->stage[k].token;
    if (!last) return pl_buf_add(token, s, n, d->err);
    int rc = 0;
    if (token->len) {
        rc = pl_buf_add(token, s, n, d->err);
        s = token->data;
        n = token->len;
        token->len = 0;
    }
    if (rc) return rc;
    switch (d->t->decoder.step[k].kind) {
    case PL_DEC_BYTES: return bytes_token(d, k, s, n);
    case PL_DEC_FALLBACK: return fallback_token(d, k, s, n);
    default: return replace_token(d, k, s, n);
    }
}

static int feed(pl_detok *d, int k, const char *s, size_t n, bool last) {
    if (k == d->t->decoder.n) return pl_buf_add(d->out, s, n, d->err);
    switch (d->t->decoder.step[k].kind) {
    case PL_DEC_FUSE: return give(d, k, s, n, false);
    case PL_DEC_META: return meta(d, k, s, n, last);
    case PL_DEC_STRIP: return strip(d, k, s, n, last);
    default: return whole_token(d, k, s, n, last);
    }
}

/* --- the calls
 * ----------------------------------------------------------------------------------------------------------------- */
static int feed_id(pl_detok *d, int32_t id) {
    const pl_tokenizer *t = d->t;
    size_t n = 0;
    const char *s = pl_tokenizer_token(t, id, &n);
    if (!s)
        return PL_FAIL(d->err, PL_E_RANGE, "id %" PRId32 " is no token (the largest is %" PRId64 ")", id, t->size - 1);
    if (t->added_of[id] >= 0) {
        const pl_added_token *a = &t->added.token[t->added_of[id]];
        if (a->skipped && d->skip_special) return 0;
        if (a->pattern) { /* HF decodes an added token from its normalised form */
            s = a->pattern;
            n = a->pattern_len;
        }
    }
    int rc = t->decoder.none && d->tokens ? pl_buf_add(d->out, " ", 1, d->err) : 0;
    d->tokens++;
    return rc ? rc : feed(d, 0, s, n, true);
}

static int finish(pl_detok *d) {
    int rc = 0;
    for (int k = 0; rc == 0 && k < d->t->decoder.n; k++) {
        switch (d->t->decoder.step[k].kind) {
        case PL_DEC_BYTES:
            rc = give_valid(d, k, true);
            if (rc == 0) rc = give(d, k, "", 0, true);
            break;
        case PL_DEC_FALLBACK: rc = end_run(d, k); break;
        case PL_DEC_FUSE: rc = give(d, k, "", 0, true); break;
        default: break; /* their tokens have ended */
        }
    }
    return rc;
}

/* Ready for a new text, with the memory kept. */
static void reset(pl_detok *d) {
    d->tokens = 0;
    for (int k = 0; k < d->t->decoder.n; k++) {
        stage *g = &d->stage[k];
        *g = (stage){.token = g->token, .held = g->held};
        g->token.len = g->held.len = 0;
    }
}

/* Runs one call with out as the target; on failure out is as it was and d is ready for a new text. */
static pl_buf begin(pl_detok *d, const pl_text *out, pl_error *err) {
    d->err = err;
    return (pl_buf){.data = out->data, .len = out->len, .cap = out->cap};
}

static int end(pl_detok *d, pl_text *out, const pl_buf *b, int rc) {
    size_t old = out->len;
    *out = (pl_text){b->data, rc ? old : b->len, b->cap};
    if (rc) {
        if (out->data) out->data[old] = 0;
        reset(d);
    }
    d->out = NULL;
    d->err = NULL;
    return rc;
}

int pl_detok_new(pl_detok **out, const pl_tokenizer *t, bool skip_special, pl_error *err) {
    pl_detok *d = NULL;
    int rc = PL_NEW(&d, 1, err);
    if (rc) return rc;
    d->t = t;
    d->skip_special = skip_special;
    *out = d;
    return 0;
}

void pl_detok_free(pl_detok *d) {
    if (!d) return;
    for (int k = 0; k < PL_TOK_STEPS; k++) {
        pl_buf_release(&d->stage[k].token);
        pl_buf_release(&d->stage[k].held);
    }
    pl_regex_scratch_release(&d->regex);
    pl_free(d);
}

int pl_detok_feed(pl_detok *d, int32_t id, pl_text *out, pl_error *err) {
    pl_buf b = begin(d, out, err);
    d->out = &b;
    return end(d, out, &b, feed_id(d, id));
}

int pl_detok_finish(pl_detok *d, pl_text *out, pl_error *err) {
    pl_buf b = begin(d, out, err);
    d->out = &b;
    int rc = end(d, out, &b, finish(d));
    reset(d);
    return rc;
}

int pl_tokenizer_decode(const pl_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, pl_text *out,
                        pl_error *err) {
    pl_detok *d = NULL;
    int rc = pl_detok_new(&d, t, skip_special, err);
    if (rc) return rc;
    pl_buf b = begin(d, out, err);
    d->out = &b;
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        rc = feed_id(d, ids[i]);
        if (rc) rc = pl_error_context(err, rc, "token %" PRId64, i);
    }
    if (rc == 0) rc = finish(d);
    rc = end(d, out, &b, rc);
    pl_detok_free(d);
    return rc;
}

void pl_text_release(pl_text *text) {
    if (!text) return;
    pl_free(text->data);
    *text = (pl_text){0};
}
