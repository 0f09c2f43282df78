/* normalizer.c: the steps that rewrite text before it is cut. A step reads one buffer and writes the other. */
#include <string.h>

#include "base/utf8.h"
#include "text/tok.h"
#include "text/unichar.h"

static const char what[] = "tokenizer.json: normalizer";

/* --- ByteLevel's alphabet: printable Latin-1 stands for itself, the other 68 bytes in order for U+0100, U+0101, ...
 * ------------ */
static bool stands_for_itself(int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD); }

static uint32_t byte_to_char(int b) {
    if (stands_for_itself(b)) return (uint32_t)b;
    if (b <= 0x20) return 0x100u + (uint32_t)b;                /* 0x00-0x20: the first 33 */
    if (b <= 0xA0) return 0x100u + 33u + (uint32_t)(b - 0x7F); /* 0x7F-0xA0: the next 34 */
    return 0x100u + 67u;                                       /* 0xAD */
}

int pl_char_to_byte(uint32_t c) {
    if (c < 0x100) return stands_for_itself((int)c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c < 0x143) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

int pl_bytes_to_chars(pl_buf *out, const char *s, size_t n, pl_error *err) {
    int rc = pl_buf_reserve(out, 2 * n, err);
    if (rc) return rc;
    char *p = out->data + out->len;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = byte_to_char((unsigned char)s[i]);
        if (c < 0x80) {
            *p++ = (char)c;
        } else {
            *p++ = (char)(0xC0 | (c >> 6));
            *p++ = (char)(0x80 | (c & 0x3F));
        }
    }
    *p = 0;
    out->len = (size_t)(p - out->data);
    return 0;
}

/* --- parsing
 * -------------------------------------------------------------------------------------------------------------------
 */
static int parse_content(pl_norm_step *z, const pl_json *o, const char *key, pl_error *err) {
    const char *s;
    int rc = pl_json_member_string(o, key, true, &s, &z->content_len, what, err);
    return rc ? rc : pl_strndup(&z->content, s, z->content_len, err);
}

static int parse_replace(pl_norm_step *z, const pl_json *o, pl_error *err) {
    int rc;
    z->kind = PL_NORM_REPLACE;
    PL_GO(rc, pl_tok_keys(o, "pattern content", what, err));
    PL_GO(rc, pl_tok_pattern(&z->pattern, o, what, err));
    PL_GO(rc, parse_content(z, o, "content", err));
out:
    return rc;
}

static int parse_strip(pl_norm_step *z, const pl_json *o, pl_error *err) {
    int rc;
    z->kind = PL_NORM_STRIP;
    PL_GO(rc, pl_tok_keys(o, "strip_left strip_right", what, err));
    PL_GO(rc, pl_json_member_bool(o, "strip_left", true, &z->left, what, err));
    PL_GO(rc, pl_json_member_bool(o, "strip_right", true, &z->right, what, err));
out:
    return rc;
}

static int parse_prepend(pl_norm_step *z, const pl_json *o, pl_error *err) {
    z->kind = PL_NORM_PREPEND;
    int rc = pl_tok_keys(o, "prepend", what, err);
    return rc ? rc : parse_content(z, o, "prepend", err);
}

static int parse_step(pl_normalizer *z, const pl_json *o, const char *type, pl_error *err) {
    static const struct {
        const char *type;
        pl_norm_kind kind;
        int form;
    } plain[] = {{"NFC", PL_NORM_FORM, PL_NFC},   {"NFD", PL_NORM_FORM, PL_NFD},   {"NFKC", PL_NORM_FORM, PL_NFKC},
                 {"NFKD", PL_NORM_FORM, PL_NFKD}, {"Lowercase", PL_NORM_LOWER, 0}, {"StripAccents", PL_NORM_ACCENTS, 0},
                 {"ByteLevel", PL_NORM_BYTES, 0}};
    if (z->n >= PL_TOK_STEPS) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: more than %d steps", what, PL_TOK_STEPS);
    pl_norm_step *step = &z->step[z->n++];
    if (strcmp(type, "Replace") == 0) return parse_replace(step, o, err);
    if (strcmp(type, "Strip") == 0) return parse_strip(step, o, err);
    if (strcmp(type, "Prepend") == 0) return parse_prepend(step, o, err);
    for (int64_t i = 0; i < PL_LEN(plain); i++)
        if (strcmp(type, plain[i].type) == 0) {
            step->kind = plain[i].kind;
            step->form = plain[i].form;
            return pl_tok_keys(o, "", what, err);
        }
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: type \"%.60s\"", what, type);
}

static int parse(pl_normalizer *z, const pl_json *o, int depth, pl_error *err) {
    const char *type;
    int rc = pl_tok_type(&type, o, what, err);
    if (rc) return rc;
    if (strcmp(type, "Sequence") != 0) return parse_step(z, o, type, err);
    pl_json *list = pl_json_get(o, "normalizers");
    if (depth > 8) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: Sequences nested too deep", what);
    if (pl_json_kind_of(list) != PL_J_ARRAY)
        return PL_FAIL(err, PL_E_FORMAT, "%s: a Sequence without \"normalizers\"", what);
    rc = pl_tok_keys(o, "normalizers", what, err);
    for (int64_t i = 0; rc == 0 && i < pl_json_len(list); i++) rc = parse(z, pl_json_at(list, i), depth + 1, err);
    return rc;
}

