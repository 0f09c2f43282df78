/* run_open.c: builds a run: configuration, data, model, reference, memory. Everything that can be refused is refused
 * here. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cache.h"
#include "base/file.h"
#include "data/cache.h"
#include "plumb/log.h"
#include "train/run.h"

static bool set(int64_t option) { return option != PL_OPT_NO_I64; }

/* --- data
 * -------------------------------------------------------------------------------------------------------------------------------------
 */

static int check_length(const pl_run *r, pl_error *err) {
    const pl_arch *a = &r->model.arch;
    int64_t limit = a->max_position;
    if (a->rope.kind == PL_ROPE_DYNAMIC) limit = (int64_t)((double)limit * a->rope.factor);
    if (set(r->c->max_length) && r->c->max_length > limit && r->options &&
        pl_options_origin(r->options, "max_length") != PL_ORIGIN_DEFAULT)
        return PL_FAIL(err, PL_E_RANGE, "%s: max_length %" PRId64 " is beyond the model's %" PRId64 " positions",
                       pl_options_where(r->options, "max_length"), r->c->max_length, limit);
    return 0;
}

/* A default that is longer than the model's positions is cut to them, and said. */
static int64_t length_limit(const pl_run *r) {
    const pl_arch *a = &r->model.arch;
    int64_t limit = a->max_position;
    if (a->rope.kind == PL_ROPE_DYNAMIC) limit = (int64_t)((double)limit * a->rope.factor);
    if (set(r->c->max_length) && r->c->max_length <= limit) return r->c->max_length;
    pl_log(PL_LOG_INFO, "max_length: %" PRId64 ", the model's positions", limit);
    return limit;
}

static int load_rows(pl_dataset **out, pl_run *r, const char *name, const char *split, const pl_data_options *o,
                     pl_error *err) {
    const pl_data_cache cache = {r->cache_dir, r->c->overwrite_cache};
    char *path = NULL;
    bool made = false;
    int rc = pl_dataset_resolve(&path, name, split, err);
    if (rc == 0 && strcmp(r->command, "verifier") == 0) rc = pl_run_gsm8k(out, r, out == &r->eval, &made, path, o, err);
    if (rc == 0 && !made) rc = pl_dataset_open(out, path, o, r->tokenizer, r->model.arch.V, &cache, err);
    if (rc == 0) pl_dataset_log(*out, path);
    pl_free(path);
    return rc;
}

static bool scores_prompt(const pl_run *r) {
    if (r->batcher.mix.term[0]->score_prompt) return r->batcher.params.orpo_nll == PL_NLL_PROMPT;
    return r->train->kind == PL_DATA_COMPLETION && r->c->completion_only_loss == 0;
}

static bool packs_eval(const pl_config *c) { return c->eval_packing < 0 ? c->packing : c->eval_packing != 0; }

/* Documents take the place of rows, those of evaluation too: what is evaluated is cut as what is trained on, while bins
 * matter to steps alone. */
static int pack(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    pl_pack_strategy strategy = (pl_pack_strategy)c->packing_strategy;
    pl_bins held = {0};
    int rc = 0;
    if (c->packing) {
        PL_GO(rc, pl_dataset_pack(&r->train, &r->bins, strategy, r->max_length, scores_prompt(r), err));
        pl_bins_log(&r->bins, c->dataset_name, strategy);
    }
    if (r->eval && packs_eval(c)) {
        PL_GO(rc, pl_dataset_pack(&r->eval, &held, strategy, r->max_length, scores_prompt(r), err));
        pl_bins_log(&held, "evaluation", strategy);
    }
out:
    pl_bins_release(&held);
    return rc;
}

