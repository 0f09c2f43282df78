/* fuzz_jsonl.c: any bytes as one JSON text. What parses must be UTF-8, print and parse again to the same tree, and hold
 * no replacement character that was not written. */
#include <json-c/json.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/utf8.h"
#include "fuzz.h"

/* U+FFFD in a JSON text, as a character or as an escape. */
static size_t count_replacements(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (n - i >= 3 && memcmp(s + i, "\xEF\xBF\xBD", 3) == 0) count++;
        if (s[i] != '\\') continue;
        if (n - i >= 6 && strncasecmp(s + i, "\\ufffd", 6) == 0) count++;
        i++;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err = {0};
    pl_json *v = NULL, *again = NULL;
    int rc = pl_json_parse(&v, (const char *)data, size, "input", &err);
    FUZZ_CHECK((rc == 0) == (v != NULL));
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0]);
        FUZZ_CHECK(pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
        return 0;
    }
    FUZZ_CHECK(pl_utf8_valid((const char *)data, size) == size);
    const char *text = json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN);
    FUZZ_CHECK(text && count_replacements(text, strlen(text)) == count_replacements((const char *)data, size));
    FUZZ_CHECK(pl_json_parse(&again, text, strlen(text), "printed", &err) == 0);
    FUZZ_CHECK(pl_json_kind_of(v) == pl_json_kind_of(again) && pl_json_len(v) == pl_json_len(again));
    pl_json_free(again);
    pl_json_free(v);
    return 0;
}
