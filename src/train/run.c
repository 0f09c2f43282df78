/* run.c: the training loop: steps, evaluations, checkpoints, the end. */
#include "train/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/rng.h"
#include "plumb/log.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void emit(const pl_run *r, const pl_train_event *e) {
    if (r->hooks && r->hooks->event) r->hooks->event(r->hooks->user, e);
}

static bool asked_to_stop(const pl_run *r) { return r->hooks && r->hooks->stop && r->hooks->stop(r->hooks->user); }

/* --- reference
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static int reference_progress(void *user, int64_t done, int64_t total) {
    const pl_run *r = user;
    pl_train_event e = {.kind = PL_TRAIN_REFERENCE, .done = done, .total = total};
    emit(r, &e);
    return asked_to_stop(r);
}

/* Log-probs of d, whose mismatched answers (if it has any) are those of `epoch`. */
static int score_once(double **out, bool *hit, pl_run *r, const pl_dataset *d, const char *dir, int64_t epoch,
                      pl_error *err) {
    pl_hash key = r->state.reference;
    int rc = r->mismatched ? pl_mismatch_key(&key, &r->state.reference, &r->mismatch, epoch, err) : 0;
    return rc ? rc : pl_reference_scores(out, hit, &r->reference, d, dir, &key, reference_progress, r, err);
}

/* A new pairing in each epoch means a pass for each epoch. */
static int score_epochs(pl_run *r, bool *hit, const char *dir, pl_error *err) {
    const pl_schedule *s = &r->schedule;
    bool each = r->mismatched && r->mismatch.pairing == PL_PAIRING_RANDOM;
    r->ncached = each ? (s->steps + s->steps_per_epoch - 1) / s->steps_per_epoch : 1;
    int rc = PL_NEW(&r->cached, r->ncached, err);
    *hit = true;
    for (int64_t e = 0; rc == 0 && e < r->ncached; e++) {
        bool there = false;
        rc = pl_run_pair_epoch(r, e, err);
        if (rc == 0) rc = score_once(&r->cached[e], &there, r, r->train, dir, e, err);
        *hit = *hit && there;
    }
    return rc;
}

static int precompute(pl_run *r, pl_error *err) {
    const char *dir = r->cache_dir;
    bool hit = false, hit_eval = true;
    int rc;
    if (r->reference.kind == PL_REF_NONE || !r->c->precompute_ref_log_probs) return 0;
    if (r->mismatched && r->mismatch.pairing == PL_PAIRING_RANDOM)
        pl_log(PL_LOG_INFO, "reference log-probs: a pass for each epoch, because its mismatched answers are new ones "
                            "(kl_pairing fixed: one pass)");
    PL_GO(rc, score_epochs(r, &hit, dir, err));
    if (r->eval) PL_GO(rc, score_once(&r->cached_eval, &hit_eval, r, r->eval, dir, 0, err));
    pl_log(PL_LOG_INFO,
           hit && hit_eval ? "reference log-probs: from %s" : "reference log-probs: computed and kept in %s", dir);
out:
    return rc;
}

/* --- one step
 * -------------------------------------------------------------------------------------------------------------------------------
 */

#define NOISE_STREAM 0x6e6f697365u /* no module's number, which keys of dropout are mixed with */

/* Masks and noise depend on the run's seed and the step alone (DECISIONS 4). */
static void key_random(pl_run *r, int64_t step) {
    uint64_t key = pl_rng_mix((uint64_t)r->c->seed, (uint64_t)step);
    double alpha = r->c->neftune_noise_alpha;
    r->policy.lora.dropout_key = key;
    r->worker.decoder.noise = (pl_noise){.alpha = alpha > 0 ? alpha : 0, .key = pl_rng_mix(key, NOISE_STREAM)};
}