static int load_data(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    const pl_objective *objective = r->batcher.mix.term[0];
    pl_data_options o = {.preference = objective->rows == PL_LOSS_PAIRED,
                         .labelled = objective->rows == PL_LOSS_LABELLED,
                         .margin = objective->head == PL_HEAD_SCORE,
                         .drop_long = objective->head == PL_HEAD_SCORE,
                         .seam = (pl_seam)c->seam,
                         .max_length = c->packing ? 0 : r->max_length,
                         .max_prompt_length = set(c->max_prompt_length) ? c->max_prompt_length : 0,
                         .drop_empty = c->drop_empty,
                         .completion_only_loss = c->completion_only_loss != 0,
                         .text_field = c->dataset_text_field};
    pl_data_options held = o;
    held.max_length = packs_eval(c) ? 0 : r->max_length;
    int rc;
    PL_GO(rc, load_rows(&r->train, r, c->dataset_name, c->dataset_train_split, &o, err));
    if (c->eval_data)
        PL_GO(rc, load_rows(&r->eval, r, c->eval_data, c->dataset_test_split, &held, err));
    else if (c->eval_split > 0)
        PL_GO(rc, pl_dataset_split(r->train, &r->eval, c->eval_split, (uint64_t)c->seed, err));
    else if (c->eval_strategy != PL_WHEN_NO) {
        if (!pl_dir_exists(c->dataset_name)) {
            rc = PL_FAIL(err, PL_E_OPTION, "eval_strategy needs rows to evaluate on: give eval_data or eval_split");
            goto out;
        }
        PL_GO(rc, load_rows(&r->eval, r, c->dataset_name, c->dataset_test_split, &held, err));
    }
    if (r->train->n == 0) rc = PL_FAIL(err, PL_E_RANGE, "%s: no rows are left to train on", c->dataset_name);
    if (rc == 0 && r->eval && r->eval->n == 0) rc = PL_FAIL(err, PL_E_RANGE, "no rows are left to evaluate on");
    if (rc == 0) rc = pack(r, err);
out:
    return rc;
}

int pl_run_pair_epoch(pl_run *r, int64_t epoch, pl_error *err) {
    if (!r->mismatched || r->paired_epoch == epoch) return 0;
    int rc = pl_dataset_mismatch(r->train, &r->mismatch, epoch, err);
    if (rc == 0) r->paired_epoch = epoch;
    return rc;
}

static bool outside(double weight, double low, double high) {
    return !(weight >= round(low * 100) / 100 && weight <= round(high * 100) / 100);
}

/* KTO's advice (arXiv:2402.01306 section 4.2): all desirable rows together should weigh 1 to 4/3 of the others. */
static void check_balance(const pl_run *r) {
    const pl_loss_params *p = &r->batcher.params;
    double good = 0, bad = 0;
    for (int64_t i = 0; i < r->train->n; i++) *(r->train->rows[i].label ? &good : &bad) += 1;
    if (good == 0 || bad == 0) {
        pl_log(PL_LOG_WARN, "all %" PRId64 " rows have the label %s: there is nothing to tell apart", r->train->n,
               good == 0 ? "false" : "true");
        return;
    }
    if (!pl_mix_reads(&r->batcher.mix, "desirable_weight") || good == bad) return;
    double d = bad * p->undesirable_weight / good, u = good * p->desirable_weight / bad;
    if (outside(p->desirable_weight, d, d * 1.33) && outside(p->undesirable_weight, u / 1.33, u))
        pl_log(PL_LOG_WARN,
               "%g desirable and %g undesirable rows: use a desirable_weight from %.2f to %.2f, or an "
               "undesirable_weight from %.2f to %.2f (not both)",
               good, bad, d, d * 1.33, u / 1.33, u);
}

