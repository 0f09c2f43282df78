/* verifier_rows.c: what plumb verifier trains on when it is given problems: labelled rows that are made of them. */
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/gsm8k.h"
#include "plumb/log.h"
#include "train/run.h"

static const char *const names[2] = {"train_rows.jsonl", "eval_rows.jsonl"};

static void log_made(const char *path, const pl_gsm8k_report *m) {
    pl_log(PL_LOG_INFO,
           "%s: %" PRId64 " GSM8K problems: %" PRId64 " given solutions, %" PRId64 " of another problem, %" PRId64
           " with perturbed numbers, %" PRId64 " right and %" PRId64 " wrong ones of models",
           path, m->problems, m->right, m->foreign, m->perturbed, m->solutions_right, m->solutions_wrong);
}

int pl_run_gsm8k(pl_dataset **out, pl_run *r, bool eval, bool *is, const char *path, const pl_data_options *o,
                 pl_error *err) {
    const pl_config *c = r->c;
    pl_buf *made = &r->made[eval];
    pl_gsm8k_options options = {.wrong = c->wrong_answers,
                                .solutions = eval ? NULL : c->gsm8k_solutions,
                                .seed = pl_rng_mix((uint64_t)c->seed, eval)};
    pl_gsm8k_report report;
    int rc = pl_gsm8k_rows(made, &report, is, path, &options, err);
    if (rc) return rc;
    if (!*is)
        return c->gsm8k_solutions && !eval
                   ? PL_FAIL(err, PL_E_OPTION, "gsm8k_solutions goes with GSM8K problems, which %s does not hold", path)
                   : 0;
    if (c->eval_split > 0)
        return PL_FAIL(err, PL_E_OPTION,
                       "eval_split would put answers to one problem on both sides: give other problems as eval_data");
    log_made(path, &report);
    return pl_dataset_load_text(out, names[eval], made->data, made->len, o, r->tokenizer, r->model.arch.V, err);
}

int pl_run_write_made(const pl_run *r, pl_error *err) {
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        char *path = NULL;
        if (r->made[i].len == 0) continue;
        rc = pl_path_join(&path, r->c->output_dir, names[i], err);
        if (rc == 0) rc = pl_file_write(path, r->made[i].data, r->made[i].len, err);
        pl_free(path);
    }
    return rc;
}
