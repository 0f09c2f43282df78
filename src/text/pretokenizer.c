/* pretokenizer.c: the steps that cut text into the pieces that BPE works on.
 *
 * Depth first: each piece of one step goes through all later steps before the next piece is cut, so that no list of
 * pieces is ever held. ByteLevel is parsed into "blank in front", "cut by GPT-2's pattern" and "bytes to characters",
 * Metaspace into "blanks to U+2581, one in front" and "cut at it". */
#include <string.h>

#include "text/tok.h"
#include "text/unichar.h"

static const char what[] = "tokenizer.json: pre_tokenizer";
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* --- parsing
 * -------------------------------------------------------------------------------------------------------------------
 */
static int new_step(pl_pre_step **out, pl_pretokenizer *p, pl_pre_kind kind, pl_error *err) {
    if (p->n >= PL_TOK_STEPS) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: more than %d steps", what, PL_TOK_STEPS);
    *out = &p->step[p->n++];
    (*out)->kind = kind;
    return 0;
}

static int parse_behavior(pl_split_behavior *out, const pl_json *o, bool required, pl_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *s = NULL;
    size_t n;
    int rc = pl_json_member_string(o, "behavior", required, &s, &n, what, err);
    if (rc || !s) return rc;
    for (int i = 0; i < (int)PL_LEN(names); i++)
        if (strcmp(s, names[i]) == 0) {
            *out = (pl_split_behavior)i;
            return 0;
        }
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: behavior \"%.60s\"", what, s);
}

static int parse_bytes(pl_pretokenizer *p, const pl_json *o, pl_error *err) {
    bool prefix = true, trim = true, use_regex = true;
    int rc;
    pl_pre_step *step = NULL;
    PL_GO(rc, pl_tok_keys(o, "add_prefix_space trim_offsets use_regex", what, err));
    PL_GO(rc, pl_json_member_bool(o, "add_prefix_space", true, &prefix, what, err));
    PL_GO(rc, pl_json_member_bool(o, "trim_offsets", false, &trim, what, err)); /* about offsets only */
    PL_GO(rc, pl_json_member_bool(o, "use_regex", false, &use_regex, what, err));
    if (prefix) PL_GO(rc, new_step(&step, p, PL_PRE_BLANK, err));
    if (use_regex) {
        PL_GO(rc, new_step(&step, p, PL_PRE_PATTERN, err));
        step->behavior = PL_SPLIT_ISOLATED;
        PL_GO(rc, pl_regex_compile(&step->pattern, gpt2_pattern, sizeof gpt2_pattern - 1, err));
    }
    PL_GO(rc, new_step(&step, p, PL_PRE_BYTES, err));
out:
    return rc;
}

static int parse_split(pl_pretokenizer *p, const pl_json *o, pl_error *err) {
    int rc;
    pl_pre_step *step = NULL;
    PL_GO(rc, pl_tok_keys(o, "pattern behavior invert", what, err));
    PL_GO(rc, new_step(&step, p, PL_PRE_PATTERN, err));
    PL_GO(rc, parse_behavior(&step->behavior, o, true, err));
    PL_GO(rc, pl_json_member_bool(o, "invert", true, &step->invert, what, err));
    PL_GO(rc, pl_tok_pattern(&step->pattern, o, what, err));
out:
    return rc;
}

static int parse_scheme(pl_prepend *out, const pl_json *o, pl_error *err) {
    const char *s = "always";
    size_t n;
    bool old = true;
    int rc = pl_json_member_string(o, "prepend_scheme", false, &s, &n, what, err);
    if (rc == 0) rc = pl_json_member_bool(o, "add_prefix_space", false, &old, what, err);
    if (rc) return rc;
    if (strcmp(s, "first") == 0) {
        *out = PL_PREPEND_FIRST;
    } else if (strcmp(s, "always") == 0) {
        *out = PL_PREPEND_ALWAYS;
    } else if (strcmp(s, "never") == 0) {
        *out = PL_PREPEND_NEVER;
    } else {
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: prepend_scheme \"%.60s\"", what, s);
    }
    if (old || *out == PL_PREPEND_NEVER) return 0;
    if (pl_json_has(o, "prepend_scheme"))
        return PL_FAIL(err, PL_E_FORMAT, "%s: add_prefix_space contradicts prepend_scheme", what);
    *out = PL_PREPEND_NEVER;
    return 0;
}