static int check_step0(const pl_run *r, const pl_totals *t, pl_error *err) {
    if (!pl_reference_is_initial(&r->reference)) return 0;
    if (r->policy.lora.dropout > 0) {
        pl_log(PL_LOG_INFO, "step 0: policy and reference are not compared, because dropout is on");
        return 0;
    }
    if (t->step0 <= 0) return 0;
    return PL_FAIL(err, PL_E_MISMATCH,
                   "before the first step policy and reference must agree, but a sequence's log-prob differs by "
                   "%.3g more than rounding explains: the reference is not the initial policy",
                   t->step0);
}

/* TR-DPO (arXiv:2404.09656): soft updates every ref_model_sync_steps. */
static void move_reference(pl_run *r) {
    if (r->reference.kind == PL_REF_MOVING && r->state.step % r->c->ref_model_sync_steps == 0)
        pl_trainable_blend(&r->reference.moving, &r->policy, r->c->ref_model_mixup_alpha);
}

static int optimizer_step(pl_run *r, pl_totals *t, double *norm, double *rate, pl_error *err) {
    const int64_t *rows = NULL;
    int64_t n = 0;
    pl_units units;
    const double *cached = NULL;
    int64_t epoch = r->state.step / r->schedule.steps_per_epoch;
    int rc;
    PL_GO(rc, pl_model_check(&r->model, err));
    PL_GO(rc, pl_model_check(&r->reference.model, err));
    PL_GO(rc, pl_schedule_rows(&r->schedule, r->state.step, &rows, &n, err));
    PL_GO(rc, pl_run_pair_epoch(r, epoch, err));
    if (r->cached) cached = r->cached[PL_MIN(epoch, r->ncached - 1)];
    key_random(r, r->state.step);
    pl_trainable_begin_grads(&r->policy);
    units = pl_batcher_units(&r->batcher, r->train, rows, n);
    PL_GO(rc, pl_batcher_run(&r->batcher, t, r->train, cached, rows, n, true, units, err));
    if (r->state.step == 0) PL_GO(rc, check_step0(r, t, err));
    PL_GO(rc, pl_batcher_norm(norm, &r->batcher, r->train, cached, rows, n, units, err));
    *rate = pl_schedule_rate(&r->schedule, r->state.step);
    pl_optimizer_step(&r->optimizer, &r->policy, *norm, *rate, r->backend.ops);
    r->state.step++;
    r->state.num_tokens += t->tokens;
    move_reference(r);
out:
    return rc ? pl_error_context(err, rc, "step %" PRId64, r->state.step + 1) : 0;
}

static void step_values(pl_values *v, const pl_run *r, const pl_totals *t, double norm, double rate) {
    v->n = 0;
    pl_values_add(v, "", "loss", pl_totals_loss(t));
    pl_values_add(v, "", "grad_norm", norm);
    pl_values_add(v, "", "learning_rate", rate);
    pl_totals_values(v, t, r->batcher.mix.term[0], "", r->state.num_tokens);
}

/* Sums over the steps of a window, for the terminal: TRL's means of per-step values; the last value of what does not
 * average. */
typedef struct window {
    pl_values sum;
    int64_t steps;
} window;

static bool takes_last(const char *name) {
    return strcmp(name, "grad_norm") == 0 || strcmp(name, "learning_rate") == 0 || strcmp(name, "num_tokens") == 0;
}

static void window_add(window *w, const pl_values *v) {
    if (w->steps++ == 0) w->sum.n = 0;
    for (int64_t i = 0; i < v->n; i++) {
        if (w->steps == 1) pl_values_add(&w->sum, "", v->v[i].name, 0);
        w->sum.v[i].value = takes_last(v->v[i].name) ? v->v[i].value : w->sum.v[i].value + v->v[i].value;
    }
}

static void window_emit(window *w, const pl_run *r, double epoch) {
    for (int64_t i = 0; i < w->sum.n; i++)
        if (!takes_last(w->sum.v[i].name)) w->sum.v[i].value /= (double)w->steps;
    pl_train_event e = {.kind = PL_TRAIN_LOG,
                        .done = r->state.step,
                        .total = r->schedule.steps,
                        .epoch = epoch,
                        .values = w->sum.v,
                        .nvalues = w->sum.n};
    emit(r, &e);
    w->steps = 0;
}

