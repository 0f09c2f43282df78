/* kernels/gemm_outer.c: DW in bf16, C [m,n] (+)= A^T B summed over tokens.
 *
 * oneDNN turns an A that is stored by columns and lays out B anew in every call, wants a product for every number of
 * tokens, and adds to all of C for each block of them. So B, the layer's input, is laid out and rounded once by all
 * threads (a caller may say that it is that of the call before), and then each thread takes its own rows of C: it turns
 * a tile of A's columns into rows, and multiplies, DEPTH tokens at a time. A tile of C stays in the thread's cache
 * meanwhile, and few primitives serve every token count: products over DEPTH tokens, and over tails that are rounded up
 * to PL_PACK_K with zeros.
 *
 * Each element of C is summed by one thread, its tokens in their order, whatever the number of threads. */
#include "kernels/gemm_impl.h"
#include "kernels/loop.h"
#include "kernels/ref/ref.h"

#if PL_GEMM_HAS_DNNL
#include <string.h>

enum {
    DEPTH = 256, /* tokens of one product */
    UNIT = 32,   /* rows of C: threads share whole units */
    TILE = 64,   /* rows of C of one product at most */
    MOST = 1024  /* tokens of B that are laid out at a time */
};

struct pl_gemm_outer {
    atomic_bool *told;
    bool takes_packed;
    int lanes; /* threads that have what they need */
    pl_dnnl *dnnl[PL_MAX_THREADS];
    uint16_t *turned[PL_MAX_THREADS]; /* [TILE, DEPTH] of A, turned */
    uint16_t *packed;                 /* B: blocks of DEPTH tokens, one after the other */
    size_t packed_bytes;
    float *tail; /* [PL_PACK_K, n]: B's last tokens, with zeros behind */
    size_t tail_bytes;
    const void *b; /* what is packed */
    int64_t n, k;
};

static int add_lanes(pl_gemm_outer *o, int lanes, pl_error *err) {
    int rc = 0;
    for (; o->lanes < lanes; o->lanes++) {
        int i = o->lanes;
        if (!o->dnnl[i]) PL_GO(rc, pl_dnnl_new(&o->dnnl[i], PL_CPU_AVX512_BF16, true, err));
        pl_dnnl_share_told(o->dnnl[i], o->told);
        if (!o->turned[i]) PL_GO(rc, PL_NEW(&o->turned[i], TILE * DEPTH, err));
    }
out:
    return rc;
}

int pl_gemm_outer_new(pl_gemm_outer **out, atomic_bool *told, pl_error *err) {
    int rc;
    pl_gemm_outer *o = NULL;
    PL_GO(rc, PL_NEW(&o, 1, err));
    o->told = told;
    PL_GO(rc, add_lanes(o, 1, err));
    o->takes_packed = pl_dnnl_takes_packed(o->dnnl[0], true);
    *out = o;
    o = NULL;
out:
    pl_gemm_outer_free(o);
    return rc;
}

void pl_gemm_outer_free(pl_gemm_outer *o) {
    if (!o) return;
    for (int i = 0; i < PL_MAX_THREADS; i++) {
        pl_dnnl_free(o->dnnl[i]);
        pl_free(o->turned[i]);
    }
    pl_free(o->packed);
    pl_free(o->tail);
    pl_free(o);
}

size_t pl_gemm_outer_bytes(const pl_gemm_outer *o) {
    size_t bytes = sizeof *o + o->packed_bytes + o->tail_bytes;
    for (int i = 0; i < o->lanes; i++) bytes += pl_dnnl_bytes(o->dnnl[i]) + TILE * DEPTH * sizeof *o->turned[i];
    return bytes;
}

bool pl_gemm_outer_takes(const pl_gemm_outer *o, const pl_gemm_call *c) {
    return c->kind == PL_GEMM_DW && c->bf16 && o->takes_packed && c->m % UNIT == 0 && c->n % PL_PACK_ROWS == 0 &&
           c->ldc == c->n;
}

