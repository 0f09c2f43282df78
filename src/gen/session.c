/* session.c: opens model, tokenizer and adapter. */
#include "gen/session.h"

#include "base/file.h"

static int open_tokenizer(pl_session *s, const char *dir, bool need, pl_error *err) {
    char *path = NULL;
    int rc = pl_path_join(&path, dir, "tokenizer.json", err);
    if (rc) return rc;
    bool there = pl_file_exists(path);
    pl_free(path);
    return there || need ? pl_tokenizer_open(&s->tokenizer, dir, err) : 0;
}

static int open_adapter(pl_session *s, const char *dir, const pl_ops *ops, pl_error *err) {
    pl_arena plan;
    pl_lora counted = {0};
    pl_arena_init_measuring(&plan, "adapter");
    int rc = pl_lora_open(&counted, &s->model, dir, ops, &plan, err);
    pl_free(counted.modules);
    if (rc == 0) rc = pl_arena_init(&s->arena, "adapter", plan.peak, err);
    if (rc == 0) rc = pl_lora_open(&s->adapter, &s->model, dir, ops, &s->arena, err);
    s->has_adapter = rc == 0;
    return rc;
}

int pl_session_open(pl_session *s, const char *model_dir, const char *adapter, bool need_tokenizer, const pl_ops *ops,
                    pl_error *err) {
    *s = (pl_session){0};
    int rc = pl_model_open(&s->model, model_dir, err);
    if (rc == 0) rc = open_tokenizer(s, model_dir, need_tokenizer, err);
    if (rc == 0 && adapter) rc = open_adapter(s, adapter, ops, err);
    if (rc) pl_session_close(s);
    return rc;
}

int pl_session_open_scored(pl_session *s, const char *model_dir, const char *adapter, const pl_ops *ops,
                           pl_error *err) {
    *s = (pl_session){0};
    int rc = pl_model_open_scored(&s->model, model_dir, 0, err);
    if (rc == 0 && s->model.arch.head == PL_ARCH_NEW_SCORE && !adapter)
        rc = PL_FAIL(err, PL_E_UNSUPPORTED,
                     "%s is a causal language model, which gives no scores: train a reward model (plumb reward, plumb "
                     "verifier), or give the --adapter of one",
                     model_dir);
    if (rc == 0) rc = open_tokenizer(s, model_dir, true, err);
    if (rc == 0 && adapter) rc = open_adapter(s, adapter, ops, err);
    if (rc) pl_session_close(s);
    return rc;
}

void pl_session_close(pl_session *s) {
    if (!s) return;
    pl_free(s->adapter.modules);
    pl_arena_release(&s->arena);
    pl_tokenizer_free(s->tokenizer);
    pl_model_close(&s->model);
    *s = (pl_session){0};
}

const pl_lora *pl_session_lora(const pl_session *s) { return s->has_adapter ? &s->adapter : NULL; }
