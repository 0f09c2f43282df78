/* family_qwen2.c: model_type qwen2: llama with a bias on q, k and v; sliding windows are refused where they are in use.
 */
#include <string.h>

#include "model/family.h"

/* As transformers: a window counts only with use_sliding_window, on the layers from max_window_layers on, or those that
 * layer_types names. */
static int refuse_window(const pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    bool use = false, windowed = false;
    int64_t first = 28;
    int rc;
    PL_GO(rc, pl_json_member_bool(config, "use_sliding_window", false, &use, what, err));
    PL_GO(rc, pl_json_member_int(config, "max_window_layers", false, &first, what, err));
    const pl_json *types = pl_json_get(config, "layer_types");
    bool no_window = pl_json_has(config, "sliding_window") && !pl_json_get(config, "sliding_window");
    if (types) {
        for (int64_t i = 0; i < pl_json_len(types); i++) {
            const char *type = pl_json_string(pl_json_at(types, i), NULL);
            if (!type || strcmp(type, "full_attention") != 0) windowed = true;
        }
    } else {
        windowed = use && !no_window && first < a->L;
    }
    if (windowed)
        rc = PL_FAIL(err, PL_E_UNSUPPORTED,
                     "%s: sliding-window attention is in use (use_sliding_window, layer_types); plumb "
                     "computes full attention only",
                     what);
out:
    return rc;
}

static int fill(pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    a->qkv_bias = true;
    return refuse_window(a, config, what, err);
}

const pl_family pl_family_qwen2 = {
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .classifier = "Qwen2ForSequenceClassification",
    .max_position = 32768,
    .kv_heads = 32,
    .bos = -1,
    .eos = -1,
    .fill = fill,
};
