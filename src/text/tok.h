/* text/tok.h: the parts of a tokenizer and the seams between them. Internal to src/text.
 *
 * The way of a text (HF's order): added tokens that match the raw text | normalizer | added tokens that match the
 * normalised text | pre-tokenizer | BPE | post-processor. Each part is one struct, parsed from its JSON object, with
 * one function that applies it. Everything here is read-only after parsing; what changes during a call lives in
 * pl_encoder. */
#ifndef PL_TOK_H
#define PL_TOK_H

#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "plumb/log.h"
#include "plumb/tokenizer.h"
#include "text/regex.h"
#include "text/vocab.h"

#define PL_TOK_STEPS 32 /* most steps in a Sequence, flattened */

/* --- JSON
 * ----------------------------------------------------------------------------------------------------------------------
 */
/* The "type" of a part; PL_E_FORMAT when it has none. */
int pl_tok_type(const char **out, const pl_json *o, const char *what, pl_error *err);
/* PL_E_UNSUPPORTED for a member of o that is not in keys (separated by blanks; "type" is always fine). */
int pl_tok_keys(const pl_json *o, const char *keys, const char *what, pl_error *err);
/* {"String": s} or {"Regex": r} of member "pattern". */
int pl_tok_pattern(pl_regex **out, const pl_json *o, const char *what, pl_error *err);
/* A string of exactly one character; owned copy. */
int pl_tok_char(char **out, const pl_json *o, const char *key, const char *what, pl_error *err);

/* --- normalizer
 * ---------------------------------------------------------------------------------------------------------------- */
typedef enum pl_norm_kind {
    PL_NORM_FORM,
    PL_NORM_LOWER,
    PL_NORM_STRIP,
    PL_NORM_ACCENTS,
    PL_NORM_REPLACE,
    PL_NORM_PREPEND,
    PL_NORM_BYTES
} pl_norm_kind;
typedef struct pl_norm_step {
    pl_norm_kind kind;
    int form;          /* pl_norm_form */
    bool left, right;  /* Strip */
    pl_regex *pattern; /* Replace */
    char *content;     /* Replace, Prepend */
    size_t content_len;
} pl_norm_step;
typedef struct pl_normalizer {
    pl_norm_step step[PL_TOK_STEPS];
    int n;
} pl_normalizer;
int pl_normalizer_parse(pl_normalizer *z, const pl_json *o, pl_error *err); /* o NULL: none */
void pl_normalizer_release(pl_normalizer *z);

typedef struct pl_norm_scratch {
    pl_buf buf[2];
    pl_regex_scratch regex;
} pl_norm_scratch;
void pl_norm_scratch_release(pl_norm_scratch *s);
/* A piece of text on its way. at_zero: its first character stems from the first one of the whole text (what Metaspace's
 * "first" asks). */
typedef struct pl_span {
    const char *s;
    size_t n;
    bool at_zero;
} pl_span;
/* *out: borrowed, from in or from the scratch, until its next use. prefix false: Prepend does nothing. */
int pl_normalizer_apply(pl_span *out, const pl_normalizer *z, pl_span in, bool prefix, pl_norm_scratch *s,
                        pl_error *err);
/* Appends bytes in ByteLevel's alphabet. */
int pl_bytes_to_chars(pl_buf *out, const char *s, size_t n, pl_error *err);
/* The byte that ByteLevel writes as character c, -1 when none. */
int pl_char_to_byte(uint32_t c);

/* --- pre-tokenizer
 * ------------------------------------------------------------------------------------------------------------- */
