/* data/cache.c: the file of tokenized rows, its key, and when it is believed.
 *
 *   "PLUMBROW" | key, 32 hex digits | header: words | rows: ROW_WORDS words each | ids: int32 | columns that are not
 * used | hash of all before, 32 hex digits
 *
 * Words are int64 in the machine's own order; the first one tells a file of another machine. Ids lie row by row, prompt
 * before answers, as pl_rows_add puts them, which is also what reads them: offsets are not in the file, so none can be
 * wrong. Lengths, longest rows and the hash of the rows are computed anew. */
#include "data/cache.h"

#include <math.h>
#include <string.h>

#include "base/cache.h"
#include "base/file.h"
#include "data/rows.h"
#include "plumb/log.h"
#include "row_source.h" /* made by the build: PL_ROW_SOURCE */
#include "text/identity.h"

#define FORMAT 1
#define MAGIC "PLUMBROW"
#define MAGIC_BYTES 8
#define HEX 32
#define ORDER_MARK INT64_C(0x0102030405060708)

/* A field that is not in key, header or rows would be lost on a hit. The sizes are those of 64-bit machines. */
_Static_assert(sizeof(void *) != 8 || sizeof(pl_data_options) == 48, "add the new option to pl_dataset_key");
_Static_assert(sizeof(void *) != 8 || sizeof(pl_row) == 64, "add the new field to row_words and parse_row");
_Static_assert(sizeof(void *) != 8 || sizeof(pl_data_report) == 520, "add the new count to report_words");

/* --- the key */

int pl_dataset_key(pl_hash *out, const pl_hash *content, const pl_data_options *o, const pl_tokenizer *tok,
                   int64_t vocab_size, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc) return rc;
    pl_hasher_add_text(h, "tokenized rows");
    pl_hasher_add_int(h, FORMAT);
    pl_hasher_add_text(h, PLUMB_VERSION);
    pl_hasher_add_text(h, PL_ROW_SOURCE);
    pl_hasher_add_text(h, content->hex);
    pl_tokenizer_add_identity(h, tok);
    pl_hasher_add_int(h, vocab_size);
    pl_hasher_add_int(h, o->preference);
    pl_hasher_add_int(h, o->labelled);
    pl_hasher_add_int(h, o->margin);
    pl_hasher_add_int(h, o->seam);
    pl_hasher_add_int(h, o->max_length);
    pl_hasher_add_int(h, o->max_prompt_length);
    pl_hasher_add_int(h, o->drop_empty);
    pl_hasher_add_int(h, o->drop_long);
    pl_hasher_add_int(h, o->completion_only_loss);
    pl_hasher_add_int(h, o->text_field != NULL);
    pl_hasher_add_text(h, o->text_field ? o->text_field : "");
    pl_hasher_add_int(h, o->max_rows);
    *out = pl_hasher_digest(h);
    pl_hasher_free(h);
    return 0;
}

/* --- what is in the file */

enum { HEAD_MARK, HEAD_FORMAT, HEAD_KIND, HEAD_ROWS, HEAD_IDS, HEAD_UNUSED, HEAD_SEAM, HEAD_DROP_LONG, HEAD_WORDS };
enum { ROW_SOURCE, ROW_LINE, ROW_PROMPT, ROW_LABEL, ROW_MARGIN, ROW_ANSWER0, ROW_ANSWER1, ROW_WORDS };

/* The counts of a report: single words and notes, which are 1 + PL_DATA_LISTED words. */
typedef struct report_word {
    size_t at;
    int64_t words;
} report_word;
#define COUNT(field)                                                                                                   \
    { offsetof(pl_data_report, field), 1 }
#define NOTE(field)                                                                                                    \
    { offsetof(pl_data_report, field), 1 + PL_DATA_LISTED }
static const report_word report_words[] = {
    COUNT(read),      COUNT(kept),         COUNT(seam_prefix),   COUNT(seam_continued), COUNT(seam_cut),
    COUNT(truncated), COUNT(dropped_long), COUNT(dropped_empty), COUNT(lost_eos),       NOTE(empty),
    NOTE(differing),  NOTE(further),       NOTE(identical),      NOTE(repeated),        NOTE(double_bos)};
enum { REPORT_WORDS = 9 + 6 * (1 + PL_DATA_LISTED) };

static int64_t answers_of_kind(int64_t kind) { return kind == PL_DATA_PREFERENCE ? 2 : 1; }

/* --- writing */

typedef struct writer {
    pl_out out;
    pl_hasher *hash;
} writer;

