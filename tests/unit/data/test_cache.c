/* Cached rows: a hit equals what was loaded, field by field; every option and every byte of file and tokenizer makes
 * another key; no damaged file is believed; a directory that cannot be written to is no error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "data/cache.h"
#include "unit/alloc_hook.h"
#include "unit/data/rows_file.h"

#define VOCAB 1000
#define PAIR(p, c, r) "{\"prompt\":\"" p "\",\"chosen\":\"" c "\",\"rejected\":\"" r "\"}\n"

static const char pairs[] = PAIR("xyz", "uvw", "u") "\n" PAIR("x", " ", "v") PAIR("xyzxyz", "ab", "ab")
    PAIR("hell", "o", "ll") "{\"id\":7,\"prompt\":\"a\",\"chosen\":\"ab\",\"rejected\":\"z\",\"margin\":0.25}\n";
static const char dialogues[] =
    "{\"chosen\":\"\\n\\nHuman: x\\n\\nAssistant: y\",\"rejected\":\"\\n\\nHuman: x\\n\\nAssistant: z\"}\n"
    "{\"chosen\":\"\\n\\nHuman: x\\n\\nAssistant: v\\n\\nHuman: u\\n\\nAssistant: v\",\"rejected\":\"\\n\\nHuman: "
    "x\\n\\nAssistant: z\"}\n";
static const char labelled[] = "{\"prompt\":\"x\",\"completion\":\"y\",\"label\":true}\n"
                               "{\"prompt\":\"u\",\"completion\":\"v\",\"label\":false,\"why\":1}\n";
static const char texts[] = "{\"text\":\"ab\"}\n{\"text\":\"\"}\n{\"text\":\"<s>hello\"}\n";
static const pl_hash some_key = {"00112233445566778899aabbccddeeff"};

/* --- a directory of its own for each test */

typedef struct place {
    char dir[64], data[64];
    pl_tokenizer *tok;
} place;

static place open_place(const void *rows, size_t n) {
    place p = {.tok = open_golden("data/pieces")};
    snprintf(p.dir, sizeof p.dir, "/tmp/plumb-cache-XXXXXX");
    assert_non_null(mkdtemp(p.dir));
    rows_write(p.data, rows, n);
    return p;
}

static void close_place(place *p) {
    pl_error err;
    unlink(p->data);
    assert_int_equal(pl_dir_remove(p->dir, &err), 0);
    pl_tokenizer_free(p->tok);
}

/* The one file of rows in the directory: "" when there is none. */
static void find_rows(char path[512], const char *dir) {
    char **names = NULL;
    int64_t n = 0;
    pl_error err;
    path[0] = 0;
    assert_int_equal(pl_dir_list(&names, &n, dir, &err), 0);
    for (int64_t i = 0; i < n; i++)
        if (strncmp(names[i], "rows-", 5) == 0) {
            assert_int_equal(path[0], 0);
            snprintf(path, 512, "%s/%s", dir, names[i]);
        }
    pl_names_free(names, n);
}

static pl_dataset *open_rows(const place *p, const pl_data_options *o, bool fresh) {
    const pl_data_cache cache = {p->dir, fresh};
    pl_error err;
    pl_dataset *d = NULL;
    if (pl_dataset_open(&d, p->data, o, p->tok, VOCAB, &cache, &err)) fail_msg("%s", err.text);
    return d;
}

/* --- equal in every field */

static void check_notes(const pl_data_note *a, const pl_data_note *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->lines, b->lines, sizeof a->lines);
}

