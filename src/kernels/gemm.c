/* kernels/gemm.c: checks a product and hands it to the provider: the reference at level generic, in the double build
 * and where oneDNN is not linked, oneDNN otherwise. */
#include "kernels/gemm_impl.h"

struct pl_gemm {
    const pl_ops *ops; /* borrowed */
#if PL_GEMM_HAS_DNNL
    pl_gemm_blocks *fast;                  /* owned; NULL: the reference multiplies */
    pl_gemm_blocks *lanes[PL_MAX_THREADS]; /* owned, made when they are prepared */
    pl_cpu_level level;
    atomic_bool told; /* that a product is slow */
#endif
};

int pl_gemm_new(pl_gemm **out, pl_cpu_level level, const pl_ops *ops, pl_error *err) {
    int rc;
    pl_gemm *g = NULL;
    PL_GO(rc, PL_NEW(&g, 1, err));
    g->ops = ops;
#if PL_GEMM_HAS_DNNL
    g->level = level;
    if (level != PL_CPU_GENERIC) PL_GO(rc, pl_gemm_blocks_new(&g->fast, level, false, &g->told, err));
#else
    PL_UNUSED(level);
#endif
    *out = g;
    g = NULL;
out:
    pl_gemm_free(g);
    return rc;
}

void pl_gemm_free(pl_gemm *g) {
    if (!g) return;
#if PL_GEMM_HAS_DNNL
    pl_gemm_blocks_free(g->fast);
    for (int i = 0; i < PL_MAX_THREADS; i++) pl_gemm_blocks_free(g->lanes[i]);
#endif
    pl_free(g);
}

static bool stored_float(pl_dtype t) {
    return t == PL_F32 || t == PL_F16 || t == PL_BF16 || (PL_REAL == PL_F64 && t == PL_F64);
}

static int check(const pl_gemm *g, const pl_gemm_call *c, pl_error *err) {
    bool dw = c->kind == PL_GEMM_DW;
    if (c->m < 0 || c->n < 0 || c->k < 0)
        return PL_FAIL(err, PL_E_SHAPE, "matrix product of %" PRId64 " x %" PRId64 " x %" PRId64, c->m, c->n, c->k);
    if (c->lane < 0 || c->lane > PL_MAX_THREADS) return PL_FAIL(err, PL_E_INTERNAL, "matrix product: lane %d", c->lane);
    if (c->lda < (dw ? c->m : c->k) || c->ldc < c->n || (!c->b_packed && c->ldb < (c->kind == PL_GEMM_Y ? c->k : c->n)))
        return PL_FAIL(err, PL_E_SHAPE,
                       "matrix product: row strides %" PRId64 ", %" PRId64 ", %" PRId64 " too small for %" PRId64
                       " x %" PRId64 " x %" PRId64,
                       c->lda, c->ldb, c->ldc, c->m, c->n, c->k);
    if (c->b_packed && (dw || c->lda != c->k || c->ldc != c->n)) /* oneDNN 2.6: plain loops */
        return PL_FAIL(err, PL_E_SHAPE,
                       "matrix product: packed weights want rows without gaps, not of %" PRId64 " and %" PRId64
                       " for %" PRId64 " x %" PRId64 " x %" PRId64,
                       c->lda, c->ldc, c->m, c->n, c->k);
    if (c->b_tiles && (c->kind != PL_GEMM_Y || c->b_packed || c->b_type != PL_BF16 || c->ldb != c->k ||
                       c->m > pl_gemm_few_rows(g, c->bf16, PL_BF16) || !pl_gemm_has_tiles(g, c->bf16, c->n, c->k)))
        return PL_FAIL(err, PL_E_INTERNAL, "matrix product: no tiles for %" PRId64 " x %" PRId64 " x %" PRId64, c->m,
                       c->n, c->k);
    if (!dw && !c->b_packed && !stored_float(c->b_type))
        return PL_FAIL(err, PL_E_UNSUPPORTED, "matrix product over weights stored as %s", pl_dtype_name(c->b_type));
    return 0;
}

int pl_gemm_prepare(pl_gemm *g, const pl_gemm_call *shape, pl_error *err) {
    int rc = check(g, shape, err);
    if (rc || shape->m == 0 || shape->n == 0) return rc;
#if PL_GEMM_HAS_DNNL
    if (g->fast && shape->lane == 0) return pl_gemm_blocks_prepare(g->fast, shape, err);
    for (int i = 0; rc == 0 && g->fast && i < shape->lane; i++) {
        if (!g->lanes[i]) rc = pl_gemm_blocks_new(&g->lanes[i], g->level, true, &g->told, err);
        if (rc == 0) rc = pl_gemm_blocks_prepare(g->lanes[i], shape, err);
    }
#endif
    PL_UNUSED(g);
    return rc;
}

