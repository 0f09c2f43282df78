/* run_open.c: builds a run: configuration, data (run_data.c), model, reference, memory (run_memory.c). Everything that
 * can be refused is refused here. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cache.h"
#include "base/file.h"
#include "plumb/log.h"
#include "train/run_open.h"

/* --- model, adapter, reference
 * -------------------------------------------------------------------------------------------------- */

static bool was_set(const pl_run *r, const char *name) {
    return r->options && pl_options_origin(r->options, name) != PL_ORIGIN_DEFAULT;
}

/* lora_* options beside --adapter must say what the adapter says. */
static int agree_with_adapter(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    const pl_peft_config *p = &r->peft;
    if (was_set(r, "lora_r") && c->lora_r != p->r)
        return PL_FAIL(err, PL_E_MISMATCH, "lora_r is %" PRId64 ", the adapter's r %" PRId64, c->lora_r, p->r);
    if (was_set(r, "lora_alpha") && c->lora_alpha != p->alpha)
        return PL_FAIL(err, PL_E_MISMATCH, "lora_alpha is %g, the adapter's %g", c->lora_alpha, p->alpha);
    if (was_set(r, "use_rslora") && c->use_rslora != p->rslora)
        return PL_FAIL(err, PL_E_MISMATCH, "use_rslora is not what the adapter says");
    if (!c->lora_target_modules.n) return 0;
    pl_peft_config wanted;
    pl_peft_site *a = NULL, *b = NULL;
    int rc;
    pl_peft_config_init(&wanted);
    PL_GO(rc, pl_peft_config_target(&wanted, c->lora_target_modules.items, c->lora_target_modules.n, err));
    PL_GO(rc, pl_arch_match(&a, &r->model.arch, &wanted, err));
    PL_GO(rc, pl_arch_match(&b, &r->model.arch, p, err));
    for (int64_t i = 0; rc == 0 && i < r->model.arch.L * PL_LIN_COUNT; i++)
        if (a[i].on != b[i].on)
            rc =
                PL_FAIL(err, PL_E_MISMATCH, "lora_target_modules means other layers than the adapter's target_modules");
out:
    pl_free(a);
    pl_free(b);
    pl_peft_config_release(&wanted);
    return rc;
}

static int open_adapter(pl_run *r, pl_error *err) {
    int rc = pl_peft_config_load(&r->peft, r->c->adapter, err);
    if (rc == 0) rc = pl_model_check_adapter(&r->model, &r->peft, err);
    if (rc == 0) rc = agree_with_adapter(r, err);
    if (rc == 0 && was_set(r, "lora_dropout")) r->peft.dropout = r->c->lora_dropout;
    return rc ? pl_error_context(err, rc, "adapter %s", r->c->adapter) : 0;
}

static int open_peft(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    r->is_lora = c->use_peft || c->adapter;
    if (!r->is_lora) return 0;
    pl_peft_config_init(&r->peft);
    if (c->adapter) return open_adapter(r, err);
    r->peft.r = c->lora_r;
    r->peft.alpha = c->lora_alpha;
    r->peft.rslora = c->use_rslora;
    r->peft.dropout = c->lora_dropout;
    r->peft.score = r->model.arch.head != PL_ARCH_LM;
    const pl_strlist *targets = &c->lora_target_modules;
    int rc = targets->n ? pl_peft_config_target(&r->peft, targets->items, targets->n, err) : 0;
    /* written as names: few readers but PEFT know what "all-linear" or no target means */
    return rc ? rc : pl_arch_name_targets(&r->peft, &r->model.arch, err);
}

/* TRL's disable_dropout zeroes LoRA's own dropout too: the same here, and said. */
static void settle_dropout(pl_run *r) {
    if (!r->is_lora || !r->c->disable_dropout) return;
    if (r->peft.dropout > 0)
        pl_log(PL_LOG_INFO, "lora_dropout %g is off, because disable_dropout is true (set it to false to use dropout)",
               r->peft.dropout);
    r->policy.lora.dropout = 0;
}

double pl_run_dropout(const pl_run *r) { return r->is_lora && !r->c->disable_dropout ? r->peft.dropout : 0; }

