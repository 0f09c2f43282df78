/* hot.c: copies the weights once decoding has shown to last. */
#include "gen/hot.h"

#include <string.h>

#include "kernels/loop.h"
#include "model/machine.h"
#include "plumb/log.h"

#define CHUNK 8192 /* elements that are converted at a time */

static pl_dtype hot_type(const pl_mat *m, const pl_backend *b) { return b->bf16 ? PL_BF16 : m->type; }

static void copy_chunk(void *to, pl_dtype to_type, const pl_mat *from, int64_t first, int64_t n, const pl_ops *ops) {
    const char *x = (const char *)from->data + (size_t)first * pl_dtype_bytes(from->type);
    char *y = (char *)to + (size_t)first * pl_dtype_bytes(to_type);
    if (from->type == to_type) {
        memcpy(y, x, (size_t)n * pl_dtype_bytes(to_type));
        return;
    }
    real wide[CHUNK];
    ops->to_real(wide, x, from->type, n);
    ops->from_real(y, to_type, wide, n);
}

static void copy_tiles(uint16_t *to, const pl_mat *from) {
    const char *x = from->data;
    size_t row = (size_t)from->cols * pl_dtype_bytes(from->type);
    PL_LOOP(true, i, from->rows, PL_GEMM_TILE,
            { pl_gemm_tile(to + i * from->cols, x + (size_t)i * row, from->type, from->cols); });
}

/* *m becomes its copy; while measuring only counted. */
static int copy_mat(pl_hot *h, pl_mat *m, const pl_backend *b, pl_error *err) {
    pl_mat from = *m;
    pl_dtype type = hot_type(m, b);
    int64_t n = m->rows * m->cols;
    void *to = NULL;
    int rc = pl_arena_take_array(&h->arena, n, pl_dtype_bytes(type), "weights", &to, err);
    if (rc || h->arena.measuring) return rc;
    *m = (pl_mat){.data = to, .type = type, .rows = from.rows, .cols = from.cols};
    m->tiles = pl_gemm_has_tiles(b->gemm, b->bf16, from.rows, from.cols);
    if (m->tiles)
        copy_tiles(to, &from);
    else
        PL_LOOP(true, i, n, CHUNK, { copy_chunk(to, type, &from, i, PL_MIN(CHUNK, n - i), b->ops); });
    return 0;
}

static int copy_all(pl_hot *h, const pl_model *m, const pl_backend *b, pl_error *err) {
    int rc = 0;
    for (int64_t l = 0; l < m->arch.L; l++) {
        h->weights.layers[l] = m->stored.layers[l];
        for (int i = 0; i < PL_LIN_COUNT; i++) PL_GO(rc, copy_mat(h, &h->weights.layers[l].w[i], b, err));
    }
    PL_GO(rc, copy_mat(h, &h->weights.head, b, err));
out:
    return rc;
}

/* Room for the copy beside the map, which prefill still reads, and beside what the caller has reserved. */
static bool fits(size_t bytes, const pl_model *m, int64_t reserved) {
    return (int64_t)bytes <= pl_machine_free_bytes() - (int64_t)pl_model_bytes(m) - reserved;
}

static int make(pl_hot *h, const pl_model *m, const pl_backend *b, int64_t reserved, pl_error *err) {
    int rc;
    pl_layer_weights *layers = NULL;
    h->off = true; /* one attempt */
    PL_GO(rc, PL_NEW(&layers, m->arch.L, err));
    h->weights = m->stored;
    h->weights.layers = layers;
    pl_arena_init_measuring(&h->arena, "decoding");
    PL_GO(rc, copy_all(h, m, b, err));
    size_t bytes = h->arena.peak;
    if (!fits(bytes, m, reserved)) {
        pl_log(PL_LOG_INFO, "decoding reads the mapped weights: memory is too short for a copy of %.0f MiB",
               (double)bytes / 0x1p20);
        return 0;
    }
    PL_GO(rc, pl_arena_init(&h->arena, "decoding", bytes, err));
    PL_GO(rc, copy_all(h, m, b, err));
    h->ready = true;
    pl_log(PL_LOG_INFO, "decoding reads a copy of the weights in huge pages (%.0f MiB, %s)", (double)bytes / 0x1p20,
           pl_dtype_name(h->weights.head.type));
out:
    return rc;
}

const pl_weights *pl_hot_weights(pl_hot *h, const pl_model *m, const pl_backend *backend, int64_t reserved) {
    pl_error ignored;
    if (!h->off && h->steps++ >= PL_HOT_STEPS) (void)make(h, m, backend, reserved, &ignored);
    return h->ready ? &h->weights : &m->stored;
}

void pl_hot_release(pl_hot *h) {
    pl_free(h->weights.layers);
    pl_arena_release(&h->arena);
    *h = (pl_hot){0};
}