static int parse_meta(pl_pretokenizer *p, const pl_json *o, pl_error *err) {
    int rc;
    bool split = true;
    pl_pre_step *step = NULL;
    PL_GO(rc, pl_tok_keys(o, "replacement prepend_scheme split add_prefix_space str_rep", what, err));
    PL_GO(rc, pl_json_member_bool(o, "split", false, &split, what, err));
    PL_GO(rc, new_step(&step, p, PL_PRE_META, err));
    PL_GO(rc, parse_scheme(&step->prepend, o, err));
    PL_GO(rc, pl_tok_char(&step->meta, o, "replacement", what, err));
    const char *meta = step->meta;
    size_t n = step->meta_len = strlen(meta);
    if (split) {
        PL_GO(rc, new_step(&step, p, PL_PRE_PATTERN, err));
        step->behavior = PL_SPLIT_NEXT;
        PL_GO(rc, pl_regex_literal(&step->pattern, meta, n, err));
    }
out:
    return rc;
}

static int parse_delimiter(pl_pretokenizer *p, const pl_json *o, pl_error *err) {
    int rc;
    pl_pre_step *step = NULL;
    PL_GO(rc, pl_tok_keys(o, "delimiter", what, err));
    PL_GO(rc, new_step(&step, p, PL_PRE_PATTERN, err));
    step->behavior = PL_SPLIT_REMOVED;
    PL_GO(rc, pl_tok_char(&step->meta, o, "delimiter", what, err));
    PL_GO(rc, pl_regex_literal(&step->pattern, step->meta, strlen(step->meta), err));
out:
    return rc;
}

static int parse_class(pl_pretokenizer *p, const pl_json *o, const char *keys, bool (*is)(uint32_t),
                       pl_split_behavior behavior, pl_error *err) {
    pl_pre_step *step = NULL;
    int rc = pl_tok_keys(o, keys, what, err);
    if (rc == 0) rc = new_step(&step, p, PL_PRE_CHARS, err);
    if (rc) return rc;
    step->is = is;
    step->behavior = behavior;
    return strcmp(keys, "behavior") == 0 ? parse_behavior(&step->behavior, o, false, err) : 0;
}

static int parse_step(pl_pretokenizer *p, const pl_json *o, const char *type, pl_error *err) {
    if (strcmp(type, "ByteLevel") == 0) return parse_bytes(p, o, err);
    if (strcmp(type, "Split") == 0) return parse_split(p, o, err);
    if (strcmp(type, "Metaspace") == 0) return parse_meta(p, o, err);
    if (strcmp(type, "Digits") == 0) {
        bool one = false;
        int rc = pl_json_member_bool(o, "individual_digits", true, &one, what, err);
        return rc ? rc
                  : parse_class(p, o, "individual_digits", pl_char_is_numeric,
                                one ? PL_SPLIT_ISOLATED : PL_SPLIT_CONTIGUOUS, err);
    }
    if (strcmp(type, "Punctuation") == 0)
        return parse_class(p, o, "behavior", pl_char_is_punct, PL_SPLIT_ISOLATED, err);
    if (strcmp(type, "WhitespaceSplit") == 0) return parse_class(p, o, "", pl_char_is_space, PL_SPLIT_REMOVED, err);
    if (strcmp(type, "CharDelimiterSplit") == 0) return parse_delimiter(p, o, err);
    if (strcmp(type, "Whitespace") == 0) {
        pl_pre_step *step = NULL;
        int rc = pl_tok_keys(o, "", what, err);
        return rc ? rc : new_step(&step, p, PL_PRE_WORDS, err);
    }
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: type \"%.60s\"", what, type);
}

