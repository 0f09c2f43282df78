/* model/weights.h: the weights of one decoder as the forward and backward pass see them, the gradients beside them, and
 * LoRA. Views only: what they point to belongs to a file map or an arena. Linear weights are [out, in]. */
#ifndef PL_WEIGHTS_H
#define PL_WEIGHTS_H

#include "kernels/gemm.h"
#include "model/arch.h"

typedef struct pl_mat {
    const void *data; /* [rows, cols] in `type` */
    pl_dtype type;
    int64_t rows, cols;
    bool tiles; /* laid out by pl_gemm_tile: for few rows only */
} pl_mat;

typedef struct pl_layer_weights {
    const real *norm1, *norm2; /* [C]: before attention, before the MLP */
    pl_mat w[PL_LIN_COUNT];
    const real *b[PL_LIN_COUNT]; /* [out] or NULL */
} pl_layer_weights;

typedef struct pl_weights {
    const pl_arch *arch;
    pl_mat embed;             /* [V, C] */
    pl_mat head;              /* [V, C]; the same data as embed when tied */
    pl_mat score;             /* [1, C] where there is a score head; data NULL in a causal model */
    const real *norm;         /* [C] final */
    pl_layer_weights *layers; /* [L] */
} pl_weights;

/* Gradients of full fine-tuning, each of its weight's shape, accumulated (+=); NULL where frozen. Tied: head is NULL,
 * its part goes to embed. */
typedef struct pl_layer_grads {
    real *norm1, *norm2;
    real *w[PL_LIN_COUNT];
    real *b[PL_LIN_COUNT];
} pl_layer_grads;

typedef struct pl_grads {
    bool lent; /* those of blocks lie in activations of a decoder (pl_worker_lend): a backward pass begins them anew */
    real *embed, *head, *score, *norm;
    pl_layer_grads *layers; /* [L] */
} pl_grads;

/* One adapted linear layer: y += scale * B (A drop(x)). a == NULL: not adapted. */
typedef struct pl_lora_module {
    int64_t r;
    real scale;
    real *a, *b;   /* [r, in], [out, r] */
    real *da, *db; /* gradients, accumulated; NULL when frozen (a reference adapter) */
} pl_lora_module;

typedef struct pl_lora {
    int64_t max_r;
    bool lent;               /* da, db: as in pl_grads */
    real dropout;            /* 0 when off */
    uint64_t dropout_key;    /* of seed and step */
    pl_lora_module *modules; /* [L * PL_LIN_COUNT] */
    real *score, *dscore;    /* [C] the score head that an adapter for it carries and trains; NULL in a causal model */
} pl_lora;

static inline const pl_lora_module *pl_lora_at(const pl_lora *l, int64_t layer, int which) {
    return &l->modules[layer * PL_LIN_COUNT + which];
}

#endif
