/* model/decoder.h: the forward and the backward pass of the decoder over a forest batch, layer by layer, and nothing
 * else.
 *
 * A pl_decoder owns no weights: it holds the activations of one micro-batch (dealt out from an arena) and runs whatever
 * weights and adapter it is handed, so that policy and reference share it. T tokens, C width, F inner width, L layers,
 * H heads, KV key heads, D head size. All buffers with a token dimension have room for pl_rows_padded(max tokens) rows.
 *
 * Where only some rows are read (forest.h: narrow), the last layer makes keys and values of all tokens, and all else of
 * these rows only, one behind the other: q, o, lse, x1, g, u, rstd2 and x_last, and their gradients. */
#ifndef PL_DECODER_H
#define PL_DECODER_H

#include "base/arena.h"
#include "data/forest.h"
#include "model/noise.h"
#include "model/weights.h"

typedef struct pl_backend {
    const pl_ops *ops;
    pl_gemm *gemm;
    bool bf16; /* round the operands of linear layers and head to bf16 */
} pl_backend;

/* What one layer keeps for its backward pass. */
typedef struct pl_layer_acts {
    real *x0;            /* [T,C] input */
    real *q, *k, *v;     /* [T,H*D], [T,KV*D] x2, rotated */
    real *o;             /* [T,H*D] attention output */
    real *lse;           /* [T,H] */
    real *x1;            /* [T,C] after attention */
    real *g, *u;         /* [T,F] gate and up */
    real *rstd1, *rstd2; /* [T] */
    real *low; /* [PL_LIN_COUNT] x [T,r], low_stride apart: the inputs through A, scaled; NULL without adapter */
} pl_layer_acts;

typedef struct pl_decoder {
    const pl_arch *arch;
    pl_backend backend;
    int64_t max_T;       /* tokens */
    int64_t max_read;    /* rows that come out of the last layer */
    bool training;       /* keeps what a backward pass needs */
    bool recompute;      /* gradient checkpointing: keeps only x0 of each layer */
    pl_layer_acts *acts; /* [L]; with recompute, or without training, all but x0 are shared */
    size_t lend_bytes;   /* of each layer, from q on, that its backward pass is the last to use; 0: shared */
    real *x_last;        /* [rows,C] output of the last layer, before the final norm; until a backward pass */
    real *x_beside;      /* [rows,C] the same of a second stream, pl_decoder_forward_both; is dx */
    real *cosine, *sine; /* [T, rot/2] */
    real *n;             /* [T,C] normed input */
    real *act;           /* [T,max(F,C)] silu(g)*u */
    bool cached;         /* for pl_decoder_infer only */
    real *dropped;       /* [T,dropped_width] dropped input of an adapter; NULL without lora_dropout */
    int64_t dropped_width;
    real *low;     /* [T,max_rank] without training, and beside: the input through A */
    real *dlow;    /* [PL_LIN_COUNT] x [T,r], low_stride apart: the gradient through B */
    real *partial; /* [lanes] x partial_stride: a lane's sums of one layer's dA and dB */
    int64_t partial_stride;
    int64_t low_stride, max_rank;
    char *packed; /* weights of a stretch of the layers, packed (linear.h); packed_bytes of it */
    size_t packed_bytes;
    pl_arena idle; /* the memory of those from n on, which hold nothing before and after a pass: the head's meanwhile */
    /* backward */
    real *dx;  /* [T,C] gradient of the residual stream; [rows,C] behind the last layer */
    real *dn;  /* [T,C]; is x_last */
    real *d_o; /* [T,H*D] */
    real *dq, *dk, *dv, *delta;
    real *dact;                    /* [T,F] */
    float *inv_freq;               /* [rot/2] */
    real *read_cosine, *read_sine; /* [rows, rot/2] of the rows that are read */

    pl_noise noise; /* on the embeddings of what runs while it is set: training steps only */
} pl_decoder;

typedef struct pl_decoder_spec {
    int64_t max_tokens;
    int64_t max_read; /* most rows that are read of a batch (pl_forest_rows); 0: all tokens */
    bool training, recompute;
    int64_t max_rank; /* 0: no adapter */
    bool dropout;
    bool cached; /* runs with a KV cache, pl_decoder_infer, and nothing else */
} pl_decoder_spec;

/* Deals the buffers out of `arena` (measuring or real), tags "activations", "gradients", "rope". */
int pl_decoder_take(pl_decoder *d, const pl_arch *arch, const pl_backend *backend, const pl_decoder_spec *spec,
                    pl_arena *arena, pl_error *err);
/* Prepares every matrix product of these weights (and adapter, may be NULL), forward or also backward. `grads` tells
 * which dW come. */
int pl_decoder_prepare(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_grads *grads, pl_error *err);

/* Fills d->x_last [rows,C], rows = pl_forest_rows(f), for batch f. lora NULL: adapter off. keep: keep activations for
 * pl_decoder_backward. The layer of the first non-finite value is not searched here: pl_decoder_find_nonfinite does it
 * afterwards. */
int pl_decoder_forward(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, bool keep,
                       pl_error *err);

/* Both at once, of a decoder that trains: d->x_last as above (with keep), and d->x_beside for the same weights with the
 * adapter `beside` (NULL: off), bit for bit what a pass of its own gives. Weights are packed once for both, and threads
 * meet once. The second stream keeps nothing; its buffers are those of the backward pass, so that d->x_beside lives
 * until that, or the head's, begins. */
int pl_decoder_forward_both(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_lora *beside,
                            const pl_forest *f, pl_error *err);

/* After a forward pass with keep of the same weights, adapter and batch: d->dx must hold dL/dx_last [rows,C] on entry.
 * Adds to grads (NULL: none) and to the adapter's da, db. Skips everything below the first trainable input. */
int pl_decoder_backward(pl_decoder *d, const pl_weights *w, pl_lora *lora, const pl_grads *grads, const pl_forest *f,
                        pl_error *err);

/* Keys and values of tokens that were run before, for generation. Row r of layer l: k[(l * capacity + r) * KV*D]. */
typedef struct pl_kv_cache {
    int64_t capacity;
    real *k, *v;
} pl_kv_cache;

/* As pl_decoder_forward without keep, but the keys and values of token t go to row slots[t] of the cache, and the runs
 * and ranges of f count rows of the cache. */
int pl_decoder_infer(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f, pl_kv_cache *cache,
                     const int64_t *slots, pl_error *err);

/* Runs the forward pass again layer by layer, and names the first layer whose output is not finite: -1 embeddings, L
 * none. */
int pl_decoder_find_nonfinite(pl_decoder *d, const pl_weights *w, const pl_lora *lora, const pl_forest *f,
                              int64_t *layer, pl_error *err);

#endif
