/* engine.c: one step of generation: a forest whose runs look into the KV cache, then the head for the rows that ask. */
#include "gen/engine.h"

#include "model/nonfinite.h"

#define TAG "generation"
#define TILE 4096 /* vocabulary ids of one product */

static int take_cache(pl_engine *e, pl_arena *arena, pl_error *err) {
    const pl_arch *a = e->arch;
    int64_t rows, elements;
    int rc;
    PL_GO(rc, pl_count_mul(&rows, a->L, e->spec.rows, err));
    PL_GO(rc, pl_count_mul(&elements, rows, a->KV * a->D, err));
    e->cache.capacity = e->spec.rows;
    PL_GO(rc, PL_TAKE(arena, &e->cache.k, elements, "kv cache", err));
    PL_GO(rc, PL_TAKE(arena, &e->cache.v, elements, "kv cache", err));
out:
    return rc;
}

int pl_engine_take(pl_engine *e, const pl_arch *a, const pl_backend *backend, const pl_engine_spec *spec,
                   pl_arena *arena, pl_error *err) {
    *e = (pl_engine){.arch = a, .backend = *backend, .spec = *spec};
    int64_t outputs = pl_rows_padded(spec->outputs);
    pl_decoder_spec ds = {
        .max_tokens = spec->tokens, .max_read = spec->outputs, .max_rank = spec->max_rank, .cached = true};
    pl_forest_caps caps = {.tokens = spec->tokens, .segments = spec->runs, .ranges = spec->runs, .trees = spec->runs};
    int rc;
    PL_GO(rc, pl_forest_take(&e->forest, &caps, arena, err));
    PL_GO(rc, pl_decoder_take(&e->decoder, a, backend, &ds, arena, err));
    PL_GO(rc, PL_TAKE(arena, &e->slots, spec->tokens, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->output, outputs, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->x, outputs * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->h, outputs * a->C, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->unused, outputs, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->stat, outputs, TAG, err));
    PL_GO(rc, PL_TAKE(arena, &e->z, outputs * a->V, "logits", err));
    PL_GO(rc, take_cache(e, arena, err));
out:
    return rc;
}

/* logits[:, v0 .. v0+n) of `rows` normed rows. */
static pl_gemm_call tile_call(const pl_engine *e, const pl_weights *w, int64_t v0, int64_t n, int64_t rows) {
    int64_t C = e->arch->C;
    const char *data = w->head.data;
    return (pl_gemm_call){.kind = PL_GEMM_Y,
                          .bf16 = e->backend.bf16,
                          .m = rows,
                          .n = n,
                          .k = C,
                          .a = e->h,
                          .lda = C,
                          .b = data + (size_t)(v0 * C) * pl_dtype_bytes(w->head.type),
                          .b_tiles = w->head.tiles, /* v0 begins a tile */
                          .b_type = w->head.type,
                          .ldb = C,
                          .c = e->z ? e->z + v0 : NULL,
                          .ldc = e->arch->V};
}

int pl_engine_prepare(pl_engine *e, const pl_weights *w, const pl_lora *lora, pl_error *err) {
    int64_t V = e->arch->V, tail = V % TILE;
    int rc = pl_decoder_prepare(&e->decoder, w, lora, NULL, err);
    pl_gemm_call whole = tile_call(e, w, 0, TILE, e->spec.outputs), last = tile_call(e, w, 0, tail, e->spec.outputs);
    if (rc == 0 && V >= TILE) rc = pl_gemm_prepare(e->backend.gemm, &whole, err);
    if (rc == 0 && tail) rc = pl_gemm_prepare(e->backend.gemm, &last, err);
    return rc;
}

void pl_engine_begin(pl_engine *e) {
    pl_forest *f = &e->forest;
    f->T = f->nsegments = f->ntargets = f->nsequences = f->nranges = f->ntrees = f->unshared_tokens = 0;
    f->tree_first[0] = 0;
    e->noutputs = 0;
}

bool pl_engine_fits(const pl_engine *e, int64_t n, bool logits) {
    return n <= e->spec.tokens - e->forest.T && e->forest.nsegments < e->spec.runs &&
           (!logits || e->noutputs < e->spec.outputs);
}

