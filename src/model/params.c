/* params.c: the list of a model's parameters, and a file held against it. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "model/arch.h"
#include "plumb/log.h"
#include "tensor/dtype.h"

static const char *const lin_paths[PL_LIN_COUNT] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                    "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                                    "mlp.down_proj"};

const char *pl_lin_path(pl_lin lin) { return (unsigned)lin < PL_LIN_COUNT ? lin_paths[lin] : "?"; }

void pl_arch_lin_shape(const pl_arch *a, pl_lin lin, int64_t *rows, int64_t *cols, bool *bias) {
    int64_t q = a->H * a->D, kv = a->KV * a->D;
    switch (lin) {
    case PL_LIN_Q: *rows = q, *cols = a->C, *bias = a->qkv_bias; break;
    case PL_LIN_K:
    case PL_LIN_V: *rows = kv, *cols = a->C, *bias = a->qkv_bias; break;
    case PL_LIN_O: *rows = a->C, *cols = q, *bias = a->o_bias; break;
    case PL_LIN_GATE:
    case PL_LIN_UP: *rows = a->F, *cols = a->C, *bias = a->mlp_bias; break;
    case PL_LIN_DOWN:
    case PL_LIN_COUNT: *rows = a->C, *cols = a->F, *bias = a->mlp_bias; break;
    }
}

static int64_t per_layer(const pl_arch *a) {
    return PL_LIN_COUNT + 2 + (a->qkv_bias ? 3 : 0) + (a->o_bias ? 1 : 0) + (a->mlp_bias ? 3 : 0);
}

int64_t pl_arch_param_count(const pl_arch *a) { return 2 + a->L * per_layer(a) + (a->tied ? 0 : 1); }

typedef struct list {
    pl_param_spec *p;
    int64_t n;
} list;

/* cols == 0: one-dimensional. */
static pl_param_spec *add(list *l, pl_role role, int64_t layer, int64_t rows, int64_t cols, const char *name) {
    pl_param_spec *s = &l->p[l->n++];
    *s = (pl_param_spec){.role = role, .lin = PL_LIN_COUNT, .layer = layer, .rows = rows, .cols = cols ? cols : 1};
    s->ndim = cols ? 2 : 1;
    s->decay = cols != 0; /* as transformers: neither biases nor norm weights */
    if (layer < 0)
        snprintf(s->name, sizeof s->name, "%s", name);
    else
        snprintf(s->name, sizeof s->name, "model.layers.%" PRId64 ".%s", layer, name);
    return s;
}

static void add_lin(list *l, const pl_arch *a, int64_t layer, pl_lin lin) {
    int64_t rows, cols;
    bool bias;
    char name[48];
    pl_arch_lin_shape(a, lin, &rows, &cols, &bias);
    snprintf(name, sizeof name, "%s.weight", lin_paths[lin]);
    add(l, PL_ROLE_LIN_WEIGHT, layer, rows, cols, name)->lin = lin;
    if (!bias) return;
    snprintf(name, sizeof name, "%s.bias", lin_paths[lin]);
    add(l, PL_ROLE_LIN_BIAS, layer, rows, 0, name)->lin = lin;
}

int pl_arch_params(pl_param_spec **out, int64_t *n, const pl_arch *a, pl_error *err) {
    list l = {0};
    int rc = PL_NEW(&l.p, pl_arch_param_count(a), err);
    if (rc) return rc;
    add(&l, PL_ROLE_EMBED, -1, a->V, a->C, "model.embed_tokens.weight");
    for (int64_t i = 0; i < a->L; i++) {
        for (int lin = 0; lin < PL_LIN_COUNT; lin++) add_lin(&l, a, i, (pl_lin)lin);
        add(&l, PL_ROLE_NORM1, i, a->C, 0, "input_layernorm.weight");
        add(&l, PL_ROLE_NORM2, i, a->C, 0, "post_attention_layernorm.weight");
    }
    add(&l, PL_ROLE_FINAL_NORM, -1, a->C, 0, "model.norm.weight");
    if (a->head != PL_ARCH_LM)
        add(&l, PL_ROLE_SCORE, -1, 1, a->C, "score.weight");
    else if (!a->tied)
        add(&l, PL_ROLE_HEAD, -1, a->V, a->C, "lm_head.weight");
    *out = l.p;
    *n = l.n;
    return 0;
}

