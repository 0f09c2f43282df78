/* rows_file.h: what the tests of loading share: row files, tokenizers, the log's lines. Include behind cmocka.h. */
#ifndef ROWS_FILE_H
#define ROWS_FILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/dataset.h"
#include "plumb/log.h"
#include "plumb/tokenizer.h"

/* A file of these bytes under /tmp; path[64] is written. */
static inline void rows_write(char path[64], const void *bytes, size_t n) {
    snprintf(path, 64, "/tmp/plumb-rows-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

/* A tokenizer of tests/golden: "trl/llama" (byte-level, no special tokens of its own, EOS <|endoftext|> = 0),
 * "data/pieces" (SentencePiece's style, <s> in front), "data/pieces_eos" (and </s> behind). */
static inline pl_tokenizer *open_golden(const char *name) {
    char dir[512];
    pl_error err;
    pl_tokenizer *t = NULL;
    snprintf(dir, sizeof dir, "%s/golden/%s", PLUMB_TEST_DIR, name);
    if (pl_tokenizer_open(&t, dir, &err) != 0) fail_msg("%s", err.text);
    return t;
}

/* The log as one text, a line per message; log_begin sets the sink, log_end takes it off. */
typedef struct log_text {
    char text[16384];
    size_t n;
} log_text;

static inline void log_line(void *user, pl_log_level level, const char *text) {
    log_text *l = user;
    int k = snprintf(l->text + l->n, sizeof l->text - l->n, "%s: %s\n", pl_log_level_name(level), text);
    if (k > 0 && l->n + (size_t)k < sizeof l->text) l->n += (size_t)k;
}
static inline void log_begin(log_text *l) {
    *l = (log_text){0};
    pl_log_set(log_line, l);
}
static inline void log_end(void) { pl_log_set(NULL, NULL); }

/* Loads bytes as a file; the caller frees *d. */
static inline int load_bytes(pl_dataset **d, const void *bytes, size_t n, const pl_data_options *options,
                             const pl_tokenizer *tok, int64_t vocab_size, pl_error *err) {
    char path[64];
    rows_write(path, bytes, n);
    int rc = pl_dataset_load(d, path, options, tok, vocab_size, err);
    unlink(path);
    return rc;
}

static inline pl_dataset *load_text(const char *text, const pl_data_options *options, const pl_tokenizer *tok) {
    pl_error err;
    pl_dataset *d = NULL;
    if (load_bytes(&d, text, strlen(text), options, tok, 1000, &err) != 0) fail_msg("%s", err.text);
    return d;
}

#endif
