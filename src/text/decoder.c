/* decoder.c: parses the decoder of tokenizer.json. detok.c runs it. */
#include <string.h>

#include "text/tok.h"

static const char what[] = "tokenizer.json: decoder";

/* --- parsing
 * -------------------------------------------------------------------------------------------------------------------
 */
static int parse_strip(pl_dec_step *d, const pl_json *o, pl_error *err) {
    int rc;
    d->kind = PL_DEC_STRIP;
    PL_GO(rc, pl_tok_keys(o, "content start stop", what, err));
    PL_GO(rc, pl_tok_char(&d->content, o, "content", what, err));
    PL_GO(rc, pl_json_member_int(o, "start", true, &d->start, what, err));
    PL_GO(rc, pl_json_member_int(o, "stop", true, &d->stop, what, err));
    d->content_len = strlen(d->content);
    if (d->start < 0 || d->stop < 0) rc = PL_FAIL(err, PL_E_FORMAT, "%s: a negative count", what);
out:
    return rc;
}

static int parse_replace(pl_dec_step *d, const pl_json *o, pl_error *err) {
    int rc;
    const char *s;
    d->kind = PL_DEC_REPLACE;
    PL_GO(rc, pl_tok_keys(o, "pattern content", what, err));
    PL_GO(rc, pl_tok_pattern(&d->pattern, o, what, err));
    PL_GO(rc, pl_json_member_string(o, "content", true, &s, &d->content_len, what, err));
    PL_GO(rc, pl_strndup(&d->content, s, d->content_len, err));
out:
    return rc;
}

static int parse_meta(pl_dec_step *d, const pl_json *o, pl_error *err) {
    int rc;
    const char *scheme = "always";
    size_t n;
    bool old = true;
    d->kind = PL_DEC_META;
    PL_GO(rc, pl_tok_keys(o, "replacement prepend_scheme split add_prefix_space str_rep", what, err));
    PL_GO(rc, pl_tok_char(&d->content, o, "replacement", what, err));
    PL_GO(rc, pl_json_member_string(o, "prepend_scheme", false, &scheme, &n, what, err));
    PL_GO(rc, pl_json_member_bool(o, "add_prefix_space", false, &old, what, err));
    d->content_len = strlen(d->content);
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0) {
        rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: prepend_scheme \"%.60s\"", what, scheme);
        goto out;
    }
    d->drop_first = old && strcmp(scheme, "never") != 0;
out:
    return rc;
}

static int parse_step(pl_decoder *d, const pl_json *o, const char *type, pl_error *err) {
    if (d->n >= PL_TOK_STEPS) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: more than %d steps", what, PL_TOK_STEPS);
    pl_dec_step *step = &d->step[d->n++];
    if (strcmp(type, "Strip") == 0) return parse_strip(step, o, err);
    if (strcmp(type, "Replace") == 0) return parse_replace(step, o, err);
    if (strcmp(type, "Metaspace") == 0) return parse_meta(step, o, err);
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = PL_DEC_BYTES; /* its options concern encoding and offsets */
        return pl_tok_keys(o, "add_prefix_space trim_offsets use_regex", what, err);
    }
    if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) {
        step->kind = type[0] == 'F' ? PL_DEC_FUSE : PL_DEC_FALLBACK;
        return pl_tok_keys(o, "", what, err);
    }
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: type \"%.60s\"", what, type);
}

static int parse(pl_decoder *d, const pl_json *o, int depth, pl_error *err) {
    const char *type;
    int rc = pl_tok_type(&type, o, what, err);
    if (rc) return rc;
    if (strcmp(type, "Sequence") != 0) return parse_step(d, o, type, err);
    pl_json *list = pl_json_get(o, "decoders");
    if (depth > 8) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: Sequences nested too deep", what);
    if (pl_json_kind_of(list) != PL_J_ARRAY)
        return PL_FAIL(err, PL_E_FORMAT, "%s: a Sequence without \"decoders\"", what);
    rc = pl_tok_keys(o, "decoders", what, err);
    for (int64_t i = 0; rc == 0 && i < pl_json_len(list); i++) rc = parse(d, pl_json_at(list, i), depth + 1, err);
    return rc;
}

int pl_decoder_parse(pl_decoder *d, const pl_json *o, pl_error *err) {
    d->none = o == NULL;
    return o ? parse(d, o, 0, err) : 0;
}

void pl_decoder_release(pl_decoder *d) {
    for (int i = 0; i < d->n; i++) {
        pl_regex_free(d->step[i].pattern);
        pl_free(d->step[i].content);
    }
    *d = (pl_decoder){0};
}
