/* model/arch.h: the architecture record that config.json describes, and the list of its parameters.
 *
 * A family (llama, qwen2) is one row of the table in family.c: it fills the record from config.json. Everything that
 * walks over parameters (loader, optimizer, initialisation, export, adapters) walks over pl_arch_params, in the order
 * of torch's named_parameters(). Letters: V vocabulary, C hidden width, F MLP width, L layers, H query heads, KV
 * key/value heads, D head size. */
#ifndef PL_ARCH_H
#define PL_ARCH_H

#include "base/base.h"
#include "base/json.h"
#include "plumb/tensor.h"
#include "tensor/safetensors.h"

typedef enum pl_rope_kind { PL_ROPE_DEFAULT, PL_ROPE_LINEAR, PL_ROPE_DYNAMIC, PL_ROPE_LLAMA3 } pl_rope_kind;

typedef struct pl_rope {
    pl_rope_kind kind;
    double theta;
    double factor;                            /* linear, dynamic, llama3 */
    double low_freq_factor, high_freq_factor; /* llama3 */
    int64_t original_max_position;            /* llama3 */
} pl_rope;

#define PL_MAX_EOS 16

/* What stands on top of the last norm. */
typedef enum pl_arch_head {
    PL_ARCH_LM,       /* ...ForCausalLM: lm_head, or the tied embeddings */
    PL_ARCH_SCORE,    /* ...ForSequenceClassification with one label: score.weight */
    PL_ARCH_NEW_SCORE /* the files of a causal model: score.weight is drawn, their lm_head is left out */
} pl_arch_head;

/* Plain data: copy it freely, nothing to release. */
typedef struct pl_arch {
    const char *family;           /* model_type: "llama", "qwen2"; static */
    int64_t V, C, F, L, H, KV, D; /* all >= 1; H % KV == 0; D even */
    int64_t max_position;
    double eps; /* of RMSNorm */
    pl_rope rope;
    bool qkv_bias, o_bias, mlp_bias;
    pl_arch_head head;
    bool tied;        /* lm_head is embed_tokens; false where there is a score head */
    int64_t bos, pad; /* -1: none */
    int neos;
    int64_t eos[PL_MAX_EOS]; /* config.json's first, then what generation_config.json adds */
    double initializer_range;
    bool has_dtype; /* config.json says a dtype that is a float type */
    pl_dtype dtype; /* F32, F16 or BF16; F32 when it says none */
} pl_arch;

/* From DIR/config.json and, when present, DIR/generation_config.json. Everything that plumb does not compute as
 * transformers does is refused (PL_E_UNSUPPORTED): other model types, activations and RoPE rules, sliding windows in
 * use, quantised weights, attention dropout. PL_E_IO, PL_E_FORMAT, PL_E_RANGE name file and key. */
int pl_arch_load(pl_arch *out, const char *dir, pl_error *err);
/* The same from parsed JSON; generation may be NULL; `what` names the config in errors. */
int pl_arch_parse(pl_arch *out, const pl_json *config, const pl_json *generation, const char *what, pl_error *err);

/* "LlamaForSequenceClassification": architectures[0] of the family's reward models; static. */
const char *pl_arch_classifier(const pl_arch *a);

/* Inverse frequencies of RoPE, inv[D/2], in float32 arithmetic as transformers computes them. `length` is the longest
 * position + 1 of the row (only the dynamic rule reads it; 0 = up to max_position). */
void pl_rope_frequencies(float *inv, const pl_arch *a, int64_t length);

/* ---- parameters
 * ---------------------------------------------------------------------------------------------------------- */

/* The linear layers of a block, in the order of named_modules(): the index of per-layer arrays [L][PL_LIN_COUNT]. */
typedef enum pl_lin {
    PL_LIN_Q,
    PL_LIN_K,
    PL_LIN_V,
    PL_LIN_O,
    PL_LIN_GATE,
    PL_LIN_UP,
    PL_LIN_DOWN,
    PL_LIN_COUNT
} pl_lin;

typedef enum pl_role {
    PL_ROLE_EMBED,      /* [V,C] */
    PL_ROLE_LIN_WEIGHT, /* [out,in] of `lin` */
    PL_ROLE_LIN_BIAS,   /* [out] of `lin` */
    PL_ROLE_NORM1,      /* [C] input_layernorm */
    PL_ROLE_NORM2,      /* [C] post_attention_layernorm */
    PL_ROLE_FINAL_NORM, /* [C] */
    PL_ROLE_HEAD,       /* [V,C]; absent when tied */
    PL_ROLE_SCORE,      /* [1,C]; in place of the head */
} pl_role;

typedef struct pl_param_spec {
    char name[72]; /* "model.layers.3.self_attn.q_proj.weight" */
    pl_role role;
    pl_lin lin;         /* for PL_ROLE_LIN_*, else PL_LIN_COUNT */
    int64_t layer;      /* -1 outside the blocks */
    int64_t rows, cols; /* cols == 1 for the one-dimensional ones */
    int ndim;           /* 1 or 2 */
    bool decay;         /* weight decay applies: not to biases and norm weights */
} pl_param_spec;

/* All parameters; owned array: pl_free. */
int pl_arch_params(pl_param_spec **out, int64_t *n, const pl_arch *a, pl_error *err);
/* Their number and the number of their elements. PL_E_RANGE when that does not fit int64_t. */
int64_t pl_arch_param_count(const pl_arch *a);
int pl_arch_elements(int64_t *out, const pl_arch *a, pl_error *err);
/* [out,in] of a linear layer and whether it has a bias. */
void pl_arch_lin_shape(const pl_arch *a, pl_lin lin, int64_t *rows, int64_t *cols, bool *bias);
/* "self_attn.q_proj" ...; static. The module path is "model.layers.<l>.<this>". */
const char *pl_lin_path(pl_lin lin);

/* Holds a file against the architecture: out[i] is the tensor of params[i] (borrowed from ts, the array owned:
 * pl_free). Missing tensors, wrong shapes, types other than F32, F16, BF16 and tensors that belong to no parameter are
 * errors that name them. Known buffers (rotary_emb.inv_freq) are skipped; an lm_head.weight beside tied embeddings is
 * skipped with a log line. PL_ARCH_NEW_SCORE: lm_head.weight is left out, and out[i] of score.weight is NULL. */
int pl_arch_bind(const pl_tensor ***out, const pl_arch *a, const pl_param_spec *params, int64_t n, const pl_tensors *ts,
                 pl_error *err);

#endif