static int parse(pl_pretokenizer *p, const pl_json *o, int depth, pl_error *err) {
    const char *type;
    int rc = pl_tok_type(&type, o, what, err);
    if (rc) return rc;
    if (strcmp(type, "Sequence") != 0) return parse_step(p, o, type, err);
    pl_json *list = pl_json_get(o, "pretokenizers");
    if (depth > 8) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: Sequences nested too deep", what);
    if (pl_json_kind_of(list) != PL_J_ARRAY)
        return PL_FAIL(err, PL_E_FORMAT, "%s: a Sequence without \"pretokenizers\"", what);
    rc = pl_tok_keys(o, "pretokenizers", what, err);
    for (int64_t i = 0; rc == 0 && i < pl_json_len(list); i++) rc = parse(p, pl_json_at(list, i), depth + 1, err);
    return rc;
}

int pl_pretokenizer_parse(pl_pretokenizer *p, const pl_json *o, pl_error *err) { return o ? parse(p, o, 0, err) : 0; }

void pl_pretokenizer_release(pl_pretokenizer *p) {
    for (int i = 0; i < p->n; i++) {
        pl_regex_free(p->step[i].pattern);
        pl_free(p->step[i].meta);
    }
    *p = (pl_pretokenizer){0};
}

/* --- cutting
 * -------------------------------------------------------------------------------------------------------------------
 */
static int run(pl_encoder *e, int k, pl_span in);

/* Matches and the text between them arrive one by one; the behaviour decides which of them stay together. */
typedef struct cutter {
    pl_encoder *e;
    int next; /* the step that takes the pieces */
    pl_span in;
    pl_split_behavior behavior;
    bool pending, last_match;
    size_t from, to; /* the pending piece */
} cutter;

static int give(cutter *c, size_t from, size_t to) {
    return run(c->e, c->next, (pl_span){c->in.s + from, to - from, c->in.at_zero && from == 0});
}

static int flush(cutter *c) {
    if (!c->pending) return 0;
    c->pending = false;
    return give(c, c->from, c->to);
}

static int hold(cutter *c, size_t from, size_t to) {
    int rc = flush(c);
    c->pending = true;
    c->from = from;
    c->to = to;
    return rc;
}

static int part(cutter *c, size_t from, size_t to, bool match) {
    bool last = c->last_match;
    c->last_match = match;
    switch (c->behavior) {
    case PL_SPLIT_ISOLATED: return give(c, from, to);
    case PL_SPLIT_REMOVED: return match ? 0 : give(c, from, to);
    case PL_SPLIT_NEXT:
        if (match) return hold(c, from, to);
        if (c->pending) from = c->from;
        c->pending = false;
        return give(c, from, to);
    case PL_SPLIT_PREVIOUS:
    case PL_SPLIT_CONTIGUOUS: break;
    }
    bool join = c->behavior == PL_SPLIT_CONTIGUOUS ? match == last : match && !last;
    if (!join || !c->pending) return hold(c, from, to);
    c->to = to;
    return 0;
}

static int cut_pattern(cutter *c, const pl_pre_step *step, pl_regex_scratch *scratch) {
    pl_regex_iter it = {.text = c->in.s, .n = c->in.n};
    size_t from = 0;
    for (;;) {
        bool found;
        int rc = pl_regex_next(step->pattern, scratch, &it, &found, c->e->err);
        if (rc) return rc;
        if (!found) break;
        if (from != it.start) rc = part(c, from, it.start, step->invert);
        if (rc == 0) rc = part(c, it.start, it.end, !step->invert);
        if (rc) return rc;
        from = it.end;
    }
    int rc = from != c->in.n ? part(c, from, c->in.n, step->invert) : 0;
    return rc ? rc : flush(c);
}

