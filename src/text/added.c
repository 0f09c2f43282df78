/* added.c: tokens that are found in the text as a whole, before (raw) or after (normalized) the normalizer. */
#include <string.h>

#include "text/tok.h"
#include "text/unichar.h"

static const char what[] = "tokenizer.json: added_tokens";

/* --- the tries: the longest token at each place, places from left to right
 * ------------------------------------------------------ */
static int trie_init(pl_trie *t, int64_t pattern_bytes, pl_error *err) {
    memset(t->root, 0xFF, sizeof t->root);
    if (pattern_bytes >= INT32_MAX) return PL_FAIL(err, PL_E_RANGE, "%s: too much text", what);
    return pattern_bytes ? PL_NEW(&t->node, pattern_bytes, err) : 0;
}

static int32_t new_node(pl_trie *t, uint8_t byte, int32_t sibling) {
    t->node[t->n] = (pl_trie_node){.child = -1, .sibling = sibling, .token = -1, .byte = byte};
    return t->n++;
}

static int32_t find_child(const pl_trie *t, int32_t node, uint8_t byte) {
    int32_t i = t->node[node].child;
    while (i >= 0 && t->node[i].byte != byte) i = t->node[i].sibling;
    return i;
}

static int trie_add(pl_trie *t, const char *s, size_t n, int32_t token, pl_error *err) {
    if (n == 0) return PL_FAIL(err, PL_E_FORMAT, "%s: a token that the normalizer leaves nothing of", what);
    uint8_t first = (uint8_t)s[0];
    if (t->root[first] < 0) t->root[first] = new_node(t, first, -1);
    int32_t at = t->root[first];
    for (size_t i = 1; i < n; i++) {
        int32_t next = find_child(t, at, (uint8_t)s[i]);
        if (next < 0) {
            next = new_node(t, (uint8_t)s[i], t->node[at].child);
            t->node[at].child = next;
        }
        at = next;
    }
    if (t->node[at].token >= 0)
        return PL_FAIL(err, PL_E_FORMAT, "%s: two tokens that look the same after normalization: \"%.60s\"", what, s);
    t->node[at].token = token;
    return 0;
}

/* The longest pattern at s; -1: none. */
static int32_t trie_match(const pl_trie *t, const char *s, size_t n, size_t *len) {
    int32_t at = t->root[(uint8_t)s[0]], best = -1;
    for (size_t i = 1; at >= 0; i++) {
        if (t->node[at].token >= 0) {
            best = t->node[at].token;
            *len = i;
        }
        if (i == n) break;
        at = find_child(t, at, (uint8_t)s[i]);
    }
    return best;
}

/* --- parsing
 * -------------------------------------------------------------------------------------------------------------------
 */
static int parse_token(pl_added_token *t, const pl_json *o, int64_t *id, pl_error *err) {
    int rc;
    const char *s;
    if (pl_json_kind_of(o) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "%s: an entry is no object", what);
    PL_GO(rc, pl_tok_keys(o, "id content single_word lstrip rstrip normalized special", what, err));
    PL_GO(rc, pl_json_member_int(o, "id", true, id, what, err));
    PL_GO(rc, pl_json_member_string(o, "content", true, &s, &t->len, what, err));
    PL_GO(rc, pl_json_member_bool(o, "single_word", true, &t->single_word, what, err));
    PL_GO(rc, pl_json_member_bool(o, "lstrip", true, &t->lstrip, what, err));
    PL_GO(rc, pl_json_member_bool(o, "rstrip", true, &t->rstrip, what, err));
    PL_GO(rc, pl_json_member_bool(o, "normalized", true, &t->normalized, what, err));
    PL_GO(rc, pl_json_member_bool(o, "special", true, &t->special, what, err));
    PL_GO(rc, pl_strndup(&t->content, s, t->len, err));
out:
    return rc;
}

static int normalize_token(pl_added_token *t, const pl_normalizer *z, pl_norm_scratch *scratch, pl_error *err) {
    pl_span out, in = {t->content, t->len, true};
    int rc = pl_normalizer_apply(&out, z, in, true, scratch, err);
    if (rc || (out.n == t->len && memcmp(out.s, t->content, t->len) == 0)) return rc;
    t->pattern_len = out.n;
    return pl_strndup(&t->pattern, out.s, out.n, err);
}

/* Gives t its place: a new one, or that of an earlier token of the same content, which it replaces (special stays
 * special). */
static int place_token(pl_added *a, pl_added_token *t, const pl_bpe *model, int64_t *next_id, int64_t stated,
                       pl_error *err) {
    int32_t seen = pl_vocab_find(&a->by_content, t->content, t->len);
    if (seen >= 0) {
        pl_added_token *old = &a->token[seen];
        t->id = old->id;
        t->special = t->special || old->special;
        pl_free(old->content);
        pl_free(old->pattern);
        *old = *t;
        *t = (pl_added_token){0};
        return 0;
    }
    int32_t known = pl_vocab_find(&model->vocab, t->content, t->len);
    int64_t id = known >= 0 ? known : (*next_id)++;
    if (id >= PL_VOCAB_MAX_ID) return PL_FAIL(err, PL_E_RANGE, "%s: id %" PRId64, what, id);
    t->id = (int32_t)id;
    if (id != stated)
        pl_log(PL_LOG_WARN,
               "%s: token \"%.60s\" states id %" PRId64 ", but has %" PRId64 " (its place in the vocabulary)", what,
               t->content, stated, id);
    int rc = pl_vocab_add(&a->by_content, t->content, t->len, a->n, err);
    if (rc) return rc;
    a->token[a->n++] = *t;
    *t = (pl_added_token){0};
    return 0;
}

