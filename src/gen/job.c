/* job.c: one call of pl_generate: prompts into ids, how much memory it takes, and what it holds. */
#include "gen/generator.h"

#include <string.h>

#include "kernels/loop.h"
#include "plumb/log.h"

#define STEP_TOKENS 1024 /* prompt tokens of one step at most: bounds the activations of long prompts */

/* --- prompts into ids */

static int add_ids(pl_gen_job *j, const int32_t *ids, int64_t n, pl_error *err) {
    pl_ids *to = &j->ids;
    if (n > to->cap - to->n) {
        int64_t cap = PL_MAX(to->n + n, 2 * to->cap);
        int rc = pl_realloc((void **)&to->ids, (size_t)to->cap * sizeof *ids, (size_t)cap * sizeof *ids, err);
        if (rc) return rc;
        to->cap = cap;
    }
    if (n) memcpy(to->ids + to->n, ids, (size_t)n * sizeof *ids);
    to->n += n;
    return 0;
}

/* Ids at the head of a prompt that max_prompt_length must not cut: what the post-processor puts there, or a BOS in the
 * text. As data/ does it for training. */
static int64_t leading_ids(const pl_tokenizer *t, const int32_t *ids, int64_t count) {
    int64_t n = 0, k = 0;
    const int32_t *leading = pl_tokenizer_leading(t, &n);
    while (k < n && k < count && ids[k] == leading[k]) k++;
    return k == 0 && count > 0 && ids[0] == pl_tokenizer_bos(t) ? 1 : k;
}

static void cut_prompt(pl_gen_job *j, pl_gen_prompt *p, const pl_tokenizer *t) {
    int64_t most = j->g->options.max_prompt_length, head = t ? leading_ids(t, j->ids.ids + p->first, p->n) : 0;
    if (most == PL_OPT_NO_I64 || p->n - head <= most) return;
    int32_t *ids = j->ids.ids + p->first;
    memmove(ids + head, ids + p->n - most, (size_t)most * sizeof *ids);
    p->n = head + most;
    j->ids.n = p->first + p->n;
}

/* How many tokens may follow. The dynamic rule stretches RoPE beyond the positions of the model. */
static int set_limit(pl_gen_job *j, pl_gen_prompt *p, pl_error *err) {
    const pl_arch *a = &j->g->session.model.arch;
    int64_t asked = j->g->options.max_new_tokens, wanted = asked == PL_OPT_NO_I64 ? PL_DEFAULT_NEW_TOKENS : asked;
    int64_t room = a->rope.kind == PL_ROPE_DYNAMIC ? INT64_MAX : a->max_position - p->n;
    if (room < 1)
        return PL_FAIL(err, PL_E_RANGE,
                       "%" PRId64 " tokens fill the model's %" PRId64 " positions (max_prompt_length cuts)", p->n,
                       a->max_position);
    if (asked != PL_OPT_NO_I64 && asked > room)
        return PL_FAIL(err, PL_E_RANGE,
                       "%" PRId64 " tokens and max_new_tokens %" PRId64 " exceed the model's %" PRId64 " positions",
                       p->n, asked, a->max_position);
    p->limit = PL_MIN(wanted, room);
    return 0;
}

static int check_ids(const pl_gen_job *j, const pl_gen_prompt *p, pl_error *err) {
    int64_t V = j->g->session.model.arch.V;
    if (p->n == 0) return PL_FAIL(err, PL_E_RANGE, "it has no tokens, and the tokenizer adds none at the start");
    for (int64_t i = 0; i < p->n; i++)
        if (j->ids.ids[p->first + i] < 0 || j->ids.ids[p->first + i] >= V)
            return PL_FAIL(err, PL_E_MISMATCH, "id %d is none of the model's %" PRId64, j->ids.ids[p->first + i], V);
    return 0;
}

static int encode_prompt(pl_gen_job *j, int64_t i, pl_error *err) {
    const pl_prompt *from = &j->given[i];
    const pl_tokenizer *t = j->g->session.tokenizer;
    pl_gen_prompt *p = &j->prompts[i];
    int rc;
    p->first = j->ids.n;
    if (from->text && !t)
        PL_GO(rc, PL_FAIL(err, PL_E_UNSUPPORTED, "%s has no tokenizer.json: text needs one", j->g->session.model.dir));
    if (from->text)
        PL_GO(rc, pl_tokenizer_encode(t, from->text, from->len, PL_ENCODE_LEADING, &j->ids, err));
    else
        PL_GO(rc, add_ids(j, from->ids, from->n, err));
    p->n = j->ids.n - p->first;
    cut_prompt(j, p, t);
    PL_GO(rc, check_ids(j, p, err));
    PL_GO(rc, set_limit(j, p, err));
    j->longest = PL_MAX(j->longest, p->n);
    j->limit = PL_MAX(j->limit, p->limit);
    j->stats.prompt_tokens += p->n;
out:
    return rc ? pl_error_context(err, rc, "prompt %" PRId64, i) : 0;
}