static int cut_chars(cutter *c, bool (*is)(uint32_t)) {
    size_t from = 0;
    int rc = 0;
    for (size_t i = 0, len; rc == 0 && i < c->in.n; i += len) {
        if (!is(pl_char_at(c->in.s + i, c->in.n - i, &len))) continue;
        if (from < i) rc = part(c, from, i, false);
        if (rc == 0) rc = part(c, i, i + len, true);
        from = i + len;
    }
    if (rc == 0 && from < c->in.n) rc = part(c, from, c->in.n, false);
    return rc ? rc : flush(c);
}

/* \w+|[^\w\s]+ : runs of word characters and runs of the rest, without white space. */
static int cut_words(cutter *c) {
    int run_kind = 0, rc = 0; /* 0 white space, 1 word, 2 neither */
    size_t from = 0;
    for (size_t i = 0, len; rc == 0 && i < c->in.n; i += len) {
        uint32_t ch = pl_char_at(c->in.s + i, c->in.n - i, &len);
        int kind = pl_char_is_word(ch) ? 1 : pl_char_is_space(ch) ? 0 : 2;
        if (kind == run_kind) continue;
        if (run_kind) rc = give(c, from, i);
        run_kind = kind;
        from = i;
    }
    return rc == 0 && run_kind ? give(c, from, c->in.n) : rc;
}

static bool starts_with(pl_span in, const char *s, size_t n) { return in.n >= n && memcmp(in.s, s, n) == 0; }

static int add_meta(pl_buf *out, const pl_pre_step *step, pl_span in, bool prefix, pl_error *err) {
    bool there = starts_with(in, step->meta, step->meta_len) || starts_with(in, " ", 1);
    bool wanted = step->prepend == PL_PREPEND_ALWAYS || (step->prepend == PL_PREPEND_FIRST && in.at_zero);
    int rc = 0;
    pl_buf_clear(out);
    if (prefix && wanted && !there) rc = pl_buf_add(out, step->meta, step->meta_len, err);
    while (rc == 0 && in.n) {
        const char *blank = memchr(in.s, ' ', in.n);
        size_t k = blank ? (size_t)(blank - in.s) : in.n;
        rc = pl_buf_add(out, in.s, k, err);
        if (rc == 0 && blank) rc = pl_buf_add(out, step->meta, step->meta_len, err);
        k += blank != NULL;
        in.s += k;
        in.n -= k;
    }
    return rc;
}

static int add_blank(pl_buf *out, pl_span in, pl_error *err) {
    pl_buf_clear(out);
    int rc = pl_buf_add(out, " ", 1, err);
    return rc ? rc : pl_buf_add(out, in.s, in.n, err);
}

static int run(pl_encoder *e, int k, pl_span in) {
    const pl_pretokenizer *p = &e->t->pretokenizer;
    if (in.n == 0) return 0;
    if (k == p->n) return pl_bpe_encode(&e->t->model, in.s, in.n, &e->bpe, e->out, e->err);
    const pl_pre_step *step = &p->step[k];
    cutter c = {.e = e, .next = k + 1, .in = in, .behavior = step->behavior};
    pl_buf *buf = &e->buf[k];
    int rc = 0;
    switch (step->kind) {
    case PL_PRE_PATTERN: return cut_pattern(&c, step, &e->regex[k]);
    case PL_PRE_CHARS: return cut_chars(&c, step->is);
    case PL_PRE_WORDS: return cut_words(&c);
    case PL_PRE_META: rc = add_meta(buf, step, in, e->prefix, e->err); break;
    case PL_PRE_BLANK:
        if (!e->prefix || in.s[0] == ' ') return run(e, k + 1, in);
        rc = add_blank(buf, in, e->err);
        break;
    case PL_PRE_BYTES:
        pl_buf_clear(buf);
        rc = pl_bytes_to_chars(buf, in.s, in.n, e->err);
        break;
    }
    return rc ? rc : run(e, k + 1, (pl_span){buf->data, buf->len, in.at_zero});
}

int pl_pretokenizer_apply(pl_encoder *e, pl_span in) { return run(e, 0, in); }
