/* model/linear.h: one linear layer of a block, with bias and adapter, forward and backward, over some rows of a batch;
 * and who works on which rows. */
#ifndef PL_LINEAR_H
#define PL_LINEAR_H

#include "model/decoder.h"

/* One run over the layers: what is run, over what, and where gradients go; and the part of it that is at hand. */
typedef struct pl_pass {
    const pl_decoder *d;
    const pl_weights *w;
    const pl_lora *lora; /* NULL: adapter off */
    bool both;           /* of all that is run, a second stream too: the same weights with another adapter, or none */
    const pl_lora *beside_lora;
    bool beside;       /* this part is of the second stream: `lora` is then its own */
    const pl_grads *g; /* NULL: frozen weights */
    const pl_forest *f;
    const pl_forest *read;    /* rows that go behind the last layer's keys and values; NULL: all */
    bool narrow;              /* f is `read`, in the last layer */
    const pl_kv_cache *cache; /* generation, with the row of each token; else NULL */
    const int64_t *slots;
    int64_t first_trainable;          /* layer; -1: the embeddings are trained; L: nothing is */
    int64_t t0, T;                    /* rows [t0, t0 + T) of every buffer */
    const void *packed[PL_LIN_COUNT]; /* weights that are packed for lanes; NULL: as stored */
    size_t packed_used;
    bool first_block; /* of its lane */
    int lane;         /* 0: products and ops thread inside; else this thread alone, in that lane (kernels/gemm.h) */
} pl_pass;

/* fn over all rows of the batch, which it must treat one by one: in blocks of at most PL_GEMM_LANE_ROWS that stay in a
 * core's cache, each thread its own rows; or all at once, with threads inside, where there are few rows or a cache. Of
 * two streams a block's rows of the second come first, in the same lane, so that they may use the same scratch. */
typedef int pl_rows_fn(const pl_pass *part, int64_t layer, pl_error *err);
int pl_pass_rows(const pl_pass *whole, int64_t layer, pl_rows_fn *fn, pl_error *err);

/* Lanes of a batch of T rows, 0 when threads share the products; and how many rows such a batch has at most. */
int pl_pass_lanes(const pl_decoder *d, int64_t T);
int64_t pl_pass_shared_rows(const pl_decoder *d);
bool pl_pass_lane_has_rows(const pl_pass *whole, int i, int lanes);
/* The pass over all rows at once, with threads inside. */
pl_pass pl_pass_all(const pl_pass *p);
/* The same rows of the second stream. */
pl_pass pl_pass_beside(const pl_pass *p);
/* decoder.c: where the part's stream has this layer's activations. */
pl_layer_acts pl_pass_acts(const pl_pass *p, int64_t layer);

/* pack.c. Before pl_pass_rows: packs the layer's linear layers from `first` to `last` (as PL_LIN_ counts them) for Y,
 * or dX when `back`, behind what is packed; of one linear layer one at a time. Nothing where threads share products. */
void pl_pass_pack(pl_pass *p, int64_t layer, bool back, pl_lin first, pl_lin last);
void pl_pass_unpack(pl_pass *p); /* forgets all of it */
/* Will lanes multiply this linear layer's packed weights? And the room that they take at most. */
bool pl_pass_packs(const pl_decoder *d, pl_lin which, bool back);
size_t pl_pass_packed_bytes(const pl_decoder *d);

/* Matrices here are whole buffers; a call works on the pass's rows of them.
 * y (+)= x W^T + b + scale B (A drop(x)); y [T,out], x [T,in]. same_x: x is that of the call before. */
int pl_linear_forward(const pl_pass *p, int64_t layer, pl_lin which, real *y, const real *x, bool accumulate,
                      bool same_x, pl_error *err);
/* y[i] = the same for the n <= PL_LIN_COUNT linear layers from `first` on, which all read x. */
int pl_linear_forward_all(const pl_pass *p, int64_t layer, pl_lin first, int n, real *const y[], const real *x,
                          pl_error *err);
/* dx (+)= dy W + adapter's part (dx NULL: not needed). A lane sums its rows' part of dA and dB, where they are trained;
 * otherwise what pl_linear_gradients needs is left in d->dlow. x is the layer's input. */
int pl_linear_backward(const pl_pass *p, int64_t layer, pl_lin which, real *dx, bool accumulate, const real *dy,
                       const real *x, pl_error *err);

/* A layer's input and the gradient of its output, all rows of them. */
typedef struct pl_linear_ends {
    pl_lin which;
    const real *dy, *x;
} pl_linear_ends;
/* Adds dW, db, dA, dB where they are trained, after pl_linear_backward of all rows: for dA and dB the sums of the
 * lanes, in their order. */
int pl_linear_gradients(const pl_pass *whole, int64_t layer, const pl_linear_ends *ends, int n, pl_error *err);

/* Prepares the matrix products of this layer: forward, and backward when `backward`. */
int pl_linear_prepare(const pl_pass *whole, int64_t layer, pl_lin which, bool backward, pl_error *err);

/* Sum of in + out over the linear layers of a block. */
int64_t pl_linear_sides(const pl_arch *a);

/* The lowest layer with a trained weight or adapter: -1 when the embeddings are trained, L when nothing is. */
int64_t pl_pass_first_trainable(const pl_pass *p);
/* Does anything below the inputs of this layer's q, k and v need a gradient (its own norm included)? */
static inline bool pl_pass_needs_input_grad(const pl_pass *p, int64_t layer) {
    return layer > p->first_trainable || (p->g && p->g->layers[layer].norm1);
}

#endif