pl_dtype pl_run_output_dtype(const pl_run *r) {
    static const pl_dtype types[] = {[PL_STORE_F32] = PL_F32, [PL_STORE_F16] = PL_F16, [PL_STORE_BF16] = PL_BF16};
    if (r->c->dtype >= 0 && r->c->dtype != PL_STORE_AUTO) return types[r->c->dtype];
    return r->model.tensors[0]->dtype;
}

static int open_model(pl_run *r, pl_error *err) {
    const char *dir = r->c->model_name_or_path;
    return pl_run_is_scored(r) ? pl_model_open_scored(&r->model, dir, (uint64_t)r->c->seed, err)
                               : pl_model_open(&r->model, dir, err);
}

static int open_ref_model(pl_run *r, pl_error *err) {
    int rc = pl_model_open(&r->reference.model, r->c->ref_model, err);
    if (rc) return pl_error_context(err, rc, "ref_model");
    if (r->reference.model.arch.V != r->model.arch.V)
        return PL_FAIL(err, PL_E_MISMATCH, "ref_model has %" PRId64 " tokens in its vocabulary, the model %" PRId64,
                       r->reference.model.arch.V, r->model.arch.V);
    return 0;
}

static int open_reference(pl_run *r, pl_error *err) {
    pl_reference *f = &r->reference;
    f->fresh = r->c->overwrite_cache;
    if (!r->batcher.mix.term[0]->reference || r->c->reference_free || r->c->reference == PL_REFERENCE_NONE)
        f->kind = PL_REF_NONE;
    else if (r->c->reference == PL_REFERENCE_CURRENT)
        f->kind = PL_REF_CURRENT;
    else if (r->c->sync_ref_model)
        f->kind = PL_REF_MOVING;
    else if (r->c->ref_adapter)
        f->kind = PL_REF_GIVEN;
    else if (r->c->ref_model)
        f->kind = PL_REF_MODEL;
    else if (!r->is_lora)
        f->kind = PL_REF_BASE;
    else
        f->kind = r->c->adapter ? PL_REF_ADAPTER : PL_REF_ADAPTER_OFF;
    return f->kind == PL_REF_MODEL ? open_ref_model(r, err) : 0;
}

/* --- putting it together
 * ----------------------------------------------------------------------------------------------------------- */

static int fill_policy(pl_run *r, pl_error *err) {
    if (!r->is_lora)
        pl_trainable_load_masters(&r->policy, &r->model, r->backend.ops);
    else if (r->c->adapter) {
        int rc = pl_trainable_load_adapter(&r->policy, r->c->adapter, r->backend.ops, err);
        if (rc) return pl_error_context(err, rc, "adapter %s", r->c->adapter);
    }
    settle_dropout(r);
    return 0;
}

static void bind_reference(pl_run *r) {
    pl_reference *f = &r->reference;
    f->worker = f->kind == PL_REF_MODEL ? &f->own_worker : &r->worker;
    f->weights = f->kind == PL_REF_MODEL ? &f->model.stored : &r->model.stored;
    f->lora = f->kind == PL_REF_ADAPTER || f->kind == PL_REF_GIVEN ? &f->frozen : NULL;
    if (f->kind == PL_REF_MOVING) {
        pl_trainable_blend(&f->moving, &r->policy, 1);
        f->weights = &f->moving.weights;
        f->lora = f->moving.is_lora ? &f->moving.lora : NULL;
    }
    /* before the first step the policy is the starting adapter itself: a precomputed reference needs no copy of it */
    if (f->kind == PL_REF_ADAPTER && r->c->precompute_ref_log_probs) f->lora = &r->policy.lora;
}

static int prepare(pl_run *r, pl_error *err) {
    const pl_grads *g = r->is_lora ? NULL : &r->policy.grads;
    int rc = pl_worker_prepare(&r->worker, &r->policy.weights, r->is_lora ? &r->policy.lora : NULL, g, err);
    if (rc == 0 && r->reference.kind != PL_REF_NONE && r->reference.kind != PL_REF_CURRENT)
        rc = pl_worker_prepare(r->reference.worker, r->reference.weights, r->reference.lora, NULL, err);
    return rc;
}