/* --- evaluation
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static int evaluate(pl_run *r, double epoch, double *best, pl_error *err) {
    pl_values v = {0}, times = {0};
    pl_totals t = {0};
    double start = now();
    real dropout = r->policy.lora.dropout;
    r->policy.lora.dropout = 0;
    r->worker.decoder.noise.alpha = 0; /* each step sets it */
    int rc = 0;
    pl_units units = pl_batcher_units(&r->batcher, r->eval, r->in_order, r->eval->n);
    r->batcher.kept = r->scores;
    rc = pl_batcher_run(&r->batcher, &t, r->eval, r->cached_eval, r->in_order, r->eval->n, false, units, err);
    r->batcher.kept = NULL;
    r->policy.lora.dropout = dropout;
    if (rc) return pl_error_context(err, rc, "evaluation after step %" PRId64, r->state.step);
    double seconds = now() - start;
    pl_values_add(&v, "eval_", "loss", pl_totals_loss(&t));
    pl_totals_values(&v, &t, r->batcher.mix.term[0], "eval_", r->state.num_tokens);
    if (r->scores) rc = pl_run_report(r, &v, err);
    if (rc) return rc;
    pl_values_add(&times, "eval_", "runtime", seconds);
    pl_values_add(&times, "eval_", "samples_per_second", (double)t.rows / seconds);
    pl_values_add(&times, "eval_", "tokens_per_second", (double)t.tokens / seconds);
    pl_train_event e = {.kind = PL_TRAIN_EVAL,
                        .done = r->state.step,
                        .total = r->schedule.steps,
                        .epoch = epoch,
                        .values = v.v,
                        .nvalues = v.n};
    emit(r, &e);
    *best = NAN;
    const char *metric = r->c->metric_for_best_model ? r->c->metric_for_best_model : "loss";
    if (strncmp(metric, "eval_", 5) == 0) metric += 5;
    for (int64_t i = 0; i < v.n; i++)
        if (strcmp(v.v[i].name + 5, metric) == 0) *best = v.v[i].value;
    if (isnan(*best)) return PL_FAIL(err, PL_E_OPTION, "metric_for_best_model: the evaluation has no %s", metric);
    return pl_record_write(&r->record, r->state.step, epoch, &v, &times, err);
}

static bool better(const pl_run *r, double value) {
    const char *metric = r->c->metric_for_best_model ? r->c->metric_for_best_model : "loss";
    size_t n = strlen(metric);
    bool greater =
        r->c->greater_is_better >= 0 ? r->c->greater_is_better : n < 4 || strcmp(metric + n - 4, "loss") != 0;
    if (r->state.best_step == 0) return true;
    return greater ? value > r->state.best_value : value < r->state.best_value;
}

/* --- saving
 * ------------------------------------------------------------------------------------------------------------------------------------
 */

static int save(pl_run *r, pl_error *err) {
    r->state.metrics_bytes = r->record.bytes;
    int rc = pl_record_sync(&r->record, err);
    if (rc == 0) rc = pl_checkpoint_save(&r->saver, &r->state, &r->policy, &r->optimizer, err);
    if (rc == 0) pl_log(PL_LOG_INFO, "saved %s-%s_step%" PRId64, r->run_name, r->command, r->state.step);
    return rc;
}

static int finish(pl_run *r, pl_error *err) {
    char *path = NULL;
    int rc = 0;
    if (r->c->load_best_model_at_end && r->state.best_step > 0 && r->state.best_step != r->state.step) {
        rc = pl_checkpoint_load_weights(&r->saver, r->state.best_step, &r->policy, err);
        if (rc) return rc;
        pl_log(PL_LOG_INFO, "the final model is that of step %" PRId64 ", the best evaluation", r->state.best_step);
    }
    pl_arena_release(&r->step_arena); /* saving takes buffers too */
    rc = pl_model_check(&r->model, err);
    if (rc == 0) rc = pl_record_sync(&r->record, err);
    if (rc == 0) rc = pl_final_save(&r->saver, &r->policy, &path, err);
    if (rc == 0) {
        pl_log(PL_LOG_INFO, "final model: %s%s", path, r->is_lora ? " (merged), adapter in its adapter/" : "");
        pl_train_event e = {.kind = PL_TRAIN_FINAL, .done = r->state.step, .total = r->schedule.steps, .path = path};
        emit(r, &e);
    }
    pl_free(path);
    return rc;
}

