/* identity.c: what decides the ids that a tokenizer gives. The code is not in it: src/data/cache.c adds a hash of that.
 */
#include "text/identity.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

void pl_tokenizer_add_identity(pl_hasher *h, const pl_tokenizer *t) {
    char pcre2[64] = "?", unicode[64] = "?";
    int needed = pcre2_config(PCRE2_CONFIG_VERSION, NULL); /* code units, the end included */
    if (needed > 0 && (size_t)needed <= sizeof pcre2) pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    needed = pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, NULL);
    if (needed > 0 && (size_t)needed <= sizeof unicode) pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
    pl_hasher_add_text(h, pl_tokenizer_hash(t));
    pl_hasher_add_int(h, pl_tokenizer_bos(t));
    pl_hasher_add_int(h, pl_tokenizer_eos(t));
    pl_hasher_add_int(h, pl_tokenizer_pad(t));
    pl_hasher_add_int(h, pl_tokenizer_unk(t));
    pl_hasher_add_text(h, pcre2);
    pl_hasher_add_text(h, unicode);
    pl_hasher_add_text(h, utf8proc_version());
    pl_hasher_add_text(h, utf8proc_unicode_version());
}
