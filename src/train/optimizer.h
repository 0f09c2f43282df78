/* train/optimizer.h: AdamW over the trained tensors, and clipping by the global norm. States are fp32 (real). */
#ifndef PL_OPTIMIZER_H
#define PL_OPTIMIZER_H

#include "model/model.h"
#include "train/config.h"

typedef struct pl_optimizer {
    real *m, *v; /* [elements], tensors in the order of pl_trainable.params */
    int64_t t;   /* steps taken */
    double beta1, beta2, eps, weight_decay, max_norm;
} pl_optimizer;

int pl_optimizer_take(pl_optimizer *o, const pl_config *c, const pl_trainable *t, pl_arena *arena, pl_error *err);
/* The global gradient norm before clipping. PL_E_NUMERIC names the tensor whose gradient is not
 * finite, and of several the one that the backward pass came to first. */
int pl_optimizer_norm(double *norm, const pl_trainable *t, const pl_ops *ops, pl_error *err);
/* Clips (torch's clip_grad_norm_) and steps. */
void pl_optimizer_step(pl_optimizer *o, pl_trainable *t, double norm, double rate, const pl_ops *ops);

#endif