int pl_arch_elements(int64_t *out, const pl_arch *a, pl_error *err) {
    pl_param_spec *p = NULL;
    int64_t n, sum = 0;
    int rc = pl_arch_params(&p, &n, a, err);
    if (rc) return rc;
    for (int64_t i = 0; i < n; i++) /* config.c bounds rows and cols */
        if (__builtin_add_overflow(sum, p[i].rows * p[i].cols, &sum))
            PL_GO(rc, PL_FAIL(err, PL_E_RANGE, "the number of weights overflows"));
    *out = sum;
out:
    pl_free(p);
    return rc;
}

/* ---- a file against the list
 * ---------------------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Buffers that old checkpoints hold and that follow from config.json. */
static bool known_buffer(const char *name) { return ends_with(name, ".rotary_emb.inv_freq"); }

static void log_tied_head(const pl_tensors *ts, const pl_tensor *head) {
    const pl_tensor *embed = pl_tensors_find(ts, "model.embed_tokens.weight");
    bool same = embed && embed->bytes == head->bytes && embed->dtype == head->dtype &&
                memcmp(embed->data, head->data, head->bytes) == 0;
    if (same)
        pl_log(PL_LOG_INFO, "%s: lm_head.weight repeats the tied embeddings; used once", pl_tensors_file(ts, head));
    else
        pl_log(
            PL_LOG_WARN,
            "%s: lm_head.weight differs from model.embed_tokens.weight, but config.json says tie_word_embeddings: the "
            "embeddings are used as the head, as transformers does",
            pl_tensors_file(ts, head));
}

/* Names of tensors that nothing asked for are an error: a wrong config.json shows here. used[] is parallel to ts. */
static int refuse_unexpected(const pl_arch *a, const pl_tensors *ts, const bool *used, pl_error *err) {
    pl_buf names = {0};
    int64_t extra = 0;
    int rc = 0;
    for (int64_t i = 0; i < pl_tensors_count(ts); i++) {
        const pl_tensor *t = pl_tensors_at(ts, i);
        if (used[i] || known_buffer(t->name)) continue;
        if (a->head == PL_ARCH_NEW_SCORE && strcmp(t->name, "lm_head.weight") == 0) continue;
        if (a->tied && strcmp(t->name, "lm_head.weight") == 0) {
            log_tied_head(ts, t);
            continue;
        }
        if (++extra <= 3) PL_GO(rc, pl_buf_printf(&names, err, "%s%.100s", extra > 1 ? ", " : "", t->name));
    }
    if (extra)
        rc = PL_FAIL(err, PL_E_MISMATCH,
                     "%s: %" PRId64 " tensor%s that a %s model of this config.json does not have: %s%s",
                     pl_tensors_path(ts), extra, extra > 1 ? "s" : "", a->family, names.data, extra > 3 ? ", ..." : "");
out:
    pl_buf_release(&names);
    return rc;
}

static bool float_type(pl_dtype t) { return t == PL_F32 || t == PL_F16 || t == PL_BF16; }

int pl_arch_bind(const pl_tensor ***out, const pl_arch *a, const pl_param_spec *params, int64_t n, const pl_tensors *ts,
                 pl_error *err) {
    int rc;
    const pl_tensor **bound = NULL;
    bool *used = NULL;
    PL_GO(rc, PL_NEW(&bound, n, err));
    PL_GO(rc, PL_NEW(&used, PL_MAX(pl_tensors_count(ts), 1), err));
    for (int64_t i = 0; i < n; i++) {
        const pl_param_spec *p = &params[i];
        if (p->role == PL_ROLE_SCORE && a->head == PL_ARCH_NEW_SCORE) continue;
        rc = pl_tensors_need(&bound[i], ts, p->name, p->ndim, (int64_t[]){p->rows, p->cols}, err);
        if (rc == PL_E_MISMATCH && p->role == PL_ROLE_HEAD)
            pl_error_context(err, rc, "config.json says tie_word_embeddings: false");
        if (rc) goto out;
        if (!float_type(bound[i]->dtype))
            PL_GO(rc, PL_FAIL(err, PL_E_UNSUPPORTED, "%s: tensor %s has type %s, want F32, F16 or BF16",
                              pl_tensors_file(ts, bound[i]), p->name, pl_dtype_name(bound[i]->dtype)));
        used[pl_tensors_index(ts, bound[i])] = true;
    }
    PL_GO(rc, refuse_unexpected(a, ts, used, err));
    *out = bound;
    bound = NULL;
out:
    pl_free(bound);
    pl_free(used);
    return rc;
}