static void check_reports(const pl_data_report *a, const pl_data_report *b) {
    assert_int_equal(a->read, b->read);
    assert_int_equal(a->kept, b->kept);
    assert_int_equal(a->seam, b->seam);
    assert_int_equal(a->seam_prefix, b->seam_prefix);
    assert_int_equal(a->seam_continued, b->seam_continued);
    assert_int_equal(a->seam_cut, b->seam_cut);
    assert_int_equal(a->truncated, b->truncated);
    assert_int_equal(a->dropped_long, b->dropped_long);
    assert_int_equal(a->drop_long, b->drop_long);
    assert_int_equal(a->dropped_empty, b->dropped_empty);
    assert_int_equal(a->lost_eos, b->lost_eos);
    check_notes(&a->empty, &b->empty);
    check_notes(&a->differing, &b->differing);
    check_notes(&a->further, &b->further);
    check_notes(&a->identical, &b->identical);
    check_notes(&a->repeated, &b->repeated);
    check_notes(&a->double_bos, &b->double_bos);
}

static void check_equal(const pl_dataset *a, const pl_dataset *b) {
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->nids, b->nids);
    assert_int_equal(a->longest_row, b->longest_row);
    assert_int_equal(a->longest_tree, b->longest_tree);
    assert_string_equal(a->hash.hex, b->hash.hex);
    assert_string_equal(a->unused ? a->unused : "", b->unused ? b->unused : "");
    assert_memory_equal(a->ids, b->ids, (size_t)a->nids * sizeof *a->ids);
    for (int64_t r = 0; r < a->n; r++) {
        const pl_row *x = &a->rows[r], *y = &b->rows[r];
        assert_int_equal(x->source, y->source);
        assert_int_equal(x->line, y->line);
        assert_int_equal(x->prompt.first, y->prompt.first);
        assert_int_equal(x->prompt.count, y->prompt.count);
        assert_int_equal(x->first_answer, y->first_answer);
        assert_int_equal(x->answers, y->answers);
        assert_int_equal(x->label, y->label);
        assert_memory_equal(&x->margin, &y->margin, sizeof x->margin);
        for (int64_t i = x->first_answer; i < x->first_answer + x->answers; i++) {
            assert_int_equal(a->answers[i].first, b->answers[i].first);
            assert_int_equal(a->answers[i].count, b->answers[i].count);
        }
    }
    check_reports(&a->report, &b->report);
}

/* Loaded; kept; found: three times the same data and the same lines for the user. */
static void check_hit(const char *rows, const pl_data_options *o) {
    static log_text plain, miss, hit;
    pl_error err;
    char file[512];
    place p = open_place(rows, strlen(rows));
    pl_dataset *want = NULL;
    log_begin(&plain);
    if (pl_dataset_load(&want, p.data, o, p.tok, VOCAB, &err)) fail_msg("%s", err.text);
    pl_dataset_log(want, "f");
    log_begin(&miss);
    pl_dataset *first = open_rows(&p, o, false);
    pl_dataset_log(first, "f");
    find_rows(file, p.dir);
    assert_true(file[0] != 0);
    log_begin(&hit);
    pl_dataset *second = open_rows(&p, o, false);
    pl_dataset_log(second, "f");
    log_end();
    check_equal(first, want);
    check_equal(second, want);
    assert_string_equal(strstr(plain.text, "info: f: "), strstr(miss.text, "info: f: "));
    assert_string_equal(strstr(plain.text, "info: f: "), strstr(hit.text, "info: f: "));
    assert_null(strstr(miss.text, "tokenized rows"));
    assert_non_null(strstr(hit.text, "tokenized rows: from "));
    pl_dataset_free(want);
    pl_dataset_free(first);
    pl_dataset_free(second);
    close_place(&p);
}

static void test_hit(void **state) {
    (void)state;
    check_hit(pairs, &(pl_data_options){.preference = true});
    check_hit(pairs, &(pl_data_options){.preference = true, .margin = true, .seam = PL_SEAM_JOINT, .max_length = 7});
    check_hit(pairs, &(pl_data_options){.preference = true, .max_length = 7, .drop_long = true, .drop_empty = true});
    check_hit(pairs, &(pl_data_options){.labelled = true, .max_prompt_length = 2, .max_rows = 3});
    check_hit(dialogues, &(pl_data_options){.preference = true});
    check_hit(labelled, &(pl_data_options){.labelled = true});
    check_hit(texts, &(pl_data_options){.text_field = "text"});
    check_hit(labelled, &(pl_data_options){.completion_only_loss = true});
}

