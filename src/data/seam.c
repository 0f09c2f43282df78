/* data/seam.c: prompt and answer texts to ids.
 *
 * The prompt is tokenized alone, with the leading special tokens only, as inference will see it. Prompt and answer are
 * then tokenized together. Where the prompt's ids are a prefix of the joint ids, the rest is the answer and everybody
 * agrees. Where tokens merge across the seam, the rules part: CONTINUE keeps the prompt and tokenizes the answer as its
 * continuation; JOINT, TRL's rule, keeps the joint ids and cuts the prompt where it stops being their prefix (for both
 * answers at the same place); REFUSE stops.
 *
 * EOS is appended as text, so that it is tokenized with the answer, as TRL does. Trailing tokens of the post-processor
 * are never asked for, so EOS is there once. */
#include "data/seam.h"

#include <string.h>

int pl_seam_rule_init(pl_seam_rule *rule, const pl_tokenizer *tok, pl_seam seam, pl_error *err) {
    pl_seam_rule r = {.tok = tok, .seam = seam};
    int32_t eos = pl_tokenizer_eos(tok);
    if (eos >= 0) r.eos = pl_tokenizer_token(tok, eos, &r.eos_len);
    if (!r.eos || r.eos_len == 0)
        return PL_FAIL(
            err, PL_E_UNSUPPORTED,
            "the tokenizer names no EOS token (eos_token in tokenizer_config.json), but plain rows must end with one");
    *rule = r;
    return 0;
}

static int64_t common_prefix(const int32_t *a, int64_t na, const int32_t *b, int64_t nb) {
    int64_t k = 0, least = PL_MIN(na, nb);
    while (k < least && a[k] == b[k]) k++;
    return k;
}

static int encode(pl_ids *out, const pl_seam_rule *rule, const char *s, size_t n, unsigned flags, const char *where,
                  pl_error *err) {
    out->n = 0;
    int rc = pl_tokenizer_encode(rule->tok, s, n, flags, out, err);
    return rc == 0 ? 0 : pl_error_context(err, rc, "%s", where);
}

/* scratch = prompt + answer + EOS unless the answer ends with it. */
static int join(pl_buf *scratch, const pl_seam_rule *rule, pl_slice prompt, pl_slice answer, pl_error *err) {
    int rc;
    pl_buf_clear(scratch);
    PL_GO(rc, pl_buf_add(scratch, prompt.s, prompt.n, err));
    PL_GO(rc, pl_buf_add(scratch, answer.s, answer.n, err));
    bool ends = answer.n >= rule->eos_len && memcmp(answer.s + answer.n - rule->eos_len, rule->eos, rule->eos_len) == 0;
    if (!ends) PL_GO(rc, pl_buf_add(scratch, rule->eos, rule->eos_len, err));
out:
    return rc;
}

/* " \"text\"" of n ids, for a message. */
static int quote_ids(pl_buf *b, const pl_seam_rule *rule, const int32_t *ids, int64_t n, pl_error *err) {
    pl_text text = {0};
    int rc = pl_tokenizer_decode(rule->tok, ids, n, false, &text, err);
    if (rc == 0) rc = pl_slice_quote(b, (pl_slice){text.data ? text.data : "", text.len}, err);
    pl_text_release(&text);
    return rc;
}

/* The stop at a seam that is none, with the prompt's own last tokens and what the joint text has in their place. */
static int refuse(const pl_seam_rule *rule, const pl_seam_ids *s, int64_t a, int64_t k, const char *where,
                  pl_error *err) {
    int rc;
    pl_buf alone = {0}, joint = {0};
    int64_t own = s->prompt.n - k, some = PL_MIN(s->answer[a].n - k, own);
    PL_GO(rc, quote_ids(&alone, rule, s->prompt.ids + k, own, err));
    PL_GO(rc, quote_ids(&joint, rule, s->answer[a].ids + k, some, err));
    rc = PL_FAIL(err, PL_E_MISMATCH,
                 "%s: tokens merge where prompt and answer %" PRId64
                 " meet: the prompt alone ends with %s, with the answer behind it has %s in that place (seam: refuse); "
                 "end the prompt at a token boundary, or use another seam rule",
                 where, a, alone.data, joint.data);
out:
    pl_buf_release(&alone);
    pl_buf_release(&joint);
    return rc;
}

/* Joint ids of answer a into s->answer[a]; *k: how many of the prompt's ids they begin with. */
static int encode_joint(pl_seam_ids *s, int64_t a, int64_t *k, const pl_seam_rule *rule, const pl_row_text *row,
                        const char *where, pl_error *err) {
    int rc = join(&s->text, rule, row->prompt, row->answer[a], err);
    if (rc == 0) rc = encode(&s->answer[a], rule, s->text.data, s->text.len, PL_ENCODE_LEADING, where, err);
    if (rc == 0) *k = common_prefix(s->prompt.ids, s->prompt.n, s->answer[a].ids, s->answer[a].n);
    return rc;
}

static int encode_answer(pl_seam_ids *s, int64_t a, const pl_seam_rule *rule, const pl_row_text *row, const char *where,
                         pl_error *err) {
    int64_t k = 0;
    int rc = encode_joint(s, a, &k, rule, row, where, err);
    if (rc != 0) return rc;
    if (k == s->prompt.n) {
        s->prefix++;
        s->start[a] = k;
        return 0;
    }
    switch (rule->seam) {
    case PL_SEAM_REFUSE: return refuse(rule, s, a, k, where, err);
    case PL_SEAM_JOINT:
        s->cut++;
        s->prompt_count = PL_MIN(s->prompt_count, k);
        return 0;
    case PL_SEAM_CONTINUE: break;
    }
    s->continued++;
    s->start[a] = 0;
    /* The answer with its EOS is what join() put behind the prompt. */
    return encode(&s->answer[a], rule, s->text.data + row->prompt.n, s->text.len - row->prompt.n, PL_ENCODE_CONTINUE,
                  where, err);
}

int pl_seam_encode(pl_seam_ids *out, const pl_seam_rule *rule, const pl_row_text *row, pl_data_kind kind,
                   const char *where, pl_error *err) {
    int rc;
    out->prefix = out->continued = out->cut = 0;
    if (kind == PL_DATA_TEXT) { /* no seam: the whole text is the answer to nothing */
        out->prompt.n = out->prompt_count = out->start[0] = 0;
        rc = join(&out->text, rule, row->prompt, row->answer[0], err);
        return rc != 0 ? rc
                       : encode(&out->answer[0], rule, out->text.data, out->text.len, PL_ENCODE_LEADING, where, err);
    }
    rc = encode(&out->prompt, rule, row->prompt.s, row->prompt.n, PL_ENCODE_LEADING, where, err);
    if (rc != 0) return rc;
    out->prompt_count = out->prompt.n;
    for (int64_t a = 0; a < row->answers; a++) {
        rc = encode_answer(out, a, rule, row, where, err);
        if (rc != 0) return rc;
    }
    if (rule->seam == PL_SEAM_JOINT)
        for (int64_t a = 0; a < row->answers; a++) out->start[a] = out->prompt_count;
    return 0;
}

void pl_seam_ids_release(pl_seam_ids *ids) {
    pl_ids_release(&ids->prompt);
    pl_ids_release(&ids->answer[0]);
    pl_ids_release(&ids->answer[1]);
    pl_buf_release(&ids->text);
    *ids = (pl_seam_ids){0};
}