int pl_normalizer_parse(pl_normalizer *z, const pl_json *o, pl_error *err) { return o ? parse(z, o, 0, err) : 0; }

void pl_normalizer_release(pl_normalizer *z) {
    for (int i = 0; i < z->n; i++) {
        pl_regex_free(z->step[i].pattern);
        pl_free(z->step[i].content);
    }
    *z = (pl_normalizer){0};
}

void pl_norm_scratch_release(pl_norm_scratch *s) {
    pl_buf_release(&s->buf[0]);
    pl_buf_release(&s->buf[1]);
    pl_regex_scratch_release(&s->regex);
}

/* --- applying: each returns through *io, which points to in or into out
 * -------------------------------------------------------- */
static pl_span whole(const pl_buf *b, bool at_zero) { return (pl_span){b->data ? b->data : "", b->len, at_zero}; }

static int replace(pl_span *io, const pl_norm_step *z, pl_buf *out, pl_regex_scratch *scratch, pl_error *err) {
    pl_regex_iter it = {.text = io->s, .n = io->n};
    size_t from = 0, len;
    bool found = true, at_zero = io->at_zero, any = false;
    int rc = 0;
    while (rc == 0 && io->n) {
        PL_GO(rc, pl_regex_next(z->pattern, scratch, &it, &found, err));
        if (!found) break;
        if (it.start == 0 && it.end > 0) { /* what replaces several characters stems from the last one */
            pl_char_at(io->s, io->n, &len);
            at_zero = at_zero && z->content_len > 0 && len == it.end;
        }
        any = true;
        PL_GO(rc, pl_buf_add(out, io->s + from, it.start - from, err));
        PL_GO(rc, pl_buf_add(out, z->content, z->content_len, err));
        from = it.end;
    }
    if (!any) return rc;
    PL_GO(rc, pl_buf_add(out, io->s + from, io->n - from, err));
    *io = whole(out, at_zero);
out:
    return rc;
}

static void strip(pl_span *io, bool left, bool right) {
    size_t len;
    while (left && io->n && pl_char_is_space(pl_char_at(io->s, io->n, &len))) {
        io->s += len;
        io->n -= len;
        io->at_zero = false;
    }
    while (right && io->n && pl_char_is_space(pl_char_before(io->s, io->n, &len))) io->n -= len;
}

static int strip_accents(pl_span *io, pl_buf *out, pl_error *err) {
    bool at_zero = io->at_zero;
    for (size_t i = 0, len; i < io->n; i += len) {
        uint32_t c = pl_char_at(io->s + i, io->n - i, &len);
        if (pl_char_is_mark(c)) {
            if (i == 0) at_zero = false;
            continue;
        }
        int rc = pl_buf_add(out, io->s + i, len, err);
        if (rc) return rc;
    }
    *io = whole(out, at_zero);
    return 0;
}

static int prepend(pl_span *io, const pl_norm_step *z, pl_buf *out, pl_error *err) {
    if (io->n == 0) return 0;
    int rc = pl_buf_add(out, z->content, z->content_len, err);
    if (rc == 0) rc = pl_buf_add(out, io->s, io->n, err);
    if (rc == 0) *io = whole(out, io->at_zero);
    return rc;
}

static int apply(pl_span *io, const pl_norm_step *z, bool prefix, pl_buf *out, pl_regex_scratch *regex, pl_error *err) {
    int rc = 0;
    pl_buf_clear(out);
    switch (z->kind) {
    case PL_NORM_REPLACE: return replace(io, z, out, regex, err);
    case PL_NORM_PREPEND: return prefix ? prepend(io, z, out, err) : 0;
    case PL_NORM_STRIP: strip(io, z->left, z->right); return 0;
    case PL_NORM_ACCENTS: return strip_accents(io, out, err);
    case PL_NORM_FORM: rc = pl_text_normalize(out, io->s, io->n, (pl_norm_form)z->form, err); break;
    case PL_NORM_LOWER: rc = pl_text_lower(out, io->s, io->n, err); break;
    case PL_NORM_BYTES: rc = pl_bytes_to_chars(out, io->s, io->n, err); break;
    }
    if (rc == 0) *io = whole(out, io->at_zero);
    return rc;
}

int pl_normalizer_apply(pl_span *out, const pl_normalizer *z, pl_span in, bool prefix, pl_norm_scratch *s,
                        pl_error *err) {
    int rc = 0, k = 0;
    for (int i = 0; rc == 0 && i < z->n; i++) {
        rc = apply(&in, &z->step[i], prefix, &s->buf[k], &s->regex, err);
        if (s->buf[k].len) k = !k; /* in may lie in it now */
    }
    if (rc == 0) *out = in;
    return rc;
}
