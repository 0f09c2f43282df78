/* regex.c: matching with PCRE2's JIT, and literals. The translation of patterns is in regex_translate.c. */
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/buf.h"
#include "text/regex_translate.h"
#include "text/unichar.h"

#define JIT_STACK_MAX ((size_t)64 << 20) /* bytes, taken only where a match needs more than 32 KB */

struct pl_regex {
    pcre2_code *code; /* NULL: a literal */
    char *literal;
    size_t n;
};

void pl_regex_free(pl_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    pl_free(r->literal);
    pl_free(r);
}

int pl_regex_literal(pl_regex **out, const char *literal, size_t n, pl_error *err) {
    if (n == 0) return PL_FAIL(err, PL_E_UNSUPPORTED, "an empty pattern");
    pl_regex *r = NULL;
    int rc = PL_NEW(&r, 1, err);
    if (rc) return rc;
    rc = pl_strndup(&r->literal, literal, n, err);
    r->n = n;
    if (rc) {
        pl_regex_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

static int compile(pcre2_code **out, const char *pattern, size_t n, pl_error *err) {
    int code, rc;
    size_t at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return PL_FAIL(err, PL_E_NOMEM, "no memory to compile a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    *out = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                         &code, &at, context);
    pcre2_compile_context_free(context);
    if (*out) return 0;
    if (code == PCRE2_ERROR_NOMEMORY) return PL_FAIL(err, PL_E_NOMEM, "no memory to compile a pattern");
    PCRE2_UCHAR text[200] = "";
    pcre2_get_error_message(code, text, sizeof text);
    rc = PL_FAIL(err, PL_E_UNSUPPORTED, "the regular expression \"%.*s\": %s", (int)PL_MIN(n, (size_t)200), pattern,
                 (const char *)text);
    return rc;
}

int pl_regex_compile(pl_regex **out, const char *pattern, size_t n, pl_error *err) {
    int rc;
    pl_buf translated = {0};
    pl_regex *r = NULL;
    PL_GO(rc, pl_regex_translate(&translated, pattern, n, err));
    PL_GO(rc, PL_NEW(&r, 1, err));
    PL_GO(rc, compile(&r->code, translated.data, translated.len, err));
    /* Without a JIT for this machine, pcre2_match interprets: slower, same matches. */
    if (pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == PCRE2_ERROR_NOMEMORY) {
        rc = PL_FAIL(err, PL_E_NOMEM, "no memory to compile a pattern");
        goto out;
    }
    *out = r;
    r = NULL;
out:
    pl_regex_free(r);
    pl_buf_release(&translated);
    return rc;
}

void pl_regex_scratch_release(pl_regex_scratch *s) {
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    *s = (pl_regex_scratch){0};
}

/* The engine asked for more stack than it has on its own. */
static int grow_stack(pl_regex_scratch *s, pl_error *err) {
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create((size_t)64 << 10, JIT_STACK_MAX, NULL);
    if (!s->context || !s->stack) return PL_FAIL(err, PL_E_NOMEM, "no memory to match a pattern");
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return 0;
}

/* One search from `from`; *count as pcre2_match gives it. */
static int search(const pl_regex *r, pl_regex_scratch *s, const pl_regex_iter *it, size_t from, int *count,
                  pl_error *err) {
    if (!s->match && !(s->match = pcre2_match_data_create(1, NULL)))
        return PL_FAIL(err, PL_E_NOMEM, "no memory to match a pattern");
    for (;;) {
        *count = pcre2_match(r->code, (PCRE2_SPTR)it->text, it->n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
        if (*count >= 0 || *count == PCRE2_ERROR_NOMATCH) return 0;
        if (*count == PCRE2_ERROR_JIT_STACKLIMIT && !s->stack) {
            int rc = grow_stack(s, err);
            if (rc) return rc;
            continue;
        }
        if (*count == PCRE2_ERROR_NOMEMORY) return PL_FAIL(err, PL_E_NOMEM, "no memory to match a pattern");
        PCRE2_UCHAR text[200] = "";
        pcre2_get_error_message(*count, text, sizeof text);
        return PL_FAIL(err, PL_E_UNSUPPORTED, "a pattern of the tokenizer gives up on this text: %s",
                       (const char *)text);
    }
}

static bool next_literal(const pl_regex *r, pl_regex_iter *it) {
    const char *p = it->n - it->next >= r->n ? memmem(it->text + it->next, it->n - it->next, r->literal, r->n) : NULL;
    if (!p) return false;
    it->start = (size_t)(p - it->text);
    it->end = it->next = it->start + r->n;
    return true;
}

int pl_regex_next(const pl_regex *r, pl_regex_scratch *s, pl_regex_iter *it, bool *found, pl_error *err) {
    *found = false;
    if (!r->code) {
        *found = next_literal(r, it);
        return 0;
    }
    while (it->next <= it->n) {
        int count = PCRE2_ERROR_NOMATCH, rc = search(r, s, it, it->next, &count, err);
        if (rc) return rc;
        if (count == PCRE2_ERROR_NOMATCH) return 0;
        const size_t *v = pcre2_get_ovector_pointer(s->match);
        it->start = v[0];
        it->end = v[1];
        if (it->start != it->end || !it->any || it->last_end != it->end) {
            it->any = true;
            it->next = it->last_end = it->end;
            *found = true;
            return 0;
        }
        if (it->next >= it->n) return 0;
        size_t len;
        pl_char_at(it->text + it->next, it->n - it->next, &len);
        it->next += len;
    }
    return 0;
}
