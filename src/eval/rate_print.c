/* rate_print.c: what a file of answers scored, for programs and for people. */
#include <math.h>

#include "eval/quality.h"

static int add_number(pl_buf *b, const char *key, double x, pl_error *err) {
    int rc = pl_buf_printf(b, err, ",\"%s\":", key);
    if (rc) return rc;
    return isfinite(x) ? pl_buf_json_double(b, x, err) : pl_buf_puts(b, "null", err);
}

static int add_json(pl_buf *b, const pl_rate_result *r, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "{\"rows\":%" PRId64 ",\"answers\":%" PRId64 ",\"unscored\":%" PRId64, r->rows,
                            r->answers, r->unscored));
    PL_GO(rc, add_number(b, "score/mean", r->mean, err));
    PL_GO(rc, add_number(b, "score/min", r->least, err));
    PL_GO(rc, add_number(b, "score/max", r->most, err));
    if (r->has_best) {
        PL_GO(rc, pl_buf_printf(b, err, ",\"best_of\":{\"prompts\":%" PRId64 ",\"labelled\":%" PRId64, r->best.prompts,
                                r->best.labelled));
        PL_GO(rc, add_number(b, "answers", r->best.answers, err));
        PL_GO(rc, add_number(b, "accuracy/best", r->best.best, err));
        PL_GO(rc, add_number(b, "accuracy/random", r->best.random, err));
        PL_GO(rc, add_number(b, "accuracy/any", r->best.any, err));
        PL_GO(rc, pl_buf_puts(b, "}", err));
    }
    if (r->has_quality) {
        PL_GO(rc, pl_buf_puts(b, ",\"quality\":", err));
        PL_GO(rc, pl_quality_json(b, &r->quality, err));
    }
    rc = pl_buf_puts(b, "}\n", err);
out:
    return rc;
}

int pl_rate_print_json(FILE *f, const pl_rate_result *r, pl_error *err) {
    pl_buf b = {0};
    int rc = add_json(&b, r, err);
    if (rc == 0 && fwrite(b.data, 1, b.len, f) != b.len) rc = PL_FAIL(err, PL_E_IO, "cannot write the result");
    pl_buf_release(&b);
    return rc;
}

int pl_rate_print_text(FILE *f, const pl_rate_result *r, pl_error *err) {
    const pl_best_result *b = &r->best;
    int n = fprintf(f, "%lld answers scored, mean %.4f, from %.4f to %.4f\n", (long long)(r->answers - r->unscored),
                    r->mean, r->least, r->most);
    if (n >= 0 && r->has_best)
        n = fprintf(f, "best of %.3g answers to each of %lld prompts", b->answers, (long long)b->prompts);
    if (n >= 0 && r->has_best && b->labelled)
        n = fprintf(f, ": right in %.4f; one at random %.4f, any of them %.4f (%lld prompts with labels)", b->best,
                    b->random, b->any, (long long)b->labelled);
    if (n >= 0 && r->has_best) n = fprintf(f, "\n");
    if (n < 0) return PL_FAIL(err, PL_E_IO, "cannot write the result");
    return r->has_quality ? pl_quality_print_text(f, &r->quality, err) : 0;
}
