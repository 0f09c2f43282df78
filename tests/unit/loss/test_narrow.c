/* test_narrow.c: behind the last layer's keys and values only the rows that somebody reads are run (forest.h: narrow):
 * the same log-probs and gradients as with all rows, whatever lies in the buffers; no more rows than that are computed;
 * and a row too few, or one that sees too little, would be found. ctest-label: threads */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "unit/loss/fixture.h"

#define SEED 20261122u
enum { PAIRS = 4, PROMPT = 57, CHOSEN = 29, REJECTED = 37 };
static pl_error err;

static void must(int rc) {
    if (rc) fail_msg("%s", err.text);
}

static double draw(int stream, int64_t i) { return pl_rng_unit64(SEED + (uint64_t)stream, (uint64_t)i); }

static pl_span text(fixture *f, int64_t n) {
    pl_span s = {f->data.nids, n};
    for (int64_t i = s.first; i < s.first + n; i++) f->ids[i] = (int32_t)(draw(0, i) * (double)f->model.arch.V);
    f->data.nids += n;
    return s;
}

/* Pairs of random ids; aside: the second answer gets no gradient. */
static void load(fixture *f, bool aside) {
    int64_t order[PAIRS] = {0, 1, 2, 3}, mixed[PAIRS] = {1, 2, 3, 0};
    f->data.n = PAIRS;
    f->data.nids = 0;
    f->data.kind = PL_DATA_PREFERENCE;
    for (int64_t i = 0; i < PAIRS; i++) {
        f->rows[i] = (pl_row){.source = i, .first_answer = 2 * i, .answers = 2};
        f->rows[i].prompt = text(f, PROMPT - i);
        f->answers[2 * i] = text(f, CHOSEN);
        f->answers[2 * i + 1] = text(f, REJECTED);
    }
    f->data.mixed = aside ? mixed : NULL;
    must(pl_forest_build(&f->forest, &f->data, order, PAIRS, 0, true, false, &err));
    f->data.mixed = NULL;
}

/* What nobody has written is NaN: activations behind the last layer's keys, and all that a pass leaves behind. */
static void poison(fixture *f) {
    pl_decoder *d = &f->decoder;
    const pl_arch *a = d->arch;
    const pl_layer_acts *s = &d->acts[a->L - 1];
    int64_t T = d->max_T, q = a->H * a->D, kv = a->KV * a->D;
    real *const x[] = {s->q, s->o, s->x1, s->g, s->u, d->n, d->act, d->dx, d->d_o, d->dq, d->dk, d->dv, d->x_last};
    const int64_t width[] = {q, q, a->C, a->F, a->F, a->C, a->F, a->C, q, q, kv, kv, a->C};
    for (int64_t i = 0; i < PL_LEN(x); i++)
        for (int64_t j = 0; j < T * width[i]; j++) x[i][j] = (real)NAN;
}

typedef struct result {
    real *logp, *grad; /* [targets], [elements of the trainable] */
} result;

static void result_free(result *r) { pl_free(r->logp), pl_free(r->grad); }

/* Forward and backward of f->forest, with random dL/dlogp. */
static result run(fixture *f) {
    const pl_grads *g = f->trainable.is_lora ? NULL : &f->trainable.grads;
    result r = {.logp = test_zeros(f->forest.ntargets)};
    const pl_forest trained = pl_forest_trained(&f->forest);
    double c[512];
    poison(f);
    fixture_forward(f, true);
    memcpy(r.logp, f->head.logp, (size_t)f->forest.ntargets * sizeof *r.logp);
    for (int64_t i = 0; i < f->forest.ntargets; i++) c[i] = 2 * draw(1, i) - 1;
    pl_trainable_zero_grads(&f->trainable);
    must(pl_head_backward(&f->head, f->weights, g, &trained, c, f->decoder.dx, &err));
    must(pl_decoder_backward(&f->decoder, f->weights, f->adapter, g, &trained, &err));
    r.grad = test_gradients(f);
    return r;
}

/* Largest difference of the log-probs, and of a tensor's gradient relative to its norm; NaN wins. */
static double logps_apart(const fixture *f, const result *a, const result *b) {
    double worst = 0;
    for (int64_t i = 0; i < f->forest.ntargets; i++)
        worst = test_max(worst, fabs((double)a->logp[i] - (double)b->logp[i]));
    return worst;
}

static double gradients_apart(const fixture *f, const result *a, const result *b) {
    double worst = 0;
    const real *x = a->grad, *y = b->grad;
    for (int64_t i = 0; i < f->trainable.n; i++) {
        double apart = 0, norm = 0;
        for (int64_t j = 0; j < f->trainable.params[i].n; j++, x++, y++) {
            apart += pow((double)*x - (double)*y, 2);
            norm += pow((double)*y, 2);
        }
        assert_true(norm > 0);
        worst = test_max(worst, sqrt(apart / norm));
    }
    return worst;
}

