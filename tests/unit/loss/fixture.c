/* fixture.c: see fixture.h. */
#include "unit/loss/fixture.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "loss/objective.h"

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if (call) fail_msg("%s", check_err.text);                                                                      \
    } while (0)

static pl_error check_err;

double test_max(double a, double b) { return isnan(a) || isnan(b) ? NAN : PL_MAX(a, b); }

void test_threads(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    PL_UNUSED(n);
#endif
}

void test_bf16(bool on) {
    if (on)
        setenv("PLUMB_BF16", "1", 1);
    else
        unsetenv("PLUMB_BF16");
}

real *test_zeros(int64_t n) {
    real *p = NULL;
    CHECK(PL_NEW(&p, n, &check_err));
    return p;
}

real *test_gradients(const fixture *f) {
    real *all = test_zeros(f->trainable.elements), *to = all;
    for (int64_t i = 0; i < f->trainable.n; to += f->trainable.params[i++].n)
        memcpy(to, f->trainable.params[i].grad, (size_t)f->trainable.params[i].n * sizeof *to);
    return all;
}

static void golden_path(char out[512], const char *dir, const char *file) {
    snprintf(out, 512, "%s/golden/%s%s%s", PLUMB_TEST_DIR, dir, *file ? "/" : "", file);
}

pl_tensors *test_tensors(const char *dir, const char *file) {
    char path[512];
    golden_path(path, dir, file);
    pl_tensors *t = NULL;
    CHECK(pl_tensors_open_file(&t, path, &check_err));
    return t;
}

static void open_model(fixture *f, const char *model) {
    memset(f, 0, sizeof *f);
    char dir[128], path[512];
    pl_cpu_level level = pl_cpu_detect();
    const char *mask = getenv("PLUMB_CPU");
    if (mask) CHECK(pl_cpu_level_parse(&level, mask, &check_err));
    pl_ops_init(&f->ops, PL_MIN(level, pl_cpu_detect()));
    f->backend.ops = &f->ops;
    f->backend.bf16 = getenv("PLUMB_BF16") != NULL;
    CHECK(pl_gemm_new(&f->backend.gemm, PL_MIN(level, pl_cpu_detect()), &f->ops, &check_err));
    snprintf(dir, sizeof dir, "models/%s", model);
    golden_path(path, dir, "");
    CHECK(pl_model_open(&f->model, path, &check_err));
    CHECK(pl_arena_init(&f->arena, "test", (size_t)64 << 20, &check_err));
}

static void open_buffers(fixture *f, bool training, bool recompute, int64_t rank) {
    pl_decoder_spec ds = {
        .max_tokens = 512, .training = training, .recompute = recompute, .max_rank = rank, .dropout = true};
    pl_head_spec hs = {
        .max_rows = 512, .max_targets = 512, .training = training, .trained = training && !f->trainable.is_lora};
    pl_forest_caps caps = {512, 32, 512, 32, 64, 16};
    CHECK(pl_decoder_take(&f->decoder, &f->model.arch, &f->backend, &ds, &f->arena, &check_err));
    CHECK(pl_head_take(&f->head, &f->model.arch, &f->backend, &hs, &f->arena, &check_err));
    CHECK(pl_forest_take(&f->forest, &caps, &f->arena, &check_err));
    const pl_grads *grads = training && !f->trainable.is_lora ? &f->trainable.grads : NULL;
    CHECK(pl_decoder_prepare(&f->decoder, f->weights, f->adapter, grads, &check_err));
    CHECK(pl_head_prepare(&f->head, f->weights, grads != NULL, &check_err));
    f->data.ids = f->ids;
    f->data.rows = f->rows;
    f->data.answers = f->answers;
}

void fixture_open(fixture *f, const char *model, const char *adapter) {
    open_model(f, model);
    f->weights = &f->model.stored;
    if (adapter) {
        char path[512];
        golden_path(path, adapter, "");
        CHECK(pl_lora_open(&f->lora, &f->model, path, &f->ops, &f->arena, &check_err));
        f->adapter = &f->lora;
    }
    open_buffers(f, false, false, f->lora.max_r);
}

void fixture_open_training(fixture *f, const char *model, const char *adapter, bool recompute) {
    open_model(f, model);
    if (adapter) {
        char path[512];
        pl_peft_config c = {0};
        golden_path(path, adapter, "");
        CHECK(pl_peft_config_load(&c, path, &check_err));
        CHECK(pl_trainable_lora(&f->trainable, &f->model, &c, 1, false, &f->arena, &check_err));
        CHECK(pl_trainable_load_adapter(&f->trainable, path, &f->ops, &check_err));
        pl_peft_config_release(&c);
        f->adapter = &f->trainable.lora;
    } else {
        CHECK(pl_trainable_full(&f->trainable, &f->model, false, &f->arena, &check_err));
        pl_trainable_load_masters(&f->trainable, &f->model, &f->ops);
    }
    f->weights = &f->trainable.weights;
    open_buffers(f, true, recompute, f->trainable.lora.max_r);
}

void fixture_close(fixture *f) {
    pl_free(f->lora.modules);
    pl_trainable_release(&f->trainable);
    pl_model_close(&f->model);
    pl_arena_release(&f->arena);
    pl_gemm_free(f->backend.gemm);
}

static pl_span put_ids(fixture *f, int64_t n) {
    pl_span s = {f->data.nids, n};
    f->data.nids += n;
    return s;
}

