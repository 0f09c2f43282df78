/* eval.c: preference accuracy, rewards and margins over all rows, with standard errors. Rewards and loss are those of
 * the sigmoid objective (TRL's definitions); a tie is not right. */
#include "eval/scorer.h"
#include "loss/objective.h"
#include "plumb/log.h"

/* Sum, and sum of squared distances from the running mean (Welford 1962), so that equal values have no spread. */
typedef struct spread {
    int64_t n;
    double sum, mean, squares;
} spread;

static void add(spread *s, double x) {
    double before = x - s->mean;
    s->sum += x;
    s->mean += before / (double)++s->n;
    s->squares += before * (x - s->mean);
}

static pl_mean mean_of(const spread *s) {
    double n = (double)s->n;
    return (pl_mean){.mean = s->sum / n, .se = s->n > 1 ? sqrt(s->squares / (n - 1) / n) : NAN};
}

typedef struct scores {
    const pl_dataset *d;
    double *logp; /* [2 * rows] */
} scores;

static int keep(void *user, const pl_worker *k, int64_t first, int64_t n, pl_error *err) {
    const scores *s = user;
    for (int64_t i = 0; i < 2 * n; i++) {
        s->logp[2 * first + i] = pl_worker_sequence_logp(k, i);
        if (!isfinite(s->logp[2 * first + i])) {
            const pl_row *row = &s->d->rows[first + i / 2];
            return PL_FAIL(err, PL_E_NUMERIC, "row %" PRId64 " (line %" PRId64 "): a log-prob is not finite",
                           row->source, row->line);
        }
    }
    return 0;
}

static int score_both(pl_scorer *s, double *policy, double *reference, const pl_score_hooks *hooks, pl_error *err) {
    scores p = {s->data, policy}, r = {s->data, reference};
    int64_t passes = s->reference == PL_SCORE_NO_REFERENCE ? 1 : 2;
    const pl_session *model = s->reference == PL_SCORE_REF_MODEL ? &s->other : &s->policy;
    pl_fp_state fp;
    pl_fp_enter(&fp);
    int rc = pl_scorer_pass(s, &s->policy, pl_session_lora(&s->policy), keep, &p, hooks, 0, passes, err);
    if (rc == 0 && passes > 1) {
        rc = pl_scorer_pass(s, model, NULL, keep, &r, hooks, 1, passes, err);
        if (rc) rc = pl_error_context(err, rc, "reference");
    }
    pl_fp_leave(&fp);
    return rc;
}

static void summarise_logps(pl_eval_result *out, const pl_dataset *d, const double *policy) {
    spread chosen = {0}, rejected = {0}, accuracies = {0};
    for (int64_t i = 0; i < d->n; i++) {
        add(&chosen, policy[2 * i]);
        add(&rejected, policy[2 * i + 1]);
        add(&accuracies, policy[2 * i] > policy[2 * i + 1]);
        const pl_row *row = &d->rows[i];
        int64_t unscored = row->prompt.count == 0; /* nothing predicts the very first token */
        out->tokens_chosen += d->answers[row->first_answer].count - unscored;
        out->tokens_rejected += d->answers[row->first_answer + 1].count - unscored;
    }
    out->logps_chosen = mean_of(&chosen);
    out->logps_rejected = mean_of(&rejected);
    out->logps_accuracies = mean_of(&accuracies);
}

static void summarise_rewards(pl_eval_result *out, int64_t n, double beta, const double *policy,
                              const double *reference) {
    spread loss = {0}, chosen = {0}, rejected = {0}, accuracies = {0}, margins = {0};
    for (int64_t i = 0; i < n; i++) {
        double c = beta * (policy[2 * i] - reference[2 * i]), r = beta * (policy[2 * i + 1] - reference[2 * i + 1]);
        add(&loss, -pl_log_sigmoid(c - r));
        add(&chosen, c);
        add(&rejected, r);
        add(&accuracies, c > r);
        add(&margins, c - r);
    }
    out->beta = beta;
    out->loss = mean_of(&loss);
    out->rewards_chosen = mean_of(&chosen);
    out->rewards_rejected = mean_of(&rejected);
    out->rewards_accuracies = mean_of(&accuracies);
    out->rewards_margins = mean_of(&margins);
}

int pl_scorer_eval(pl_scorer *s, pl_eval_result *out, const pl_score_hooks *hooks, pl_error *err) {
    pl_eval_result r = {.rows = s->data->n, .has_reference = s->reference != PL_SCORE_NO_REFERENCE};
    double *policy = NULL, *reference = NULL;
    int rc;
    snprintf(r.reference, sizeof r.reference, "%s", s->words);
    PL_GO(rc, PL_NEW(&policy, 2 * s->data->n, err));
    PL_GO(rc, PL_NEW(&reference, 2 * s->data->n, err));
    PL_GO(rc, score_both(s, policy, reference, hooks, err));
    summarise_logps(&r, s->data, policy);
    if (r.has_reference) summarise_rewards(&r, s->data->n, s->beta, policy, reference);
    *out = r;
out:
    pl_free(policy);
    pl_free(reference);
    return rc;
}
