/* batch.c: from rows to loss, metrics and gradient. */
#include "train/batch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/optimizer.h"

/* Scored tokens of a row's answer: all but the very first token of a sequence, and the prompt's where they count. */
static int64_t answer_targets(const pl_batcher *b, const pl_dataset *d, int64_t row, int64_t a) {
    const pl_row *r = &d->rows[row];
    int64_t answer = d->answers[r->first_answer + a].count, prompt = r->prompt.count;
    return b->score_prompt && a == 0 ? prompt + answer - 1 : answer - (prompt == 0);
}

/* Rows of the unit that begins at rows[0]: what the objective couples, or what a micro-batch takes. */
static int64_t unit_of(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n, bool train) {
    int64_t together = train ? b->unit_rows : b->eval_unit_rows;
    if (together > 0) return PL_MIN(n, together);
    return pl_forest_cut(d, rows, n, train ? b->worker->budget_tok : b->worker->pass_tok, 0);
}

void pl_batcher_caps_add(pl_forest_caps *caps, const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n,
                         int64_t unit_rows) {
    for (int64_t at = 0, take; unit_rows > 0 && at < n; at += take) {
        pl_forest_caps need = {0};
        take = PL_MIN(n - at, unit_rows);
        for (int64_t i = at; i < at + take; i++) {
            need.sequences += d->rows[rows[i]].answers;
            for (int64_t a = 0; a < d->rows[rows[i]].answers; a++) need.targets += answer_targets(b, d, rows[i], a);
        }
        caps->sequences = PL_MAX(caps->sequences, need.sequences);
        caps->targets = PL_MAX(caps->targets, need.targets);
        caps->trees = PL_MAX(caps->trees, take);
    }
}

int pl_batcher_take(pl_batcher *b, const pl_forest_caps *caps, pl_arena *arena, pl_error *err) {
    int rc;
    PL_GO(rc, PL_TAKE(arena, &b->policy_logp, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->score, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->d_score, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->scratch.d_score, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->reference_logp, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->d_sequence, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->scratch.d_sequence, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->length, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->prompt, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->order, caps->sequences, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->first, caps->sequences + 1, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->margin, caps->trees, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->label, caps->trees, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->token_logp, caps->targets, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->token_sum_p2, caps->targets, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->d_token, caps->targets, "objective", err));
    PL_GO(rc, PL_TAKE(arena, &b->scratch.d_token, caps->targets, "objective", err));
out:
    return rc;
}

pl_units pl_batcher_units(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n) {
    pl_units units = {.rows = (double)n};
    for (int64_t i = 0; i < n; i++) units.tokens += (double)answer_targets(b, d, rows[i], 0);
    return units;
}

