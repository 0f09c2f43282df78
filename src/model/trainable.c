/* trainable.c: the tensors that a run trains, fp32, with their gradients: all of the model, or LoRA's A and B. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "model/model.h"

void pl_trainable_release(pl_trainable *t) {
    if (!t) return;
    pl_free(t->params);
    pl_free(t->layer_weights);
    pl_free(t->layer_grads);
    pl_free(t->modules);
    *t = (pl_trainable){0};
}

void pl_trainable_zero_grads(pl_trainable *t) {
    for (int64_t i = 0; i < t->n; i++) memset(t->params[i].grad, 0, (size_t)t->params[i].n * sizeof(real));
}

void pl_trainable_begin_grads(pl_trainable *t) {
    for (int64_t i = 0; i < t->n; i++) {
        const pl_param *p = &t->params[i];
        if (!t->lent || !pl_trainable_borrows(t, p)) memset(p->grad, 0, (size_t)p->n * sizeof *p->grad);
    }
}

/* --- full fine-tuning
 * -------------------------------------------------------------------------------------------------------------- */

static void bind_full(pl_trainable *t, const pl_param_spec *s, pl_param *p) {
    pl_layer_weights *lw = s->layer >= 0 ? &t->layer_weights[s->layer] : NULL;
    pl_layer_grads *lg = s->layer >= 0 ? &t->layer_grads[s->layer] : NULL;
    pl_mat mat = {.data = p->value, .type = PL_REAL, .rows = s->rows, .cols = s->cols};
    switch (s->role) {
    case PL_ROLE_EMBED: t->weights.embed = mat, t->grads.embed = p->grad; break;
    case PL_ROLE_HEAD: t->weights.head = mat, t->grads.head = p->grad; break;
    case PL_ROLE_SCORE: t->weights.score = mat, t->grads.score = p->grad; break;
    case PL_ROLE_FINAL_NORM: t->weights.norm = p->value, t->grads.norm = p->grad; break;
    case PL_ROLE_LIN_WEIGHT: lw->w[s->lin] = mat, lg->w[s->lin] = p->grad; break;
    case PL_ROLE_LIN_BIAS: lw->b[s->lin] = p->value, lg->b[s->lin] = p->grad; break;
    case PL_ROLE_NORM1: lw->norm1 = p->value, lg->norm1 = p->grad; break;
    case PL_ROLE_NORM2: lw->norm2 = p->value, lg->norm2 = p->grad; break;
    }
}

/* Where the gradients of a new trainable are: nowhere, all in its arena, or those of blocks lent later. */
typedef enum place { NO_GRADS, OWN_GRADS, LENT_GRADS } place;

static int take_grad(pl_param *p, const pl_trainable *t, place where, pl_arena *arena, pl_error *err) {
    if (where == NO_GRADS || (where == LENT_GRADS && pl_trainable_borrows(t, p))) return 0;
    return PL_TAKE(arena, &p->grad, p->n, "gradients", err);
}

static int new_full(pl_trainable *out, const pl_model *m, place where, pl_arena *arena, pl_error *err) {
    pl_trainable t = {.n = m->nparams, .weights.arch = &m->arch, .lent = where == LENT_GRADS};
    int rc;
    PL_GO(rc, PL_NEW(&t.params, m->nparams, err));
    PL_GO(rc, PL_NEW(&t.layer_weights, m->arch.L, err));
    PL_GO(rc, PL_NEW(&t.layer_grads, m->arch.L, err));
    for (int64_t i = 0; i < m->nparams; i++) {
        const pl_param_spec *s = &m->params[i];
        pl_param *p = &t.params[i];
        *p = (pl_param){.rows = s->rows,
                        .cols = s->cols,
                        .n = s->rows * s->cols,
                        .ndim = s->ndim,
                        .decay = s->decay,
                        .layer = s->layer};
        snprintf(p->name, sizeof p->name, "%s", s->name);
        PL_GO(rc, PL_TAKE(arena, &p->value, p->n, "masters", err));
        PL_GO(rc, take_grad(p, &t, where, arena, err));
        bind_full(&t, s, p);
        t.elements += p->n;
    }
    t.weights.layers = t.layer_weights;
    t.grads.layers = t.layer_grads;
    t.grads.lent = t.lent;
    if (m->arch.tied) t.weights.head = t.weights.embed;
    *out = t;
    return 0;
out:
    pl_trainable_release(&t);
    return rc;
}