int pl_engine_add(pl_engine *e, const pl_engine_run_of *r, int64_t *row, pl_error *err) {
    pl_forest *f = &e->forest;
    int64_t first = f->T, s = f->nsegments;
    if (!pl_engine_fits(e, r->n, r->logits) || r->own_first + r->own_past + r->n > e->spec.rows)
        return PL_FAIL(err, PL_E_INTERNAL, "generation: no room for a run of %" PRId64 " tokens", r->n);
    for (int64_t i = 0; i < r->n; i++) {
        f->ids[first + i] = r->ids[i];
        f->position[first + i] = r->position + i;
        f->dropout_id[first + i] = 0;
        e->slots[first + i] = r->own_first + r->own_past + i;
    }
    f->segments[s] = (pl_segment){first, r->n, -1, r->position};
    f->runs[s] = (pl_attn_run){.q_first = first,
                               .q_count = r->n,
                               .own_first = r->own_first,
                               .own_past = r->own_past,
                               .range_first = f->nranges,
                               .range_count = r->prefix.count > 0};
    if (r->prefix.count > 0) f->ranges[f->nranges++] = r->prefix;
    f->T += r->n;
    f->nsegments++;
    f->tree_length[f->ntrees++] = r->length ? r->length : r->position + r->n;
    f->tree_first[f->ntrees] = f->T;
    if (!r->logits) return 0;
    *row = e->noutputs;
    e->output[e->noutputs++] = f->T - 1;
    return 0;
}

static int run_head(pl_engine *e, const pl_weights *w, pl_error *err) {
    const pl_ops *ops = e->backend.ops;
    int64_t V = e->arch->V, n = e->noutputs;
    int rc = 0;
    for (int64_t i = 0; i < n; i++) e->output[i] = pl_forest_row(&e->forest, e->output[i]);
    ops->gather_rows(e->x, e->decoder.x_last, e->output, n, e->arch->C);
    ops->rmsnorm(e->h, NULL, e->x, w->norm, (real)e->arch->eps, n, e->arch->C);
    for (int64_t r = 0; r < n; r++) e->stat[r] = (pl_head_stat){.max = -INFINITY, .argmax = -1};
    for (int64_t v0 = 0; v0 < V; v0 += TILE) {
        int64_t width = PL_MIN(TILE, V - v0);
        pl_gemm_call c = tile_call(e, w, v0, width, n);
        PL_GO(rc, pl_gemm_run(e->backend.gemm, &c, err));
        ops->head_tile(e->z + v0, V, n, width, v0, e->stat, false, e->unused);
    }
    for (int64_t r = 0; r < n; r++)
        if (!isfinite(e->stat[r].total)) PL_GO(rc, PL_FAIL(err, PL_E_NUMERIC, "a logit is not finite"));
out:
    return rc;
}

int pl_engine_run(pl_engine *e, const pl_weights *w, const pl_lora *lora, pl_error *err) {
    pl_forest_read_tokens(&e->forest, e->output, e->noutputs);
    int rc = pl_decoder_infer(&e->decoder, w, lora, &e->forest, &e->cache, e->slots, err);
    if (rc == 0 && e->noutputs > 0) rc = run_head(e, w, err);
    if (rc != PL_E_NUMERIC) return rc;
    char tensor[PL_NONFINITE_NAME];
    pl_weights_find_nonfinite(tensor, w, lora);
    return PL_FAIL(err, PL_E_NUMERIC, "a logit is not finite: %s%s", *tensor ? tensor : "all weights are finite",
                   *tensor ? " holds such a number" : ", but the sums of the model overflow");
}

const real *pl_engine_logits(const pl_engine *e, int64_t row) { return e->z + row * e->arch->V; }

int32_t pl_engine_argmax(const pl_engine *e, int64_t row) { return (int32_t)e->stat[row].argmax; }

double pl_engine_lse(const pl_engine *e, int64_t row) {
    return (double)e->stat[row].max + log((double)e->stat[row].sum);
}