/* `fresh` tokenizes, and puts right what is there. */
static void test_fresh(void **state) {
    (void)state;
    static log_text log;
    char file[512];
    pl_error err;
    pl_data_options o = {.preference = true};
    place p = open_place(pairs, sizeof pairs - 1);
    pl_dataset_free(open_rows(&p, &o, false));
    find_rows(file, p.dir);
    assert_int_equal(pl_file_write(file, "?", 1, &err), 0);
    log_begin(&log);
    pl_dataset_free(open_rows(&p, &o, true));
    assert_null(strstr(log.text, "tokenized"));
    pl_dataset_free(open_rows(&p, &o, true));
    assert_null(strstr(log.text, "tokenized"));
    pl_dataset_free(open_rows(&p, &o, false));
    assert_non_null(strstr(log.text, "tokenized rows: from "));
    log_end();
    close_place(&p);
}

/* --- keys */

static pl_hash key_of(const char *content, const pl_data_options *o, const pl_tokenizer *tok, int64_t vocab) {
    pl_error err;
    pl_hash key, hash = pl_hash_bytes(content, strlen(content));
    assert_int_equal(pl_dataset_key(&key, &hash, o, tok, vocab, &err), 0);
    return key;
}

static void test_option_keys(void **state) {
    (void)state;
    pl_tokenizer *tok = open_golden("data/pieces");
    const pl_data_options base = {0};
    pl_data_options o[12];
    for (int64_t i = 0; i < PL_LEN(o); i++) o[i] = base;
    o[1].preference = true;
    o[2].labelled = true;
    o[3].margin = true;
    o[4].seam = PL_SEAM_JOINT;
    o[5].max_length = 1;
    o[6].max_prompt_length = 1;
    o[7].drop_empty = true;
    o[8].drop_long = true;
    o[9].completion_only_loss = true;
    o[10].text_field = "";
    o[11].max_rows = 1;
    for (int64_t i = 0; i < PL_LEN(o); i++) {
        pl_hash a = key_of("x", &o[i], tok, VOCAB), again = key_of("x", &o[i], tok, VOCAB);
        assert_string_equal(a.hex, again.hex);
        for (int64_t k = 0; k < i; k++) assert_string_not_equal(a.hex, key_of("x", &o[k], tok, VOCAB).hex);
    }
    assert_string_not_equal(key_of("x", &base, tok, VOCAB).hex, key_of("y", &base, tok, VOCAB).hex);
    assert_string_not_equal(key_of("x", &base, tok, VOCAB).hex, key_of("x", &base, tok, VOCAB + 1).hex);
    pl_tokenizer_free(tok);
}

/* A new option that fits between others changes no size, so they are counted: the key and the test above have them all.
 */
static void test_all_options(void **state) {
    (void)state;
    char *text = NULL;
    size_t n = 0;
    int64_t fields = 0;
    pl_error err;
    const char *path = PLUMB_TEST_DIR "/../src/data/dataset.h";
    if (!pl_file_exists(path)) {
        print_message("skipped: no %s\n", path);
        skip();
    }
    assert_int_equal(pl_file_read(&text, &n, path, 1 << 20, &err), 0);
    const char *at = strstr(text, "typedef struct pl_data_options {"), *end = strstr(text, "} pl_data_options;");
    assert_true(at && end);
    for (bool comment = false; at < end; at++) {
        if (at[0] == '/' && at[1] == '*') comment = true;
        if (at[0] == '*' && at[1] == '/') comment = false;
        fields += !comment && *at == ';';
    }
    assert_int_equal(fields, 11);
    pl_free(text);
}

