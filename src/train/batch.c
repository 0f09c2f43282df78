/* batch.c: from rows to loss, metrics and gradient. */
#include "train/batch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/optimizer.h"

int pl_batcher_take(pl_batcher *b, const pl_forest_caps *caps, pl_arena *arena, pl_error *err) {
    int rc;
    PL_GO(rc, PL_TAKE(arena, &b->policy_logp, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->reference_logp, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->d_sequence, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->length, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->first, caps->sequences + 1, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->token_logp, caps->targets, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->d_token, caps->targets, "objective", err));
out:
    return rc;
}

/* Scored tokens of a row: all of the answers but the very first token of a sequence. */
static int64_t row_targets(const pl_batcher *b, const pl_dataset *d, int64_t row) {
    const pl_row *r = &d->rows[row];
    int64_t n = 0;
    for (int64_t a = 0; a < r->answers; a++) {
        int64_t answer = d->answers[r->first_answer + a].count;
        n += b->score_prompt ? r->prompt.count + answer - 1 : answer - (r->prompt.count == 0);
    }
    return n;
}

double pl_batcher_units(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n) {
    if (b->objective->unit == PL_UNIT_ROW) return (double)n;
    double units = 0;
    for (int64_t i = 0; i < n; i++) units += (double)row_targets(b, d, rows[i]);
    return units;
}

/* "rows 12 (line 13), 40 (line 41)": what an error about a micro-batch names. */
static int name_rows(pl_error *err, int rc, const pl_dataset *d, const int64_t *rows, int64_t n) {
    char text[400];
    size_t at = 0;
    int64_t i = 0;
    for (; i < n && at < sizeof text - 64; i++) {
        int k = snprintf(text + at, sizeof text - at, "%s%" PRId64 " (line %" PRId64 ")", i ? ", " : "",
                         d->rows[rows[i]].source, d->rows[rows[i]].line);
        at += (size_t)PL_MAX(k, 0);
    }
    if (i < n) snprintf(text + at, sizeof text - at, " and %" PRId64 " more", n - i);
    return pl_error_context(err, rc, "row%s %s", n > 1 ? "s" : "", text);
}

/* Names the layer, and the tensor if it is one's fault, in which the first non-finite number of the worker's batch
 * appears. */
static int non_finite(pl_worker *k, const pl_weights *w, const pl_lora *lora, const char *what, pl_error *err) {
    char where[PL_LOCATION_BYTES];
    int rc = pl_worker_locate_nonfinite(where, k, w, lora, err);
    return rc ? rc : PL_FAIL(err, PL_E_NUMERIC, "%s is not finite; %s", what, where);
}

static int reference_logps(pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                           pl_error *err) {
    pl_reference *r = b->reference;
    if (r->kind == PL_REF_NONE) return 0;
    if (cached) {
        int64_t at = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t a = 0; a < d->rows[rows[i]].answers; a++)
                b->reference_logp[at++] = cached[d->rows[rows[i]].first_answer + a];
        return 0;
    }
    int rc = pl_worker_forward(r->worker, r->weights, r->lora, d, rows, n, 0, b->score_prompt, false, err);
    if (rc) return pl_error_context(err, rc, "reference");
    for (int64_t s = 0; s < r->worker->forest.nsequences; s++) {
        b->reference_logp[s] = pl_worker_sequence_logp(r->worker, s);
        if (!isfinite(b->reference_logp[s]))
            return non_finite(r->worker, r->weights, r->lora, "a log-prob of the reference", err);
    }
    return 0;
}

/* Log-probs of the policy's pass into the objective's arrays. */
static int collect(pl_batcher *b, pl_error *err) {
    const pl_worker *k = b->worker;
    b->first[0] = 0;
    for (int64_t s = 0; s < k->forest.nsequences; s++) {
        const pl_sequence *q = &k->forest.sequences[s];
        b->first[s + 1] = b->first[s] + q->ntargets;
        b->length[s] = q->length;
        b->policy_logp[s] = pl_worker_sequence_logp(k, s);
        if (!isfinite(b->policy_logp[s]))
            return non_finite(b->worker, &b->policy->weights, b->policy->is_lora ? &b->policy->lora : NULL,
                              "a log-prob", err);
    }
    for (int64_t i = 0; i < k->forest.ntargets; i++) b->token_logp[i] = (double)k->head.logp[i];
    return 0;
}

static void add(pl_metric *m, double sum, double weight) {
    m->sum += sum;
    m->weight += weight;
}

/* Token metrics are sums over the completion tokens (DECISIONS 1). Preference: accuracy of the chosen answers only, as
 * TRL. */
static void count_tokens(const pl_batcher *b, pl_totals *t) {
    const pl_forest *f = &b->worker->forest;
    const pl_head *h = &b->worker->head;
    bool paired = b->objective->rows == PL_LOSS_PAIRED;
    for (int64_t s = 0; s < f->nsequences; s++) {
        const pl_sequence *q = &f->sequences[s];
        double entropy = 0, logits = 0, right = 0;
        for (int64_t i = q->first_target; i < q->first_target + q->ntargets; i++) {
            int64_t row = h->target_row[i];
            entropy += (double)h->entropy[row];
            logits += h->mean_logit[row];
            right += h->is_argmax[i];
        }
        double n = (double)q->ntargets;
        add(&t->entropy, entropy, n);
        if (!paired || q->answer == 0) add(&t->accuracy, right, n);
        if (paired) add(&t->logits[q->answer], logits, n);
    }
    t->tokens += f->unshared_tokens;
}

