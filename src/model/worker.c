/* worker.c: from rows to log-probs and gradients, one micro-batch at a time. */
#include "model/worker.h"

#include <math.h>
#include <stdio.h>

#include "model/nonfinite.h"

int pl_worker_take(pl_worker *k, const pl_arch *arch, const pl_backend *backend, const pl_worker_spec *spec,
                   pl_arena *arena, pl_error *err) {
    bool lm = arch->head == PL_ARCH_LM;
    pl_decoder_spec ds = {.max_tokens = spec->caps.tokens,
                          .max_read = PL_MIN(spec->caps.tokens, lm ? spec->caps.targets : spec->caps.sequences),
                          .training = spec->training,
                          .recompute = spec->recompute,
                          .max_rank = spec->max_rank,
                          .dropout = spec->dropout};
    pl_head_spec hs = {.max_rows = PL_MIN(spec->caps.tokens, spec->caps.targets),
                       .max_targets = spec->caps.targets,
                       .training = spec->training,
                       .trained = spec->full,
                       .spare = &k->decoder.idle};
    *k = (pl_worker){.backend = *backend, .budget_tok = spec->budget_tok, .pass_tok = spec->pass_tok};
    int rc;
    PL_GO(rc, pl_forest_take(&k->forest, &spec->caps, arena, err));
    PL_GO(rc, pl_decoder_take(&k->decoder, arch, backend, &ds, arena, err));
    if (lm) {
        PL_GO(rc, pl_head_take(&k->head, arch, backend, &hs, arena, err));
        if (spec->training) PL_GO(rc, PL_TAKE(arena, &k->c, spec->caps.targets, "head", err));
    } else {
        PL_GO(rc, pl_score_head_take(&k->score, arch, backend, spec->caps.sequences, spec->training, arena, err));
        if (spec->training) PL_GO(rc, PL_TAKE(arena, &k->d_score, spec->caps.sequences, "head", err));
    }
out:
    return rc;
}

bool pl_worker_is_scored(const pl_worker *k) { return k->score.arch != NULL; }

int pl_worker_prepare(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_grads *grads, pl_error *err) {
    int rc = pl_decoder_prepare(&k->decoder, w, lora, grads, err);
    return rc || pl_worker_is_scored(k) ? rc : pl_head_prepare(&k->head, w, grads != NULL, err);
}

bool pl_worker_can_lend(const pl_worker *k, pl_trainable *t, const pl_model *m, size_t *bytes) {
    bool fits = k->decoder.lend_bytes > 0;
    *bytes = 0;
    for (int64_t l = 0; fits && l + 1 < m->arch.L; l++) {
        pl_arena a;
        pl_arena_init_measuring(&a, "lent");
        fits = pl_trainable_take_lent(t, m, l, &a, NULL) == 0 && a.peak <= k->decoder.lend_bytes;
        *bytes += a.peak;
    }
    return fits;
}

int pl_worker_lend(const pl_worker *k, pl_trainable *t, const pl_model *m, pl_error *err) {
    int rc = 0;
    for (int64_t l = 0; rc == 0 && l + 1 < m->arch.L; l++) {
        pl_arena a = {.name = "lent", .base = (char *)k->decoder.acts[l + 1].q, .capacity = k->decoder.lend_bytes};
        rc = pl_trainable_take_lent(t, m, l, &a, err);
    }
    return rc;
}

static int build(pl_worker *k, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                 bool score_prompt, pl_error *err) {
    int rc = pl_forest_build(&k->forest, d, rows, n, step_index, true, score_prompt, err);
    if (rc) return rc;
    if (pl_worker_is_scored(k))
        pl_forest_read_ends(&k->forest);
    else
        pl_forest_read_targets(&k->forest);
    return 0;
}

static int run(pl_worker *k, const pl_weights *w, const pl_lora *lora, bool keep, pl_error *err) {
    int rc = pl_decoder_forward(&k->decoder, w, lora, &k->forest, keep, err);
    if (rc) return rc;
    return pl_worker_is_scored(k) ? pl_score_head_forward(&k->score, w, lora, &k->forest, k->decoder.x_last, err)
                                  : pl_head_forward(&k->head, w, &k->forest, k->decoder.x_last, keep, err);
}

int pl_worker_forward(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_dataset *d, const int64_t *rows,
                      int64_t n, int64_t step_index, bool score_prompt, pl_use use, pl_error *err) {
    int rc = build(k, d, rows, n, step_index, score_prompt, err);
    if (rc) return rc;
    if (use == PL_FOR_GRADIENT) k->forest = pl_forest_trained(&k->forest);
    return run(k, w, lora, use != PL_FOR_SCORES, err);
}

