/* fuzz_cache.c: any bytes as a file of cached rows, once as they are and once with the checksum put right. What is
 * believed must be consistent in itself. */
#include <string.h>

#include "base/utf8.h"
#include "data/cache.h"
#include "fuzz.h"

#define VOCAB 1000
#define HEX 32

static const pl_hash key = {"00112233445566778899aabbccddeeff"};

static void check_rows(const pl_dataset *d) {
    FUZZ_CHECK(d->n > 0 && d->report.kept == d->n);
    int64_t longest = 0;
    for (int64_t i = 0; i < d->nids; i++) FUZZ_CHECK(d->ids[i] >= 0 && d->ids[i] < VOCAB);
    for (int64_t r = 0; r < d->n; r++) {
        const pl_row *row = &d->rows[r];
        FUZZ_CHECK(row->line > 0 && row->source >= 0 && row->source < d->report.read);
        FUZZ_CHECK(row->prompt.first >= 0 && row->prompt.count >= 0 && row->margin == row->margin);
        FUZZ_CHECK(row->prompt.first + row->prompt.count <= d->nids);
        FUZZ_CHECK(row->answers == (d->kind == PL_DATA_PREFERENCE ? 2 : 1));
        for (int64_t a = 0; a < row->answers; a++) {
            pl_span s = d->answers[row->first_answer + a];
            FUZZ_CHECK(s.first >= 0 && s.count >= 0 && s.first + s.count <= d->nids);
            longest = PL_MAX(longest, row->prompt.count + s.count);
        }
    }
    FUZZ_CHECK(longest == d->longest_row);
}

static void parse(const char *bytes, size_t n) {
    pl_error err = {0};
    pl_dataset *d = NULL;
    int rc = pl_dataset_parse(&d, bytes, n, &key, VOCAB, &err);
    FUZZ_CHECK((rc == 0) == (d != NULL));
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0] && pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
        return;
    }
    check_rows(d);
    pl_dataset_log(d, "rows");
    pl_dataset_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    parse((const char *)data, size);
    if (size < 8 + 2 * HEX) return 0;
    char *forged = malloc(size);
    FUZZ_CHECK(forged != NULL);
    memcpy(forged, data, size);
    memcpy(forged, "PLUMBROW", 8);
    memcpy(forged + 8, key.hex, HEX);
    memcpy(forged + size - HEX, pl_hash_bytes(forged, size - HEX).hex, HEX);
    parse(forged, size);
    free(forged);
    return 0;
}
