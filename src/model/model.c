/* model.c: opens a model directory and points the weights at its map. */
#include "model/model.h"

#include <string.h>

#include "base/cache.h"
#include "base/rng.h"
#include "kernels/ops.h"

/* Where role and layer put a parameter in pl_weights: a matrix, or a vector of real. */
static pl_mat *mat_of(pl_weights *w, pl_layer_weights *layers, const pl_param_spec *s) {
    switch (s->role) {
    case PL_ROLE_EMBED: return &w->embed;
    case PL_ROLE_HEAD: return &w->head;
    case PL_ROLE_SCORE: return &w->score;
    case PL_ROLE_LIN_WEIGHT: return &layers[s->layer].w[s->lin];
    default: return NULL;
    }
}

static const real **vector_of(pl_weights *w, pl_layer_weights *layers, const pl_param_spec *s) {
    switch (s->role) {
    case PL_ROLE_LIN_BIAS: return &layers[s->layer].b[s->lin];
    case PL_ROLE_NORM1: return &layers[s->layer].norm1;
    case PL_ROLE_NORM2: return &layers[s->layer].norm2;
    case PL_ROLE_FINAL_NORM: return &w->norm;
    default: return NULL;
    }
}

/* Points the weights at the map; vectors at `small`, converted. */
static void bind_stored(pl_model *m, pl_layer_weights *layers) {
    pl_ops ops;
    pl_ops_init(&ops, PL_CPU_GENERIC);
    real *next = m->small;
    for (int64_t i = 0; i < m->nparams; i++) {
        const pl_param_spec *s = &m->params[i];
        pl_mat *mat = mat_of(&m->stored, layers, s);
        if (mat) {
            *mat =
                (pl_mat){.data = m->tensors[i]->data, .type = m->tensors[i]->dtype, .rows = s->rows, .cols = s->cols};
            continue;
        }
        ops.to_real(next, m->tensors[i]->data, m->tensors[i]->dtype, s->rows);
        *vector_of(&m->stored, layers, s) = next;
        next += s->rows;
    }
    if (m->arch.tied) m->stored.head = m->stored.embed;
    m->stored.layers = layers;
    m->stored.arch = &m->arch;
}

/* The score head that the files do not hold. The stream's key is the parameter's own, so that it does not depend on
 * what else a run draws. */
static int draw_score(pl_model *m, uint64_t seed, pl_error *err) {
    int64_t i = m->nparams - 1, C = m->arch.C;
    void *data = NULL;
    int rc;
    PL_GO(rc, PL_NEW(&m->drawn, 1, err));
    PL_GO(rc, pl_alloc(&data, (size_t)C * sizeof(float), err));
    *m->drawn = (pl_tensor){.name = m->params[i].name,
                            .dtype = PL_F32,
                            .ndim = 2,
                            .dims = {1, C},
                            .data = data,
                            .bytes = (size_t)C * sizeof(float)};
    pl_rng_normal(data, C, (float)m->arch.initializer_range, pl_rng_mix(seed, 0x73636F7265 /* "score" */), 0);
    m->tensors[i] = m->drawn;
out:
    return rc;
}

static int open_model(pl_model *out, const char *dir, bool scored, uint64_t seed, pl_error *err) {
    pl_model m = {0};
    pl_layer_weights *layers = NULL;
    int64_t vectors = 0;
    int rc;
    PL_GO(rc, pl_strdup(&m.dir, dir, err));
    PL_GO(rc, pl_arch_load(&m.arch, dir, err));
    if (scored && m.arch.head == PL_ARCH_LM) {
        m.arch.head = PL_ARCH_NEW_SCORE;
        m.arch.tied = false;
    }
    if (!scored && m.arch.head != PL_ARCH_LM)
        PL_GO(rc, PL_FAIL(err, PL_E_UNSUPPORTED,
                          "%s is a reward model (a score head, no vocabulary); want a causal "
                          "language model",
                          dir));
    PL_GO(rc, pl_arch_params(&m.params, &m.nparams, &m.arch, err));
    PL_GO(rc, pl_tensors_open(&m.files, dir, err));
    PL_GO(rc, pl_arch_bind(&m.tensors, &m.arch, m.params, m.nparams, m.files, err));
    if (m.arch.head == PL_ARCH_NEW_SCORE) PL_GO(rc, draw_score(&m, seed, err));
    for (int64_t i = 0; i < m.nparams; i++)
        m.elements += m.params[i].rows * m.params[i].cols, vectors += m.params[i].ndim == 1 ? m.params[i].rows : 0;
    PL_GO(rc, PL_NEW(&m.small, vectors, err));
    PL_GO(rc, PL_NEW(&layers, m.arch.L, err));
    *out = m;
    bind_stored(out, layers);
    return 0;
out:
    pl_model_close(&m);
    return rc;
}

