/* base/utf8.h: strict UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
#ifndef PL_UTF8_H
#define PL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Decodes one code point at s[0..n): returns its length 1..4, or 0 when the bytes are not UTF-8 (or n == 0). */
size_t pl_utf8_decode(const char *s, size_t n, uint32_t *code_point);
/* Encodes into out[4]; returns the length, 0 for surrogates and values beyond U+10FFFF. */
size_t pl_utf8_encode(char out[4], uint32_t code_point);
/* Offset of the first byte that is not UTF-8, or n when all is. */
size_t pl_utf8_valid(const char *s, size_t n);

#endif
