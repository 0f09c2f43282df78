/* gen/engine.h: runs new tokens of several sequences through the decoder at once, over a KV cache, and gives the logits
 * behind the last token of those that ask for them. Knows no prompts and no sampling: the caller says which cache rows
 * a run of tokens sees and fills.
 *
 *   pl_engine_begin(e);
 *   pl_engine_add(e, ...);  prompt chunks, single tokens of sequences, in any mixture
 *   pl_engine_run(e, w, lora, err);
 *   pl_engine_logits(e, row) */
#ifndef PL_ENGINE_H
#define PL_ENGINE_H

#include "model/decoder.h"

typedef struct pl_engine_spec {
    int64_t tokens;  /* of one step, at most */
    int64_t runs;    /* of one step, at most */
    int64_t outputs; /* rows of logits of one step, at most */
    int64_t rows;    /* of the cache */
    int64_t max_rank;
} pl_engine_spec;

/* New tokens of one sequence. Token i of the run has position `position + i`, sees the whole prefix and rows
 * [own_first, own_first + own_past + i], and its own key and value go to the last of these. */
typedef struct pl_engine_run_of {
    const int32_t *ids; /* borrowed until the end of pl_engine_add */
    int64_t n, position;
    pl_key_range prefix; /* count 0: none. Its rows may be filled by a run of the same step */
    int64_t own_first, own_past;
    int64_t length; /* of the sequence as RoPE rules that depend on it see it, 0: position + n */
    bool logits;    /* of the last token */
} pl_engine_run_of;

typedef struct pl_engine {
    const pl_arch *arch;
    pl_backend backend;
    pl_engine_spec spec;
    pl_decoder decoder;
    pl_forest forest;
    pl_kv_cache cache;
    int64_t *slots; /* [tokens] cache row of each token */
    int64_t noutputs;
    int64_t *output;    /* [outputs] token of each row of logits */
    real *x, *h;        /* [outputs, C] before and behind the final norm */
    real *z;            /* [outputs, V] */
    real *unused;       /* [outputs] */
    pl_head_stat *stat; /* [outputs] */
} pl_engine;

int pl_engine_take(pl_engine *e, const pl_arch *arch, const pl_backend *backend, const pl_engine_spec *spec,
                   pl_arena *arena, pl_error *err);
int pl_engine_prepare(pl_engine *e, const pl_weights *w, const pl_lora *lora, pl_error *err);
void pl_engine_begin(pl_engine *e);
/* Whether a run of n tokens still has room in this step. */
bool pl_engine_fits(const pl_engine *e, int64_t n, bool logits);
/* *row: the row of logits (when r->logits; may be NULL otherwise). PL_E_INTERNAL when there is no room. */
int pl_engine_add(pl_engine *e, const pl_engine_run_of *r, int64_t *row, pl_error *err);
/* PL_E_NUMERIC when a logit is not finite. */
int pl_engine_run(pl_engine *e, const pl_weights *w, const pl_lora *lora, pl_error *err);

/* After a run: [V] logits, the smallest id of the largest logit, and log sum exp. */
const real *pl_engine_logits(const pl_engine *e, int64_t row);
int32_t pl_engine_argmax(const pl_engine *e, int64_t row);
double pl_engine_lse(const pl_engine *e, int64_t row);

#endif