typedef enum pl_split_behavior {
    PL_SPLIT_REMOVED,
    PL_SPLIT_ISOLATED,
    PL_SPLIT_PREVIOUS,
    PL_SPLIT_NEXT,
    PL_SPLIT_CONTIGUOUS
} pl_split_behavior;
/* ByteLevel and Metaspace become several of these. */
typedef enum pl_pre_kind {
    PL_PRE_PATTERN,
    PL_PRE_CHARS,
    PL_PRE_WORDS,
    PL_PRE_META,
    PL_PRE_BLANK,
    PL_PRE_BYTES
} pl_pre_kind;
typedef enum pl_prepend { PL_PREPEND_FIRST, PL_PREPEND_NEVER, PL_PREPEND_ALWAYS } pl_prepend;
typedef struct pl_pre_step {
    pl_pre_kind kind;
    pl_split_behavior behavior; /* PATTERN, CHARS */
    bool invert;                /* PATTERN */
    pl_regex *pattern;          /* PATTERN */
    bool (*is)(uint32_t c);     /* CHARS: the class to split on */
    char *meta;                 /* META: what stands for a blank */
    size_t meta_len;
    pl_prepend prepend; /* META */
} pl_pre_step;
typedef struct pl_pretokenizer {
    pl_pre_step step[PL_TOK_STEPS];
    int n;
} pl_pretokenizer;
int pl_pretokenizer_parse(pl_pretokenizer *p, const pl_json *o, pl_error *err);
void pl_pretokenizer_release(pl_pretokenizer *p);

typedef struct pl_encoder pl_encoder;
/* Cuts the span and hands each piece to pl_bpe_encode. e->prefix false: no dummy prefix. */
int pl_pretokenizer_apply(pl_encoder *e, pl_span in);

/* --- model
 * ---------------------------------------------------------------------------------------------------------------------
 */
typedef struct pl_merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free slot */
    uint32_t rank, id;
} pl_merge;
typedef struct pl_bpe {
    pl_vocab vocab;
    pl_merge *merge; /* [mask + 1] open addressing */
    size_t mask;
    int32_t *char_id;            /* [65536] id of the token that is this character alone, -1 */
    int32_t byte_id[256];        /* id of <0xHH>, -1 */
    char *unk, *prefix, *suffix; /* owned; NULL: none */
    int32_t unk_id;              /* -1: unk is no token */
    bool fuse_unk, byte_fallback, ignore_merges;
} pl_bpe;
int pl_bpe_parse(pl_bpe *b, const pl_json *o, pl_error *err);
void pl_bpe_release(pl_bpe *b);
/* NULL: no merge. */
const pl_merge *pl_bpe_find(const pl_bpe *b, uint32_t left, uint32_t right);

typedef struct pl_symbol {
    int32_t id;
    int32_t prev, next; /* indices, -1 */
    bool gone;
} pl_symbol;
typedef struct pl_candidate {
    uint64_t key; /* rank << 32 | position */
    uint32_t id;
} pl_candidate;
typedef struct pl_bpe_scratch {
    pl_symbol *symbol;
    pl_candidate *heap;
    int64_t symbol_cap, heap_n, heap_cap;
    pl_buf piece;
} pl_bpe_scratch;
void pl_bpe_scratch_release(pl_bpe_scratch *s);
/* Appends the ids of one piece. */
int pl_bpe_encode(const pl_bpe *b, const char *s, size_t n, pl_bpe_scratch *scratch, pl_ids *out, pl_error *err);
/* Joins symbols [0, n) by the merge rules and appends what is left. */
int pl_bpe_merge(const pl_bpe *b, int64_t n, pl_bpe_scratch *scratch, pl_ids *out, pl_error *err);
/* The way for long pieces, O(n log n); pl_bpe_merge takes it where it pays. Same result for any n. */
int pl_bpe_merge_long(const pl_bpe *b, int64_t n, pl_bpe_scratch *scratch, pl_ids *out, pl_error *err);
int pl_ids_reserve(pl_ids *ids, int64_t more, pl_error *err);
int pl_ids_add(pl_ids *ids, int32_t id, pl_error *err);

/* --- added tokens
 * -------------------------------------------------------------------------------------------------------------- */