int pl_trainable_full(pl_trainable *out, const pl_model *m, bool lent, pl_arena *arena, pl_error *err) {
    return new_full(out, m, lent ? LENT_GRADS : OWN_GRADS, arena, err);
}

void pl_trainable_load_masters(pl_trainable *t, const pl_model *m, const pl_ops *ops) {
    for (int64_t i = 0; i < t->n; i++)
        ops->to_real(t->params[i].value, m->tensors[i]->data, m->tensors[i]->dtype, t->params[i].n);
}

/* --- LoRA
 * --------------------------------------------------------------------------------------------------------------------------------
 */

static void module_path(char out[64], int64_t layer, int lin) {
    snprintf(out, 64, "model.layers.%" PRId64 ".%s", layer, pl_lin_path((pl_lin)lin));
}

/* Lays out the modules of a configuration: A and B out of the arena, gradients when trained. */
static int take_modules(pl_trainable *t, const pl_model *m, const pl_peft_site *sites, place where, pl_arena *arena,
                        pl_error *err) {
    pl_lora *lora = &t->lora;
    int rc = 0;
    for (int64_t i = 0; i < m->arch.L * PL_LIN_COUNT; i++) {
        if (!sites[i].on) continue;
        int64_t rows, cols;
        bool bias;
        pl_arch_lin_shape(&m->arch, (pl_lin)(i % PL_LIN_COUNT), &rows, &cols, &bias);
        pl_lora_module *mod = &lora->modules[i];
        *mod = (pl_lora_module){.r = sites[i].r, .scale = (real)sites[i].scale};
        lora->max_r = PL_MAX(lora->max_r, mod->r);
        PL_GO(rc, PL_TAKE(arena, &mod->a, mod->r * cols, "adapter", err));
        PL_GO(rc, PL_TAKE(arena, &mod->b, mod->r * rows, "adapter", err));
        char path[64];
        module_path(path, i / PL_LIN_COUNT, (int)(i % PL_LIN_COUNT));
        pl_param *a = &t->params[t->n++], *b = &t->params[t->n++];
        *a = (pl_param){.rows = mod->r,
                        .cols = cols,
                        .n = mod->r * cols,
                        .ndim = 2,
                        .decay = true,
                        .layer = i / PL_LIN_COUNT,
                        .value = mod->a};
        *b = (pl_param){.rows = rows,
                        .cols = mod->r,
                        .n = mod->r * rows,
                        .ndim = 2,
                        .decay = true,
                        .layer = i / PL_LIN_COUNT,
                        .value = mod->b};
        PL_GO(rc, take_grad(a, t, where, arena, err));
        PL_GO(rc, take_grad(b, t, where, arena, err));
        mod->da = a->grad;
        mod->db = b->grad;
        pl_peft_tensor_name(a->name, path, 'A');
        pl_peft_tensor_name(b->name, path, 'B');
    }
out:
    return rc;
}

#define SCORE_NAME PL_PEFT_PREFIX "score.weight"