double pl_totals_loss(const pl_totals *t) {
    double loss = t->units.rows > 0 ? t->loss / t->units.rows : 0;
    return t->units.tokens > 0 ? loss + t->token_loss / t->units.tokens : loss;
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

static const pl_lora *policy_lora(const pl_batcher *b) { return b->policy->is_lora ? &b->policy->lora : NULL; }

/* Does the reference need a pass of its own over this micro-batch? */
static bool is_live(const pl_batcher *b, const double *cached) {
    return b->reference->kind != PL_REF_NONE && b->reference->kind != PL_REF_CURRENT && !cached;
}

/* Are reference and policy one base model with two adapters, so that one run over its layers serves both? */
static bool runs_beside(const pl_batcher *b) {
    const pl_reference *r = b->reference;
    return r->worker == b->worker && r->weights->layers == b->policy->weights.layers && !pl_worker_is_scored(b->worker);
}

static int check_reference(const pl_batcher *b, pl_error *err) {
    const pl_reference *r = b->reference;
    for (int64_t s = 0; s < r->worker->forest.nsequences; s++)
        if (!isfinite(b->reference_logp[b->n + s]))
            return non_finite(r->worker, r->weights, r->lora, "a log-prob of the reference", err);
    return 0;
}

/* Log-probs of the reference for the sequences of a micro-batch, behind those that the unit has. */
static int reference_logps(pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                           pl_error *err) {
    pl_reference *r = b->reference;
    double *out = b->reference_logp + b->n;
    for (int64_t i = 0; cached && i < n; i++)
        for (int64_t a = 0; a < d->rows[rows[i]].answers; a++) *out++ = cached[d->rows[rows[i]].first_answer + a];
    if (!is_live(b, cached)) return 0;
    int rc = pl_worker_forward(r->worker, r->weights, r->lora, d, rows, n, 0, b->score_prompt, PL_FOR_SCORES, err);
    if (rc) return pl_error_context(err, rc, "reference");
    for (int64_t s = 0; s < r->worker->forest.nsequences; s++) out[s] = pl_worker_sequence_logp(r->worker, s);
    return check_reference(b, err);
}

/* What the policy's pass says of a sequence, as number s of the unit. */
static void take_sequence(pl_batcher *b, const pl_worker *k, const pl_sequence *q, int64_t s) {
    b->length[s] = q->length;
    b->prompt[s] = q->prompt_targets;
    b->first[s + 1] = b->first[s] + (pl_worker_is_scored(k) ? 0 : q->ntargets);
    for (int64_t i = 0; i < b->first[s + 1] - b->first[s]; i++) {
        b->token_logp[b->first[s] + i] = (double)k->head.logp[q->first_target + i];
        b->token_sum_p2[b->first[s] + i] = (double)k->head.sum_p2[k->head.target_row[q->first_target + i]];
    }
}

/* The policy's micro-batch into the arrays of the unit. */
static int collect(pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n, pl_error *err) {
    const pl_worker *k = b->worker;
    if (b->n == 0) b->first[0] = 0;
    for (int64_t s = 0; s < k->forest.nsequences; s++) {
        take_sequence(b, k, &k->forest.sequences[s], b->n + s);
        double *to = pl_worker_is_scored(k) ? b->score : b->policy_logp;
        to[b->n + s] = pl_worker_is_scored(k) ? k->score.score[s] : pl_worker_sequence_logp(k, s);
        if (!isfinite(to[b->n + s]))
            return non_finite(b->worker, &b->policy->weights, policy_lora(b),
                              pl_worker_is_scored(k) ? "a score" : "a log-prob", err);
        if (b->kept)
            b->kept[d->rows[k->forest.sequences[s].row].first_answer + k->forest.sequences[s].answer] = to[b->n + s];
    }
    for (int64_t i = 0; i < n; i++) {
        b->label[b->rows + i] = d->rows[rows[i]].label;
        b->margin[b->rows + i] = d->rows[rows[i]].margin;
    }
    b->n += k->forest.nsequences;
    b->rows += n;
    return 0;
}

static void add(pl_metric *m, double sum, double weight) {
    m->sum += sum;
    m->weight += weight;
}

/* Token metrics are sums over the completion tokens (SFT: the labelled ones), DECISIONS 1. Accuracy is that of answers
 * 0 only, as in TRL. */
static void count_sequence(const pl_batcher *b, pl_totals *t, const pl_sequence *q, bool rejected) {
    const pl_head *h = &b->worker->head;
    pl_loss_rows kind = b->mix.term[0]->rows;
    double entropy = 0, logits = 0, right = 0;
    int64_t first = q->first_target + (kind == PL_LOSS_SINGLE ? 0 : q->prompt_targets),
            end = q->first_target + q->ntargets;
    for (int64_t i = first; i < end; i++) {
        int64_t row = h->target_row[i];
        entropy += (double)h->entropy[row];
        logits += h->mean_logit[row];
        right += h->is_argmax[i];
    }
    double n = (double)(end - first);
    add(&t->entropy, entropy, n);
    if (kind == PL_LOSS_SINGLE || (kind == PL_LOSS_PAIRED && q->answer == 0)) add(&t->accuracy, right, n);
    if (kind != PL_LOSS_SINGLE) add(&t->logits[rejected], logits, n);
}

static void count_tokens(const pl_batcher *b, pl_totals *t, const pl_dataset *d) {
    const pl_forest *f = &b->worker->forest;
    bool paired = b->mix.term[0]->rows == PL_LOSS_PAIRED;
    for (int64_t s = 0; s < f->nsequences; s++) {
        const pl_sequence *q = &f->sequences[s];
        if (pl_answer_is_aside(d, q->answer)) continue;
        if (!pl_worker_is_scored(b->worker)) count_sequence(b, t, q, paired ? q->answer == 1 : !d->rows[q->row].label);
        t->tokens += d->rows[q->row].prompt.count + q->length;
    }
}

/* DECISIONS 9: how far policy and reference are apart beyond the tolerance of f32. */
static void check_step0(const pl_batcher *b, pl_totals *t) {
    double eps = b->worker->backend.bf16 ? 0x1p-8 : 1e-6;
    for (int64_t s = 0; s < b->n; s++) {
        double p = b->policy_logp[s], apart = fabs(p - b->reference_logp[s]) - (100 * eps + eps * fabs(p));
        if (!(apart <= t->step0)) t->step0 = apart;
    }
}

/* Gradient of the worker's micro-batch, whose sequences are those of the unit from `first` on. */
static int backward(pl_batcher *b, int64_t first, pl_units units, pl_error *err) {
    pl_worker *k = b->worker;
    for (int64_t s = 0; k->d_score && s < k->forest.nsequences; s++) k->d_score[s] = b->d_score[first + s] / units.rows;
    for (int64_t s = 0; k->c && s < k->forest.nsequences; s++) {
        const pl_sequence *q = &k->forest.sequences[s];
        const double *d_token = b->d_token + b->first[first + s];
        for (int64_t i = 0; i < q->ntargets; i++) {
            double weight = pl_worker_token_weight(k, s, q->first_target + i);
            k->c[q->first_target + i] = weight * b->d_sequence[first + s] / units.rows;
            if (d_token[i] != 0) k->c[q->first_target + i] += d_token[i] / units.tokens;
        }
    }
    return pl_worker_backward(k, b->policy, err);
}

/* One micro-batch through the policy. */
static int score(pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t index, pl_use use,
                 pl_error *err) {
    return pl_worker_forward(b->worker, &b->policy->weights, policy_lora(b), d, rows, n, index, b->score_prompt, use,
                             err);
}

/* One micro-batch through reference and policy. */
static int score_both(pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                      int64_t index, pl_use use, pl_error *err) {
    if (!is_live(b, cached) || !runs_beside(b)) {
        int rc = reference_logps(b, d, cached, rows, n, err);
        return rc ? rc : score(b, d, rows, n, index, use, err);
    }
    int rc = pl_worker_forward_both(b->worker, &b->policy->weights, policy_lora(b), b->reference->lora,
                                    b->reference_logp + b->n, d, rows, n, index, b->score_prompt, use, err);
    return rc ? rc : check_reference(b, err);
}

static int objective(pl_batcher *b, pl_totals *t, bool train, pl_error *err) {
    pl_loss_in in = {.n = b->n,
                     .per_row = b->rows ? b->n / b->rows : 1,
                     .policy = b->policy_logp,
                     .reference = b->reference->kind == PL_REF_NONE ? NULL : b->reference_logp,
                     .length = b->length,
                     .first = b->first,
                     .prompt = b->prompt,
                     .token_logp = b->token_logp,
                     .token_sum_p2 = b->token_sum_p2,
                     .label = b->label,
                     .margin = b->margin,
                     .score = b->score,
                     .state = b->state};
    pl_loss_out out = {.d_sequence = b->d_sequence,
                       .d_score = b->d_score,
                       .d_token = b->d_token,
                       .metrics = t->metrics,
                       .order = b->order};
    for (int64_t i = 0; train && i < b->mix.n; i++)
        if (b->mix.term[i]->learn) b->mix.term[i]->learn(b->state, &in, &b->params);
    int rc = pl_mix_run(&out, &in, &b->mix, &b->params, &b->scratch, err);
    t->loss += out.loss;
    t->token_loss += out.token_loss;
    return rc;
}

/* Has the loss a gradient with respect to any of the sequences [first, first + n) of the unit? (Losses with a hinge
 * have none where the margin is met.) */
static bool has_gradient(const pl_batcher *b, int64_t first, int64_t n) {
    bool scored = pl_worker_is_scored(b->worker), any = false;
    for (int64_t s = first; s < first + n; s++) any = any || (scored ? b->d_score[s] : b->d_sequence[s]) != 0;
    for (int64_t i = b->first[first]; i < b->first[first + n]; i++) any = any || b->d_token[i] != 0;
    return any;
}

static int64_t sequences_of(const pl_dataset *d, const int64_t *rows, int64_t n) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += d->rows[rows[i]].answers;
    return sum;
}

