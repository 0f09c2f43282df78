/* model/model.h: a model directory opened: architecture, parameter list, stored tensors, and weights that point at
 * them. Also the trained copies: fp32 masters of full fine-tuning, and LoRA adapters, with their gradients. Optimizer
 * state is train/'s. */
#ifndef PL_MODEL_H
#define PL_MODEL_H

#include "base/arena.h"
#include "base/hash.h"
#include "model/targets.h"
#include "model/weights.h"

typedef struct pl_model {
    char *dir; /* owned */
    pl_arch arch;
    pl_param_spec *params; /* [nparams], owned */
    int64_t nparams;
    pl_tensors *files;         /* owned */
    const pl_tensor **tensors; /* [nparams] borrowed from files, the array owned */
    pl_weights stored;         /* views of the map; norms and biases converted to real */
    real *small;               /* owned: the converted norms and biases */
    pl_tensor *converted;      /* owned: the tensors in another type (pl_model_convert), NULL otherwise */
    pl_tensor *drawn;          /* owned, with its data: a score head that no file holds, F32; NULL otherwise */
    int64_t elements;
} pl_model;

/* Maps the weights, converts norms and biases. Errors name file and tensor. */
int pl_model_open(pl_model *m, const char *dir, pl_error *err);
/* The same with a score head: that of a ...ForSequenceClassification directory (one label), or over a causal model a
 * new one, drawn as transformers draws it, normal(0, initializer_range), from `seed`. pl_model_open refuses the first,
 * so that nothing takes a reward model for a language model. */
int pl_model_open_scored(pl_model *m, const char *dir, uint64_t seed, pl_error *err);
void pl_model_close(pl_model *m); /* safe on zeroed storage */
/* Stores the frozen weights in `dtype` from now on (rounded once), out of `arena`, tag "weights": tensors and weights
 * then point there. May be called again over another arena (measuring first, then real). */
int pl_model_convert(pl_model *m, pl_dtype dtype, const pl_ops *ops, pl_arena *arena, pl_error *err);
/* PL_E_IO when a mapped file was cut since: to be asked before each pass over the weights. A closed model passes. */
int pl_model_check(const pl_model *m, pl_error *err);
/* Bytes on disk of all tensors. */
size_t pl_model_bytes(const pl_model *m);
/* Content hash over names, types, shapes and bytes of all parameters. Reads the whole file. */
int pl_model_hash(pl_hash *out, const pl_model *m, pl_error *err);
/* The same hash, remembered in cache_dir for as long as the files are unchanged (base/cache.h), so that nothing is
 * read. fresh: it is computed whatever is remembered. */
int pl_model_hash_remembered(pl_hash *out, const pl_model *m, const char *cache_dir, bool fresh, pl_error *err);

/* Trained tensors of a run, one list for both kinds: full fine-tuning (the model's parameters) or LoRA (A and B of each
 * module). */
typedef struct pl_param {
    char name[112];        /* file name of the tensor: "model.norm.weight", or PEFT's name */
    int64_t rows, cols, n; /* n = rows * cols elements; cols == 1 and ndim 1 for vectors */
    int ndim;
    bool decay;
    int64_t layer;      /* -1 outside the blocks */
    real *value, *grad; /* [n], in the model arena */
} pl_param;

typedef struct pl_trainable {
    int64_t n, elements;
    pl_param *params; /* [n], owned */
    bool is_lora;
    pl_weights weights;              /* what the forward pass runs: masters (full), or the stored weights (LoRA) */
    pl_grads grads;                  /* all NULL for LoRA */
    pl_lora lora;                    /* modules NULL in full fine-tuning */
    bool lent;                       /* so are gradients of blocks, see pl_trainable_borrows */
    pl_layer_weights *layer_weights; /* owned, behind weights.layers in full fine-tuning */
    pl_layer_grads *layer_grads;     /* owned */
    pl_lora_module *modules;         /* owned */
} pl_trainable;

/* Full fine-tuning: masters and gradients out of `arena` (measuring: only counted), tags "masters", "gradients".
 * lent: of the gradients only those that pl_trainable_borrows does not name. */
int pl_trainable_full(pl_trainable *t, const pl_model *m, bool lent, pl_arena *arena, pl_error *err);
/* LoRA: A and B and their gradients out of `arena`, tags "adapter", "gradients"; A uniform +-1/sqrt(in) from seed, B
 * zero. With a score head (c->score, which must be so exactly where the model has one) that is trained too, in f32 from
 * the model's. lent: as above. */
int pl_trainable_lora(pl_trainable *t, const pl_model *m, const pl_peft_config *c, uint64_t seed, bool lent,
                      pl_arena *arena, pl_error *err);
/* Lent gradients: where a step runs the backward pass once, the gradients of a block can lie in the activations of the
 * block above it, which are dead by then (worker.h). Those of the topmost block, and outside of blocks, never do. */
static inline bool pl_trainable_borrows(const pl_trainable *t, const pl_param *p) {
    return p->layer >= 0 && p->layer + 1 < t->weights.arch->L;
}
/* The gradients of block `layer` out of `arena`. */
int pl_trainable_take_lent(pl_trainable *t, const pl_model *m, int64_t layer, pl_arena *arena, pl_error *err);
void pl_trainable_release(pl_trainable *t);
/* Copies the stored weights into the masters. */
void pl_trainable_load_masters(pl_trainable *t, const pl_model *m, const pl_ops *ops);
/* Values from DIR/adapter_model.safetensors; missing, extra or wrongly shaped tensors are errors. */
int pl_trainable_load_adapter(pl_trainable *t, const char *dir, const pl_ops *ops, pl_error *err);
void pl_trainable_zero_grads(pl_trainable *t);
/* Before a step: zeroes the gradients that a backward pass adds to, and leaves those that it begins anew. */
void pl_trainable_begin_grads(pl_trainable *t);

/* Room for the same tensors without gradients: a reference that moves after the policy. c: of a LoRA policy. */
int pl_trainable_twin(pl_trainable *out, const pl_trainable *of, const pl_model *m, const pl_peft_config *c,
                      pl_arena *arena, pl_error *err);
/* to = (1 - share) to + share from, tensor by tensor; share 1 copies. */
void pl_trainable_blend(pl_trainable *to, const pl_trainable *from, double share);
/* Has the adapter a score head exactly where the model has one? PL_E_MISMATCH. */
int pl_model_check_adapter(const pl_model *m, const pl_peft_config *c, pl_error *err);
/* A frozen adapter: weights of DIR on model m, its score head with it; every buffer out of `arena`. Release the module
 * array with pl_free(lora->modules). */
int pl_lora_open(pl_lora *lora, const pl_model *m, const char *dir, const pl_ops *ops, pl_arena *arena, pl_error *err);

/* W + scale B A of one layer into out [rows*cols] of real, summed in real and in the order of r. */
void pl_lora_merge(real *out, const pl_mat *w, const pl_lora_module *module, int64_t row0, int64_t rows,
                   const pl_ops *ops);

#endif
