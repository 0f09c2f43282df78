/* adapt/peft.h: PEFT's LoRA adapter directories: adapter_config.json read and written, and which modules it means.
 *
 * Knows module names, not architectures: the caller gives the list of modules. What plumb does not train exactly as
 * PEFT does (DoRA, modules_to_save but for a score head, biases, other initialisations, ...) is refused with the key's
 * name, never ignored.
 */
#ifndef PL_PEFT_H
#define PL_PEFT_H

#include "base/base.h"
#include "base/json.h"
#include "tensor/safetensors.h"

#define PL_PEFT_CONFIG "adapter_config.json"
#define PL_PEFT_WEIGHTS "adapter_model.safetensors"
#define PL_PEFT_PREFIX "base_model.model." /* + module path + ".lora_A.weight" [r,in] or ".lora_B.weight" [out,r] */

/* Names of modules: an exact name or the end of one behind a dot; or one regex that must match the whole module path.
 */
typedef struct pl_peft_names {
    bool regex;
    int64_t n;
    char **names; /* owned; regex: n == 1 */
} pl_peft_names;

typedef struct pl_peft_pattern {
    char *key;    /* owned: regex, matched behind an optional "….", anchored at the end */
    double value; /* rank or alpha */
} pl_peft_pattern;

typedef struct pl_peft_config {
    int64_t r;       /* >= 1 */
    double alpha;    /* lora_alpha */
    double dropout;  /* [0,1) */
    bool rslora;     /* scale alpha/sqrt(r) in place of alpha/r */
    bool all_linear; /* target_modules: "all-linear" */
    bool score;      /* task_type SEQ_CLS: the score head is trained and saved with the adapter (modules_to_save) */
    pl_peft_names target, exclude;
    int64_t *layers; /* layers_to_transform, owned; NULL: all */
    int64_t nlayers;
    pl_peft_pattern *ranks, *alphas; /* rank_pattern, alpha_pattern; owned, in file order */
    int64_t nranks, nalphas;
    char *base_model; /* base_model_name_or_path, owned; NULL: none */
    pl_json *source;  /* the file as read, owned; NULL for a new one. Rewriting keeps its keys */
} pl_peft_config;

/* PEFT's defaults: r 8, alpha 8, dropout 0; target empty. Release with pl_peft_config_release (safe on zeroed storage).
 */
void pl_peft_config_init(pl_peft_config *c);
void pl_peft_config_release(pl_peft_config *c);
/* target from a user's words: "all-linear", or several names (n >= 2, or one that holds no regex characters), or one
 * regex. */
int pl_peft_config_target(pl_peft_config *c, const char *const *names, int64_t n, pl_error *err);
/* DIR/adapter_config.json. PL_E_IO, PL_E_FORMAT, PL_E_RANGE, PL_E_UNSUPPORTED; *out is untouched on failure. */
int pl_peft_config_load(pl_peft_config *out, const char *dir, pl_error *err);
int pl_peft_config_parse(pl_peft_config *out, const char *text, size_t n, const char *what, pl_error *err);
/* DIR/adapter_config.json with indent 2 and sorted keys, as PEFT writes it. `base_model` (may be NULL) replaces
 * base_model_name_or_path of a new configuration; a configuration that was read keeps all its keys. */
int pl_peft_config_save(const pl_peft_config *c, const char *dir, const char *base_model, pl_error *err);
/* The text of it (owned: pl_free). */
int pl_peft_config_text(char **out, const pl_peft_config *c, const char *base_model, pl_error *err);

/* A module of the base model. */
typedef enum pl_module_kind { PL_MODULE_LINEAR, PL_MODULE_HEAD, PL_MODULE_EMBED, PL_MODULE_OTHER } pl_module_kind;
typedef struct pl_module {
    char path[64]; /* "model.layers.0.self_attn.q_proj" */
    pl_module_kind kind;
} pl_module;
/* What one module gets. */
typedef struct pl_peft_site {
    bool on;
    int64_t r;
    double alpha, scale; /* scale = alpha/r, or alpha/sqrt(r) */
} pl_peft_site;
/* sites[i] for modules[i]. A configuration without target means q_proj and v_proj (PEFT's default for llama, qwen2).
 * Errors: nothing matches, a listed name matches nothing (with the nearest names), a target that is no linear layer,
 * lm_head. PL_E_OPTION. */
int pl_peft_match(pl_peft_site *sites, const pl_peft_config *c, const pl_module *modules, int64_t n, pl_error *err);

/* Replaces a new configuration's "all-linear" or missing target by the names it stands for ("down_proj", ...), sorted:
 * what PEFT writes, and what readers understand that know no "all-linear". A configuration that was read stays as it
 * is. */
int pl_peft_config_name_targets(pl_peft_config *c, const pl_module *modules, int64_t n, pl_error *err);

/* Name of the A (which == 'A') or B tensor of a module, into out[112]. */
void pl_peft_tensor_name(char out[112], const char *module, char which);

#endif
