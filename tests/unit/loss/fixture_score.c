/* fixture_score.c: see fixture_score.h. */
#include "unit/loss/fixture_score.h"

#include <stdlib.h>

#include "base/json.h"

static void path_of(char out[512], const char *dir, const char *file) {
    snprintf(out, 512, "%s/golden/score/%s%s%s", PLUMB_TEST_DIR, dir, *file ? "/" : "", file);
}

static pl_span put(score_fixture *f, const pl_json *pair, const char *key) {
    const pl_json *a = pl_json_get(pair, key);
    pl_span s = {f->data.nids, pl_json_len(a)};
    for (int64_t i = 0; i < s.count; i++) f->ids[f->data.nids++] = (int32_t)pl_json_int(pl_json_at(a, i));
    return s;
}

static void load_pairs(score_fixture *f, const char *dir) {
    char path[512];
    pl_json *root = NULL;
    path_of(path, dir, "reward.json");
    MUST(pl_json_load(&root, path, 1 << 20, err));
    const pl_json *pairs = pl_json_get(root, "pairs");
    f->data = (pl_dataset){.kind = PL_DATA_PREFERENCE, .ids = f->ids, .rows = f->rows, .answers = f->answers};
    for (int64_t i = 0; i < pl_json_len(pairs); i++) {
        const pl_json *p = pl_json_at(pairs, i);
        f->rows[i] = (pl_row){.source = i, .first_answer = 2 * i, .answers = 2, .prompt = put(f, p, "prompt_ids")};
        f->answers[2 * i] = put(f, p, "chosen_ids");
        f->answers[2 * i + 1] = put(f, p, "rejected_ids");
        f->margin[i] = pl_json_double(pl_json_get(p, "margin"));
        f->want[2 * i] = pl_json_double(pl_json_get(p, "chosen_score"));
        f->want[2 * i + 1] = pl_json_double(pl_json_get(p, "rejected_score"));
        f->data.n++;
    }
    f->params.center_rewards_coefficient = pl_json_double(pl_json_get(root, "center_rewards_coefficient"));
    f->want_loss = pl_json_double(pl_json_get(root, "loss"));
    pl_json_free(root);
}

static void open_trainable(score_fixture *f, const char *adapter) {
    char path[512];
    pl_peft_config c = {0};
    if (!adapter) {
        MUST(pl_trainable_full(&f->trainable, &f->model, false, &f->arena, err));
        pl_trainable_load_masters(&f->trainable, &f->model, &f->ops);
        return;
    }
    path_of(path, adapter, "");
    MUST(pl_peft_config_load(&c, path, err));
    MUST(pl_trainable_lora(&f->trainable, &f->model, &c, 1, false, &f->arena, err));
    MUST(pl_trainable_load_adapter(&f->trainable, path, &f->ops, err));
    pl_peft_config_release(&c);
}

void score_open(score_fixture *f, const char *model, const char *adapter, bool recompute) {
    char path[512];
    memset(f, 0, sizeof *f);
    pl_cpu_level level = pl_cpu_detect();
    const char *mask = getenv("PLUMB_CPU");
    if (mask) MUST(pl_cpu_level_parse(&level, mask, err));
    level = PL_MIN(level, pl_cpu_detect());
    pl_ops_init(&f->ops, level);
    f->backend.ops = &f->ops;
    MUST(pl_gemm_new(&f->backend.gemm, level, &f->ops, err));
    path_of(path, model, "");
    MUST(pl_model_open_scored(&f->model, path, 7, err));
    MUST(pl_arena_init(&f->arena, "test", (size_t)64 << 20, err));
    open_trainable(f, adapter);
    load_pairs(f, adapter ? adapter : model);
    pl_worker_spec spec = {.caps = {256, 32, 256, 2 * SCORE_PAIRS, 64, 16},
                           .budget_tok = 256,
                           .pass_tok = 256,
                           .training = true,
                           .recompute = recompute,
                           .full = !adapter,
                           .max_rank = f->trainable.lora.max_r};
    MUST(pl_worker_take(&f->worker, &f->model.arch, &f->backend, &spec, &f->arena, err));
    MUST(pl_worker_prepare(&f->worker, &f->trainable.weights, adapter ? &f->trainable.lora : NULL,
                           adapter ? NULL : &f->trainable.grads, err));
}

void score_close(score_fixture *f) {
    pl_trainable_release(&f->trainable);
    pl_model_close(&f->model);
    pl_arena_release(&f->arena);
    pl_gemm_free(f->backend.gemm);
}

double score_loss_and_gradient(score_fixture *f) {
    pl_worker *k = &f->worker;
    int64_t rows[SCORE_PAIRS] = {0, 1, 2, 3, 4, 5, 6, 7}, per = f->per_batch ? f->per_batch : f->data.n;
    double loss = 0, units = (double)f->data.n;
    pl_trainable_zero_grads(&f->trainable);
    for (int64_t at = 0; at < f->data.n; at += per) {
        int64_t n = PL_MIN(per, f->data.n - at);
        pl_metric metrics[8] = {0};
        MUST(pl_worker_forward(k, &f->trainable.weights, f->trainable.is_lora ? &f->trainable.lora : NULL, &f->data,
                               rows + at, n, at, false, PL_FOR_BOTH, err));
        for (int64_t s = 0; s < 2 * n; s++) {
            f->got[2 * at + s] = k->score.score[s];
            k->d_score[s] = 0;
        }
        pl_loss_in in = {.n = 2 * n, .per_row = 2, .score = k->score.score, .margin = f->margin + at};
        pl_loss_out out = {.d_score = k->d_score, .metrics = metrics};
        MUST(pl_objective_reward.run(&out, &in, &f->params, err));
        for (int64_t s = 0; s < 2 * n; s++) k->d_score[s] /= units;
        MUST(pl_worker_backward(k, &f->trainable, err));
        loss += out.loss / units;
    }
    return loss;
}