int pl_gemm_run(pl_gemm *g, const pl_gemm_call *call, pl_error *err) {
    int rc = check(g, call, err);
    if (rc || call->m == 0 || call->n == 0) return rc;
#if PL_GEMM_HAS_DNNL
    if (g->fast && call->k > 0 && call->lane == 0) return pl_gemm_blocks_run(g->fast, call, 1, err);
    if (g->fast && call->k > 0) {
        if (!g->lanes[call->lane - 1])
            return PL_FAIL(err, PL_E_INTERNAL, "matrix product: lane %d is not prepared", call->lane);
        return pl_gemm_blocks_run(g->lanes[call->lane - 1], call, 1, err);
    }
#endif
    pl_gemm_ref_run(g->ops, call);
    return 0;
}

int pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err) {
    int rc = 0;
#if PL_GEMM_HAS_DNNL
    bool shared = g->fast != NULL;
    for (int i = 0; i < n; i++) shared = shared && calls[i].lane == 0 && calls[i].m > 0 && calls[i].k > 0;
    for (int i = 0; shared && rc == 0 && i < n; i++) rc = check(g, &calls[i], err);
    if (shared) return rc ? rc : pl_gemm_blocks_run(g->fast, calls, n, err);
#endif
    for (int i = 0; rc == 0 && i < n; i++) rc = pl_gemm_run(g, &calls[i], err);
    return rc;
}

int64_t pl_gemm_few_rows(const pl_gemm *g, bool bf16, pl_dtype b_type) {
#if PL_GEMM_HAS_DNNL
    if (g->fast) return pl_gemm_blocks_few(g->fast, bf16, b_type);
#endif
    PL_UNUSED(g), PL_UNUSED(bf16), PL_UNUSED(b_type);
    return 0;
}

bool pl_gemm_has_tiles(const pl_gemm *g, bool bf16, int64_t n, int64_t k) {
#if PL_GEMM_HAS_DNNL
    return bf16 && pl_gemm_native_bf16(g) && n % PL_GEMM_TILE == 0 && k % PL_GEMM_TILE_K == 0;
#else
    PL_UNUSED(g), PL_UNUSED(bf16), PL_UNUSED(n), PL_UNUSED(k);
    return false;
#endif
}

void pl_gemm_tile(uint16_t *out, const void *b, pl_dtype type, int64_t k) {
#if PL_GEMM_HAS_DNNL
    pl_gemm_make_tile(out, b, type, k);
#else
    PL_UNUSED(out), PL_UNUSED(b), PL_UNUSED(type), PL_UNUSED(k);
#endif
}

size_t pl_gemm_bytes(const pl_gemm *g) {
    size_t bytes = sizeof *g;
#if PL_GEMM_HAS_DNNL
    if (g->fast) bytes += pl_gemm_blocks_bytes(g->fast);
    for (int i = 0; i < PL_MAX_THREADS; i++)
        if (g->lanes[i]) bytes += pl_gemm_blocks_bytes(g->lanes[i]);
#endif
    return bytes;
}

size_t pl_gemm_packed_bytes(const pl_gemm *g, const pl_gemm_call *call) {
#if PL_GEMM_HAS_DNNL
    if (g->fast) return pl_gemm_blocks_packed_bytes(g->fast, call);
#endif
    PL_UNUSED(g), PL_UNUSED(call);
    return 0;
}

void pl_gemm_pack(pl_gemm *g, void *const *out, const pl_gemm_call *calls, int n) {
#if PL_GEMM_HAS_DNNL
    if (g->fast) pl_gemm_blocks_pack(g->fast, out, calls, n);
#endif
    PL_UNUSED(g), PL_UNUSED(out), PL_UNUSED(calls), PL_UNUSED(n);
}

const char *pl_gemm_name(const pl_gemm *g) {
#if PL_GEMM_HAS_DNNL
    if (g->fast) return pl_dnnl_name(pl_gemm_blocks_dnnl(g->fast));
#endif
    PL_UNUSED(g);
    return "reference";
}

bool pl_gemm_native_bf16(const pl_gemm *g) {
#if PL_GEMM_HAS_DNNL
    if (g->fast) return pl_dnnl_native_bf16(pl_gemm_blocks_dnnl(g->fast));
#endif
    PL_UNUSED(g);
    return false;
}
