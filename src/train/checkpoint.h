/* train/checkpoint.h: the state of a run on disk: written whole under a temporary name, synced, renamed; read back to
 * the same bits.
 *
 *   <out>/<run_name>-<command>_step<N>/   state.json, optimizer.safetensors, and
 *       full:  a model directory with fp32 weights (transformers loads it)
 *       LoRA:  adapter/ as PEFT writes it
 *   <out>/<run_name>-<command>_final/     the model in its output dtype, with LoRA merged, and adapter/ */
#ifndef PL_CHECKPOINT_H
#define PL_CHECKPOINT_H

#include "export/hfdir.h"
#include "loss/objective.h"
#include "train/optimizer.h"
#include "train/reference.h"

/* What a checkpoint knows besides tensors. */
typedef struct pl_state {
    int64_t step;          /* optimizer steps done */
    int64_t num_tokens;    /* running total of the metric */
    int64_t metrics_bytes; /* length of metrics.jsonl */
    int64_t best_step;     /* 0: none */
    double best_value;
    double loss[PL_LOSS_STATE];     /* of the objective: BCO's running mean */
    pl_hash model, data, reference; /* content of what the run started from */
    bool bf16;
    char level[32], gemm[64];
    int64_t threads;
} pl_state;

/* Everything that saving needs. */
typedef struct pl_saver {
    const char *command, *out_dir, *run_name;
    const pl_config *config;
    const pl_model *model;
    const pl_peft_config *peft;            /* NULL in full fine-tuning */
    const pl_hfdir_classifier *classifier; /* of a reward model; NULL otherwise */
    pl_dtype dtype;                        /* of the output */
    const pl_ops *ops;
    pl_trainable *moving; /* a reference that moves: kept with the state; NULL: none */
    int64_t keep;         /* step checkpoints kept; 0: all */
} pl_saver;

int pl_checkpoint_save(const pl_saver *s, const pl_state *state, const pl_trainable *t, const pl_optimizer *o,
                       pl_error *err);
/* The newest complete step checkpoint: *path is NULL when there is none. Owned. Removes what an interrupted save left.
 */
int pl_checkpoint_find(const pl_saver *s, char **path, pl_error *err);
/* Compares configuration and hashes of `now` with the checkpoint's (PL_E_MISMATCH says what differs), then fills state,
 * tensors and optimizer. */
int pl_checkpoint_load(const pl_saver *s, const char *path, pl_state *now, pl_trainable *t, pl_optimizer *o,
                       pl_error *err);
/* Only the trained tensors of <run>_step<step>. */
int pl_checkpoint_load_weights(const pl_saver *s, int64_t step, pl_trainable *t, pl_error *err);
/* <run>_final; *path (owned) is where. `changed` counts elements that the merge into a rounded dtype left as in the
 * base. */
int pl_final_save(const pl_saver *s, const pl_trainable *t, char **path, pl_error *err);
/* <run>_final if it is there: *path is NULL when it is not. Owned. */
int pl_final_find(const pl_saver *s, char **path, pl_error *err);

#endif
