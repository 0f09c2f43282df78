/* print.c: a completion as a JSON line. */
#include "gen/json_lists.h"
#include "plumb/generate.h"

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
        PL_GO(rc, pl_buf_json_ids(b, "prompt_ids", c->prompt_ids, c->prompt_tokens, err));
        PL_GO(rc, pl_buf_json_ids(b, "ids", c->ids, c->tokens, err));
        PL_GO(rc, pl_buf_json_floats(b, "logps", c->logps, c->tokens, err));
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