static void release_token(pl_added_token *t) {
    pl_free(t->content);
    pl_free(t->pattern);
}

static int parse_list(pl_added *a, const pl_json *list, const pl_bpe *model, const pl_normalizer *z, pl_error *err) {
    int rc = 0;
    int64_t next_id = model->vocab.count, stated = 0;
    pl_norm_scratch scratch = {0};
    pl_added_token t = {0};
    for (int64_t i = 0; i < pl_json_len(list); i++) {
        PL_GO(rc, parse_token(&t, pl_json_at(list, i), &stated, err));
        if (t.normalized) PL_GO(rc, normalize_token(&t, z, &scratch, err));
        if (t.len) PL_GO(rc, place_token(a, &t, model, &next_id, stated, err));
        release_token(&t);
        t = (pl_added_token){0};
    }
out:
    release_token(&t);
    pl_norm_scratch_release(&scratch);
    return rc;
}

static const char *pattern_of(const pl_added_token *t, size_t *n) {
    *n = t->pattern ? t->pattern_len : t->len;
    return t->pattern ? t->pattern : t->content;
}

static int build_tries(pl_added *a, pl_error *err) {
    int64_t bytes[2] = {0, 0};
    size_t n;
    int rc;
    for (int64_t i = 0; i < a->n; i++) {
        pattern_of(&a->token[i], &n);
        bytes[a->token[i].normalized] += (int64_t)n;
    }
    PL_GO(rc, trie_init(&a->raw, bytes[0], err));
    PL_GO(rc, trie_init(&a->normalized, bytes[1], err));
    for (int64_t i = 0; i < a->n; i++) {
        pl_added_token *t = &a->token[i];
        const char *s = pattern_of(t, &n);
        PL_GO(rc, trie_add(t->normalized ? &a->normalized : &a->raw, s, n, (int32_t)i, err));
        /* HF leaves a token out by what it decodes to */
        int32_t same = pl_vocab_find(&a->by_content, s, n);
        t->skipped = same >= 0 && a->token[same].special;
    }
out:
    return rc;
}

int pl_added_parse(pl_added *a, const pl_json *list, const pl_bpe *model, const pl_normalizer *z, pl_error *err) {
    int rc;
    memset(a->raw.root, 0xFF, sizeof a->raw.root);
    memset(a->normalized.root, 0xFF, sizeof a->normalized.root);
    if (!list) return 0;
    if (pl_json_kind_of(list) != PL_J_ARRAY) return PL_FAIL(err, PL_E_FORMAT, "%s must be an array", what);
    int64_t count = pl_json_len(list);
    size_t bytes = 0, n;
    for (int64_t i = 0; i < count; i++) {
        if (pl_json_string(pl_json_get(pl_json_at(list, i), "content"), &n)) bytes += n;
    }
    PL_GO(rc, pl_vocab_init(&a->by_content, count, count, bytes, err));
    PL_GO(rc, PL_NEW(&a->token, count, err));
    PL_GO(rc, parse_list(a, list, model, z, err));
    PL_GO(rc, build_tries(a, err));
out:
    return rc;
}

void pl_added_release(pl_added *a) {
    for (int64_t i = 0; i < a->n; i++) release_token(&a->token[i]);
    pl_free(a->token);
    pl_vocab_release(&a->by_content);
    pl_free(a->raw.node);
    pl_free(a->normalized.node);
    *a = (pl_added){0};
}

/* --- splitting
 * ----------------------------------------------------------------------------------------------------------------- */
static bool is_alone(pl_span in, size_t start, size_t stop) {
    size_t len;
    if (start > 0 && pl_char_is_word(pl_char_before(in.s, start, &len))) return false;
    return stop == in.n || !pl_char_is_word(pl_char_at(in.s + stop, in.n - stop, &len));
}

static size_t skip_space_left(pl_span in, size_t start) {
    size_t len;
    while (start > 0 && pl_char_is_space(pl_char_before(in.s, start, &len))) start -= len;
    return start;
}

static size_t skip_space_right(pl_span in, size_t stop) {
    size_t len;
    while (stop < in.n && pl_char_is_space(pl_char_at(in.s + stop, in.n - stop, &len))) stop += len;
    return stop;
}

static pl_span part(pl_span in, size_t from, size_t to) {
    return (pl_span){in.s + from, to - from, in.at_zero && from == 0};
}

int pl_added_split(const pl_added *a, const pl_trie *trie, pl_span in, bool as_text, pl_added_emit *emit, void *user) {
    size_t done = 0; /* up to here everything was emitted */
    int rc = 0;
    for (size_t i = 0, len = 0; trie->node && i < in.n; i += len) {
        int32_t k = trie_match(trie, in.s + i, in.n - i, &len);
        if (k < 0) {
            len = 1;
            continue;
        }
        const pl_added_token *t = &a->token[k];
        size_t start = i, stop = i + len;
        if ((as_text && t->special) || (t->single_word && !is_alone(in, start, stop))) continue;
        /* what rstrip of the token before has swallowed may be matched again: HF does so */
        if (t->lstrip) start = PL_MAX(skip_space_left(in, start), done);
        if (t->rstrip) stop = skip_space_right(in, stop);
        if (done < start && (rc = emit(user, NULL, part(in, done, start)))) return rc;
        if ((rc = emit(user, t, part(in, start, PL_MAX(start, stop))))) return rc;
        done = stop;
    }
    return done < in.n ? emit(user, NULL, part(in, done, in.n)) : 0;
}