/* The score head that the adapter carries (PEFT's modules_to_save). */
static int take_score(pl_lora *lora, pl_param *p, const pl_model *m, bool trained, pl_arena *arena, pl_error *err) {
    int64_t C = m->arch.C;
    int rc = PL_TAKE(arena, &lora->score, C, "adapter", err);
    if (rc == 0 && trained) rc = PL_TAKE(arena, &lora->dscore, C, "gradients", err);
    *p = (pl_param){.name = SCORE_NAME,
                    .rows = 1,
                    .cols = C,
                    .n = C,
                    .ndim = 2,
                    .decay = true,
                    .layer = -1,
                    .value = lora->score,
                    .grad = lora->dscore};
    return rc;
}

int pl_model_check_adapter(const pl_model *m, const pl_peft_config *c, pl_error *err) {
    bool scored = m->arch.head != PL_ARCH_LM;
    if (c->score == scored) return 0;
    return PL_FAIL(err, PL_E_MISMATCH,
                   scored
                       ? "the adapter is one of a causal language model (task_type CAUSAL_LM): merge it into its base "
                         "and start the reward model from that"
                       : "the adapter is one of a reward model (task_type SEQ_CLS), want one of a language model");
}

static int new_lora(pl_trainable *out, const pl_model *m, const pl_peft_config *c, place where, pl_arena *arena,
                    pl_error *err) {
    pl_trainable t = {.is_lora = true, .weights = m->stored, .lent = where == LENT_GRADS};
    pl_peft_site *sites = NULL;
    int rc;
    PL_GO(rc, pl_model_check_adapter(m, c, err));
    PL_GO(rc, pl_arch_match(&sites, &m->arch, c, err));
    PL_GO(rc, PL_NEW(&t.modules, m->arch.L * PL_LIN_COUNT, err));
    PL_GO(rc, PL_NEW(&t.params, 2 * m->arch.L * PL_LIN_COUNT + 1, err));
    t.lora.modules = t.modules;
    PL_GO(rc, take_modules(&t, m, sites, where, arena, err));
    if (c->score) PL_GO(rc, take_score(&t.lora, &t.params[t.n++], m, where != NO_GRADS, arena, err));
    for (int64_t i = 0; i < t.n; i++) t.elements += t.params[i].n;
    t.lora.dropout = (real)c->dropout;
    t.lora.lent = t.lent;
    *out = t;
    t = (pl_trainable){0};
out:
    pl_free(sites);
    pl_trainable_release(&t);
    return rc;
}

int pl_trainable_lora(pl_trainable *out, const pl_model *m, const pl_peft_config *c, uint64_t seed, bool lent,
                      pl_arena *arena, pl_error *err) {
    int rc = new_lora(out, m, c, lent ? LENT_GRADS : OWN_GRADS, arena, err);
    if (rc || arena->measuring) return rc;
    for (int64_t i = 0; i + 1 < out->n; i += 2) { /* A: kaiming uniform with a = sqrt(5) is +-1/sqrt(in); B is zero */
        pl_param *a = &out->params[i];
        double bound = 1.0 / sqrt((double)a->cols);
        for (int64_t j = 0; j < a->n; j++)
            a->value[j] = (real)((2 * pl_rng_unit64(pl_rng_mix(seed, (uint64_t)i), (uint64_t)j) - 1) * bound);
    }
    if (!out->lora.score) return 0;
    pl_ops ops;
    pl_ops_init(&ops, PL_CPU_GENERIC);
    ops.to_real(out->lora.score, m->stored.score.data, m->stored.score.type, m->arch.C);
    return 0;
}

int pl_trainable_load_adapter(pl_trainable *t, const char *dir, const pl_ops *ops, pl_error *err) {
    char *path = NULL;
    pl_tensors *files = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, PL_PEFT_WEIGHTS, err));
    PL_GO(rc, pl_tensors_open_file(&files, path, err));
    for (int64_t i = 0; i < t->n; i++) {
        const pl_tensor *s = NULL;
        int64_t dims[2] = {t->params[i].rows, t->params[i].cols};
        PL_GO(rc, pl_tensors_need(&s, files, t->params[i].name, 2, dims, err));
        if (s->dtype != PL_F32 && s->dtype != PL_F16 && s->dtype != PL_BF16) {
            rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: %s is %s, want F32, F16 or BF16", path, s->name,
                         pl_dtype_name(s->dtype));
            goto out;
        }
        ops->to_real(t->params[i].value, s->data, s->dtype, t->params[i].n);
    }
    if (pl_tensors_count(files) != t->n)
        rc = PL_FAIL(err, PL_E_MISMATCH, "%s holds %" PRId64 " tensors, its adapter_config.json means %" PRId64, path,
                     pl_tensors_count(files), t->n);
