/* family_llama.c: model_type llama: optional biases, nothing else. */
#include "model/family.h"

static int fill(pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    bool attention_bias = false;
    int rc;
    PL_GO(rc, pl_json_member_bool(config, "attention_bias", false, &attention_bias, what, err));
    PL_GO(rc, pl_json_member_bool(config, "mlp_bias", false, &a->mlp_bias, what, err));
    a->qkv_bias = a->o_bias = attention_bias;
out:
    return rc;
}

const pl_family pl_family_llama = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .classifier = "LlamaForSequenceClassification",
    .max_position = 2048,
    .bos = 1,
    .eos = 2,
    .fill = fill,
};
