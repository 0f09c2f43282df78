/* model/family.h: the table of model families; internal to src/model. A new family is one file family_<name>.c and one
 * row of the table in family.c. */
#ifndef PL_FAMILY_H
#define PL_FAMILY_H

#include "model/arch.h"

typedef struct pl_family {
    const char *model_type;   /* config.json's model_type */
    const char *architecture; /* architectures[0] of the causal language model */
    const char *classifier;   /* ... and of the one with a score head */
    /* what transformers' configuration class says where a key is absent */
    int64_t max_position;
    int64_t kv_heads; /* 0: as many as query heads */
    int64_t bos, eos; /* -1: none */
    /* Fills what is the family's own (biases), and refuses what plumb does not compute (sliding windows). */
    int (*fill)(pl_arch *a, const pl_json *config, const char *what, pl_error *err);
} pl_family;

extern const pl_family pl_family_llama, pl_family_qwen2;

/* By model_type, or by architectures[0] where there is no model_type; *classifier: architectures says so.
 * PL_E_UNSUPPORTED lists what there is. */
int pl_family_find(const pl_family **out, bool *classifier, const pl_json *config, const char *what, pl_error *err);

/* model/rope.c: rope_parameters, or rope_theta and rope_scaling, of a config; a->D and a->max_position are set. */
int pl_rope_parse(pl_arch *a, const pl_json *config, const char *what, pl_error *err);

#endif