static int put(writer *w, const void *bytes, size_t n, pl_error *err) {
    pl_hasher_add(w->hash, bytes, n);
    return pl_out_write(&w->out, bytes, n, err);
}

static int put_report(writer *w, const pl_data_report *r, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < PL_LEN(report_words); i++)
        rc = put(w, (const char *)r + report_words[i].at, (size_t)report_words[i].words * sizeof(int64_t), err);
    return rc;
}

static int put_rows(writer *w, const pl_dataset *d, pl_error *err) {
    for (int64_t i = 0; i < d->n; i++) {
        const pl_row *row = &d->rows[i];
        int64_t words[ROW_WORDS] = {0};
        words[ROW_SOURCE] = row->source;
        words[ROW_LINE] = row->line;
        words[ROW_PROMPT] = row->prompt.count;
        words[ROW_LABEL] = row->label;
        memcpy(&words[ROW_MARGIN], &row->margin, sizeof row->margin);
        for (int64_t a = 0; a < row->answers; a++) words[ROW_ANSWER0 + a] = d->answers[row->first_answer + a].count;
        int rc = put(w, words, sizeof words, err);
        if (rc) return rc;
    }
    return 0;
}

int pl_dataset_write(const char *path, const pl_dataset *d, const pl_hash *key, pl_error *err) {
    writer w = {0};
    int rc;
    const char *unused = d->unused ? d->unused : "";
    int64_t head[HEAD_WORDS] = {ORDER_MARK, FORMAT, d->kind, d->n, d->nids, 0, d->report.seam, d->report.drop_long};
    head[HEAD_UNUSED] = (int64_t)strlen(unused);
    PL_GO(rc, pl_hasher_new(&w.hash, err));
    PL_GO(rc, pl_out_open(&w.out, path, err));
    PL_GO(rc, put(&w, MAGIC, MAGIC_BYTES, err));
    PL_GO(rc, put(&w, key->hex, HEX, err));
    PL_GO(rc, put(&w, head, sizeof head, err));
    PL_GO(rc, put_report(&w, &d->report, err));
    PL_GO(rc, put_rows(&w, d, err));
    PL_GO(rc, put(&w, d->ids, (size_t)d->nids * sizeof *d->ids, err));
    PL_GO(rc, put(&w, unused, strlen(unused), err));
    pl_hash check = pl_hasher_digest(w.hash);
    PL_GO(rc, pl_out_write(&w.out, check.hex, HEX, err));
    PL_GO(rc, pl_out_commit(&w.out, err));
out:
    pl_out_release(&w.out);
    pl_hasher_free(w.hash);
    return rc;
}

/* --- reading */

typedef struct reader {
    const char *at;
    int64_t head[HEAD_WORDS];
    pl_data_report report;
    int64_t vocab_size;
} reader;

static void take(void *to, reader *r, size_t n) {
    memcpy(to, r->at, n);
    r->at += n;
}

/* Length of a file with this header; false when no file can have it. */
static bool file_bytes(size_t *out, const int64_t head[HEAD_WORDS]) {
    const int64_t counts[][2] = {{head[HEAD_ROWS], ROW_WORDS * 8}, {head[HEAD_IDS], 4}, {head[HEAD_UNUSED], 1}};
    size_t bytes = MAGIC_BYTES + HEX + (HEAD_WORDS + REPORT_WORDS) * 8 + HEX;
    for (int64_t i = 0; i < PL_LEN(counts); i++) {
        size_t part;
        if (counts[i][0] < 0 || pl_bytes2(&part, counts[i][0], (size_t)counts[i][1], NULL)) return false;
        if (__builtin_add_overflow(bytes, part, &bytes)) return false;
    }
    *out = bytes;
    return true;
}

static int open_file(reader *r, const char *bytes, size_t n, const pl_hash *key, pl_error *err) {
    size_t want = 0, least = MAGIC_BYTES + HEX + (HEAD_WORDS + REPORT_WORDS) * 8 + HEX;
    if (n < least) return PL_FAIL(err, PL_E_FORMAT, "%zu bytes are too few", n);
    if (memcmp(bytes, MAGIC, MAGIC_BYTES) != 0) return PL_FAIL(err, PL_E_FORMAT, "not a file of tokenized rows");
    if (memcmp(bytes + MAGIC_BYTES, key->hex, HEX) != 0) return PL_FAIL(err, PL_E_FORMAT, "the key is another one");
    r->at = bytes + MAGIC_BYTES + HEX;
    take(r->head, r, sizeof r->head);
    if (r->head[HEAD_MARK] != ORDER_MARK || r->head[HEAD_FORMAT] != FORMAT)
        return PL_FAIL(err, PL_E_FORMAT, "written by another machine or version");
    if (!file_bytes(&want, r->head) || want != n) return PL_FAIL(err, PL_E_FORMAT, "%zu bytes, want %zu", n, want);
    pl_hash check = pl_hash_bytes(bytes, n - HEX);
    if (memcmp(bytes + n - HEX, check.hex, HEX) != 0) return PL_FAIL(err, PL_E_FORMAT, "the content was changed");
    return 0;
}

