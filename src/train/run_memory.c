/* run_memory.c: the memory plan: the largest micro-batch of the whole run, both arenas measured, compared with what is
 * free, taken and touched. */
#include <stdio.h>

#include "plumb/log.h"
#include "train/run_open.h"

enum { WALK_ROWS = 50 * 1000 * 1000 }; /* rows of all steps that are looked at to find the largest micro-batch */
enum { PASS_TOKENS = 256 };            /* a scoring pass takes this many at a time, or a row if that is longer */

/* Tokens of a micro-batch of the passes that only score: a function of the data alone, because the key of the reference
 * cache holds it (DECISIONS 8), and small, because the room is that of training. */
int64_t pl_run_pass_tokens(const pl_run *r) {
    int64_t longest = r->eval ? PL_MAX(r->train->longest_tree, r->eval->longest_tree) : r->train->longest_tree;
    return PL_MIN(r->c->micro_batch_tokens, PL_MAX(longest, PASS_TOKENS));
}

/* Micro-batches of rows[0..n), cut within the units of the objective. */
static void add_caps(pl_forest_caps *caps, pl_forest_caps *unit, const pl_run *r, const pl_dataset *d,
                     const int64_t *rows, int64_t n, int64_t unit_rows, int64_t budget) {
    int64_t together = unit_rows > 0 ? unit_rows : n;
    for (int64_t at = 0; at < n; at += together)
        pl_forest_caps_add(caps, d, rows + at, PL_MIN(together, n - at), budget, pl_run_scores_prompt(r));
    pl_batcher_caps_add(unit, &r->batcher, d, rows, n, unit_rows);
}

/* What no micro-batch of at most `most` of the training rows exceeds. Mismatched answers change from epoch to epoch, so
 * that only the longest tree and the tokens bound them. */
static pl_forest_caps bound_of(const pl_run *r, int64_t budget, int64_t most) {
    const pl_dataset *d = r->train;
    pl_forest_caps c = pl_forest_caps_of(d, budget, most);
    if (r->mismatched) {
        int64_t answers = d->rows[0].answers;
        c.tokens = PL_MAX(budget, d->longest_tree);
        int64_t rows = PL_MIN(most, c.tokens);
        c.trees = c.sequences = c.ranges = rows * answers;
        c.segments = rows + c.sequences;
    }
    if (r->mismatched || pl_run_scores_prompt(r)) c.targets = c.tokens;
    return c;
}

/* Of units of so many rows (0: micro-batches are the units, and have their own caps). */
static pl_forest_caps unit_bound_of(const pl_run *r, int64_t rows) {
    const pl_dataset *d = r->train;
    rows = PL_MIN(rows, d->n);
    return (pl_forest_caps){.sequences = rows * d->rows[0].answers, .targets = rows * d->longest_tree, .trees = rows};
}

/* The largest micro-batch of all steps of the schedule and the largest unit; of a very long run a bound of it. */
static int caps_of_steps(pl_forest_caps *caps, pl_forest_caps *unit, pl_run *r, pl_error *err) {
    pl_schedule *s = &r->schedule;
    int64_t budget = r->c->micro_batch_tokens, most = s->most_rows;
    if (s->steps > WALK_ROWS / most) {
        *caps = bound_of(r, budget, PL_MIN(most, r->train->n));
        *unit = unit_bound_of(r, r->batcher.unit_rows);
        r->one_batch = false;
        return 0;
    }
    r->one_batch = true;
    bool same = !s->random && !r->mismatched; /* every epoch cuts as the first one does */
    for (int64_t step = 0; step < (same ? PL_MIN(s->steps, s->steps_per_epoch) : s->steps); step++) {
        const int64_t *rows;
        int64_t n;
        int rc = pl_run_pair_epoch(r, step / s->steps_per_epoch, err);
        if (rc == 0) rc = pl_schedule_rows(s, step, &rows, &n, err);
        if (rc) return rc;
        add_caps(caps, unit, r, r->train, rows, n, r->batcher.unit_rows, budget);
        r->one_batch = r->one_batch && pl_batcher_is_one(&r->batcher, r->train, rows, n, budget);
    }
    return pl_run_pair_epoch(r, 0, err);
}

