/* text/regex_translate.h: from Oniguruma's syntax to PCRE2's (UTF, UCP, MULTILINE). */
#ifndef PL_REGEX_TRANSLATE_H
#define PL_REGEX_TRANSLATE_H

#include "base/buf.h"

/* Appends the PCRE2 pattern. PL_E_UNSUPPORTED for what is not known to mean the same. */
int pl_regex_translate(pl_buf *out, const char *pattern, size_t n, pl_error *err);

#endif