/* What follows cannot fail for a file that was written by us; it keeps anything else from reaching the rows. */
static int fail_content(const char *what, pl_error *err) { return PL_FAIL(err, PL_E_FORMAT, "impossible %s", what); }

static int parse_report(reader *r, pl_error *err) {
    const int64_t *h = r->head;
    if (h[HEAD_KIND] < 0 || h[HEAD_KIND] > PL_DATA_TEXT || h[HEAD_SEAM] < 0 || h[HEAD_SEAM] > PL_SEAM_REFUSE ||
        (h[HEAD_DROP_LONG] | 1) != 1)
        return fail_content("header", err);
    r->report.seam = (pl_seam)h[HEAD_SEAM];
    r->report.drop_long = h[HEAD_DROP_LONG] != 0;
    for (int64_t i = 0; i < PL_LEN(report_words); i++) {
        int64_t words[1 + PL_DATA_LISTED];
        size_t bytes = (size_t)report_words[i].words * sizeof *words;
        take(words, r, bytes);
        for (int64_t k = 0; k < report_words[i].words; k++)
            if (words[k] < 0) return fail_content("count", err);
        memcpy((char *)&r->report + report_words[i].at, words, bytes);
    }
    bool same = h[HEAD_ROWS] > 0 && r->report.kept == h[HEAD_ROWS];
    return same ? 0 : fail_content("number of rows", err);
}

/* *used: ids of the rows before. */
static int parse_row(pl_row_ids *row, reader *r, const int32_t *ids, int64_t *used, pl_error *err) {
    int64_t w[ROW_WORDS];
    take(w, r, sizeof w);
    *row = (pl_row_ids){.source = w[ROW_SOURCE], .line = w[ROW_LINE], .answers = answers_of_kind(r->head[HEAD_KIND])};
    row->label = w[ROW_LABEL] != 0;
    memcpy(&row->margin, &w[ROW_MARGIN], sizeof row->margin);
    if (row->source < 0 || row->source >= r->report.read || row->line < 1 || (w[ROW_LABEL] | 1) != 1 ||
        !isfinite(row->margin))
        return fail_content("row", err);
    for (int64_t i = 0; i <= row->answers; i++) {
        int64_t count = i == 0 ? w[ROW_PROMPT] : w[ROW_ANSWER0 + i - 1];
        if (count < 0 || count > r->head[HEAD_IDS] - *used) return fail_content("length of a row", err);
        if (i == 0)
            row->prompt = ids + *used, row->prompt_count = count;
        else
            row->answer[i - 1] = ids + *used, row->answer_count[i - 1] = count;
        for (int64_t k = 0; k < count; k++)
            if (ids[*used + k] < 0 || ids[*used + k] >= r->vocab_size) return fail_content("id", err);
        *used += count;
    }
    return 0;
}

static int parse_rows(pl_rows *rows, reader *r, pl_error *err) {
    const char *after = r->at + (size_t)r->head[HEAD_ROWS] * ROW_WORDS * sizeof(int64_t);
    int32_t *ids = NULL;
    int64_t used = 0;
    int rc;
    PL_GO(rc, PL_NEW(&ids, r->head[HEAD_IDS], err)); /* they may lie unaligned in the file */
    if (r->head[HEAD_IDS] > 0) memcpy(ids, after, (size_t)r->head[HEAD_IDS] * sizeof *ids);
    for (int64_t i = 0; i < r->head[HEAD_ROWS]; i++) {
        pl_row_ids row;
        PL_GO(rc, parse_row(&row, r, ids, &used, err));
        PL_GO(rc, pl_rows_add(rows, &row, err));
    }
    if (used != r->head[HEAD_IDS]) rc = fail_content("number of ids", err);
    r->at = after + (size_t)r->head[HEAD_IDS] * sizeof *ids;
out:
    pl_free(ids);
    return rc;
}