/* --- the loop
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

/* A run that saved no checkpoint is over when its final model is there and its metrics reach the last step. What is
 * there with fewer steps belongs to a shorter run: nothing continues it, and it is not ours to write over. */
static int find_finished(pl_run *r, bool *over, pl_error *err) {
    char *path = NULL;
    int64_t steps = 0;
    int rc;
    PL_GO(rc, pl_final_find(&r->saver, &path, err));
    if (!path) goto out;
    PL_GO(rc, pl_record_last_step(&steps, r->c->output_dir, err));
    if (steps != r->schedule.steps) {
        rc = PL_FAIL(err, PL_E_STATE,
                     "%s is the end of a run of %" PRId64 " steps that left no checkpoint to continue from: begin anew "
                     "with --overwrite_output_dir, or choose another --out",
                     path, steps);
        goto out;
    }
    rc = pl_run_compare_config(r, err);
    if (rc) {
        rc = pl_error_context(err, rc, "%s is the end of another run (--overwrite_output_dir, or another --out)", path);
        goto out;
    }
    *over = true;
    pl_log(PL_LOG_INFO, "this run is finished, all %" PRId64 " steps of it: %s stays as it is", steps, path);
    emit(r, &(pl_train_event){.kind = PL_TRAIN_FINAL, .done = steps, .total = steps, .path = path});
out:
    pl_free(path);
    return rc;
}

static int load_checkpoint(pl_run *r, const char *path, pl_error *err) {
    int rc = pl_checkpoint_load(&r->saver, path, &r->state, &r->policy, &r->optimizer, err);
    if (rc) return rc;
    int64_t steps = r->schedule.steps;
    if (r->state.step > steps)
        return PL_FAIL(err, PL_E_MISMATCH, "the checkpoint is at step %" PRId64 ", the run would end at step %" PRId64,
                       r->state.step, steps);
    if (r->state.step == steps)
        pl_log(PL_LOG_INFO, "%s: all %" PRId64 " steps of this run are done, nothing is left to train", path, steps);
    else
        pl_log(PL_LOG_INFO, "continuing from %s", path);
    return 0;
}

/* *over: the run is finished, and nothing is to be done or written. */
static int resume(pl_run *r, bool *over, pl_error *err) {
    char *path = NULL;
    const char *from = r->c->resume_from_checkpoint;
    int rc = 0;
    bool find = r->c->resume || (from && strcmp(from, "true") == 0);
    if (find)
        PL_GO(rc, pl_checkpoint_find(&r->saver, &path, err));
    else if (from)
        PL_GO(rc, pl_strdup(&path, from, err));
    if (path)
        PL_GO(rc, load_checkpoint(r, path, err));
    else if (find) {
        PL_GO(rc, find_finished(r, over, err));
        if (*over) goto out;
        pl_log(PL_LOG_INFO, "there is no checkpoint to continue from: starting anew");
    }
    PL_GO(rc, pl_run_write_config(r, err));
    PL_GO(rc, pl_record_open(&r->record, r->c->output_dir, r->state.metrics_bytes, err));
out:
    pl_free(path);
    return rc;
}

static int record_step(pl_run *r, const pl_values *v, const pl_totals *t, double epoch, double seconds, double eta,
                       pl_error *err) {
    pl_values times = {0};
    pl_values_add(&times, "", "step_time", seconds);
    pl_values_add(&times, "", "pairs_per_second", (double)t->rows / seconds);
    pl_values_add(&times, "", "tokens_per_second", (double)t->tokens / seconds);
    pl_train_event e = {.kind = PL_TRAIN_STEP,
                        .done = r->state.step,
                        .total = r->schedule.steps,
                        .epoch = epoch,
                        .values = v->v,
                        .nvalues = v->n,
                        .eta_seconds = eta,
                        .pairs_per_second = (double)t->rows / seconds,
                        .tokens_per_second = (double)t->tokens / seconds};
    emit(r, &e);
    return pl_record_write(&r->record, r->state.step, epoch, v, &times, err);
}