/* --- memory */

static int take(pl_gen_job *j, pl_arena *arena, pl_error *err) {
    const pl_generator *g = j->g;
    const pl_lora *lora = pl_session_lora(&g->session);
    pl_engine_spec spec = {.runs = 3 * j->width,
                           .outputs = j->width,
                           .rows = j->width * (j->longest - 1 + j->limit),
                           .max_rank = lora ? lora->max_r : 0};
    spec.tokens = j->width + PL_MIN(STEP_TOKENS, j->width * (j->longest - 1));
    int rc = pl_engine_take(&j->engine, &g->session.model.arch, &g->backend, &spec, arena, err);
    j->nsamplers = (int)PL_MIN(PL_GEN_SAMPLERS, PL_MIN(PL_LOOP_TEAM(), j->width));
    for (int i = 0; rc == 0 && !g->sampling.greedy && i < j->nsamplers; i++)
        rc = pl_sampler_take(&j->samplers[i], g->backend.ops, g->session.model.arch.V, arena, err);
    return rc;
}

/* As many sequences at a time as were asked for and fit. */
static int plan(pl_gen_job *j, pl_error *err) {
    int64_t all = j->n * j->samples, asked = PL_MIN(j->g->options.batch_size, all);
    int64_t free_bytes = pl_machine_free_bytes(), weights = (int64_t)pl_model_bytes(&j->g->session.model);
    for (j->width = asked;; j->width = (j->width + 1) / 2) {
        pl_arena measure;
        pl_arena_init_measuring(&measure, "generation");
        int rc = take(j, &measure, err);
        if (rc) return rc;
        bool fits = (int64_t)measure.peak <= free_bytes - weights;
        if (fits && j->width < asked)
            pl_log(PL_LOG_INFO, "batch_size %" PRId64 ": memory is enough for %" PRId64 " sequences at a time", asked,
                   j->width);
        if (fits) return pl_arena_init(&j->arena, "generation", measure.peak, err);
        if (j->width == 1)
            return PL_FAIL(
                err, PL_E_NOMEM,
                "generation needs %.1f MiB and the weights %.1f MiB; %.1f MiB are free (the KV cache is for %" PRId64
                " tokens: lower max_new_tokens or max_prompt_length)",
                (double)measure.peak / 0x1p20, (double)weights / 0x1p20, (double)free_bytes / 0x1p20,
                j->longest + j->limit);
    }
}

int pl_gen_job_open(pl_gen_job *j, pl_generator *g, const pl_prompt *prompts, int64_t n, const pl_generate_hooks *hooks,
                    pl_error *err) {
    int64_t all;
    int rc;
    *j = (pl_gen_job){.g = g, .hooks = hooks, .given = prompts, .n = n, .samples = g->options.num_return_sequences};
    if (n == 0) return 0;
    PL_GO(rc, pl_count_mul(&all, n, j->samples, err));
    PL_GO(rc, PL_NEW(&j->prompts, n, err));
    PL_GO(rc, PL_NEW(&j->results, all, err));
    for (int64_t i = 0; i < n; i++) PL_GO(rc, encode_prompt(j, i, err));
    PL_GO(rc, plan(j, err));
    PL_GO(rc, take(j, &j->arena, err));
    PL_GO(rc, PL_NEW(&j->sequences, j->width, err));
    PL_GO(rc, PL_NEW(&j->slots, j->width, err));
    for (int64_t i = 0; i < j->width; i++) j->slots[i].prompt = -1;
    PL_GO(rc, pl_engine_prepare(&j->engine, &g->session.model.stored, pl_session_lora(&g->session), err));
out:
    return rc;
}

void pl_gen_job_close(pl_gen_job *j) {
    for (int64_t i = 0; j->sequences && i < j->width; i++) pl_gen_sequence_release(&j->sequences[i]);
    for (int64_t i = 0; j->results && i < j->n * j->samples; i++) {
        pl_free(j->results[i].ids);
        pl_free(j->results[i].logps);
        pl_text_release(&j->results[i].text);
    }
    pl_free(j->sequences);
    pl_free(j->slots);
    pl_free(j->results);
    pl_free(j->prompts);
    pl_ids_release(&j->ids);
    pl_text_release(&j->piece);
    pl_arena_release(&j->arena);
}