/* One pass over the micro-batches of a unit: scores them into its arrays, or (PL_FOR_GRADIENT) takes their part of the
 * gradient. Errors name their rows. */
static int pass(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                int64_t index, int64_t budget, pl_use use, pl_units units, pl_error *err) {
    bool again = use == PL_FOR_GRADIENT;
    int rc = 0;
    for (int64_t done = 0, first = 0, take, sequences; done < n; done += take, first += sequences) {
        take = pl_forest_cut(d, rows + done, n - done, budget, 0);
        sequences = sequences_of(d, rows + done, take);
        if (again && !has_gradient(b, first, sequences)) continue;
        if (again) {
            PL_GO(rc, score(b, d, rows + done, take, index + done, use, err));
            PL_GO(rc, backward(b, first, units, err));
        } else {
            PL_GO(rc, score_both(b, d, cached, rows + done, take, index + done, use, err));
            PL_GO(rc, collect(b, d, rows + done, take, err));
            count_tokens(b, t, d);
        }
    }
out:
    return rc ? name_rows(err, rc, d, rows, n) : 0;
}

/* Without a backward pass nothing begins what lies in activations. */
static int no_gradient(pl_batcher *b) {
    if (b->policy->lent) pl_trainable_zero_grads(b->policy);
    return 0;
}