int pl_worker_forward_both(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_lora *beside,
                           double *beside_logp, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                           bool score_prompt, pl_use use, pl_error *err) {
    int rc;
    PL_GO(rc, build(k, d, rows, n, step_index, score_prompt, err));
    PL_GO(rc, pl_decoder_forward_both(&k->decoder, w, lora, beside, &k->forest, err));
    PL_GO(rc, pl_head_forward(&k->head, w, &k->forest, k->decoder.x_beside, false, err));
    for (int64_t s = 0; s < k->forest.nsequences; s++) beside_logp[s] = pl_worker_sequence_logp(k, s);
    PL_GO(rc, pl_head_forward(&k->head, w, &k->forest, k->decoder.x_last, use != PL_FOR_SCORES, err));
out:
    return rc;
}

int pl_worker_backward(pl_worker *k, pl_trainable *t, pl_error *err) {
    const pl_grads *g = t->is_lora ? NULL : &t->grads;
    const pl_forest f = pl_forest_trained(&k->forest);
    int rc = 0;
    if (pl_worker_is_scored(k))
        pl_score_head_backward(&k->score, &t->weights, t->is_lora ? t->lora.dscore : g->score, g ? g->norm : NULL, &f,
                               k->d_score, k->decoder.dx);
    else
        rc = pl_head_backward(&k->head, &t->weights, g, &f, k->c, k->decoder.dx, err);
    return rc ? rc : pl_decoder_backward(&k->decoder, &t->weights, t->is_lora ? &t->lora : NULL, g, &f, err);
}

double pl_worker_token_weight(const pl_worker *k, int64_t s, int64_t i) {
    const pl_sequence *q = &k->forest.sequences[s];
    int64_t behind = q->first_target + q->ntargets - i; /* this token and those after it */
    if (behind > q->ntargets - q->prompt_targets) return 0;
    if (k->ld_discount == 0) return 1;
    int64_t place = q->length - behind, shorter = PL_MIN(q->length, k->forest.sequences[s ^ 1].length);
    return place < shorter ? 1 : 1 - k->ld_discount;
}

double pl_worker_sequence_logp(const pl_worker *k, int64_t s) {
    const pl_sequence *q = &k->forest.sequences[s];
    double sum = 0;
    for (int64_t i = q->first_target + q->prompt_targets; i < q->first_target + q->ntargets; i++)
        sum += pl_worker_token_weight(k, s, i) * (double)k->head.logp[i];
    return sum;
}

int pl_worker_locate_nonfinite(char out[PL_LOCATION_BYTES], pl_worker *k, const pl_weights *w, const pl_lora *lora,
                               pl_error *err) {
    int64_t layer = 0;
    char place[48], tensor[PL_NONFINITE_NAME];
    int rc = pl_decoder_find_nonfinite(&k->decoder, w, lora, &k->forest, &layer, err);
    if (rc) return rc;
    pl_weights_find_nonfinite(tensor, w, lora);
    if (layer < 0)
        snprintf(place, sizeof place, "the embeddings");
    else if (layer == w->arch->L)
        snprintf(place, sizeof place, "the head");
    else
        snprintf(place, sizeof place, "layer %" PRId64, layer);
    snprintf(out, PL_LOCATION_BYTES, "the first such value comes out of %s, and %s%s", place,
             *tensor ? tensor : "all weights are finite", *tensor ? " holds one" : "");
    return 0;
}

/* Sequence log-probs of the current batch, all finite. */
static int take_scores(double *out, pl_worker *k, const pl_weights *w, const pl_lora *lora, pl_error *err) {
    char where[PL_LOCATION_BYTES];
    for (int64_t s = 0; s < k->forest.nsequences; s++) {
        out[s] = pl_worker_sequence_logp(k, s);
        if (isfinite(out[s])) continue;
        int rc = pl_worker_locate_nonfinite(where, k, w, lora, err);
        return rc ? rc : PL_FAIL(err, PL_E_NUMERIC, "a log-prob is not finite; %s", where);
    }
    return 0;
}

int pl_worker_score(pl_worker *k, const pl_weights *w, const pl_lora *lora, const pl_dataset *d, const int64_t *rows,
                    int64_t n, bool score_prompt, double *out, pl_progress *progress, void *user, pl_error *err) {
    int64_t written = 0;
    for (int64_t done = 0; done < n;) {
        int64_t take = pl_forest_cut(d, rows + done, n - done, k->pass_tok, 0);
        int rc = pl_worker_forward(k, w, lora, d, rows + done, take, 0, score_prompt, PL_FOR_SCORES, err);
        if (rc == 0) rc = take_scores(out + written, k, w, lora, err);
        if (rc) return pl_error_context(err, rc, "row %" PRId64, d->rows[rows[done]].source);
        written += k->forest.nsequences;
        done += take;
        if (progress && progress(user, done, n))
            return PL_FAIL(err, PL_E_INTERRUPTED, "stopped after %" PRId64 " rows", done);
    }
    return 0;
}