/* DECISIONS 9: how far policy and reference are apart beyond the tolerance of f32. */
static void check_step0(const pl_batcher *b, pl_totals *t) {
    double eps = b->worker->backend.bf16 ? 0x1p-8 : 1e-6;
    for (int64_t s = 0; s < b->worker->forest.nsequences; s++) {
        double p = b->policy_logp[s], apart = fabs(p - b->reference_logp[s]) - (100 * eps + eps * fabs(p));
        if (!(apart <= t->step0)) t->step0 = apart;
    }
}

static int backward(pl_batcher *b, double units, pl_error *err) {
    pl_worker *k = b->worker;
    for (int64_t s = 0; s < k->forest.nsequences; s++)
        for (int64_t i = b->first[s]; i < b->first[s + 1]; i++)
            k->c[i] = (b->objective->per_token ? b->d_token[i] : b->d_sequence[s]) / units;
    return pl_worker_backward(k, b->policy, err);
}

static int micro_batch(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows,
                       int64_t n, int64_t index, bool train, double units, pl_error *err) {
    const pl_lora *lora = b->policy->is_lora ? &b->policy->lora : NULL;
    int rc;
    PL_GO(rc, reference_logps(b, d, cached, rows, n, err));
    PL_GO(rc, pl_worker_forward(b->worker, &b->policy->weights, lora, d, rows, n, index, b->score_prompt, train, err));
    PL_GO(rc, collect(b, err));
    pl_loss_in in = {.n = b->worker->forest.nsequences,
                     .policy = b->policy_logp,
                     .reference = b->reference_logp,
                     .length = b->length,
                     .first = b->first,
                     .token_logp = b->token_logp};
    pl_loss_out out = {.d_sequence = b->d_sequence, .d_token = b->d_token, .metrics = t->metrics};
    PL_GO(rc, b->objective->run(&out, &in, &b->params, err));
    t->loss += out.loss;
    t->rows += n;
    count_tokens(b, t);
    if (b->reference->kind != PL_REF_NONE) check_step0(b, t);
    if (train) PL_GO(rc, backward(b, units, err));
out:
    return rc ? name_rows(err, rc, d, rows, n) : 0;
}

int pl_batcher_run(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows,
                   int64_t n, bool train, double units, pl_error *err) {
    int64_t budget = train ? b->worker->budget_tok : b->worker->pass_tok;
    int rc = 0;
    t->units += units;
    for (int64_t done = 0; rc == 0 && done < n;) {
        int64_t take = pl_forest_cut(d, rows + done, n - done, budget, 0);
        rc = micro_batch(b, t, d, cached, rows + done, take, done, train, units, err);
        done += take;
    }
    return rc;
}

/* Each micro-batch once more, from a gradient of zero. */
static int blame_gradient(pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                          double units, pl_error *err) {
    double norm;
    for (int64_t done = 0; done < n;) {
        pl_totals again = {0};
        int64_t take = pl_forest_cut(d, rows + done, n - done, b->worker->budget_tok, 0);
        pl_trainable_zero_grads(b->policy);
        int rc = micro_batch(b, &again, d, cached, rows + done, take, done, true, units, err);
        if (rc) return rc;
        rc = pl_optimizer_norm(&norm, b->policy, b->worker->backend.ops, err);
        if (rc) return name_rows(err, rc, d, rows + done, take);
        done += take;
    }
    return 0;
}

int pl_batcher_norm(double *norm, pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows,
                    int64_t n, double units, pl_error *err) {
    pl_error narrow = {0};
    int rc = pl_optimizer_norm(norm, b->policy, b->worker->backend.ops, err);
    if (rc == 0) return 0;
    int one = blame_gradient(b, d, cached, rows, n, units, &narrow);
    if (one == 0) return name_rows(err, rc, d, rows, n); /* only the sum of all is not finite */
    if (err) *err = narrow;
    return one;
}

void pl_values_add(pl_values *v, const char *prefix, const char *name, double value) {
    if (v->n == PL_MAX_VALUES) return;
    snprintf(v->names[v->n], PL_NAME_BYTES, "%s%s", prefix, name);
    v->v[v->n] = (pl_named_value){v->names[v->n], value};
    v->n++;
}

static void add_metric(pl_values *v, const char *prefix, const char *name, const pl_metric *m) {
    if (m->weight > 0) pl_values_add(v, prefix, name, m->sum / m->weight);
}

void pl_totals_values(pl_values *out, const pl_totals *t, const pl_objective *o, const char *prefix,
                      int64_t num_tokens) {
    add_metric(out, prefix, "entropy", &t->entropy);
    pl_values_add(out, prefix, "num_tokens", (double)num_tokens);
    add_metric(out, prefix, "logits/chosen", &t->logits[0]);
    add_metric(out, prefix, "logits/rejected", &t->logits[1]);
    add_metric(out, prefix, "mean_token_accuracy", &t->accuracy);
    for (int64_t i = 0; i < o->nmetrics; i++) add_metric(out, prefix, o->metrics[i], &t->metrics[i]);
}