/* Every byte of tokenizer.json, and the roles that the other file gives. */
static void test_tokenizer_keys(void **state) {
    (void)state;
    static const char json[] =
        "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,"
        "\"decoder\":null,\"model\":{\"type\":\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2},"
        "\"merges\":[]}}";
    static const char *const configs[] = {"{\"eos_token\":\"b\"}", "{\"eos_token\":\"c\"}", "{\"bos_token\":\"b\"}",
                                          "{\"pad_token\":\"b\"}", "{\"unk_token\":\"b\"}", "{}"};
    const pl_data_options o = {0};
    pl_hash seen[sizeof json + PL_LEN(configs)];
    int64_t n = 0, changed = 0;
    char text[sizeof json];
    for (int64_t i = 0; i < (int64_t)sizeof json - 1 + PL_LEN(configs); i++) {
        bool role = i >= (int64_t)sizeof json - 1;
        const char *config = role ? configs[i - (int64_t)sizeof json + 1] : configs[0];
        pl_error err;
        pl_tokenizer *tok = NULL;
        memcpy(text, json, sizeof json);
        if (!role) text[i] = (char)(text[i] == '0' ? '3' : text[i] == ' ' ? '\t' : text[i] ^ 1);
        if (pl_tokenizer_parse(&tok, text, sizeof json - 1, config, strlen(config), &err)) continue;
        changed += !role;
        pl_hash key = key_of("x", &o, tok, VOCAB);
        for (int64_t k = 0; k < n; k++)
            if (strcmp(seen[k].hex, key.hex) == 0) fail_msg("input %d has the key of input %d", (int)i, (int)k);
        seen[n++] = key;
        pl_tokenizer_free(tok);
    }
    assert_true(changed >= 4); /* most other bytes make it no tokenizer at all */
    assert_int_equal(n, changed + PL_LEN(configs));
}

/* Through the files: one byte of the data makes a miss, the old content a hit again. */
static void test_data_bytes(void **state) {
    (void)state;
    char text[] = PAIR("ab", "c", "d");
    pl_data_options o = {.preference = true};
    place p = open_place(text, sizeof text - 1);
    const pl_data_cache cache = {p.dir, false};
    int64_t loaded = 0;
    pl_dataset_free(open_rows(&p, &o, false));
    for (size_t i = 0; i < sizeof text - 1; i++) {
        static log_text log;
        pl_error err;
        pl_dataset *d = NULL;
        text[i] = (char)(text[i] ^ 1);
        assert_int_equal(pl_file_write(p.data, text, sizeof text - 1, &err), 0);
        log_begin(&log);
        loaded += pl_dataset_open(&d, p.data, &o, p.tok, VOCAB, &cache, &err) == 0;
        log_end();
        assert_null(strstr(log.text, "tokenized rows: from"));
        pl_dataset_free(d);
        text[i] = (char)(text[i] ^ 1);
    }
    assert_true(loaded >= 4);
    close_place(&p);
}

/* --- damage */

static void expect_damaged(const char *bytes, size_t n, const pl_hash *key, int64_t vocab) {
    pl_error err = {0};
    pl_dataset *d = NULL;
    char *exact = malloc(n ? n : 1); /* of its exact size, so that ASan sees a read beyond it */
    assert_non_null(exact);
    if (n) memcpy(exact, bytes, n);
    int rc = pl_dataset_parse(&d, exact, n, key, vocab, &err);
    free(exact);
    assert_null(d);
    assert_int_equal(rc, PL_E_FORMAT);
}

