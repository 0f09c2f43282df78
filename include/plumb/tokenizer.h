/* plumb/tokenizer.h: text to token ids and back, exactly as Hugging Face `tokenizers` does it from the same
 * tokenizer.json.
 *
 * Supported: BPE models with any of
 *   normalizers     NFC NFD NFKC NFKD Lowercase Strip StripAccents Replace Prepend ByteLevel Sequence
 *   pre-tokenizers  ByteLevel Split Metaspace Digits Punctuation Whitespace WhitespaceSplit CharDelimiterSplit Sequence
 *   post-processors TemplateProcessing ByteLevel BertProcessing RobertaProcessing Sequence
 *   decoders        ByteLevel ByteFallback Fuse Strip Replace Metaspace Sequence, or none
 * Anything else in the file is PL_E_UNSUPPORTED and named. Truncation and padding blocks are not applied (transformers
 * resets them too).
 *
 * A pl_tokenizer never changes after it was opened: any number of threads may use one at the same time. */
#ifndef PLUMB_TOKENIZER_H
#define PLUMB_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plumb/error.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct pl_tokenizer pl_tokenizer;

/* Reads model_dir/tokenizer.json, and the special tokens' roles from tokenizer_config.json and special_tokens_map.json
 * where they exist. Returned owned: pl_tokenizer_free. Disagreements between the files are logged as warnings. PL_E_IO,
 * PL_E_FORMAT, PL_E_UNSUPPORTED, PL_E_RANGE, PL_E_NOMEM. */
int pl_tokenizer_open(pl_tokenizer **out, const char *model_dir, pl_error *err);
/* The same from the bytes of a tokenizer.json and, unless config is NULL, of a tokenizer_config.json. */
int pl_tokenizer_parse(pl_tokenizer **out, const char *json, size_t len, const char *config, size_t config_len,
                       pl_error *err);
void pl_tokenizer_free(pl_tokenizer *t); /* NULL is fine */

/* --- growing arrays that the calls below append to; zero-initialise, release when done
 * --------------------------------------- */
typedef struct pl_ids {
    int32_t *ids; /* owned; NULL while empty */
    int64_t n, cap;
} pl_ids;
void pl_ids_release(pl_ids *ids);

typedef struct pl_text {
    char *data; /* owned UTF-8, NUL-terminated behind len once anything was added; may hold NULs */
    size_t len, cap;
} pl_text;
void pl_text_release(pl_text *text);

/* --- encoding
 * ------------------------------------------------------------------------------------------------------------------ */
enum {
    PL_ENCODE_PLAIN = 0,    /* the text's own tokens only */
    PL_ENCODE_SPECIAL = 1,  /* and what the post-processor puts before and behind it (add_special_tokens=True) */
    PL_ENCODE_LEADING = 2,  /* and only what the post-processor puts before it: a prompt as inference sees it */
    PL_ENCODE_CONTINUE = 4, /* the text continues another: no special tokens, no dummy prefix (Prepend, Metaspace's and
                               ByteLevel's prefix off); not to be combined with the two above */
    PL_ENCODE_AS_TEXT = 8   /* special tokens written in the text are plain text (encode_special_tokens=True) */
};
/* Appends the ids of text[0..len), strict UTF-8 that may hold NULs. On failure *out is as it was.
 * PL_E_FORMAT names the byte offset of what is not UTF-8; PL_E_OPTION for contradictory flags. O(len log len). */
int pl_tokenizer_encode(const pl_tokenizer *t, const char *text, size_t len, unsigned flags, pl_ids *out,
                        pl_error *err);

/* --- decoding
 * ------------------------------------------------------------------------------------------------------------------ */
/* Appends the text of n ids; skip_special leaves out special tokens. On failure *out is as it was.
 * PL_E_RANGE names the position of an id that is no token. */
int pl_tokenizer_decode(const pl_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, pl_text *out,
                        pl_error *err);

/* Streaming decode: what feed and finish append, put together, is what pl_tokenizer_decode gives for all ids.
 * Each feed appends the text that no later id can change; incomplete UTF-8 is held back. Borrows t. */
typedef struct pl_detok pl_detok;
int pl_detok_new(pl_detok **out, const pl_tokenizer *t, bool skip_special, pl_error *err);
int pl_detok_feed(pl_detok *d, int32_t id, pl_text *out, pl_error *err);
int pl_detok_finish(pl_detok *d, pl_text *out, pl_error *err); /* what is held back; then ready for a new text */
void pl_detok_free(pl_detok *d);

/* --- tokens
 * --------------------------------------------------------------------------------------------------------------------
 */
/* The id of a token's string as the file writes it ("<s>", "\xC4\xA0the"), -1 when there is none. */
int32_t pl_tokenizer_id(const pl_tokenizer *t, const char *token, size_t len);
/* The string of an id, borrowed from t; NULL when id is no token. len may be NULL. */
const char *pl_tokenizer_token(const pl_tokenizer *t, int32_t id, size_t *len);
bool pl_tokenizer_is_special(const pl_tokenizer *t, int32_t id);
int64_t pl_tokenizer_vocab_size(const pl_tokenizer *t); /* largest id + 1 */
/* Roles from tokenizer_config.json; -1 when there is none. */
int32_t pl_tokenizer_bos(const pl_tokenizer *t);
int32_t pl_tokenizer_eos(const pl_tokenizer *t);
int32_t pl_tokenizer_pad(const pl_tokenizer *t);
int32_t pl_tokenizer_unk(const pl_tokenizer *t);
/* What the post-processor puts before (leading) or behind a text; borrowed, *n may be 0. */
const int32_t *pl_tokenizer_leading(const pl_tokenizer *t, int64_t *n);
const int32_t *pl_tokenizer_trailing(const pl_tokenizer *t, int64_t *n);
/* 32 hex digits that identify the bytes of tokenizer.json; borrowed. */
const char *pl_tokenizer_hash(const pl_tokenizer *t);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