/* Rows that the objective couples, and the mismatched answers that it needs. */
static int open_units(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    pl_batcher *b = &r->batcher;
    int64_t batch = c->per_device_train_batch_size;
    pl_coupling coupling = pl_mix_coupling(&b->mix);
    r->mismatched = b->mix.term[0]->mismatched;
    r->mismatch = (pl_mismatch){
        .pairing = (pl_pairing)c->kl_pairing, .seed = (uint64_t)c->seed, .batch = batch, .max_length = r->max_length};
    if (r->mismatched && r->mismatch.pairing == PL_PAIRING_BATCH) {
        if (c->train_sampling_strategy != PL_SAMPLE_SEQUENTIAL || batch < 2)
            return PL_FAIL(err, PL_E_OPTION,
                           "kl_pairing batch rotates the answers of rows that follow each other: it needs "
                           "train_sampling_strategy sequential and a per_device_train_batch_size above 1");
        coupling = PL_COUPLED_GROUP;
    }
    b->unit_rows = coupling == PL_COUPLED_GROUP  ? batch
                   : coupling == PL_COUPLED_STEP ? batch * c->gradient_accumulation_steps
                                                 : 0;
    b->eval_unit_rows = coupling == PL_COUPLED_GROUP ? c->per_device_eval_batch_size : b->unit_rows;
    b->score_prompt = scores_prompt(r);
    if (b->mix.term[0]->rows == PL_LOSS_LABELLED) check_balance(r);
    r->paired_epoch = -1;
    if (r->mismatched && r->eval) {
        int rc = pl_dataset_mismatch(r->eval, &r->mismatch, 0, err);
        if (rc) return pl_error_context(err, rc, "evaluation rows");
    }
    return pl_run_pair_epoch(r, 0, err);
}

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

static double dropout_in_use(const pl_run *r) { return r->is_lora && !r->c->disable_dropout ? r->peft.dropout : 0; }

static pl_dtype output_dtype(const pl_run *r) {
    static const pl_dtype types[] = {[PL_STORE_F32] = PL_F32, [PL_STORE_F16] = PL_F16, [PL_STORE_BF16] = PL_BF16};
    if (r->c->dtype >= 0 && r->c->dtype != PL_STORE_AUTO) return types[r->c->dtype];
    return r->model.tensors[0]->dtype;
}

static bool is_scored(const pl_run *r) { return r->batcher.mix.term[0]->head == PL_HEAD_SCORE; }

