/* schedule.c: which tokens run in which step.
 *
 * A step runs one token of every sequence, and with the room that is left the prompts of the next ones, in chunks.
 * Cache rows: slot i holds its prompt at [i * (longest - 1), ...), sequence i its own tokens at [width * (longest - 1)
 * + i * limit, ...), beginning with the last token of the prompt. */
#include "gen/generator.h"
#include "kernels/loop.h"

static int64_t prompt_rows(const pl_gen_job *j) { return j->longest - 1; }

static int add_token(pl_gen_job *j, int64_t i, pl_error *err) {
    pl_gen_sequence *s = &j->sequences[i];
    const pl_gen_prompt *p = &j->prompts[s->prompt];
    int64_t past = s->result->tokens;
    pl_engine_run_of run = {.ids = &s->pending,
                            .n = 1,
                            .position = p->n - 1 + past,
                            .prefix = {s->slot * prompt_rows(j), p->n - 1},
                            .own_first = j->width * prompt_rows(j) + i * j->limit,
                            .own_past = past,
                            .logits = true};
    return pl_engine_add(&j->engine, &run, &s->row, err);
}

/* Samples of a prompt one after the other, so that attention reads what they share once. */
static int add_tokens(pl_gen_job *j, pl_error *err) {
    int rc = 0;
    for (int64_t slot = 0; slot < j->width; slot++)
        for (int64_t i = 0; rc == 0 && i < j->width && j->slots[slot].live > 0; i++)
            if (j->sequences[i].active && j->sequences[i].slot == slot) rc = add_token(j, i, err);
    return rc;
}

static int add_prompt_chunk(pl_gen_job *j, int64_t i, pl_error *err) {
    pl_gen_slot *slot = &j->slots[i];
    const pl_gen_prompt *p = &j->prompts[slot->prompt];
    int64_t room = j->engine.spec.tokens - j->engine.forest.T, n = PL_MIN(p->n - 1 - slot->filled, room);
    pl_engine_run_of run = {.ids = j->ids.ids + p->first + slot->filled,
                            .n = n,
                            .position = slot->filled,
                            .own_first = i * prompt_rows(j),
                            .own_past = slot->filled,
                            .length = p->n};
    if (n <= 0 || !pl_engine_fits(&j->engine, n, false)) return 0;
    slot->filled += n;
    return pl_engine_add(&j->engine, &run, NULL, err);
}

static int64_t free_sequence(const pl_gen_job *j) {
    for (int64_t i = 0; i < j->width; i++)
        if (!j->sequences[i].active) return i;
    return -1;
}

/* Samples of a slot whose prompt is complete (its last chunk may be part of this very step). */
static int start_samples(pl_gen_job *j, int64_t i, pl_error *err) {
    pl_gen_slot *slot = &j->slots[i];
    int rc = 0;
    while (rc == 0 && slot->filled == j->prompts[slot->prompt].n - 1 && slot->started < j->samples) {
        int64_t at = free_sequence(j);
        if (at < 0 || !pl_engine_fits(&j->engine, 1, true)) break;
        rc = pl_gen_sequence_begin(j, &j->sequences[at], slot->prompt, slot->started++, i, err);
        slot->live++;
        if (rc == 0) rc = add_token(j, at, err);
    }
    return rc;
}

/* The lowest prompt that waits for room: its slot, or a free one for the next prompt; -1: nothing to begin. */
static int64_t next_slot(pl_gen_job *j, int64_t after) {
    int64_t best = -1, empty = -1;
    for (int64_t i = 0; i < j->width; i++) {
        int64_t prompt = j->slots[i].prompt;
        if (prompt < 0) {
            empty = empty < 0 ? i : empty;
            continue;
        }
        bool waits = prompt > after && j->slots[i].started < j->samples;
        if (waits && (best < 0 || prompt < j->slots[best].prompt)) best = i;
    }
    if (best >= 0 || empty < 0 || j->next_prompt >= j->n) return best;
    j->slots[empty] = (pl_gen_slot){.prompt = j->next_prompt++};
    return empty;
}

static int fill_step(pl_gen_job *j, pl_error *err) {
    int rc = 0;
    pl_engine_begin(&j->engine);
    rc = add_tokens(j, err);
    for (int64_t after = -1; rc == 0 && pl_engine_fits(&j->engine, 1, false);) {
        int64_t slot = next_slot(j, after);
        if (slot < 0) break;
        after = j->slots[slot].prompt;
        rc = add_prompt_chunk(j, slot, err);
        if (rc == 0) rc = start_samples(j, slot, err);
    }
    return rc;
}

/* The next token of sequence s out of its row of logits. */
static int32_t draw(const pl_gen_job *j, pl_sampler *sampler, const pl_gen_sequence *s) {
    const pl_sampling *how = &j->g->sampling;
    if (how->greedy) return pl_engine_argmax(&j->engine, s->row);
    return pl_sampler_pick(sampler, how, pl_engine_logits(&j->engine, s->row),
                           (uint64_t)(s->prompt * j->samples + s->sample), (uint64_t)s->result->tokens);
}

/* What is drawn does not depend on the thread that draws it. */
static void draw_all(pl_gen_job *j) {
    int64_t lanes = j->nsamplers;
    PL_LOOP(!j->g->sampling.greedy, lane, lanes, 1, {
        for (int64_t i = lane; i < j->width; i += lanes)
            if (j->sequences[i].active) j->sequences[i].drawn = draw(j, &j->samplers[lane], &j->sequences[i]);
    });
}

static int take_token(pl_gen_job *j, pl_gen_sequence *s, pl_error *err) {
    int64_t slot = s->slot;
    double z = (double)pl_engine_logits(&j->engine, s->row)[s->drawn];
    int rc = pl_gen_sequence_take(j, s, s->drawn, z - pl_engine_lse(&j->engine, s->row), err);
    if (s->active) return rc;
    pl_gen_slot *of = &j->slots[slot];
    if (--of->live == 0 && of->started == j->samples) of->prompt = -1;
    return rc;
}

/* The copy serves steps whose rows are so few that bits do not depend on it. */
static const pl_weights *step_weights(pl_gen_job *j) {
    pl_generator *g = j->g;
    const pl_model *m = &g->session.model;
    bool few = j->engine.forest.T <= pl_gemm_few_rows(g->backend.gemm, g->backend.bf16, m->stored.head.type);
    return few ? pl_hot_weights(&g->hot, m, &g->backend, (int64_t)j->arena.capacity) : &m->stored;
}

static int step(pl_gen_job *j, pl_error *err) {
    const pl_session *s = &j->g->session;
    int rc = pl_model_check(&s->model, err);
    if (rc == 0) rc = fill_step(j, err);
    if (rc == 0) rc = pl_engine_run(&j->engine, step_weights(j), pl_session_lora(s), err);
    if (rc == 0) draw_all(j);
    for (int64_t i = 0; rc == 0 && i < j->width; i++)
        if (j->sequences[i].active) rc = take_token(j, &j->sequences[i], err);
    j->stats.steps++;
    return rc ? rc : pl_gen_deliver(j, err);
}

int pl_gen_job_run(pl_gen_job *j, pl_error *err) {
    int rc = 0;
    while (rc == 0 && j->delivered < j->n * j->samples) {
        rc = step(j, err);
        if (rc == 0 && j->hooks->stop && j->hooks->stop(j->hooks->user))
            rc = PL_FAIL(err, PL_E_INTERRUPTED, "stopped after %" PRId64 " new tokens", j->stats.new_tokens);
    }
    return rc;
}
