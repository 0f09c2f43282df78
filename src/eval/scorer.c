/* scorer.c: opens what is scored, takes the memory, and runs passes over the rows. */
#include "eval/scorer.h"

#include <stdio.h>
#include <string.h>

#include "base/cache.h"
#include "data/cache.h"
#include "plumb/log.h"

/* --- opening */

static int check_options(const pl_score_options *o, pl_error *err) {
    const char *bad = NULL;
    if (!o->model_name_or_path) bad = "model_name_or_path";
    if (!o->dataset_name) bad = "dataset_name";
    if (o->micro_batch_tokens < 1) bad = "micro_batch_tokens";
    if (o->seam < PL_SEAM_CONTINUE || o->seam > PL_SEAM_REFUSE) bad = "seam";
    return bad ? PL_FAIL(err, PL_E_OPTION, "%s is missing or out of its range", bad) : 0;
}

/* Absent and 0 both mean "no limit" to the data layer. */
static int64_t limit_of(int64_t option) { return option == PL_OPT_NO_I64 ? 0 : option; }

static int check_positions(const pl_scorer *s, const pl_arch *a, const char *what, pl_error *err) {
    const pl_dataset *d = s->data;
    if (a->rope.kind == PL_ROPE_DYNAMIC || d->longest_row <= a->max_position) return 0;
    return PL_FAIL(err, PL_E_RANGE,
                   "the longest row has %" PRId64 " tokens, %s has %" PRId64
                   " positions: set max_length to that or less (the start of a row is kept)",
                   d->longest_row, what, a->max_position);
}

static int open_data(pl_scorer *s, const pl_score_options *o, pl_error *err) {
    pl_data_options options = {.preference = true,
                               .seam = (pl_seam)o->seam,
                               .max_length = limit_of(o->max_length),
                               .max_prompt_length = limit_of(o->max_prompt_length),
                               .drop_empty = o->drop_empty,
                               .max_rows = limit_of(o->max_rows)};
    const char *split = o->dataset_test_split ? o->dataset_test_split : "test";
    char *path = NULL, *dir = NULL;
    int rc;
    PL_GO(rc, pl_dataset_resolve(&path, o->dataset_name, split, err));
    PL_GO(rc, pl_cache_dir(&dir, o->cache_dir, err));
    const pl_data_cache cache = {dir, o->overwrite_cache};
    PL_GO(rc, pl_dataset_open(&s->data, path, &options, s->policy.tokenizer, s->policy.model.arch.V, &cache, err));
    pl_dataset_log(s->data, path);
    PL_GO(rc, check_positions(s, &s->policy.model.arch, "the model", err));
    PL_GO(rc, PL_NEW(&s->rows, s->data->n, err));
    for (int64_t i = 0; i < s->data->n; i++) s->rows[i] = i;
out:
    pl_free(dir);
    pl_free(path);
    return rc;
}

/* A reference that reads the ids as other tokens measures nothing. */
static int check_same_ids(const pl_scorer *s, pl_error *err) {
    const pl_tokenizer *a = s->policy.tokenizer, *b = s->other.tokenizer;
    int64_t V = s->policy.model.arch.V, W = s->other.model.arch.V;
    if (V != W) return PL_FAIL(err, PL_E_MISMATCH, "the reference has %" PRId64 " ids, the model has %" PRId64, W, V);
    for (int64_t id = 0; b && id < PL_MAX(pl_tokenizer_vocab_size(a), pl_tokenizer_vocab_size(b)); id++) {
        size_t n = 0, m = 0;
        const char *x = pl_tokenizer_token(a, (int32_t)id, &n), *y = pl_tokenizer_token(b, (int32_t)id, &m);
        if (x && y && (n != m || memcmp(x, y, n) != 0))
            return PL_FAIL(err, PL_E_MISMATCH, "id %" PRId64 " is \"%s\" to the model and \"%s\" to the reference", id,
                           x, y);
    }
    return 0;
}

static int open_reference(pl_scorer *s, const pl_score_options *o, const pl_eval_options *e, pl_error *err) {
    if (e->no_reference && e->ref_model)
        return PL_FAIL(err, PL_E_OPTION, "no_reference and ref_model contradict each other");
    snprintf(s->words, sizeof s->words, "none: log-probs are compared, not rewards");
    s->beta = e->loss.beta;
    if (e->ref_model) {
        int rc = pl_session_open(&s->other, e->ref_model, NULL, false, s->backend.ops, err);
        if (rc == 0) rc = check_same_ids(s, err);
        if (rc == 0) rc = check_positions(s, &s->other.model.arch, "the reference", err);
        if (rc) return pl_error_context(err, rc, "reference %s", e->ref_model);
        s->reference = PL_SCORE_REF_MODEL;
        snprintf(s->words, sizeof s->words, "the model in %s", e->ref_model);
    } else if (o->adapter && !e->no_reference) {
        s->reference = PL_SCORE_ADAPTER_OFF;
        snprintf(s->words, sizeof s->words, "the base model in %s, with the adapter off", o->model_name_or_path);
    }
    return 0;
}

/* --- memory */

