/* model/linear.h: one linear layer of a block, with bias and adapter, forward and backward. */
#ifndef PL_LINEAR_H
#define PL_LINEAR_H

#include "model/decoder.h"

/* One run over the layers: what is run, over what, and where gradients go. */
typedef struct pl_pass {
    const pl_decoder *d;
    const pl_weights *w;
    const pl_lora *lora; /* NULL: adapter off */
    const pl_grads *g;   /* NULL: frozen weights */
    const pl_forest *f;
    int64_t first_trainable; /* layer; -1: the embeddings are trained; L: nothing is */
} pl_pass;

/* y (+)= x W^T + b + scale B (A drop(x)); y [T,out], x [T,in]. */
int pl_linear_forward(const pl_pass *p, int64_t layer, pl_lin which, real *y, const real *x, bool accumulate,
                      pl_error *err);
/* dx (+)= dy W + adapter's part (dx NULL: not needed); adds dW, db, dA, dB where they are trained. x is the layer's
 * input. */
int pl_linear_backward(const pl_pass *p, int64_t layer, pl_lin which, real *dx, bool accumulate, const real *dy,
                       const real *x, pl_error *err);
/* Prepares the matrix products of this layer for up to max_T tokens: forward, and backward when `backward`. */
int pl_linear_prepare(const pl_pass *p, int64_t layer, pl_lin which, bool backward, pl_error *err);

/* The lowest layer with a trained weight or adapter: -1 when the embeddings are trained, L when nothing is. */
int64_t pl_pass_first_trainable(const pl_pass *p);
/* Does anything below the inputs of this layer's q, k and v need a gradient (its own norm included)? */
static inline bool pl_pass_needs_input_grad(const pl_pass *p, int64_t layer) {
    return layer > p->first_trainable || (p->g && p->g->layers[layer].norm1);
}

#endif