/* --- blocks of tokens --- */
static int64_t padded_of(int64_t tokens) { return (tokens + PL_PACK_K - 1) / PL_PACK_K * PL_PACK_K; }
static int64_t tokens_at_once(int64_t k) {
    int64_t blocks = (k + MOST - 1) / MOST;
    return padded_of((k + blocks - 1) / blocks);
}

/* For any number of tokens up to k. */
static int reserve_all(pl_gemm_outer *o, const pl_gemm_call *c, pl_error *err) {
    int rc;
    size_t before = o->packed_bytes;
    void *packed = o->packed, *tail = o->tail;
    rc = pl_gemm_reserve(&packed, &o->packed_bytes, PL_MIN(padded_of(c->k), MOST), c->n, sizeof *o->packed, err);
    o->packed = packed;
    if (o->packed_bytes > before) o->b = NULL;
    if (rc) return rc;
    rc = pl_gemm_reserve(&tail, &o->tail_bytes, PL_PACK_K, c->n, sizeof *o->tail, err);
    o->tail = tail;
    return rc;
}

/* PL_PACK_K tokens of B from token t0 + i on, of nt. */
static void pack_group(pl_gemm_outer *o, const pl_gemm_call *c, int64_t t0, int64_t nt, int64_t i) {
    int64_t block = i / DEPTH * DEPTH, depth = PL_MIN(DEPTH, padded_of(nt) - block);
    const float *b = (const float *)c->b + (t0 + i) * c->ldb;
    int64_t ldb = c->ldb, have = PL_MIN(PL_PACK_K, nt - i);
    uint16_t *out = o->packed + block * c->n + (i - block) * PL_PACK_ROWS;
    if (have < PL_PACK_K) {
        memset(o->tail, 0, (size_t)(PL_PACK_K * c->n) * sizeof(float));
        for (int64_t r = 0; r < have; r++) memcpy(o->tail + r * c->n, b + r * ldb, (size_t)c->n * sizeof(float));
        b = o->tail;
        ldb = c->n;
    }
    pl_gemm_rows_avx512bf16.pack_dx((float *)(void *)out, b, PL_F32, true, false, ldb, c->n, depth / 2);
}

static void pack(pl_gemm_outer *o, const pl_gemm_call *c, int64_t t0, int64_t nt) {
    bool whole = nt == c->k;
    if (whole && c->same_b && o->b == c->b && o->n == c->n && o->k == c->k) return;
    o->b = whole ? c->b : NULL;
    o->n = c->n;
    o->k = c->k;
    PL_LOOP(true, i, padded_of(nt), PL_PACK_K, { pack_group(o, c, t0, nt, i); });
}

/* --- rows of C --- */
/* C's rows [m0, m0 + nm) with one block of tokens; pointers NULL: makes the primitive. */
static int multiply(pl_gemm_outer *o, int lane, const pl_gemm_call *c, int64_t nm, int64_t depth, bool accumulate,
                    const uint16_t *b, float *out, pl_error *err) {
    pl_dnnl_shape s = {.m = nm,
                       .n = c->n,
                       .k = depth,
                       .lda = depth,
                       .ldb = c->n,
                       .ldc = c->ldc,
                       .bf16 = 1,
                       .accumulate = accumulate,
                       .b_packed = 1};
    return pl_dnnl_multiply(o->dnnl[lane], &s, out ? o->turned[lane] : NULL, b, out, err);
}

static int run_tile(pl_gemm_outer *o, int lane, const pl_gemm_call *c, int64_t t0, int64_t nt, int64_t m0, int64_t nm,
                    pl_error *err) {
    int rc = 0;
    int64_t end = padded_of(nt);
    for (int64_t k0 = 0; rc == 0 && k0 < end; k0 += DEPTH) {
        int64_t depth = PL_MIN(DEPTH, end - k0);
        const float *a = c->a + (t0 + k0) * c->lda + m0;
        pl_gemm_turn(o->turned[lane], depth, a, c->lda, PL_MIN(depth, nt - k0), nm);
        rc = multiply(o, lane, c, nm, depth, c->accumulate || t0 > 0 || k0 > 0, o->packed + k0 * c->n,
                      c->c + m0 * c->ldc, err);
    }
    return rc;
}