/* Evaluations and checkpoints that fall due after a step; `stopped` asks for a checkpoint in any case. */
static int after_step(pl_run *r, double epoch, bool stopped, pl_error *err) {
    const pl_config *c = r->c;
    bool last = r->state.step == r->schedule.steps, is_best = false;
    double every = isnan(c->eval_steps) ? c->logging_steps : c->eval_steps, value = NAN;
    bool due =
        c->eval_strategy == PL_WHEN_NO ? last : pl_schedule_due(&r->schedule, c->eval_strategy, every, r->state.step);
    int rc = 0;
    if (r->eval && due) {
        rc = evaluate(r, epoch, &value, err);
        if (rc) return rc;
        is_best = better(r, value) && c->load_best_model_at_end;
    }
    if (is_best) {
        r->state.best_step = r->state.step;
        r->state.best_value = value;
    }
    /* the last step too, as transformers' Trainer does: a longer run may go on from it */
    bool at_end = last && c->save_strategy != PL_WHEN_NO;
    if (is_best || stopped || at_end || pl_schedule_due(&r->schedule, c->save_strategy, c->save_steps, r->state.step))
        rc = save(r, err);
    return rc;
}

static int loop(pl_run *r, pl_error *err) {
    window w = {0};
    int64_t first = r->state.step, every = pl_schedule_every(&r->schedule, r->c->logging_steps);
    double start = now(), unused;
    int rc = 0;
    if (first == 0 && r->eval && r->c->eval_on_start) rc = evaluate(r, 0, &unused, err);
    while (rc == 0 && r->state.step < r->schedule.steps) {
        pl_totals t = {.step0 = -INFINITY};
        pl_values v = {0};
        double norm = 0, rate = 0, began = now();
        PL_GO(rc, optimizer_step(r, &t, &norm, &rate, err));
        double end = now(), epoch = pl_schedule_epoch(&r->schedule, r->state.step - 1);
        double eta = (end - start) / (double)(r->state.step - first) * (double)(r->schedule.steps - r->state.step);
        step_values(&v, r, &t, norm, rate);
        PL_GO(rc, record_step(r, &v, &t, epoch, end - began, eta, err));
        window_add(&w, &v);
        if (r->state.step % every == 0) window_emit(&w, r, epoch);
        bool stopped = r->state.step < r->schedule.steps && asked_to_stop(r);
        PL_GO(rc, after_step(r, epoch, stopped, err));
        if (stopped)
            return PL_FAIL(err, PL_E_INTERRUPTED, "stopped after step %" PRId64 ", which is saved", r->state.step);
    }
    if (rc == 0 && w.steps) window_emit(&w, r, pl_schedule_epoch(&r->schedule, r->state.step - 1));
out:
    return rc;
}

int pl_train(pl_machine *machine, const char *command, const pl_config *c, const pl_options *o,
             const pl_train_hooks *hooks, pl_error *err) {
    pl_fp_state fp;
    pl_run *r = NULL;
    bool over = false;
    int rc = PL_NEW(&r, 1, err);
    if (rc) return rc;
    pl_fp_enter(&fp);
    *r = (pl_run){.c = c, .options = o, .hooks = hooks, .command = command, .machine = machine};
    PL_GO(rc, pl_run_open(r, err));
    emit(r, &(pl_train_event){.kind = PL_TRAIN_PLAN, .planned_bytes = r->planned_bytes});
    PL_GO(rc, precompute(r, err));
    PL_GO(rc, resume(r, &over, err));
    if (over) goto out;
    PL_GO(rc, loop(r, err));
    PL_GO(rc, finish(r, err));
out:
    pl_run_close(r);
    pl_fp_leave(&fp);
    pl_free(r);
    return rc;
}