/* The reference pass. */
static void add_precompute_caps(pl_forest_caps *caps, const pl_run *r) {
    pl_forest_caps_add(caps, r->train, r->in_order, r->train->n, pl_run_pass_tokens(r), pl_run_scores_prompt(r));
    if (!r->mismatched) return;
    pl_forest_caps most = bound_of(r, pl_run_pass_tokens(r), r->train->n);
    *caps = (pl_forest_caps){.tokens = PL_MAX(caps->tokens, most.tokens),
                             .segments = PL_MAX(caps->segments, most.segments),
                             .targets = PL_MAX(caps->targets, most.targets),
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
    if (r->eval)
        add_caps(caps, unit, r, r->eval, r->in_order, r->eval->n, r->batcher.eval_unit_rows, pl_run_pass_tokens(r));
    unit->sequences = PL_MAX(unit->sequences, caps->sequences);
    unit->targets = PL_MAX(unit->targets, caps->targets);
    unit->trees = PL_MAX(unit->trees, caps->trees);
    return 0;
}

/* The model arena: trained tensors, optimizer, a frozen adapter, weights in another type. Measured first, then taken.
 */
static int take_model(pl_run *r, pl_arena *arena, pl_error *err) {
    int rc;
    if (pl_run_output_dtype(r) != r->model.tensors[0]->dtype || r->model.converted)
        PL_GO(rc, pl_model_convert(&r->model, pl_run_output_dtype(r), r->backend.ops, arena, err));
    if (r->is_lora)
        PL_GO(rc, pl_trainable_lora(&r->policy, &r->model, &r->peft, (uint64_t)r->c->seed, r->lends, arena, err));
    else
        PL_GO(rc, pl_trainable_full(&r->policy, &r->model, r->lends, arena, err));
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
                           .pass_tok = pl_run_pass_tokens(r),
                           .training = true,
                           .recompute = r->recompute,
                           .full = !r->is_lora,
                           .max_rank = rank,
                           .dropout = pl_run_dropout(r) > 0};
    int rc;
    PL_GO(rc, pl_worker_take(&r->worker, &r->model.arch, &r->backend, &spec, arena, err));
    PL_GO(rc, pl_batcher_take(&r->batcher, &r->unit_caps, arena, err));
    if (r->reference.kind == PL_REF_MODEL) {
        pl_worker_spec ref = {.caps = caps, .budget_tok = r->c->micro_batch_tokens, .pass_tok = pl_run_pass_tokens(r)};
        PL_GO(rc, pl_worker_take(&r->reference.own_worker, &r->reference.model.arch, &r->backend, &ref, arena, err));
    }
out:
    return rc;
}

static int number_rows(pl_run *r, pl_error *err) {
    int64_t n = r->eval ? PL_MAX(r->train->n, r->eval->n) : r->train->n;
    int rc = PL_NEW(&r->in_order, n, err);
    for (int64_t i = 0; rc == 0 && i < n; i++) r->in_order[i] = i;
    if (rc || !pl_run_is_scored(r) || !r->eval) return rc;
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

/* With activations of their own the layers can lend room to gradients: those are then not in the model arena. */
static size_t lent_bytes(pl_run *r) {
    size_t bytes = 0;
    r->lends = r->one_batch && pl_worker_can_lend(&r->worker, &r->policy, &r->model, &bytes);
    return r->lends ? bytes : 0;
}

static int plan_memory(pl_run *r, size_t *model_bytes, size_t *step_bytes, pl_error *err) {
    pl_arena m;
    pl_arena_init_measuring(&m, "model");
    int rc;
    PL_GO(rc, take_model(r, &m, err));
    r->recompute = r->c->gradient_checkpointing == 1;
    PL_GO(rc, measure_step(r, step_bytes, err));
    *model_bytes = m.peak - lent_bytes(r);
    int64_t free_bytes = pl_machine_free_bytes();
    size_t mapped = pl_model_bytes(&r->model);
    if (r->c->gradient_checkpointing < 0 && *model_bytes + *step_bytes + mapped > (size_t)free_bytes) {
        r->recompute = true;
        PL_GO(rc, measure_step(r, step_bytes, err));
        *model_bytes = m.peak - lent_bytes(r);
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

int pl_run_take_memory(pl_run *r, pl_error *err) {
    size_t model_bytes = 0, step_bytes = 0;
    int rc;
    PL_GO(rc, number_rows(r, err));
    PL_GO(rc, caps_of(&r->caps, &r->unit_caps, r, err));
    PL_GO(rc, plan_memory(r, &model_bytes, &step_bytes, err));
    PL_GO(rc, pl_arena_init(&r->model_arena, "model", model_bytes, err));
    PL_GO(rc, pl_arena_init(&r->step_arena, "step", step_bytes, err));
    PL_GO(rc, take_model(r, &r->model_arena, err));
    PL_GO(rc, take_step(r, &r->step_arena, err));
    if (r->lends) PL_GO(rc, pl_worker_lend(&r->worker, &r->policy, &r->model, err));
    pl_arena_touch(&r->model_arena);
    pl_arena_touch(&r->step_arena);
out:
    return rc;
}

/* After everything but the steps: what the process holds beside the arenas and the mapped weights (code, libraries,
 * tokenizer, rows, the products' scratch) is measured, the rest is known. */
void pl_run_state_memory(pl_run *r) {
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
