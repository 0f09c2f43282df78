/* nonfinite.c: looks through weights for a number that is none. */
#include "model/nonfinite.h"

#include <math.h>
#include <stdio.h>

#include "adapt/peft.h"

static bool bits16(const uint16_t *x, int64_t n, uint16_t exponent) {
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & exponent) == exponent) return true;
    return false;
}

static bool bits32(const uint32_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & 0x7F800000u) == 0x7F800000u) return true;
    return false;
}

static bool bits64(const uint64_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & 0x7FF0000000000000u) == 0x7FF0000000000000u) return true;
    return false;
}

/* By their bits, so that the CPU's treatment of odd numbers does not matter. */
static bool has_nonfinite(const void *data, pl_dtype type, int64_t n) {
    switch (type) {
    case PL_F16: return bits16(data, n, 0x7C00);
    case PL_BF16: return bits16(data, n, 0x7F80);
    case PL_F32: return bits32(data, n);
    case PL_F64: return bits64(data, n);
    default: return false;
    }
}

static bool in_mat(const pl_mat *m) { return has_nonfinite(m->data, m->type, m->rows * m->cols); }
static bool in_vector(const real *x, int64_t n) { return x && has_nonfinite(x, PL_REAL, n); }

static bool in_linear(char name[PL_NONFINITE_NAME], const pl_weights *w, const pl_lora *lora, int64_t layer, int lin) {
    const pl_layer_weights *l = &w->layers[layer];
    const char *path = pl_lin_path((pl_lin)lin), *part = NULL;
    if (in_mat(&l->w[lin])) part = "weight";
    if (!part && in_vector(l->b[lin], l->w[lin].rows)) part = "bias";
    snprintf(name, PL_NONFINITE_NAME, "model.layers.%" PRId64 ".%s.%s", layer, path, part ? part : "");
    if (part || !lora || !lora->modules) return part != NULL;
    const pl_lora_module *mod = pl_lora_at(lora, layer, lin);
    char module[64], which = 0;
    if (mod->a && in_vector(mod->a, mod->r * l->w[lin].cols)) which = 'A';
    if (!which && mod->b && in_vector(mod->b, mod->r * l->w[lin].rows)) which = 'B';
    snprintf(module, sizeof module, "model.layers.%" PRId64 ".%s", layer, path);
    if (which) pl_peft_tensor_name(name, module, which);
    return which != 0;
}

static bool in_norm(char name[PL_NONFINITE_NAME], const real *x, int64_t n, int64_t layer, const char *which) {
    snprintf(name, PL_NONFINITE_NAME, "model.layers.%" PRId64 ".%s.weight", layer, which);
    return in_vector(x, n);
}

static bool in_layer(char name[PL_NONFINITE_NAME], const pl_weights *w, const pl_lora *lora, int64_t layer) {
    const pl_layer_weights *l = &w->layers[layer];
    bool found = in_norm(name, l->norm1, w->arch->C, layer, "input_layernorm");
    for (int lin = 0; lin < PL_LIN_GATE && !found; lin++) found = in_linear(name, w, lora, layer, lin);
    if (!found) found = in_norm(name, l->norm2, w->arch->C, layer, "post_attention_layernorm");
    for (int lin = PL_LIN_GATE; lin < PL_LIN_COUNT && !found; lin++) found = in_linear(name, w, lora, layer, lin);
    return found;
}

void pl_weights_find_nonfinite(char name[PL_NONFINITE_NAME], const pl_weights *w, const pl_lora *lora) {
    snprintf(name, PL_NONFINITE_NAME, "model.embed_tokens.weight");
    if (in_mat(&w->embed)) return;
    for (int64_t i = 0; i < w->arch->L; i++)
        if (in_layer(name, w, lora, i)) return;
    snprintf(name, PL_NONFINITE_NAME, "model.norm.weight");
    if (in_vector(w->norm, w->arch->C)) return;
    snprintf(name, PL_NONFINITE_NAME, "lm_head.weight");
    if (in_mat(&w->head)) return;
    snprintf(name, PL_NONFINITE_NAME, "score.weight");
    if (lora && lora->score ? !in_vector(lora->score, w->arch->C) : !in_mat(&w->score)) name[0] = 0;
}