static int parse_unused(char **out, const reader *r, pl_error *err) {
    size_t n = (size_t)r->head[HEAD_UNUSED];
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)r->at[i] < ' ') return fail_content("names of columns", err);
    return n ? pl_strndup(out, r->at, n, err) : 0;
}

int pl_dataset_parse(pl_dataset **out, const char *bytes, size_t n, const pl_hash *key, int64_t vocab_size,
                     pl_error *err) {
    reader r = {.vocab_size = vocab_size};
    pl_rows rows = {0};
    char *unused = NULL;
    int rc;
    PL_GO(rc, open_file(&r, bytes, n, key, err));
    PL_GO(rc, parse_report(&r, err));
    PL_GO(rc, parse_rows(&rows, &r, err));
    PL_GO(rc, parse_unused(&unused, &r, err));
    PL_GO(rc, pl_rows_finish(out, &rows, (pl_data_kind)r.head[HEAD_KIND], err));
    (*out)->report = r.report;
    (*out)->unused = unused;
    unused = NULL;
out:
    pl_free(unused);
    pl_rows_release(&rows);
    return rc;
}

/* --- all together */

/* *out stays NULL when there is no such file, or a damaged one, which is said. */
static int look_up(pl_dataset **out, const char *path, const char *file, const pl_hash *key, int64_t vocab_size,
                   pl_error *err) {
    char *bytes = NULL;
    size_t n = 0;
    if (!pl_file_exists(file)) return 0;
    int rc = pl_file_read(&bytes, &n, file, SIZE_MAX - 1, err);
    if (rc == 0) rc = pl_dataset_parse(out, bytes, n, key, vocab_size, err);
    pl_free(bytes);
    if (rc == PL_E_NOMEM) return rc;
    if (rc == 0) {
        pl_cache_used(file);
        pl_log(PL_LOG_INFO, "%s: tokenized rows: from %s", path, file);
    } else if (pl_file_exists(file)) /* else another process has just removed it */
        pl_log(PL_LOG_WARN, "%s: %s is damaged (%s): tokenized anew", path, file, err ? err->text : "");
    return 0;
}

/* Is the file still the one that was hashed? */
static int unchanged(bool *same, const char *path, const pl_stamp *before, const pl_hash *content, pl_error *err) {
    pl_stamp now;
    pl_hash hash;
    int rc = pl_stamp_of(&now, path, err);
    *same = rc == 0 && pl_stamp_equal(before, &now);
    if (!*same || before->settled) return rc;
    rc = pl_hash_file(&hash, path, err); /* changed so recently that a stamp proves nothing */
    *same = rc == 0 && strcmp(hash.hex, content->hex) == 0;
    return rc;
}

/* Failing to keep the rows is worth a line, no more. */
static void keep(const pl_dataset *d, const char *path, const char *dir, const char *file, const pl_stamp *before,
                 const pl_hash *content, const pl_hash *key) {
    pl_error err = {0};
    bool same = false;
    int rc = unchanged(&same, path, before, content, &err);
    if (rc == 0 && !same) return;
    if (rc == 0) rc = pl_dir_make(dir, &err);
    if (rc == 0) rc = pl_dataset_write(file, d, key, &err);
    if (rc)
        pl_log(PL_LOG_WARN, "%s: the tokenized rows are not kept: %s", path, err.text);
    else
        pl_cache_prune(dir);
}

int pl_dataset_open(pl_dataset **out, const char *path, const pl_data_options *options, const pl_tokenizer *tok,
                    int64_t vocab_size, const pl_data_cache *cache, pl_error *err) {
    pl_stamp stamp;
    pl_hash content, key;
    char *file = NULL;
    int rc = 0;
    if (!cache || !cache->dir || pl_stamp_of(&stamp, path, NULL) || !stamp.regular)
        return pl_dataset_load(out, path, options, tok, vocab_size, err);
    PL_GO(rc, pl_hash_file_remembered(&content, path, &stamp, cache->dir, cache->fresh, err));
    PL_GO(rc, pl_dataset_key(&key, &content, options, tok, vocab_size, err));
    PL_GO(rc, pl_asprintf(&file, err, "%s/rows-%s.bin", cache->dir, key.hex));
    pl_dataset *d = NULL;
    if (!cache->fresh) PL_GO(rc, look_up(&d, path, file, &key, vocab_size, err));
    if (!d) {
        PL_GO(rc, pl_dataset_load(&d, path, options, tok, vocab_size, err));
        keep(d, path, cache->dir, file, &stamp, &content, &key);
    }
    *out = d;
out:
    pl_free(file);
    return rc;
}