static void written(char **bytes, size_t *n, const char *rows, const pl_data_options *o) {
    char file[128];
    pl_error err;
    place p = open_place(rows, strlen(rows));
    pl_dataset *d = NULL, *back = NULL;
    snprintf(file, sizeof file, "%s/f", p.dir);
    assert_int_equal(pl_dataset_load(&d, p.data, o, p.tok, VOCAB, &err), 0);
    assert_int_equal(pl_dataset_write(file, d, &some_key, &err), 0);
    assert_int_equal(pl_file_read(bytes, n, file, 1 << 20, &err), 0);
    assert_int_equal(pl_dataset_parse(&back, *bytes, *n, &some_key, VOCAB, &err), 0);
    check_equal(back, d);
    pl_dataset_free(back);
    pl_dataset_free(d);
    close_place(&p);
}

static void test_damage(void **state) {
    (void)state;
    char *bytes = NULL;
    size_t n = 0;
    written(&bytes, &n, pairs, &(pl_data_options){.preference = true});
    for (size_t i = 0; i < n; i++) expect_damaged(bytes, i, &some_key, VOCAB);
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] = (char)(bytes[i] ^ (1 << bit));
            expect_damaged(bytes, n, &some_key, VOCAB);
            bytes[i] = (char)(bytes[i] ^ (1 << bit));
        }
    pl_hash other = some_key;
    other.hex[31] = '0';
    expect_damaged(bytes, n, &other, VOCAB);
    expect_damaged(bytes, n, &some_key, 280); /* fewer ids than the rows have */
    pl_free(bytes);
}

/* The same with the checksum put right: no word of the header or of a row may lead out of the arrays. */
static void test_forged(void **state) {
    (void)state;
    static const int64_t words[] = {-1, 1, INT64_MAX, INT64_MIN, INT64_MAX / 64, 1 << 20};
    char *bytes = NULL;
    size_t n = 0, refused = 0, taken = 0;
    written(&bytes, &n, labelled, &(pl_data_options){.labelled = true});
    for (size_t at = 40; at + 8 <= n - 32; at += 8)
        for (int64_t k = 0; k < PL_LEN(words); k++) {
            char kept[8];
            pl_error err;
            pl_dataset *d = NULL;
            memcpy(kept, bytes + at, 8);
            memcpy(bytes + at, &words[k], 8);
            memcpy(bytes + n - 32, pl_hash_bytes(bytes, n - 32).hex, 32);
            int rc = pl_dataset_parse(&d, bytes, n, &some_key, VOCAB, &err);
            assert_true(rc == (d ? 0 : PL_E_FORMAT));
            if (d) {
                taken++;
                pl_dataset_log(d, "f");
            } else
                refused++;
            pl_dataset_free(d);
            memcpy(bytes + at, kept, 8);
        }
    assert_true(refused > 50 && taken > 50); /* counts of the report may be anything, for example */
    pl_free(bytes);
}

static void test_rebuilt(void **state) {
    (void)state;
    static log_text log;
    char file[512], *bytes = NULL, *again = NULL;
    size_t n = 0, m = 0;
    pl_error err;
    pl_data_options o = {.preference = true};
    place p = open_place(pairs, sizeof pairs - 1);
    pl_dataset *want = open_rows(&p, &o, false);
    find_rows(file, p.dir);
    assert_int_equal(pl_file_read(&bytes, &n, file, 1 << 20, &err), 0);
    for (int i = 0; i < 3; i++) {
        char *damaged = bytes;
        size_t cut = i == 0 ? 0 : i == 1 ? n / 2 : n;
        damaged[n - 40] = (char)(damaged[n - 40] ^ (i == 2));
        assert_int_equal(pl_file_write(file, damaged, cut, &err), 0);
        damaged[n - 40] = (char)(damaged[n - 40] ^ (i == 2));
        log_begin(&log);
        pl_dataset *d = open_rows(&p, &o, false);
        log_end();
        if (!strstr(log.text, "is damaged (") || strstr(log.text, "tokenized rows: from")) fail_msg("%s", log.text);
        check_equal(d, want);
        pl_dataset_free(d);
        assert_int_equal(pl_file_read(&again, &m, file, 1 << 20, &err), 0);
        assert_int_equal(m, n);
        assert_memory_equal(again, bytes, n);
        pl_free(again);
    }
    pl_free(bytes);
    pl_dataset_free(want);
    close_place(&p);
}