static void build(fixture *f, bool share) {
    int64_t order[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    CHECK(pl_forest_build(&f->forest, &f->data, order, f->data.n, 0, share, false, &check_err));
    if (f->data.kind != PL_DATA_TEXT) pl_forest_read_targets(&f->forest); /* of texts, tests look at all rows */
}

void fixture_text(fixture *f, const int64_t *ids, int64_t n) {
    f->data.n = 1;
    f->data.nids = 0;
    f->data.kind = PL_DATA_TEXT;
    for (int64_t i = 0; i < n; i++) f->ids[i] = (int32_t)ids[i];
    f->rows[0] = (pl_row){.answers = 1};
    f->answers[0] = put_ids(f, n);
    build(f, true);
}

void fixture_forward(fixture *f, bool keep) {
    CHECK(pl_decoder_forward(&f->decoder, f->weights, f->adapter, &f->forest, keep, &check_err));
    CHECK(pl_head_forward(&f->head, f->weights, &f->forest, f->decoder.x_last, keep, &check_err));
}

static pl_span json_ids(fixture *f, const pl_json *row, const char *key) {
    pl_json *a = pl_json_get(row, key);
    for (int64_t i = 0; i < pl_json_len(a); i++) f->ids[f->data.nids + i] = (int32_t)pl_json_int(pl_json_at(a, i));
    return put_ids(f, pl_json_len(a));
}

static void load_row(fixture *f, const pl_json *row, bool paired) {
    int64_t i = f->data.n++, per = paired ? 2 : 1;
    f->rows[i] = (pl_row){.source = i, .first_answer = i * per, .answers = per};
    f->rows[i].prompt = json_ids(f, row, "prompt_ids");
    f->answers[i * per] = json_ids(f, row, paired ? "chosen_ids" : "completion_ids");
    if (!paired) return;
    f->answers[i * per + 1] = json_ids(f, row, "rejected_ids");
    f->reference[2 * i] = pl_json_double(pl_json_get(row, "ref_chosen_logp"));
    f->reference[2 * i + 1] = pl_json_double(pl_json_get(row, "ref_rejected_logp"));
}

double fixture_load_batch(fixture *f, const char *dir, const char *file, bool share) {
    char path[512];
    golden_path(path, dir, file);
    pl_json *root = NULL;
    CHECK(pl_json_load(&root, path, 1 << 20, &check_err));
    bool paired = pl_json_has(root, "pairs");
    pl_json *rows = pl_json_get(root, paired ? "pairs" : "rows");
    f->data.n = f->data.nids = 0;
    f->data.kind = paired ? PL_DATA_PREFERENCE : PL_DATA_COMPLETION;
    f->params = (pl_loss_params){.beta = pl_json_double(pl_json_get(root, "beta"))};
    f->mix = (pl_mix){.n = 1,
                      .weight = {1},
                      .term = {paired ? pl_objective_find("dpo", "sigmoid") : pl_objective_find("sft", "nll")}};
    for (int64_t i = 0; i < pl_json_len(rows); i++) load_row(f, pl_json_at(rows, i), paired);
    double loss = pl_json_double(pl_json_get(root, "loss"));
    pl_json_free(root);
    build(f, share);
    return loss;
}

/* What an objective sees of the batch that fixture_forward has run. */
static void collect(const fixture *f, pl_loss_in *in, double *policy, double *token, double *sum_p2, int64_t *first,
                    int64_t *length, int64_t *prompt) {
    const pl_forest *b = &f->forest;
    first[0] = 0;
    for (int64_t s = 0; s < b->nsequences; s++) {
        const pl_sequence *q = &b->sequences[s];
        first[s + 1] = first[s] + q->ntargets;
        length[s] = q->length;
        prompt[s] = q->prompt_targets;
        policy[s] = 0;
        for (int64_t i = 0; i < q->ntargets; i++) {
            token[first[s] + i] = (double)f->head.logp[q->first_target + i];
            sum_p2[first[s] + i] = (double)f->head.sum_p2[f->head.target_row[q->first_target + i]];
            if (i >= q->prompt_targets) policy[s] += token[first[s] + i];
        }
    }
    *in = (pl_loss_in){.n = b->nsequences,
                       .per_row = b->nsequences / f->data.n,
                       .policy = policy,
                       .reference = f->reference,
                       .length = length,
                       .first = first,
                       .prompt = prompt,
                       .token_logp = token,
                       .token_sum_p2 = sum_p2,
                       .label = f->label,
                       .state = f->state};
}

double fixture_loss_and_gradient(fixture *f) {
    pl_forest *b = &f->forest;
    double policy[16], dseq[16], dseq2[16], token[512], sum_p2[512], dtok[512], dtok2[512];
    int64_t first[17], length[16], prompt[16], order[16];
    pl_metric metrics[16] = {0};
    pl_loss_in in;
    pl_loss_scratch scratch = {.d_sequence = dseq2, .d_token = dtok2};
    pl_loss_out out = {.d_sequence = dseq, .d_token = dtok, .metrics = metrics, .order = order};
    pl_trainable_zero_grads(&f->trainable);
    fixture_forward(f, true);
    collect(f, &in, policy, token, sum_p2, first, length, prompt);
    CHECK(pl_mix_run(&out, &in, &f->mix, &f->params, &scratch, &check_err));
    double rows = (double)f->data.n, tokens = 0;
    for (int64_t s = 0; s < b->nsequences; s += in.per_row) tokens += (double)(first[s + 1] - first[s]);
    for (int64_t s = 0; s < b->nsequences; s++)
        for (int64_t i = first[s]; i < first[s + 1]; i++)
            dtok[i] = dtok[i] / tokens + (i - first[s] >= prompt[s] ? dseq[s] / rows : 0);
    const pl_grads *g = f->trainable.is_lora ? NULL : &f->trainable.grads;
    CHECK(pl_head_backward(&f->head, f->weights, g, b, dtok, f->decoder.dx, &check_err));
    CHECK(pl_decoder_backward(&f->decoder, f->weights, f->adapter, g, b, &check_err));
    return out.loss / rows + out.token_loss / tokens;
}