int pl_model_open(pl_model *out, const char *dir, pl_error *err) { return open_model(out, dir, false, 0, err); }

int pl_model_open_scored(pl_model *out, const char *dir, uint64_t seed, pl_error *err) {
    return open_model(out, dir, true, seed, err);
}

void pl_model_close(pl_model *m) {
    if (!m) return;
    if (m->drawn) pl_free((void *)(uintptr_t)m->drawn->data);
    pl_free(m->drawn);
    pl_free(m->stored.layers);
    pl_free(m->converted);
    pl_free(m->small);
    pl_free(m->tensors);
    pl_tensors_close(m->files);
    pl_free(m->params);
    pl_free(m->dir);
    *m = (pl_model){0};
}

/* Chunks of at most this many elements are widened and rounded at a time. */
#define CONVERT_CHUNK 4096

static void convert_tensor(pl_tensor *to, void *data, const pl_tensor *from, const pl_ops *ops) {
    real chunk[CONVERT_CHUNK];
    size_t in = pl_dtype_bytes(from->dtype), out = pl_dtype_bytes(to->dtype);
    int64_t n = (int64_t)(from->bytes / in);
    for (int64_t i = 0; i < n; i += CONVERT_CHUNK) {
        int64_t k = PL_MIN(CONVERT_CHUNK, n - i);
        ops->to_real(chunk, (const char *)from->data + (size_t)i * in, from->dtype, k);
        ops->from_real((char *)data + (size_t)i * out, to->dtype, chunk, k);
    }
    to->data = data;
}

int pl_model_convert(pl_model *m, pl_dtype dtype, const pl_ops *ops, pl_arena *arena, pl_error *err) {
    int rc = 0;
    if (!m->converted) PL_GO(rc, PL_NEW(&m->converted, m->nparams, err));
    for (int64_t i = 0; i < m->nparams; i++) {
        bool drawn = m->drawn && m->params[i].role == PL_ROLE_SCORE;
        const pl_tensor *from = drawn ? m->drawn : pl_tensors_find(m->files, m->params[i].name);
        pl_tensor *to = &m->converted[i];
        int64_t n = m->params[i].rows * m->params[i].cols;
        void *data = NULL;
        *to = *from;
        to->dtype = dtype;
        to->bytes = (size_t)n * pl_dtype_bytes(dtype);
        PL_GO(rc, pl_arena_take(arena, to->bytes, "weights", &data, err));
        if (data) {
            convert_tensor(to, data, from, ops);
            m->tensors[i] = to;
        }
    }
    if (!arena->measuring) bind_stored(m, m->stored.layers);
out:
    return rc;
}

int pl_model_check(const pl_model *m, pl_error *err) { return pl_tensors_check(m->files, err); }

size_t pl_model_bytes(const pl_model *m) {
    size_t bytes = 0;
    for (int64_t i = 0; i < m->nparams; i++) bytes += m->tensors[i]->bytes;
    return bytes;
}

/* Names, types and shapes, and what is in the tensors: in all of them, or only in those that no file holds. */
static void add_params(pl_hasher *h, const pl_model *m, bool all) {
    for (int64_t i = 0; i < m->nparams; i++) {
        pl_hasher_add_text(h, m->params[i].name);
        pl_hasher_add_text(h, pl_dtype_name(m->tensors[i]->dtype));
        pl_hasher_add_int(h, m->params[i].rows);
        pl_hasher_add_int(h, m->params[i].cols);
        if (all || !pl_tensors_find(m->files, m->params[i].name))
            pl_hasher_add(h, m->tensors[i]->data, m->tensors[i]->bytes);
    }
}

int pl_model_hash(pl_hash *out, const pl_model *m, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc) return rc;
    add_params(h, m, true);
    *out = pl_hasher_digest(h);
    pl_hasher_free(h);
    return 0;
}

static int stamp_key(pl_hash *key, bool *settled, const pl_model *m, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc) return rc;
    pl_hasher_add_text(h, "content of a model");
    add_params(h, m, false);
    rc = pl_tensors_add_stamps(h, settled, m->files, err);
    *key = pl_hasher_digest(h);
    pl_hasher_free(h);
    return rc;
}

int pl_model_hash_remembered(pl_hash *out, const pl_model *m, const char *cache_dir, bool fresh, pl_error *err) {
    pl_hash key, after;
    pl_error ignored;
    bool settled = false;
    int rc = stamp_key(&key, &settled, m, err);
    if (rc) return rc;
    if (!fresh && settled && pl_memo_get(out, cache_dir, &key)) return 0;
    rc = pl_model_hash(out, m, err);
    if (rc == 0) rc = stamp_key(&after, &settled, m, err);
    if (rc == 0 && settled && strcmp(key.hex, after.hex) == 0) (void)pl_memo_put(cache_dir, &key, out, &ignored);
    return rc;
}
