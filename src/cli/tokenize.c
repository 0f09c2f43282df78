/* tokenize.c: plumb tokenize: texts to token ids and back, one JSON line each. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "plumb/jsonl.h"
#include "plumb/tokenizer.h"

typedef struct tokenize_options {
    const char *model, *text, *data;
    pl_strlist ids;
    bool add_special_tokens, decode, skip_special_tokens;
} tokenize_options;

#define AT(field) .offset = offsetof(tokenize_options, field)
static const pl_option rows[] = {
    {.name = "model_name_or_path",
     .type = PL_OPT_STR,
     AT(model),
     .flags = PL_OPT_REQUIRED,
     .group = "Tokenizer",
     .metavar = "DIR",
     .help = "directory with a tokenizer.json"},
    {.name = "model", .type = PL_OPT_ALIAS, .target = "model_name_or_path"},
    {.name = "text", .type = PL_OPT_STR, AT(text), .group = "Input", .help = "a text to encode"},
    {.name = "dataset_name",
     .type = PL_OPT_STR,
     AT(data),
     .metavar = "FILE",
     .help = "JSON lines (plain or .gz) with \"text\", or with \"ids\" to decode"},
    {.name = "data", .type = PL_OPT_ALIAS, .target = "dataset_name"},
    {.name = "add_special_tokens",
     .type = PL_OPT_BOOL,
     AT(add_special_tokens),
     .fallback = "true",
     .help = "with what the post-processor puts around a text"},
    {.name = "decode", .type = PL_OPT_BOOL, AT(decode), .fallback = "false", .help = "token ids to text"},
    {.name = "ids", .type = PL_OPT_STRLIST, AT(ids), .metavar = "N [N ...]", .help = "token ids to decode"},
    {.name = "skip_special_tokens",
     .type = PL_OPT_BOOL,
     AT(skip_special_tokens),
     .fallback = "false",
     .help = "decode without special tokens"},
    {0}};
static const pl_option *const tables[] = {rows, cli_output_rows, cli_config_rows, cli_log_rows, NULL};

static int print_line(FILE *f, const char *name, const pl_ids *ids, const pl_text *text, pl_error *err) {
    fprintf(f, "{\"%s\":", name);
    int rc = ids ? pl_json_print_ids(f, ids->ids, ids->n, err)
                 : pl_json_print_string(f, text->data ? text->data : "", text->len, err);
    fputs("}\n", f);
    return rc;
}

static int encode_one(const pl_tokenizer *t, const char *text, size_t len, const tokenize_options *o, FILE *f,
                      pl_error *err) {
    pl_ids ids = {0};
    int rc = pl_tokenizer_encode(t, text, len, o->add_special_tokens ? PL_ENCODE_SPECIAL : PL_ENCODE_PLAIN, &ids, err);
    if (rc == 0) rc = print_line(f, "ids", &ids, NULL, err);
    pl_ids_release(&ids);
    return rc;
}

static int decode_one(const pl_tokenizer *t, const int32_t *ids, int64_t n, const tokenize_options *o, FILE *f,
                      pl_error *err) {
    pl_text text = {0};
    int rc = pl_tokenizer_decode(t, ids, n, o->skip_special_tokens, &text, err);
    if (rc == 0) rc = print_line(f, "text", NULL, &text, err);
    pl_text_release(&text);
    return rc;
}

/* --ids 1 2 3, or --ids "1 2 3", or --ids 1,2,3 */
static int decode_arguments(const pl_tokenizer *t, const tokenize_options *o, FILE *f, pl_error *err) {
    size_t room = 1;
    for (int64_t i = 0; i < o->ids.n; i++) room += strlen(o->ids.items[i]) / 2 + 1;
    int32_t *ids = calloc(room, sizeof *ids);
    int64_t n = 0;
    int rc = ids ? 0 : PL_FAIL(err, PL_E_NOMEM, "--ids");
    for (int64_t i = 0; rc == 0 && i < o->ids.n; i++) {
        const char *s = o->ids.items[i];
        while (rc == 0 && *(s += strspn(s, " ,[]\n\t"))) {
            char *end;
            errno = 0;
            long id = strtol(s, &end, 10);
            if (end == s || !strchr(" ,]\n\t", *end) || errno || id < 0 || id > INT32_MAX)
                rc = PL_FAIL(err, PL_E_OPTION, "--ids: `%.40s` is no token id", s);
            else
                ids[n++] = (int32_t)id;
            s = end;
        }
    }
    if (rc == 0) rc = decode_one(t, ids, n, o, f, err);
    free(ids);
    return rc;
}

static int each_row(const pl_tokenizer *t, const tokenize_options *o, FILE *f, pl_error *err) {
    pl_jsonl *j = NULL;
    int rc = pl_jsonl_open(&j, o->data, err);
    for (int64_t row = 0; rc == 0; row++) {
        const char *text = NULL;
        const int32_t *ids = NULL;
        size_t len = 0;
        int64_t n = 0;
        if (o->decode)
            rc = pl_jsonl_next_ids(j, "ids", &ids, &n, err);
        else
            rc = pl_jsonl_next_text(j, "text", &text, &len, err);
        if (rc || (!text && !ids)) break;
        rc = o->decode ? decode_one(t, ids, n, o, f, err) : encode_one(t, text, len, o, f, err);
        if (rc) pl_error_context(err, rc, "%s: row %lld", o->data, (long long)row);
    }
    pl_jsonl_free(j);
    return rc;
}

static int check(const tokenize_options *o, pl_error *err) {
    int inputs = (o->text != NULL) + (o->data != NULL) + (o->ids.n > 0);
    if (o->text && o->decode) return PL_FAIL(err, PL_E_OPTION, "--decode takes --ids or --data, --text is to encode");
    if (o->ids.n && !o->decode) return PL_FAIL(err, PL_E_OPTION, "--ids is for --decode");
    if (inputs != 1) return PL_FAIL(err, PL_E_OPTION, "give one of --text, --data%s", o->decode ? " and --ids" : "");
    return 0;
}

static int tokenize(const tokenize_options *t, const cli_common *common, pl_error *err) {
    pl_tokenizer *tok = NULL;
    cli_output out = {0};
    int rc = pl_tokenizer_open(&tok, t->model, err);
    if (rc == 0) rc = cli_output_open(&out, common->output_file, err);
    if (rc == 0) {
        if (t->data)
            rc = each_row(tok, t, out.f, err);
        else if (t->text)
            rc = encode_one(tok, t->text, strlen(t->text), t, out.f, err);
        else
            rc = decode_arguments(tok, t, out.f, err);
        rc = cli_output_close(&out, rc, err);
    }
    pl_tokenizer_free(tok);
    return rc;
}

static int run(cli_ui *ui, int argc, const char *const *argv, pl_error *err) {
    tokenize_options t = {0};
    cli_common common = {0};
    void *bases[] = {&t, &common, &common, &common};
    pl_options *o = NULL;
    bool done = false;
    int rc = cli_parse(&o, ui, &cli_tokenize.desc, bases, &common, argc, argv, &done, err);
    if (rc == 0 && !done) rc = check(&t, err);
    if (rc == 0 && !done) rc = tokenize(&t, &common, err);
    pl_options_free(o);
    return rc;
}

const cli_command cli_tokenize = {
    .desc = {.name = "tokenize",
             .summary = "Print the token ids of texts, or the text of token ids",
             .description = "One JSON line per text, as Hugging Face tokenizers would encode it.",
             .tables = tables},
    .run = run};
