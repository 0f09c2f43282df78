/* train/reference.h: the reference is never a guess (DESIGN 2.4): which weights and which adapter it is, in words, and
 * its log-probs, live or from the cache. */
#ifndef PL_REFERENCE_H
#define PL_REFERENCE_H

#include "model/worker.h"
#include "plumb/train.h"

typedef enum pl_ref_kind {
    PL_REF_NONE,
    PL_REF_BASE,        /* full fine-tuning: the stored weights */
    PL_REF_ADAPTER_OFF, /* fresh LoRA: the base model */
    PL_REF_ADAPTER,     /* --adapter: base + a frozen copy of the starting adapter */
    PL_REF_MODEL,       /* --ref_model */
    PL_REF_GIVEN,       /* --ref_adapter: base + that adapter */
    PL_REF_MOVING,      /* sync_ref_model: a copy of the initial policy that is moved towards the policy */
    PL_REF_CURRENT      /* the policy of the same step: no pass of its own */
} pl_ref_kind;

typedef struct pl_reference {
    pl_ref_kind kind;
    const pl_weights *weights;
    const pl_lora *lora; /* NULL: none */
    bool fresh;          /* cached log-probs are not believed */
    pl_worker *worker;   /* the run's, or own_worker for another architecture */
    pl_model model;      /* of --ref_model */
    pl_worker own_worker;
    pl_lora frozen;      /* of --adapter or --ref_adapter; modules owned */
    pl_trainable moving; /* MOVING */
} pl_reference;

void pl_reference_release(pl_reference *r);
/* Is the reference the initial policy by construction? Then step 0 must agree. */
static inline bool pl_reference_is_initial(const pl_reference *r) {
    return r->kind != PL_REF_NONE && r->kind != PL_REF_MODEL && r->kind != PL_REF_GIVEN && r->kind != PL_REF_CURRENT;
}
/* One sentence: "reference = the base model llama, with the adapter off; its log-probs are computed in every step". */
void pl_reference_sentence(char *out, size_t size, const pl_reference *r, const pl_config *c);

/* All log-probs of d, from the cache directory or computed and stored there: out [rows * answers], owned by the caller.
 * `key` is a hash of everything but d that determines them. hit says whether they were there. */
int pl_reference_scores(double **out, bool *hit, pl_reference *r, const pl_dataset *d, const char *cache_dir,
                        const pl_hash *key, pl_progress *progress, void *user, pl_error *err);
/* The cache key of DECISIONS 8: weights, adapter, precision, level, threads, GEMM, token budget, ld_alpha. */
int pl_reference_key(pl_hash *out, const pl_reference *r, const pl_hash *model_hash, const char *adapter_dir,
                     const pl_machine *machine, bool bf16, int64_t budget_tok, double ld_discount, pl_error *err);

#endif
