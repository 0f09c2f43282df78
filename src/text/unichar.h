/* text/unichar.h: what the tokenizer asks of Unicode: the character classes of Rust and of its regex crate, which HF
 * tokenizers use outside regular expressions, and normal forms. Data: utf8proc. */
#ifndef PL_UNICHAR_H
#define PL_UNICHAR_H

#include "base/buf.h"

bool pl_char_is_space(uint32_t c);   /* White_Space */
bool pl_char_is_word(uint32_t c);    /* \w of UTS 18: alphabetic, marks, decimal digits, connectors, joiners */
bool pl_char_is_numeric(uint32_t c); /* Nd, Nl, No */
bool pl_char_is_punct(uint32_t c);   /* P*, and ASCII's symbols */
bool pl_char_is_mark(uint32_t c);    /* Mn, Mc, Me */

/* The code point at s (valid UTF-8, n > 0); *len its bytes. */
uint32_t pl_char_at(const char *s, size_t n, size_t *len);
/* The code point that ends at s[n) (valid UTF-8, n > 0); *len its bytes. */
uint32_t pl_char_before(const char *s, size_t n, size_t *len);

typedef enum pl_norm_form { PL_NFC, PL_NFD, PL_NFKC, PL_NFKD } pl_norm_form;
/* Appends the normal form of valid UTF-8 to out. O(n). */
int pl_text_normalize(pl_buf *out, const char *s, size_t n, pl_norm_form form, pl_error *err);
/* Appends the lower case, character by character (no final sigma). */
int pl_text_lower(pl_buf *out, const char *s, size_t n, pl_error *err);

#endif