static int hash_inputs(pl_run *r, pl_error *err) {
    pl_machine_report report;
    pl_machine_describe(r->machine, &report);
    r->state.data = r->train->hash;
    r->state.bf16 = r->backend.bf16;
    r->state.threads = report.threads;
    snprintf(r->state.level, sizeof r->state.level, "%s", report.level);
    snprintf(r->state.gemm, sizeof r->state.gemm, "%s", report.gemm);
    int rc = pl_model_hash_remembered(&r->state.model, &r->model, r->cache_dir, r->c->overwrite_cache, err);
    if (rc || r->reference.kind == PL_REF_NONE) return rc;
    pl_hash model = r->state.model;
    if (r->reference.kind == PL_REF_MODEL)
        rc = pl_model_hash_remembered(&model, &r->reference.model, r->cache_dir, r->c->overwrite_cache, err);
    return rc ? rc
              : pl_reference_key(&r->state.reference, &r->reference, &model,
                                 r->reference.kind == PL_REF_GIVEN ? r->c->ref_adapter : r->c->adapter, r->machine,
                                 r->backend.bf16, pl_run_pass_tokens(r), r->worker.ld_discount, err);
}

static void banner(const pl_run *r) {
    char sentence[1024];
    pl_machine_report m;
    pl_machine_describe(r->machine, &m);
    pl_log(PL_LOG_INFO, "model: %s (%s, %.1f M parameters, %s), training %s: %.2f M parameters", r->model.dir,
           r->model.arch.family, (double)r->model.elements / 1e6, pl_dtype_name(r->model.tensors[0]->dtype),
           r->is_lora ? "a LoRA adapter" : "all weights", (double)r->policy.elements / 1e6);
    pl_config_objective_sentence(sentence, sizeof sentence, &r->batcher.mix, &r->batcher.params);
    pl_log(PL_LOG_INFO, "%s", sentence);
    if (pl_run_is_scored(r))
        pl_log(PL_LOG_INFO, "score head: %s",
               r->c->adapter                             ? "the adapter's"
               : r->model.arch.head == PL_ARCH_NEW_SCORE ? "new, drawn from the seed"
                                                         : "the model's");
    if (r->batcher.mix.term[0]->reference) {
        pl_reference_sentence(sentence, sizeof sentence, &r->reference, r->c);
        pl_log(PL_LOG_INFO, "%s", sentence);
    }
    pl_log(PL_LOG_INFO, "precision: bf16 %s%s; %s, %s, %" PRId64 " thread%s", r->backend.bf16 ? "true" : "false",
           r->backend.bf16 && !m.native_bf16 ? " (rounded, but multiplied in f32: this machine has no native bf16)"
                                             : "",
           m.level, m.gemm, m.threads, m.threads == 1 ? "" : "s");
    const char *unit = r->bins.n ? "bins" : "rows";
    pl_log(PL_LOG_INFO, "%" PRId64 " %s, %" PRId64 " steps of %" PRId64 " %s, %g epochs", r->schedule.rows, unit,
           r->schedule.steps, r->schedule.batch * r->schedule.accumulation, unit,
           (double)r->schedule.steps / (double)r->schedule.steps_per_epoch);
    if (r->c->neftune_noise_alpha > 0)
        pl_log(PL_LOG_INFO, "noise on embeddings (NEFTune, alpha %g), in training only", r->c->neftune_noise_alpha);
}

/* transformers must read the score where plumb does. */
static void choose_pad(pl_run *r) {
    if (!pl_run_is_scored(r)) return;
    pl_hfdir_classifier_init(&r->classifier, &r->model.arch, r->tokenizer);
    if (r->classifier.pad < 0)
        pl_log(PL_LOG_WARN, "the tokenizer has no token to pad with but eos: the model is written without a "
                            "pad_token_id, so that transformers scores one answer at a time");
    else if (r->classifier.pad_token)
        pl_log(PL_LOG_INFO,
               "pad token: %s in what is written, because transformers reads the score at the last token that is not "
               "the pad, and answers end in eos",
               r->classifier.pad_token);
}

