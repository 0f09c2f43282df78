/* fuzz_tokenizer.c: any bytes as a tokenizer.json. What opens must encode fixed texts and the input itself, give ids
 * that are tokens, and decode them; whole and streamed decodes must agree. */
#include <string.h>

#include "base/utf8.h"
#include "fuzz.h"
#include "plumb/tokenizer.h"

static void decode(const pl_tokenizer *t, const pl_ids *ids, bool skip) {
    pl_error err = {0};
    pl_text whole = {0}, parts = {0};
    pl_detok *d = NULL;
    FUZZ_CHECK(pl_detok_new(&d, t, skip, &err) == 0);
    int rc = pl_tokenizer_decode(t, ids->ids, ids->n, skip, &whole, &err), rc2 = 0;
    for (int64_t i = 0; rc2 == 0 && i < ids->n; i++) rc2 = pl_detok_feed(d, ids->ids[i], &parts, &err);
    if (rc2 == 0) rc2 = pl_detok_finish(d, &parts, &err);
    FUZZ_CHECK(rc == rc2);
    if (rc == 0) {
        FUZZ_CHECK(whole.len == parts.len && (whole.len == 0 || memcmp(whole.data, parts.data, whole.len) == 0));
        FUZZ_CHECK(whole.len == 0 || pl_utf8_valid(whole.data, whole.len) == whole.len);
    }
    pl_detok_free(d);
    pl_text_release(&whole);
    pl_text_release(&parts);
}

static void encode(const pl_tokenizer *t, const char *text, size_t n, unsigned flags) {
    pl_error err = {0};
    pl_ids ids = {0};
    if (pl_tokenizer_encode(t, text, n, flags, &ids, &err) == 0) {
        for (int64_t i = 0; i < ids.n; i++) FUZZ_CHECK(pl_tokenizer_token(t, ids.ids[i], NULL) != NULL);
        decode(t, &ids, flags & 1);
    } else {
        FUZZ_CHECK(ids.n == 0 && err.code != 0 && err.text[0]);
    }
    pl_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] =
        "The cat's 12 <s>dogs</s>\n\n  na\xC3\xAFve e\xCC\x81 \xE6\x97\xA5 \xF0\x9F\x98\x80\0end ab abab \t";
    pl_error err = {0};
    pl_tokenizer *t = NULL;
    int rc = pl_tokenizer_parse(&t, (const char *)data, size, NULL, 0, &err);
    FUZZ_CHECK((rc == 0) == (t != NULL));
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0]);
        return 0;
    }
    encode(t, text, sizeof text - 1, PL_ENCODE_SPECIAL);
    encode(t, text, sizeof text - 1, PL_ENCODE_CONTINUE | PL_ENCODE_AS_TEXT);
    encode(t, "", 0, PL_ENCODE_LEADING);
    encode(t, (const char *)data, size < 2000 ? size : 2000, PL_ENCODE_PLAIN);
    pl_tokenizer_free(t);
    return 0;
}