out:
    pl_tensors_close(files);
    pl_free(path);
    return rc;
}

int pl_lora_open(pl_lora *lora, const pl_model *m, const char *dir, const pl_ops *ops, pl_arena *arena, pl_error *err) {
    pl_peft_config c = {0};
    pl_trainable t = {0};
    int rc;
    PL_GO(rc, pl_peft_config_load(&c, dir, err));
    PL_GO(rc, new_lora(&t, m, &c, NO_GRADS, arena, err));
    if (!arena->measuring) PL_GO(rc, pl_trainable_load_adapter(&t, dir, ops, err));
    *lora = t.lora;
    lora->dropout = 0;
    t.modules = NULL;
out:
    pl_trainable_release(&t);
    pl_peft_config_release(&c);
    return rc ? pl_error_context(err, rc, "adapter %s", dir) : 0;
}

int pl_trainable_twin(pl_trainable *out, const pl_trainable *of, const pl_model *m, const pl_peft_config *c,
                      pl_arena *arena, pl_error *err) {
    int rc = of->is_lora ? new_lora(out, m, c, NO_GRADS, arena, err) : new_full(out, m, NO_GRADS, arena, err);
    if (rc == 0) out->lora.dropout = 0;
    return rc;
}

/* Modules and their two parameters stand in the same order. */
static void bind_lora(pl_trainable *t, int64_t layer) {
    for (int64_t j = 0, i = 0; j < (layer + 1) * PL_LIN_COUNT; j++) {
        if (t->modules[j].r == 0) continue; /* not adapted */
        if (j >= layer * PL_LIN_COUNT) t->modules[j].da = t->params[i].grad, t->modules[j].db = t->params[i + 1].grad;
        i += 2;
    }
}

int pl_trainable_take_lent(pl_trainable *t, const pl_model *m, int64_t layer, pl_arena *arena, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; i < t->n; i++) {
        pl_param *p = &t->params[i];
        if (p->layer != layer || !pl_trainable_borrows(t, p)) continue;
        PL_GO(rc, PL_TAKE(arena, &p->grad, p->n, "gradients", err));
        if (!t->is_lora) bind_full(t, &m->params[i], p);
    }
    if (t->is_lora) bind_lora(t, layer);
out:
    return rc;
}

void pl_trainable_blend(pl_trainable *to, const pl_trainable *from, double share) {
    real old = (real)(1 - share), new = (real)share;
    for (int64_t i = 0; i < to->n; i++) {
        real *a = to->params[i].value;
        const real *b = from->params[i].value;
#pragma omp parallel for schedule(static) if (to->params[i].n > 65536)
        for (int64_t j = 0; j < to->params[i].n; j++) a[j] = share == 1 ? b[j] : old * a[j] + new *b[j];
    }
}

void pl_lora_merge(real *out, const pl_mat *w, const pl_lora_module *mod, int64_t row0, int64_t rows,
                   const pl_ops *ops) {
    const char *from = (const char *)w->data + (size_t)(row0 * w->cols) * pl_dtype_bytes(w->type);
    ops->to_real(out, from, w->type, rows * w->cols);
    if (!mod->a) return;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < mod->r; k++)
            ops->axpy(out + i * w->cols, mod->scale * mod->b[(row0 + i) * mod->r + k], mod->a + k * w->cols, w->cols);
}