static void fill_saver(pl_run *r) {
    choose_pad(r);
    r->saver = (pl_saver){.command = r->command,
                          .out_dir = r->c->output_dir,
                          .run_name = r->run_name,
                          .config = r->c,
                          .model = &r->model,
                          .peft = r->is_lora ? &r->peft : NULL,
                          .classifier = pl_run_is_scored(r) ? &r->classifier : NULL,
                          .dtype = pl_run_output_dtype(r),
                          .ops = r->backend.ops,
                          .moving = r->reference.kind == PL_REF_MOVING ? &r->reference.moving : NULL,
                          .keep = pl_run_has(r->c->save_total_limit) ? r->c->save_total_limit : 0};
}

static void fill_batcher(pl_run *r) {
    const pl_loss_params *p = &r->batcher.params;
    bool ld = pl_mix_reads(&r->batcher.mix, "ld_alpha") && !isnan(p->ld_alpha);
    r->worker.ld_discount = ld ? 1 - p->ld_alpha : 0;
    r->reference.own_worker.ld_discount = r->worker.ld_discount;
    r->batcher.state = r->state.loss;
    r->batcher.worker = &r->worker;
    r->batcher.policy = &r->policy;
    r->batcher.reference = &r->reference;
}

int pl_run_open(pl_run *r, pl_error *err) {
    int rc;
    r->lock = r->record.fd = -1;
    r->backend = pl_machine_backend(r->machine, r->c->bf16);
    const pl_command *cmd = pl_train_command(r->command);
    if (!cmd) return PL_FAIL(err, PL_E_OPTION, "%s is no training command", r->command);
    PL_GO(rc, pl_config_check(r->c, r->options, err));
    PL_GO(rc, pl_config_objective(&r->batcher.mix, &r->batcher.params, r->command, r->c, r->options, err));
    PL_GO(rc, pl_cache_dir(&r->cache_dir, r->c->cache_dir, err));
    PL_GO(rc, open_model(r, err));
    PL_GO(rc, pl_run_check_length(r, err));
    PL_GO(rc, pl_tokenizer_open(&r->tokenizer, r->c->model_name_or_path, err));
    PL_GO(rc, open_peft(r, err));
    PL_GO(rc, open_reference(r, err));
    PL_GO(rc, pl_run_load_data(r, err));
    PL_GO(rc, pl_run_open_units(r, err));
    PL_GO(rc, pl_schedule_init(&r->schedule, r->c, r->bins.n ? r->bins.n : r->train->n, err));
    if (r->bins.n) PL_GO(rc, pl_schedule_pack(&r->schedule, &r->bins, err));
    PL_GO(rc, pl_run_open_dir(r, err));
    PL_GO(rc, pl_run_write_made(r, err));
    PL_GO(rc, pl_run_take_memory(r, err));
    PL_GO(rc, fill_policy(r, err));
    bind_reference(r);
    fill_batcher(r);
    fill_saver(r);
    PL_GO(rc, prepare(r, err));
    PL_GO(rc, hash_inputs(r, err));
    banner(r);
    pl_run_state_memory(r);
out:
    return rc;
}

void pl_run_close(pl_run *r) {
    pl_record_close(&r->record);
    pl_schedule_release(&r->schedule);
    pl_bins_release(&r->bins);
    for (int64_t e = 0; r->cached && e < r->ncached; e++) pl_free(r->cached[e]);
    pl_free(r->cached);
    pl_free(r->cached_eval);
    pl_free(r->in_order);
    pl_free(r->scores);
    pl_buf_release(&r->made[0]);
    pl_buf_release(&r->made[1]);
    pl_free(r->score_tokens);
    pl_reference_release(&r->reference);
    pl_trainable_release(&r->policy);
    pl_arena_release(&r->step_arena);
    pl_arena_release(&r->model_arena);
    if (r->is_lora) pl_peft_config_release(&r->peft);
    pl_dataset_free(r->eval);
    pl_dataset_free(r->train);
    pl_tokenizer_free(r->tokenizer);
    pl_model_close(&r->model);
    pl_free(r->run_name);
    pl_free(r->cache_dir);
    if (r->lock >= 0) close(r->lock);
}