static int run_lane(pl_gemm_outer *o, int lane, int lanes, const pl_gemm_call *c, int64_t t0, int64_t nt,
                    pl_error *err) {
    int64_t first = pl_cut(c->m / UNIT, lane, lanes) * UNIT, end = pl_cut(c->m / UNIT, lane + 1, lanes) * UNIT;
    int rc = 0;
    for (int64_t m0 = first; rc == 0 && m0 < end; m0 += TILE)
        rc = run_tile(o, lane, c, t0, nt, m0, PL_MIN(TILE, end - m0), err);
    return rc;
}

static int run_block(pl_gemm_outer *o, int lanes, const pl_gemm_call *c, int64_t t0, int64_t nt, pl_error *err) {
    int rc = 0;
    pack(o, c, t0, nt);
    /* a loop over lanes, not one lane a thread: OpenMP may give fewer threads than were asked for */
#pragma omp parallel for schedule(static, 1) num_threads(lanes) if (lanes > 1)
    for (int lane = 0; lane < lanes; lane++) {
        pl_error own;
        int bad = run_lane(o, lane, lanes, c, t0, nt, &own);
#pragma omp critical(plumb_outer)
        if (bad && !rc) {
            rc = bad;
            if (err) *err = own;
        }
    }
    return rc;
}

static int lanes_of(const pl_gemm_call *c) { return (int)PL_MIN(PL_MIN(PL_LOOP_TEAM(), PL_MAX_THREADS), c->m / UNIT); }

int pl_gemm_outer_run(pl_gemm_outer *o, const pl_gemm_call *c, pl_error *err) {
    int rc = 0, lanes = lanes_of(c);
    if (lanes > 1 && !PL_LOOP_THREADS())
        return PL_FAIL(err, PL_E_STATE, "a matrix product for all threads inside a caller's parallel region");
    PL_GO(rc, add_lanes(o, lanes, err));
    PL_GO(rc, reserve_all(o, c, err));
    int64_t block = tokens_at_once(c->k);
    for (int64_t t0 = 0; rc == 0 && t0 < c->k; t0 += block)
        rc = run_block(o, lanes, c, t0, PL_MIN(block, c->k - t0), err);
out:
    return rc;
}

/* --- preparation --- */
static int prepare_depth(pl_gemm_outer *o, const pl_gemm_call *c, int64_t depth, pl_error *err) {
    int rc = 0, lanes = lanes_of(c);
    for (int lane = 0; lane < lanes; lane++) {
        int64_t units = pl_cut(c->m / UNIT, lane + 1, lanes) - pl_cut(c->m / UNIT, lane, lanes);
        for (int64_t nm = UNIT; nm <= TILE; nm += UNIT) {
            bool met = nm == TILE ? units * UNIT >= TILE : units * UNIT % TILE != 0;
            if (met) PL_GO(rc, multiply(o, lane, c, nm, depth, true, NULL, NULL, err));
            if (met && !c->accumulate) PL_GO(rc, multiply(o, lane, c, nm, depth, false, NULL, NULL, err));
        }
    }
out:
    return rc;
}

int pl_gemm_outer_prepare(pl_gemm_outer *o, const pl_gemm_call *shape, pl_error *err) {
    int rc;
    PL_GO(rc, add_lanes(o, lanes_of(shape), err));
    PL_GO(rc, reserve_all(o, shape, err));
    for (int64_t depth = PL_PACK_K; depth <= PL_MIN(DEPTH, padded_of(shape->k)); depth += PL_PACK_K)
        PL_GO(rc, prepare_depth(o, shape, depth, err));
out:
    return rc;
}
#endif