/* --- where nothing can be kept */

static void test_unwritable(void **state) {
    (void)state;
    static log_text log;
    pl_error err;
    pl_data_options o = {.preference = true};
    place p = open_place(pairs, sizeof pairs - 1);
    char under[128];
    snprintf(under, sizeof under, "%s/file", p.data); /* not even root can make a directory below a file */
    const pl_data_cache cache = {under, false};
    pl_dataset *d = NULL;
    log_begin(&log);
    assert_int_equal(pl_dataset_open(&d, p.data, &o, p.tok, VOCAB, &cache, &err), 0);
    log_end();
    const char *line = strstr(log.text, "the tokenized rows are not kept: ");
    assert_true(line && !strstr(line + 30, "not kept"));
    pl_dataset_free(d);
    d = NULL;
    const pl_data_cache none = {0};
    assert_int_equal(pl_dataset_open(&d, p.data, &o, p.tok, VOCAB, &none, &err), 0);
    pl_dataset_free(d);
    d = NULL;
    const pl_data_cache dir = {p.dir, false};
    assert_int_equal(pl_dataset_open(&d, "/nonexistent/rows.jsonl", &o, p.tok, VOCAB, &dir, &err), PL_E_IO);
    close_place(&p);
}

/* A pipe can be read once: it is loaded, and nothing is kept. */
static void test_pipe(void **state) {
    (void)state;
    int ends[2];
    char path[64], file[512];
    pl_error err;
    pl_dataset *d = NULL;
    pl_data_options o = {.preference = true};
    place p = open_place("", 0);
    const pl_data_cache cache = {p.dir, false};
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], pairs, sizeof pairs - 1), (ssize_t)sizeof pairs - 1);
    close(ends[1]);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    if (pl_dataset_open(&d, path, &o, p.tok, VOCAB, &cache, &err)) fail_msg("%s", err.text);
    assert_int_equal(d->n, 5);
    find_rows(file, p.dir);
    assert_int_equal(file[0], 0);
    pl_dataset_free(d);
    close(ends[0]);
    close_place(&p);
}

/* Each allocation of a miss and of a hit fails in turn. Failing to keep the rows is none. */
static void test_failing_allocations(void **state) {
    (void)state;
    pl_data_options o = {.preference = true};
    for (int hit = 0; hit < 2; hit++) {
        place p = open_place(pairs, sizeof pairs - 1);
        const pl_data_cache cache = {p.dir, false};
        pl_dataset *want = open_rows(&p, &o, false);
        char file[512];
        int rc = PL_E_NOMEM;
        int64_t k = 0, good = 0;
        for (; good < 8; k++) { /* a write that fails is a success too: a few in a row are the end */
            find_rows(file, p.dir);
            if (!hit && file[0]) unlink(file);
            pl_error err;
            pl_dataset *d = NULL;
            int64_t live = pl_test_live_bytes();
            pl_test_fail_alloc_at(k);
            rc = pl_dataset_open(&d, p.data, &o, p.tok, VOCAB, &cache, &err);
            pl_test_fail_alloc_at(-1);
            assert_true(rc == 0 || (rc == PL_E_NOMEM && !d));
            if (rc == 0) check_equal(d, want);
            good = rc == 0 ? good + 1 : 0;
            pl_dataset_free(d);
            assert_int_equal(pl_test_live_bytes(), live);
        }
        assert_true(k > 15);
        pl_dataset_free(want);
        close_place(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hit),
        cmocka_unit_test(test_fresh),
        cmocka_unit_test(test_option_keys),
        cmocka_unit_test(test_all_options),
        cmocka_unit_test(test_tokenizer_keys),
        cmocka_unit_test(test_data_bytes),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_forged),
        cmocka_unit_test(test_rebuilt),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