static int open_model(pl_run *r, pl_error *err) {
    const char *dir = r->c->model_name_or_path;
    return is_scored(r) ? pl_model_open_scored(&r->model, dir, (uint64_t)r->c->seed, err)
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

/* --- memory
 * --------------------------------------------------------------------------------------------------------------------------------
 */

enum { WALK_ROWS = 50 * 1000 * 1000 }; /* rows of all steps that are looked at to find the largest micro-batch */
enum { PASS_TOKENS = 256 };            /* a scoring pass takes this many at a time, or a row if that is longer */

/* Tokens of a micro-batch of the passes that only score: a function of the data alone, because the key of the reference
 * cache holds it (DECISIONS 8), and small, because the room is that of training. */
static int64_t pass_tokens(const pl_run *r) {
    int64_t longest = r->eval ? PL_MAX(r->train->longest_tree, r->eval->longest_tree) : r->train->longest_tree;
    return PL_MIN(r->c->micro_batch_tokens, PL_MAX(longest, PASS_TOKENS));
}

/* Micro-batches of rows[0..n), cut within the units of the objective. */
static void add_caps(pl_forest_caps *caps, pl_forest_caps *unit, const pl_run *r, const pl_dataset *d,
                     const int64_t *rows, int64_t n, int64_t unit_rows, int64_t budget) {
    int64_t together = unit_rows > 0 ? unit_rows : n;
    for (int64_t at = 0; at < n; at += together)
        pl_forest_caps_add(caps, d, rows + at, PL_MIN(together, n - at), budget, scores_prompt(r));
    pl_batcher_caps_add(unit, &r->batcher, d, rows, n, unit_rows);
}

/* The largest micro-batch of all steps of the schedule and the largest unit; of a very long run a bound of it. */
static int caps_of_steps(pl_forest_caps *caps, pl_forest_caps *unit, pl_run *r, pl_error *err) {
    pl_schedule *s = &r->schedule;
    int64_t budget = r->c->micro_batch_tokens, most = s->most_rows;
    if (s->steps > WALK_ROWS / most) {
        *caps = pl_forest_caps_of(r->train, budget, PL_MIN(most, r->train->n));
        if (scores_prompt(r)) caps->targets = caps->tokens;
        *unit = *caps;
        return 0;
    }
    bool same = !s->random && !r->mismatched; /* every epoch cuts as the first one does */
    for (int64_t step = 0; step < (same ? PL_MIN(s->steps, s->steps_per_epoch) : s->steps); step++) {
        const int64_t *rows;
        int64_t n;
        int rc = pl_run_pair_epoch(r, step / s->steps_per_epoch, err);
        if (rc == 0) rc = pl_schedule_rows(s, step, &rows, &n, err);
        if (rc) return rc;
        add_caps(caps, unit, r, r->train, rows, n, r->batcher.unit_rows, budget);
    }
    return pl_run_pair_epoch(r, 0, err);
}

/* The reference pass, whose mismatched answers change from epoch to epoch: each of them is at most as long as the
 * longest tree says. */
static void add_precompute_caps(pl_forest_caps *caps, const pl_run *r) {
    pl_forest_caps_add(caps, r->train, r->in_order, r->train->n, pass_tokens(r), scores_prompt(r));
    if (!r->mismatched) return;
    pl_forest_caps most = pl_forest_caps_of(r->train, pass_tokens(r), 0);
    *caps = (pl_forest_caps){.tokens = PL_MAX(caps->tokens, PL_MAX(most.tokens, r->train->longest_tree)),
                             .segments = PL_MAX(caps->segments, most.segments),
                             .targets = PL_MAX(caps->targets, PL_MAX(most.tokens, r->train->longest_tree)),
                             .sequences = PL_MAX(caps->sequences, most.sequences),
                             .ranges = PL_MAX(caps->ranges, most.ranges),
                             .trees = PL_MAX(caps->trees, most.trees)};
}

/* The largest micro-batch of the whole run: of every step, and of the passes over all rows. */
static int caps_of(pl_forest_caps *caps, pl_forest_caps *unit, pl_run *r, pl_error *err) {
    *caps = *unit = (pl_forest_caps){0};
    int rc = caps_of_steps(caps, unit, r, err);
    if (rc) return rc;
    if (r->c->precompute_ref_log_probs) add_precompute_caps(caps, r);
    if (r->eval) add_caps(caps, unit, r, r->eval, r->in_order, r->eval->n, r->batcher.eval_unit_rows, pass_tokens(r));
    unit->sequences = PL_MAX(unit->sequences, caps->sequences);
    unit->targets = PL_MAX(unit->targets, caps->targets);
    unit->trees = PL_MAX(unit->trees, caps->trees);
    return 0;
}

/* The model arena: trained tensors, optimizer, a frozen adapter, weights in another type. Measured first, then taken.
 */
static int take_model(pl_run *r, pl_arena *arena, pl_error *err) {
    int rc;
    if (output_dtype(r) != r->model.tensors[0]->dtype || r->model.converted)
        PL_GO(rc, pl_model_convert(&r->model, output_dtype(r), r->backend.ops, arena, err));
    if (r->is_lora)
        PL_GO(rc, pl_trainable_lora(&r->policy, &r->model, &r->peft, (uint64_t)r->c->seed, arena, err));
    else
        PL_GO(rc, pl_trainable_full(&r->policy, &r->model, arena, err));
    PL_GO(rc, pl_optimizer_take(&r->optimizer, r->c, &r->policy, arena, err));
    if (r->reference.kind == PL_REF_ADAPTER && !r->c->precompute_ref_log_probs)
        PL_GO(rc, pl_lora_open(&r->reference.frozen, &r->model, r->c->adapter, r->backend.ops, arena, err));
    if (r->reference.kind == PL_REF_GIVEN)
        PL_GO(rc, pl_lora_open(&r->reference.frozen, &r->model, r->c->ref_adapter, r->backend.ops, arena, err));
    if (r->reference.kind == PL_REF_MOVING)
        PL_GO(rc, pl_trainable_twin(&r->reference.moving, &r->policy, &r->model, &r->peft, arena, err));
out:
    return rc;
}

static int take_step(pl_run *r, pl_arena *arena, pl_error *err) {
    const pl_forest_caps caps = r->caps;
    int64_t rank = PL_MAX(r->is_lora ? r->policy.lora.max_r : 0, r->reference.frozen.max_r);
    pl_worker_spec spec = {.caps = caps,
                           .budget_tok = r->c->micro_batch_tokens,
                           .pass_tok = pass_tokens(r),
                           .training = true,
                           .recompute = r->recompute,
                           .full = !r->is_lora,
                           .max_rank = rank,
                           .dropout = dropout_in_use(r) > 0};
    int rc;
    PL_GO(rc, pl_worker_take(&r->worker, &r->model.arch, &r->backend, &spec, arena, err));
    PL_GO(rc, pl_batcher_take(&r->batcher, &r->unit_caps, arena, err));
    if (r->reference.kind == PL_REF_MODEL) {
        pl_worker_spec ref = {.caps = caps, .budget_tok = r->c->micro_batch_tokens, .pass_tok = pass_tokens(r)};
        PL_GO(rc, pl_worker_take(&r->reference.own_worker, &r->reference.model.arch, &r->backend, &ref, arena, err));
    }
out:
    return rc;
}

static int number_rows(pl_run *r, pl_error *err) {
    int64_t n = r->eval ? PL_MAX(r->train->n, r->eval->n) : r->train->n;
    int rc = PL_NEW(&r->in_order, n, err);
    for (int64_t i = 0; rc == 0 && i < n; i++) r->in_order[i] = i;
    if (rc || !is_scored(r) || !r->eval) return rc;
    rc = PL_NEW(&r->scores, 2 * r->eval->n, err);
    return rc ? rc : PL_NEW(&r->score_tokens, 2 * r->eval->n, err);
}

static int measure_step(pl_run *r, size_t *bytes, pl_error *err) {
    pl_arena m;
    pl_arena_init_measuring(&m, "step");
    int rc = take_step(r, &m, err);
    *bytes = m.peak;
    return rc;
}

static int plan_memory(pl_run *r, size_t *model_bytes, size_t *step_bytes, pl_error *err) {
    pl_arena m;
    pl_arena_init_measuring(&m, "model");
    int rc;
    PL_GO(rc, take_model(r, &m, err));
    *model_bytes = m.peak;
    r->recompute = r->c->gradient_checkpointing == 1;
    PL_GO(rc, measure_step(r, step_bytes, err));
    int64_t free_bytes = pl_machine_free_bytes();
    size_t mapped = pl_model_bytes(&r->model);
    if (r->c->gradient_checkpointing < 0 && *model_bytes + *step_bytes + mapped > (size_t)free_bytes) {
        r->recompute = true;
        PL_GO(rc, measure_step(r, step_bytes, err));
        pl_log(PL_LOG_INFO, "gradient_checkpointing: on, because the activations would not fit in memory otherwise");
    }
    if (*model_bytes + *step_bytes + mapped > (size_t)free_bytes)
        rc = PL_FAIL(err, PL_E_NOMEM,
                     "the run needs %.2f GB (weights %.2f, trained tensors %.2f, a step %.2f), %.2f GB are free: "
                     "use a smaller micro_batch_tokens or max_length, gradient_checkpointing, or use_peft",
                     (double)(*model_bytes + *step_bytes + mapped) / 1e9, (double)mapped / 1e9,
                     (double)*model_bytes / 1e9, (double)*step_bytes / 1e9, (double)free_bytes / 1e9);
out:
    pl_trainable_release(&r->policy);
    pl_free(r->reference.frozen.modules);
    r->reference.frozen = (pl_lora){0};
    pl_trainable_release(&r->reference.moving);
    return rc;
}

static int take_memory(pl_run *r, pl_error *err) {
    size_t model_bytes = 0, step_bytes = 0;
    int rc;
    PL_GO(rc, number_rows(r, err));
    PL_GO(rc, caps_of(&r->caps, &r->unit_caps, r, err));
    PL_GO(rc, plan_memory(r, &model_bytes, &step_bytes, err));
    PL_GO(rc, pl_arena_init(&r->model_arena, "model", model_bytes, err));
    PL_GO(rc, pl_arena_init(&r->step_arena, "step", step_bytes, err));
    PL_GO(rc, take_model(r, &r->model_arena, err));
    PL_GO(rc, take_step(r, &r->step_arena, err));
    pl_arena_touch(&r->model_arena);
    pl_arena_touch(&r->step_arena);
out:
    return rc;
}

/* After everything but the steps: what the process holds beside the arenas and the mapped weights (code, libraries,
 * tokenizer, rows, the products' scratch) is measured, the rest is known. */
static void state_memory(pl_run *r) {
    size_t mapped = pl_model_bytes(&r->model), model = r->model_arena.capacity, step = r->step_arena.capacity;
    if (r->reference.kind == PL_REF_MODEL) mapped += pl_model_bytes(&r->reference.model);
    size_t resident = (size_t)pl_machine_resident_bytes(), known = model + step;
    known += pl_tensors_resident_bytes(r->model.files) + pl_tensors_resident_bytes(r->reference.model.files);
    size_t process = resident > known ? resident - known : 0;
    r->planned_bytes = mapped + model + step + process;
    pl_log(PL_LOG_INFO,
           "memory: %.3f GB = weights %.3f + trained tensors and optimizer %.3f + a step %.3f%s + process %.3f",
           (double)r->planned_bytes / 1e9, (double)mapped / 1e9, (double)model / 1e9, (double)step / 1e9,
           r->recompute ? " (activations recomputed)" : "", (double)process / 1e9);
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
                                 r->backend.bf16, pass_tokens(r), r->worker.ld_discount, err);
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
    if (is_scored(r))
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
    if (!is_scored(r)) return;
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
                          .classifier = is_scored(r) ? &r->classifier : NULL,
                          .dtype = output_dtype(r),
                          .ops = r->backend.ops,
                          .moving = r->reference.kind == PL_REF_MOVING ? &r->reference.moving : NULL,
                          .keep = set(r->c->save_total_limit) ? r->c->save_total_limit : 0};
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
    PL_GO(rc, check_length(r, err));
    PL_GO(rc, pl_tokenizer_open(&r->tokenizer, r->c->model_name_or_path, err));
    PL_GO(rc, open_peft(r, err));
    PL_GO(rc, open_reference(r, err));
    r->max_length = length_limit(r);
    PL_GO(rc, load_data(r, err));
    PL_GO(rc, open_units(r, err));
    PL_GO(rc, pl_schedule_init(&r->schedule, r->c, r->bins.n ? r->bins.n : r->train->n, err));
    if (r->bins.n) PL_GO(rc, pl_schedule_pack(&r->schedule, &r->bins, err));
    PL_GO(rc, pl_run_open_dir(r, err));
    PL_GO(rc, pl_run_write_made(r, err));
    PL_GO(rc, take_memory(r, err));
    PL_GO(rc, fill_policy(r, err));
    bind_reference(r);
    fill_batcher(r);
    fill_saver(r);
    PL_GO(rc, prepare(r, err));
    PL_GO(rc, hash_inputs(r, err));
    banner(r);
    state_memory(r);
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