static int take_worker(pl_scorer *s, pl_worker *k, const pl_session *model, const pl_lora *lora, pl_arena *arena,
                       pl_error *err) {
    pl_worker_spec spec = {.caps = pl_forest_caps_of(s->data, s->budget_tok, 0),
                           .budget_tok = s->budget_tok,
                           .pass_tok = s->budget_tok,
                           .max_rank = lora ? lora->max_r : 0};
    return pl_worker_take(k, &model->model.arch, &s->backend, &spec, arena, err);
}

static int measure(size_t *bytes, pl_scorer *s, const pl_session *model, pl_error *err) {
    pl_arena plan;
    pl_worker k;
    pl_arena_init_measuring(&plan, "scoring");
    int rc = take_worker(s, &k, model, pl_session_lora(model), &plan, err);
    if (rc == 0) *bytes = PL_MAX(*bytes, plan.peak);
    return rc;
}

/* Policy and reference run one after the other, in the same arena. */
static int plan(pl_scorer *s, pl_error *err) {
    size_t bytes = 0;
    int rc = measure(&bytes, s, &s->policy, err);
    if (rc == 0 && s->reference == PL_SCORE_REF_MODEL) rc = measure(&bytes, s, &s->other, err);
    if (rc) return rc;
    double need = (double)bytes, weights = (double)pl_model_bytes(&s->policy.model);
    double available = (double)pl_machine_free_bytes();
    if (s->reference == PL_SCORE_REF_MODEL) weights += (double)pl_model_bytes(&s->other.model);
    if (need + weights > available)
        return PL_FAIL(
            err, PL_E_NOMEM,
            "scoring needs %.1f MiB and the weights %.1f MiB; %.1f MiB are free (lower micro_batch_tokens or "
            "max_length: the longest row takes %" PRId64 " tokens)",
            need / 0x1p20, weights / 0x1p20, available / 0x1p20, s->data->longest_tree);
    return pl_arena_init(&s->arena, "scoring", bytes, err);
}

int pl_scorer_open(pl_scorer **out, pl_machine *machine, const pl_score_options *o, const pl_eval_options *e,
                   pl_error *err) {
    pl_scorer *s = NULL;
    int rc;
    PL_GO(rc, check_options(o, err));
    PL_GO(rc, PL_NEW(&s, 1, err));
    s->backend = pl_machine_backend(machine, o->bf16);
    s->budget_tok = o->micro_batch_tokens;
    PL_GO(rc, pl_session_open(&s->policy, o->model_name_or_path, o->adapter, true, s->backend.ops, err));
    PL_GO(rc, open_data(s, o, err));
    if (e) PL_GO(rc, open_reference(s, o, e, err));
    PL_GO(rc, plan(s, err));
    *out = s;
    s = NULL;
out:
    pl_scorer_free(s);
    return rc;
}

void pl_scorer_free(pl_scorer *s) {
    if (!s) return;
    pl_arena_release(&s->arena);
    pl_free(s->rows);
    pl_dataset_free(s->data);
    pl_session_close(&s->other);
    pl_session_close(&s->policy);
    pl_free(s);
}

int64_t pl_scorer_rows(const pl_scorer *s) { return s->data->n; }

const char *pl_scorer_reference(const pl_scorer *s) { return s->words; }

/* --- passes */

/* Adds to the batch's error where its numbers stop being finite. */
static int locate(pl_worker *k, const pl_weights *w, const pl_lora *lora, pl_error *err) {
    char what[256], where[PL_LOCATION_BYTES];
    snprintf(what, sizeof what, "%.255s", err ? err->text : "");
    int rc = pl_worker_locate_nonfinite(where, k, w, lora, err);
    return rc ? rc : PL_FAIL(err, PL_E_NUMERIC, "%s; %s", what, where);
}

int pl_scorer_pass(pl_scorer *s, const pl_session *model, const pl_lora *lora, pl_score_batch *batch, void *user,
                   const pl_score_hooks *hooks, int64_t pass, int64_t passes, pl_error *err) {
    const pl_weights *w = &model->model.stored;
    const pl_dataset *d = s->data;
    pl_worker k;
    int rc;
    pl_arena_rewind(&s->arena, 0);
    PL_GO(rc, take_worker(s, &k, model, lora, &s->arena, err));
    PL_GO(rc, pl_worker_prepare(&k, w, lora, NULL, err));
    for (int64_t at = 0; at < d->n;) {
        int64_t n = pl_forest_cut(d, s->rows + at, d->n - at, s->budget_tok, 0);
        PL_GO(rc, pl_model_check(&model->model, err));
        rc = pl_worker_forward(&k, w, lora, d, s->rows + at, n, 0, false, PL_FOR_SCORES, err);
        if (rc) return pl_error_context(err, rc, "row %" PRId64, d->rows[at].source);
        rc = batch(user, &k, at, n, err);
        if (rc == PL_E_NUMERIC) rc = locate(&k, w, lora, err);
        if (rc) return rc;
        at += n;
        if (hooks && hooks->progress) hooks->progress(hooks->user, (pass * d->n + at) / passes, d->n);
        if (hooks && hooks->stop && hooks->stop(hooks->user))
            return PL_FAIL(err, PL_E_INTERRUPTED, "stopped after %" PRId64 " rows", at);
    }
out:
    return rc;
}