/* Sums of a few hundred products in another order: 1e-5, as for any other cut of a step. */
static void check(fixture *f, const char *what) {
    f->forest.narrow = false;
    result wide = run(f);
    pl_forest_read_targets(&f->forest);
    assert_true(f->forest.narrow);
    result narrow = run(f);
    double logp = logps_apart(f, &narrow, &wide), grad = gradients_apart(f, &narrow, &wide);
    printf("%-30s log-probs %.2g, gradients %.2g apart\n", what, logp, grad);
    assert_true(logp <= 1e-5);
    assert_true(grad <= 1e-5);
    result_free(&wide), result_free(&narrow);
}

static void check_model(const char *model, const char *adapter, int threads, bool recompute) {
    fixture f;
    char what[96];
    test_threads(threads);
    test_bf16(false);
    fixture_open_training(&f, model, adapter, recompute);
    for (int aside = 0; aside < 2; aside++)
        for (int dropout = 0; dropout < (adapter ? 2 : 1); dropout++) {
            f.trainable.lora.dropout = (real)(dropout ? 0.2 : 0);
            f.trainable.lora.dropout_key = SEED;
            load(&f, aside);
            snprintf(what, sizeof what, "%s, %d threads%s%s%s", adapter ? "lora" : "full", threads,
                     recompute ? ", recomputed" : "", dropout ? ", dropout" : "", aside ? ", aside" : "");
            check(&f, what);
        }
    fixture_close(&f);
}

static void same_numbers(void **state) {
    PL_UNUSED(state);
    for (int threads = 1; threads <= 3; threads++)
        for (int recompute = 0; recompute < 2; recompute++) {
            check_model("llama_gqa_tied", "adapters/lora_all", threads, recompute);
            check_model("llama_gqa_tied", NULL, threads, recompute);
        }
    check_model("qwen2_untied", NULL, 1, false);
}

/* --- how many rows are run --- */
static pl_ops real_ops;
static int64_t activated, queries;

static void count_swiglu(real *y, const real *g, const real *u, int64_t n) {
#pragma omp atomic
    activated += n;
    real_ops.swiglu(y, g, u, n);
}

static void count_attn(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a) {
    for (int64_t r = 0; r < a->nruns; r++) queries += a->runs[r].q_count;
    real_ops.attn(o, lse, q, k, v, a);
}

static void only_these_rows(void **state) {
    PL_UNUSED(state);
    fixture f;
    test_threads(2);
    test_bf16(false);
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", false);
    load(&f, false);
    pl_forest_read_targets(&f.forest);
    int64_t L = f.model.arch.L, T = f.forest.T, read = PAIRS * (1 + CHOSEN - 1 + REJECTED - 1);
    assert_int_equal(f.forest.nread, read);
    real_ops = f.ops;
    f.ops.swiglu = count_swiglu;
    f.ops.attn = count_attn;
    activated = queries = 0;
    fixture_forward(&f, false);
    assert_int_equal(queries, (L - 1) * T + read);
    assert_int_equal(activated, queries * f.model.arch.F);
    pl_forest_read_tokens(&f.forest, NULL, 0); /* nothing: keys and values, and that is it */
    f.forest.ntargets = 0;
    activated = queries = 0;
    fixture_forward(&f, false);
    assert_int_equal(queries, (L - 1) * T);
    assert_int_equal(activated, queries * f.model.arch.F);
    fixture_close(&f);
}

/* The comparison above finds a query that does not see its own key, and one whose place is another's. */
static void mistakes_show(void **state) {
    PL_UNUSED(state);
    fixture f;
    test_threads(1);
    test_bf16(false);
    fixture_open_training(&f, "llama_gqa_tied", "adapters/lora_all", false);
    load(&f, false);
    result wide = run(&f);
    pl_forest_read_targets(&f.forest);
    f.forest.read_runs[1].own_past--;
    f.forest.read_runs[1].own_first++;
    result blind = run(&f);
    assert_false(logps_apart(&f, &blind, &wide) <= 1e-5);
    assert_false(gradients_apart(&f, &blind, &wide) <= 1e-5);
    pl_forest_read_targets(&f.forest);
    f.forest.read[1]++;
    result moved = run(&f);
    assert_false(logps_apart(&f, &moved, &wide) <= 1e-5);
    assert_false(gradients_apart(&f, &moved, &wide) <= 1e-5);
    result_free(&wide), result_free(&blind), result_free(&moved);
    fixture_close(&f);
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_numbers), cmocka_unit_test(only_these_rows),
                                       cmocka_unit_test(mistakes_show)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
