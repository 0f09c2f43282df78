/* print.c: a completion as a JSON line. */
#include "base/buf.h"
#include "plumb/generate.h"

static int add_ids(pl_buf *b, const char *key, const int32_t *ids, int64_t n, pl_error *err) {
    int rc = pl_buf_printf(b, err, ",\"%s\":[", key);
    for (int64_t i = 0; rc == 0 && i < n; i++) rc = pl_buf_printf(b, err, "%s%d", i ? "," : "", ids[i]);
    return rc ? rc : pl_buf_puts(b, "]", err);
}

static int add_logps(pl_buf *b, const float *logps, int64_t n, pl_error *err) {
    int rc = pl_buf_puts(b, ",\"logps\":[", err);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        if (i) rc = pl_buf_puts(b, ",", err);
        if (rc == 0) rc = pl_buf_json_double(b, (double)logps[i], err);
    }
    return rc ? rc : pl_buf_puts(b, "]", err);
}

static int add_completion(pl_buf *b, const pl_completion *c, bool ids, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "{\"row\":%" PRId64 ",\"sample\":%" PRId64, c->row, c->sample));
    if (c->prompt_text) {
        PL_GO(rc, pl_buf_puts(b, ",\"prompt\":", err));
        PL_GO(rc, pl_buf_json_string(b, c->prompt_text, c->prompt_len, err));
    }
    PL_GO(rc, pl_buf_puts(b, ",\"completion\":", err));
    PL_GO(rc, pl_buf_json_string(b, c->text, c->text_len, err));
    PL_GO(rc, pl_buf_printf(b, err, ",\"tokens\":%" PRId64 ",\"finish\":\"%s\"", c->tokens, pl_finish_name(c->finish)));
    if (ids) {
        PL_GO(rc, add_ids(b, "prompt_ids", c->prompt_ids, c->prompt_tokens, err));
        PL_GO(rc, add_ids(b, "ids", c->ids, c->tokens, err));
        PL_GO(rc, add_logps(b, c->logps, c->tokens, err));
    }
    PL_GO(rc, pl_buf_puts(b, "}\n", err));
out:
    return rc;
}

int pl_completion_print(FILE *f, const pl_completion *c, bool ids, pl_error *err) {
    pl_buf b = {0};
    int rc = add_completion(&b, c, ids, err);
    if (rc == 0 && fwrite(b.data, 1, b.len, f) != b.len) rc = PL_FAIL(err, PL_E_IO, "cannot write a completion");
    pl_buf_release(&b);
    return rc;
}
