/* fuzz_rows.c: any bytes as a file of rows, through a small tokenizer, into a data set and a forest batch. What loads
 * must be consistent in itself; what does not must say why. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/utf8.h"
#include "data/forest.h"
#include "fuzz.h"
#include "plumb/tokenizer.h"

#define VOCAB 12

static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":0,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
    "\"special\":true},"
    "{\"id\":1,\"content\":\"</s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
    "\"special\":true}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
    "\"trim_offsets\":true,\"use_regex\":true},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"?\",\"continuing_subword_prefix\":null,"
    "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,"
    "\"vocab\":{\"<s>\":0,\"</s>\":1,\"?\":2,\"a\":3,\"b\":4,\"ab\":5,\"s\":6,\":\":7,\"t\":8,\"ss\":9,\"ba\":10,"
    "\"n\":11},\"merges\":[\"a b\",\"s s\",\"b a\"]}}";
static const char tokenizer_config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"unk_token\":\"?\"}";

static void check_dataset(const pl_dataset *d, int64_t max_length) {
    FUZZ_CHECK(d->n > 0 && d->report.kept == d->n && d->report.read >= d->n);
    FUZZ_CHECK(max_length == 0 || d->longest_row <= max_length);
    for (int64_t i = 0; i < d->nids; i++) FUZZ_CHECK(d->ids[i] >= 0 && d->ids[i] < VOCAB);
    pl_forest f = {0};
    pl_arena arena = {0};
    pl_error err;
    pl_forest_caps caps = pl_forest_caps_of(d, 64, 4);
    FUZZ_CHECK(pl_arena_init(&arena, "fuzz", (size_t)1 << 24, &err) == 0);
    FUZZ_CHECK(pl_forest_take(&f, &caps, &arena, &err) == 0);
    int64_t *rows = NULL;
    FUZZ_CHECK(pl_alloc_array((void **)&rows, d->n, sizeof *rows, &err) == 0);
    for (int64_t r = 0; r < d->n; r++) {
        const pl_row *row = &d->rows[r];
        rows[r] = r;
        FUZZ_CHECK(row->line > 0 && row->source >= 0 && row->source < d->report.read);
        FUZZ_CHECK(row->prompt.first >= 0 && row->prompt.count >= 0 &&
                   row->prompt.first + row->prompt.count <= d->nids);
        for (int64_t a = 0; a < row->answers; a++) {
            pl_span s = d->answers[row->first_answer + a];
            FUZZ_CHECK(s.first >= 0 && s.count >= 0 && s.first + s.count <= d->nids);
        }
    }
    for (int64_t at = 0, n; at < d->n; at += n) {
        n = pl_forest_cut(d, rows + at, d->n - at, 64, 4);
        FUZZ_CHECK(pl_forest_build(&f, d, rows + at, n, at, true, d->kind != PL_DATA_PREFERENCE, &err) == 0);
    }
    pl_free(rows);
    pl_arena_release(&arena);
}

static void load(const char *path, const pl_tokenizer *tok, const pl_data_options *options) {
    pl_error err = {0};
    pl_dataset *d = NULL;
    int rc = pl_dataset_load(&d, path, options, tok, VOCAB, &err);
    FUZZ_CHECK((rc == 0) == (d != NULL));
    if (rc != 0) {
        FUZZ_CHECK(rc == err.code && err.text[0] && !strchr(err.text, '\n'));
        FUZZ_CHECK(pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
        return;
    }
    check_dataset(d, options->max_length);
    pl_dataset_log(d, "rows");
    pl_dataset_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pl_tokenizer *tok; /* opened once for all inputs, never closed */
    pl_error err;
    if (!tok)
        FUZZ_CHECK(pl_tokenizer_parse(&tok, tokenizer_json, sizeof tokenizer_json - 1, tokenizer_config,
                                      sizeof tokenizer_config - 1, &err) == 0);
    char path[64];
    int fd = memfd_create("rows", 0);
    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    pl_seam seam = (pl_seam)(size % 3);
    pl_data_options options = {.preference = true, .seam = seam, .max_length = size % 2 ? 20 : 0};
    options.max_prompt_length = size % 5 == 0 ? 3 : 0;
    load(path, tok, &options);
    options.preference = false;
    options.drop_empty = size % 7 == 0;
    options.completion_only_loss = size % 4 != 0;
    load(path, tok, &options);
    close(fd);
    return 0;
}