typedef struct pl_added_token {
    char *content; /* owned */
    size_t len;
    char *pattern; /* owned; the normalised content where that differs, else NULL */
    size_t pattern_len;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
    bool skipped; /* left out when decoding without special tokens */
} pl_added_token;
typedef struct pl_trie_node {
    int32_t child, sibling, token; /* -1: none */
    uint8_t byte;
} pl_trie_node;
typedef struct pl_trie {
    pl_trie_node *node; /* NULL: no pattern */
    int32_t n;
    int32_t root[256];
} pl_trie;
typedef struct pl_added {
    pl_added_token *token;
    int64_t n;
    pl_vocab by_content; /* content -> index in token */
    pl_trie raw, normalized;
} pl_added;
/* Ids as HF gives them: the model's where the content is in its vocabulary, else the next free one in file order. */
int pl_added_parse(pl_added *a, const pl_json *list, const pl_bpe *model, const pl_normalizer *z, pl_error *err);
void pl_added_release(pl_added *a);
typedef int pl_added_emit(void *user, const pl_added_token *token, pl_span text); /* token NULL: text between tokens */
/* Cuts in at the tokens of one trie and calls emit for every part in order; as_text: special tokens are text. */
int pl_added_split(const pl_added *a, const pl_trie *trie, pl_span in, bool as_text, pl_added_emit *emit, void *user);

/* --- post-processor
 * ------------------------------------------------------------------------------------------------------------ */
typedef struct pl_postprocessor {
    int32_t *before, *after; /* owned */
    int64_t n_before, n_after;
} pl_postprocessor;
int pl_postprocessor_parse(pl_postprocessor *p, const pl_json *o, pl_error *err);
void pl_postprocessor_release(pl_postprocessor *p);

/* --- decoder
 * -------------------------------------------------------------------------------------------------------------------
 */
typedef enum pl_dec_kind {
    PL_DEC_BYTES,
    PL_DEC_FALLBACK,
    PL_DEC_FUSE,
    PL_DEC_STRIP,
    PL_DEC_REPLACE,
    PL_DEC_META
} pl_dec_kind;
typedef struct pl_dec_step {
    pl_dec_kind kind;
    pl_regex *pattern; /* REPLACE */
    char *content;     /* REPLACE: by this; STRIP, META: this character */
    size_t content_len;
    int64_t start, stop; /* STRIP */
    bool drop_first;     /* META: the first token loses its replacement characters */
} pl_dec_step;
typedef struct pl_decoder {
    pl_dec_step step[PL_TOK_STEPS];
    int n;
    bool none; /* no decoder: tokens joined by blanks */
} pl_decoder;
int pl_decoder_parse(pl_decoder *d, const pl_json *o, pl_error *err);
void pl_decoder_release(pl_decoder *d);

/* --- all together
 * -------------------------------------------------------------------------------------------------------------- */
struct pl_tokenizer {
    pl_normalizer normalizer;
    pl_pretokenizer pretokenizer;
    pl_bpe model;
    pl_added added;
    pl_postprocessor post;
    pl_decoder decoder;
    int32_t *added_of; /* [size] index of the added token with this id, -1 */
    int64_t size;      /* largest id + 1 */
    int32_t bos, eos, pad, unk;
    pl_hash hash;
};
/* Roles of special tokens: fills bos, eos, pad, unk from config, then from map (both may be NULL), and warns where the
 * files disagree. */
int pl_tokenizer_read_config(pl_tokenizer *t, const pl_json *config, const pl_json *map, pl_error *err);

struct pl_encoder {
    const pl_tokenizer *t;
    bool prefix, as_text;
    pl_ids *out;
    pl_error *err;
    pl_norm_scratch norm;
    pl_regex_scratch regex[PL_TOK_STEPS]; /* one per pre-tokenizer step: they are active at the same time */
    pl_buf buf[PL_TOK_STEPS];
    pl_bpe_scratch bpe;
};

#endif