bool pl_batcher_is_one(const pl_batcher *b, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok) {
    return (b->unit_rows <= 0 || n <= b->unit_rows) && pl_forest_cut(d, rows, n, budget_tok, 0) == n;
}

/* Rows that the objective sees together. */
static int unit(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                int64_t index, bool train, pl_units units, pl_error *err) {
    int64_t budget = train ? b->worker->budget_tok : b->worker->pass_tok;
    bool whole = pl_forest_cut(d, rows, n, budget, 0) == n;
    b->n = b->rows = 0;
    int rc = pass(b, t, d, cached, rows, n, index, budget, train && whole ? PL_FOR_BOTH : PL_FOR_SCORES, units, err);
    if (rc) return rc;
    if (b->reference->kind == PL_REF_CURRENT) memcpy(b->reference_logp, b->policy_logp, (size_t)b->n * sizeof(double));
    if (b->reference->kind != PL_REF_NONE) check_step0(b, t);
    t->rows += n;
    rc = objective(b, t, train, err);
    if (rc == 0 && train && whole) rc = has_gradient(b, 0, b->n) ? backward(b, 0, units, err) : no_gradient(b);
    if (rc) return name_rows(err, rc, d, rows, n);
    return train && !whole ? pass(b, t, d, cached, rows, n, index, budget, PL_FOR_GRADIENT, units, err) : 0;
}

int pl_batcher_run(pl_batcher *b, pl_totals *t, const pl_dataset *d, const double *cached, const int64_t *rows,
                   int64_t n, bool train, pl_units units, pl_error *err) {
    int rc = 0;
    if (train && b->policy->lent && !pl_batcher_is_one(b, d, rows, n, b->worker->budget_tok))
        return PL_FAIL(err, PL_E_INTERNAL, "a step of several micro-batches whose gradients lie in activations");
    t->units.rows += units.rows;
    t->units.tokens += units.tokens;
    for (int64_t done = 0; rc == 0 && done < n;) {
        int64_t take = unit_of(b, d, rows + done, n - done, train);
        rc = unit(b, t, d, cached, rows + done, take, done, train, units, err);
        done += take;
    }
    return rc;
}

/* Each unit once more, from a gradient of zero. */
static int blame_gradient(pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows, int64_t n,
                          pl_units units, pl_error *err) {
    double norm;
    for (int64_t done = 0; done < n;) {
        pl_totals again = {0};
        int64_t take = unit_of(b, d, rows + done, n - done, true);
        pl_trainable_begin_grads(b->policy);
        int rc = unit(b, &again, d, cached, rows + done, take, done, true, units, err);
        if (rc) return rc;
        rc = pl_optimizer_norm(&norm, b->policy, b->worker->backend.ops, err);
        if (rc) return name_rows(err, rc, d, rows + done, take);
        done += take;
    }
    return 0;
}

int pl_batcher_norm(double *norm, pl_batcher *b, const pl_dataset *d, const double *cached, const int64_t *rows,
                    int64_t n, pl_units units, pl_error *err) {
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

/* As TRL: 0 where a step of SFT has no token to train on (packed rows may have none). */
static void add_token_metric(pl_values *v, const char *prefix, const char *name, const pl_metric *m,
                             const pl_objective *o) {
    if (m->weight == 0 && o->rows == PL_LOSS_SINGLE)
        pl_values_add(v, prefix, name, 0);
    else
        add_metric(v, prefix, name, m);
}

void pl_totals_values(pl_values *out, const pl_totals *t, const pl_objective *o, const char *prefix,
                      int64_t num_tokens) {
    add_token_metric(out, prefix, "entropy", &t->entropy, o);
    pl_values_add(out, prefix, "num_tokens", (double)num_tokens);
    add_metric(out, prefix, "logits/chosen", &t->logits[0]);
    add_metric(out, prefix, "logits/rejected", &t->logits[1]);
    add_token_metric(out, prefix, "mean_token_accuracy", &t->accuracy, o);
    pl_metric metrics[PL_MAX_METRICS];
    memcpy(metrics, t->metrics, sizeof metrics);
    if (o->derive) o->derive(metrics);
    for (int64_t i = 0; i < o->nmetrics; i++) add_metric(out, prefix, o->metrics[i], &metrics[i]);
}
