/* kernels/gemm_blocks.c: a product cut so that few oneDNN primitives serve every token count, and so that operands of
 * other types pass through bounded scratch.
 *
 * Tokens are cut in blocks of 1024, 512 and 256 and a tail rounded up to 32 rows (128 rows per thread cost 10 to 15 %
 * against 512 on two threads of a Zen 4, measured). Weights that oneDNN cannot multiply as they are stored are
 * converted in tiles of whole rows, each used for all tokens before the next. Few rows with all weights (decoding) skip
 * oneDNN. */
#include "kernels/gemm_impl.h"
#include "kernels/loop.h"
#include "kernels/ref/ref.h"

#if PL_GEMM_HAS_DNNL
#include <string.h>

enum {
    BLOCK = 1024,                   /* most tokens of Y and DX in one product */
    BLOCK_DW = 512,                 /* of DW, whose scratch grows with it */
    BLOCK_MIN = 256,                /* smaller blocks are tails */
    BLOCK_ELEMS = 8 * 1024 * 1024,  /* bound of the converted block of A; BLOCK_MIN tokens at least */
    TILE_ELEMS = 4 * 1024 * 1024,   /* bound of the converted tile of weights; TILE_ROWS rows at least */
    TILE_ELEMS_ALONE = 1024 * 1024, /* ... of a lane's */
    TILE_ROWS = 64,
    SERIAL_ELEMS = 16 * 1024 /* below this a parallel region costs more than it saves */
};

struct pl_gemm_blocks {
    pl_dnnl *dnnl;
    pl_gemm_outer *outer; /* NULL where alone, or without native bf16 */
    const pl_gemm_rows *rows;
    bool alone;
    int64_t tile_elems;
    bool packs[2]; /* takes a packed B: f32, bf16 */
    void *a, *b;   /* converted operands */
    size_t a_bytes, b_bytes;
};

/* A call with what its types ask for. */
typedef struct job {
    pl_gemm_blocks *g;
    const pl_gemm_call *call;
    bool dry;   /* prepare: make primitives and scratch, touch no operand */
    bool bf16;  /* oneDNN is given bf16, otherwise f32 */
    bool round; /* conversions to f32 round to bf16 */
    bool convert_a, convert_b;
} job;

int pl_gemm_blocks_new(pl_gemm_blocks **out, pl_cpu_level level, bool alone, atomic_bool *told, pl_error *err) {
    int rc;
    pl_gemm_blocks *g = NULL;
    PL_GO(rc, PL_NEW(&g, 1, err));
    PL_GO(rc, pl_dnnl_new(&g->dnnl, level, alone, err));
    pl_dnnl_share_told(g->dnnl, told);
    if (!alone && pl_dnnl_native_bf16(g->dnnl)) PL_GO(rc, pl_gemm_outer_new(&g->outer, told, err));
    for (int bf16 = 0; bf16 < 2; bf16++) g->packs[bf16] = pl_dnnl_takes_packed(g->dnnl, bf16);
    g->tile_elems = alone ? TILE_ELEMS_ALONE : TILE_ELEMS;
    g->alone = alone;
    g->rows = level >= PL_CPU_AVX512_BF16 ? &pl_gemm_rows_avx512bf16
              : level >= PL_CPU_AVX512    ? &pl_gemm_rows_avx512
                                          : &pl_gemm_rows_avx2;
    *out = g;
    g = NULL;
out:
    pl_gemm_blocks_free(g);
    return rc;
}

void pl_gemm_blocks_free(pl_gemm_blocks *g) {
    if (!g) return;
    pl_dnnl_free(g->dnnl);
    pl_gemm_outer_free(g->outer);
    pl_free(g->a);
    pl_free(g->b);
    pl_free(g);
}

size_t pl_gemm_blocks_bytes(const pl_gemm_blocks *g) {
    return sizeof *g + g->a_bytes + g->b_bytes + pl_dnnl_bytes(g->dnnl) +
           (g->outer ? pl_gemm_outer_bytes(g->outer) : 0);
}
const pl_dnnl *pl_gemm_blocks_dnnl(const pl_gemm_blocks *g) { return g->dnnl; }

/* --- scratch and conversion ----------------------------------------------------------------------------------------
 */
int pl_gemm_reserve(void **p, size_t *have, int64_t rows, int64_t cols, size_t elem, pl_error *err) {
    size_t bytes;
    void *fresh = NULL;
    int rc = pl_bytes3(&bytes, rows, cols, elem, err);
    if (rc || bytes <= *have) return rc;
    if ((rc = pl_alloc(&fresh, bytes, err)) != 0) return pl_error_context(err, rc, "conversion scratch of a product");
    pl_free(*p);
    *p = fresh;
    *have = bytes;
    return 0;
}

/* y [rows, cols] dense, in the job's operand type, from x with row stride ld; then `padded - rows` rows of zeros. */
static void convert(const job *j, void *y, const void *x, pl_dtype type, int64_t ld, int64_t rows, int64_t padded,
                    int64_t cols) {
    const pl_gemm_rows *ops = j->g->rows;
    size_t from = pl_dtype_bytes(type), to = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    PL_LOOP(rows * cols > SERIAL_ELEMS, i, rows, 1, {
        const void *row = (const char *)x + (size_t)(i * ld) * from;
        void *out = (char *)y + (size_t)(i * cols) * to;
        if (j->bf16)
            ops->to_bf16(out, row, type, cols);
        else
            ops->to_f32(out, row, type, j->round, cols);
    });
    memset((char *)y + (size_t)(rows * cols) * to, 0, (size_t)((padded - rows) * cols) * to);
}

/* Operand X of a job as oneDNN shall see it: converted into the scratch *buffer (unless it is there: known), or where
 * it is. *ld becomes its stride. */
static int operand(const job *j, bool wanted, bool known, void **buffer, size_t *have, const void **x, pl_dtype type,
                   int64_t *ld, int64_t rows, int64_t padded, int64_t cols, pl_error *err) {
    if (!wanted) return 0;
    int rc = pl_gemm_reserve(buffer, have, padded, cols, j->bf16 ? sizeof(uint16_t) : sizeof(float), err);
    if (rc) return rc;
    if (!j->dry && !known) convert(j, *buffer, *x, type, *ld, rows, padded, cols);
    *x = *buffer;
    *ld = cols;
    return 0;
}

static void zero_rows(float *x, int64_t ld, int64_t first, int64_t end, int64_t cols) {
    for (int64_t i = first; i < end; i++) memset(x + i * ld, 0, (size_t)cols * sizeof *x);
}

/* --- blocks and tiles ----------------------------------------------------------------------------------------------
 */
/* Tokens of the next block: a power of two, or the tail. */
static int64_t block_of(int64_t left, int64_t most) {
    while (most > left && most > BLOCK_MIN) most /= 2;
    return PL_MIN(left, most);
}

static int64_t block_most(const job *j, int64_t a_cols) {
    int64_t most = j->call->kind == PL_GEMM_DW ? BLOCK_DW : BLOCK;
    while (j->convert_a && most > BLOCK_MIN && most * a_cols > BLOCK_ELEMS) most /= 2;
    return most;
}

/* Rows per tile: all of equal size but the last, a multiple of TILE_ROWS, `elems` elements at most where possible. */
static int64_t tile_of(int64_t rows, int64_t cols, int64_t elems) {
    int64_t most = PL_MAX(elems / cols, TILE_ROWS), tiles = (rows + most - 1) / most;
    int64_t tile = (rows + tiles - 1) / tiles;
    return PL_MIN(rows, (tile + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS);
}

static job job_of(pl_gemm_blocks *g, const pl_gemm_call *call, bool dry) {
    bool native = pl_dnnl_native_bf16(g->dnnl), dw = call->kind == PL_GEMM_DW;
    job j = {.g = g, .call = call, .dry = dry, .bf16 = call->bf16 && native, .round = call->bf16 && !native};
    j.convert_a = call->bf16;
    j.convert_b = call->b_packed ? false : dw ? call->bf16 : j.round || call->b_type != (j.bf16 ? PL_BF16 : PL_F32);
    return j;
}

/* Y or DX: tokens [t0, t0 + nt) with the weights' rows [w0, w0 + nw), given as w with row stride ldw. */
static int linear_block(const job *j, int64_t t0, int64_t nt, int64_t w0, int64_t nw, const void *w, int64_t ldw,
                        pl_error *err) {
    const pl_gemm_call *c = j->call;
    bool y = c->kind == PL_GEMM_Y;
    int64_t lda = c->lda, cols = y ? c->k : nw, padded = pl_rows_padded(nt);
    const void *a = j->dry ? NULL : c->a + t0 * lda + (y ? 0 : w0);
    float *out = j->dry ? NULL : c->c + t0 * c->ldc + (y ? w0 : 0);
    bool known = c->same_a && y && nt == c->m; /* all of A is in the scratch */
    int rc = operand(j, j->convert_a, known, &j->g->a, &j->g->a_bytes, &a, PL_F32, &lda, nt, padded, cols, err);
    if (rc) return rc;
    pl_dnnl_shape s = {.m = padded, .n = y ? nw : c->n, .k = cols, .lda = lda, .ldb = ldw, .ldc = c->ldc, .a_cols = 0};
    s.b_cols = y;
    s.bf16 = j->bf16;
    s.accumulate = c->accumulate || (!y && w0 > 0);
    s.b_packed = c->b_packed;
    return pl_dnnl_multiply(j->g->dnnl, &s, a, w, out, err);
}

static int linear(const job *j, pl_error *err) {
    int rc = 0;
    const pl_gemm_call *c = j->call;
    bool y = c->kind == PL_GEMM_Y;
    int64_t w_rows = y ? c->n : c->k, w_cols = y ? c->k : c->n;
    int64_t tile = j->convert_b ? tile_of(w_rows, w_cols, j->g->tile_elems) : w_rows;
    int64_t most = block_most(j, y ? c->k : tile);
    for (int64_t w0 = 0; w0 < w_rows; w0 += tile) {
        int64_t nw = PL_MIN(tile, w_rows - w0), ldw = c->ldb;
        const void *w = j->dry ? NULL : (const char *)c->b + (size_t)(w0 * ldw) * pl_dtype_bytes(c->b_type);
        PL_GO(rc, operand(j, j->convert_b, false, &j->g->b, &j->g->b_bytes, &w, c->b_type, &ldw, nw, nw, w_cols, err));
        for (int64_t t0 = 0, nt; t0 < c->m; t0 += nt) {
            nt = block_of(c->m - t0, most);
            PL_GO(rc, linear_block(j, t0, nt, w0, nw, w, ldw, err));
        }
    }
    if (!j->dry) zero_rows(c->c, c->ldc, c->m, pl_rows_padded(c->m), c->n);
out:
    return rc;
}

/* DW: rows [m0, m0 + nm) of C from tokens [t0, t0 + nt). */
static int weights_block(const job *j, int64_t m0, int64_t nm, int64_t t0, int64_t nt, pl_error *err) {
    int rc;
    const pl_gemm_call *c = j->call;
    int64_t lda = c->lda, ldb = c->ldb, padded = pl_rows_padded(nt);
    const void *a = j->dry ? NULL : c->a + t0 * lda + m0, *b = j->dry ? NULL : (const float *)c->b + t0 * ldb;
    float *out = j->dry ? NULL : c->c + m0 * c->ldc;
    PL_GO(rc, operand(j, j->convert_a, false, &j->g->a, &j->g->a_bytes, &a, PL_F32, &lda, nt, padded, nm, err));
    PL_GO(rc, operand(j, j->convert_b, false, &j->g->b, &j->g->b_bytes, &b, PL_F32, &ldb, nt, padded, c->n, err));
    pl_dnnl_shape s = {.m = nm, .n = c->n, .k = padded, .lda = lda, .ldb = ldb, .ldc = c->ldc, .a_cols = 1};
    s.bf16 = j->bf16;
    s.accumulate = c->accumulate || t0 > 0;
    PL_GO(rc, pl_dnnl_multiply(j->g->dnnl, &s, a, b, out, err));
out:
    return rc;
}

/* The slack rows of operands that oneDNN reads where they are must not reach the sums; gemm.h makes them scratch. */
static void zero_slack(const pl_gemm_call *c) {
    float *a, *b;
    memcpy(&a, &c->a, sizeof a);
    memcpy(&b, &c->b, sizeof b);
    zero_rows(a, c->lda, c->k, pl_rows_padded(c->k), c->m);
    zero_rows(b, c->ldb, c->k, pl_rows_padded(c->k), c->n);
}

static int weights(const job *j, pl_error *err) {
    int rc = 0;
    const pl_gemm_call *c = j->call;
    int64_t tile = j->convert_a ? tile_of(c->m, BLOCK_DW, j->g->tile_elems) : c->m, most = block_most(j, tile);
    if (!j->dry && !j->convert_a) zero_slack(c);
    for (int64_t m0 = 0; m0 < c->m; m0 += tile) {
        for (int64_t t0 = 0, nt; t0 < c->k; t0 += nt) {
            nt = block_of(c->k - t0, most);
            PL_GO(rc, weights_block(j, m0, PL_MIN(tile, c->m - m0), t0, nt, err));
        }
    }
out:
    return rc;
}

/* --- few rows ------------------------------------------------------------------------------------------------------
 */
/* Up to so many rows the weights are multiplied as they are read, a handful of rows at a time: beyond, oneDNN is faster
 * (measured), the later where weights would have to be converted for it, or where bf16 is multiplied in pairs. */
enum { FEW_ROWS = 8, FEW_ROWS_CONVERTED = 16 };
enum { STEP = PL_GEMM_TILE }; /* rows of the weights at a time: they stay in the cache from one handful to the next */

static int64_t few_of(const job *j) { return j->convert_b || j->bf16 ? FEW_ROWS_CONVERTED : FEW_ROWS; }

static bool is_few(const job *j) { return j->call->kind == PL_GEMM_Y && !j->call->b_packed && j->call->m <= few_of(j); }

int64_t pl_gemm_blocks_few(const pl_gemm_blocks *g, bool bf16, pl_dtype type) {
    pl_gemm_call call = {.kind = PL_GEMM_Y, .bf16 = bf16, .b_type = type};
    pl_gemm_blocks any = *g;
    job j = job_of(&any, &call, true);
    return few_of(&j);
}

/* All rows of a, as `few_operand` left it, with rows [n0, n0 + n) of the weights. */
static void few_rows_tile(const job *j, const void *a, int64_t lda, int64_t n0, int64_t n) {
    const pl_gemm_call *c = j->call;
    const pl_gemm_rows *rows = j->g->rows;
    const char *b = (const char *)c->b + (size_t)(n0 * c->ldb) * pl_dtype_bytes(c->b_type);
    if (c->b_tiles) {
        for (int64_t m0 = 0; m0 < c->m; m0 += PL_GEMM_FEW_PAIRS)
            pl_gemm_dots_tile(c->c + m0 * c->ldc + n0, c->ldc, c->accumulate, (const uint16_t *)a + m0 * lda, lda,
                              PL_MIN(PL_GEMM_FEW_PAIRS, c->m - m0), b, c->k);
        return;
    }
    if (j->bf16) {
        for (int64_t m0 = 0; m0 < c->m; m0 += PL_GEMM_FEW_PAIRS)
            pl_gemm_dots_pairs(c->c + m0 * c->ldc + n0, c->ldc, c->accumulate, (const uint16_t *)a + m0 * lda, lda,
                               PL_MIN(PL_GEMM_FEW_PAIRS, c->m - m0), b, c->b_type, c->ldb, n, c->k);
        return;
    }
    for (int64_t m0 = 0; m0 < c->m; m0 += PL_GEMM_FEW)
        rows->dots(c->c + m0 * c->ldc + n0, c->ldc, c->accumulate, (const float *)a + m0 * lda, lda,
                   PL_MIN(PL_GEMM_FEW, c->m - m0), b, c->b_type, c->bf16, c->ldb, n, c->k);
}

/* The rows of A as they are multiplied: in f32, rounded to bf16 in f32, or in bf16. */
static int few_operand(const job *j, const void **a, int64_t *lda, pl_error *err) {
    pl_gemm_blocks *g = j->g;
    const pl_gemm_call *c = j->call;
    *a = c->a;
    *lda = c->lda;
    if (!c->bf16) return 0;
    int rc = pl_gemm_reserve(&g->a, &g->a_bytes, FEW_ROWS_CONVERTED, c->k, sizeof(float), err);
    if (rc) return rc;
    for (int64_t i = 0; i < c->m && !j->dry; i++) {
        if (j->bf16)
            g->rows->to_bf16((uint16_t *)g->a + i * c->k, c->a + i * c->lda, PL_F32, c->k);
        else
            g->rows->to_f32((float *)g->a + i * c->k, c->a + i * c->lda, PL_F32, true, c->k);
    }
    *a = g->a;
    *lda = c->k;
    return 0;
}

static int64_t few_tiles(const pl_gemm_call *c) { return (c->n + STEP - 1) / STEP; }

/* Part i of `parts` of every product: its share of the rows of each matrix, in order. */
static void few_rows_part(const job *jobs, int n, const void *a, int64_t lda, int64_t i, int64_t parts) {
    for (int call = 0; call < n; call++) {
        const pl_gemm_call *c = jobs[call].call;
        int64_t tiles = few_tiles(c), end = pl_cut(tiles, i + 1, parts);
        for (int64_t t = pl_cut(tiles, i, parts); t < end; t++)
            few_rows_tile(&jobs[call], a, lda, t * STEP, PL_MIN(STEP, c->n - t * STEP));
    }
}

static int64_t team(const pl_gemm_blocks *g) { return g->alone ? 1 : PL_LOOP_TEAM(); }

static int few_rows(const job *jobs, int n, pl_error *err) {
    const void *a;
    int64_t lda, parts = team(jobs->g), work = 0;
    int rc = few_operand(jobs, &a, &lda, err);
    if (rc || jobs->dry) return rc;
    for (int i = 0; i < n; i++) work += jobs[i].call->n * jobs[i].call->k;
    PL_LOOP(work > SERIAL_ELEMS && parts > 1, i, parts, 1, { few_rows_part(jobs, n, a, lda, i, parts); });
    return 0;
}

/* --- packed weights ------------------------------------------------------------------------------------------------
 */
/* Whole multiples only. */
size_t pl_gemm_blocks_packed_bytes(const pl_gemm_blocks *g, const pl_gemm_call *call) {
    bool bf16 = call->bf16 && pl_dnnl_native_bf16(g->dnnl);
    if (call->kind == PL_GEMM_DW || !g->packs[bf16] || call->n % PL_PACK_ROWS || call->k % PL_PACK_K) return 0;
    return (size_t)(call->n * call->k) * (bf16 ? sizeof(uint16_t) : sizeof(float));
}

static int64_t pack_tasks(const pl_gemm_call *c) {
    return c->kind == PL_GEMM_Y ? c->n / PL_PACK_ROWS : c->k / PL_PACK_K;
}

static void pack_task(pl_gemm_blocks *g, void *out, const pl_gemm_call *c, int64_t task) {
    job j = job_of(g, c, false);
    int64_t depth = c->k / (j.bf16 ? 2 : 1), block = PL_PACK_K / (j.bf16 ? 2 : 1);
    bool y = c->kind == PL_GEMM_Y;
    int64_t row = task * (y ? PL_PACK_ROWS : PL_PACK_K);
    const char *b = (const char *)c->b + (size_t)(row * c->ldb) * pl_dtype_bytes(c->b_type);
    float *to = (float *)out + task * PL_PACK_ROWS * (y ? depth : block);
    if (y)
        g->rows->pack_y(to, b, c->b_type, j.bf16, j.round, c->ldb, depth);
    else
        g->rows->pack_dx(to, b, c->b_type, j.bf16, j.round, c->ldb, c->n, depth);
}

void pl_gemm_blocks_pack(pl_gemm_blocks *g, void *const *out, const pl_gemm_call *calls, int n) {
    int64_t first[PL_GEMM_PACKS + 1] = {0};
    for (int i = 0; i < n; i++) first[i + 1] = first[i] + pack_tasks(&calls[i]);
    PL_LOOP(true, task, first[n], 1, {
        int i = 0;
        while (task >= first[i + 1]) i++;
        pack_task(g, out[i], &calls[i], task - first[i]);
    });
}

/* --- calls ---------------------------------------------------------------------------------------------------------
 */
static bool is_outer(const pl_gemm_blocks *g, const pl_gemm_call *call) {
    return g->outer && pl_gemm_outer_takes(g->outer, call);
}

static int walk(pl_gemm_blocks *g, const pl_gemm_call *call, bool dry, pl_error *err) {
    job j = job_of(g, call, dry);
    if (is_few(&j)) return few_rows(&j, 1, err);
    return call->kind == PL_GEMM_DW ? weights(&j, err) : linear(&j, err);
}

int pl_gemm_blocks_run(pl_gemm_blocks *g, const pl_gemm_call *calls, int n, pl_error *err) {
    enum { MOST = 8 };
    job jobs[MOST];
    bool few = n <= MOST;
    for (int i = 0; few && i < n; i++) {
        jobs[i] = job_of(g, &calls[i], false);
        few = is_few(&jobs[i]);
    }
    if (few) return few_rows(jobs, n, err);
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++)
        rc = is_outer(g, &calls[i]) ? pl_gemm_outer_run(g->outer, &calls[i], err) : walk(g, &calls[i], false, err);
    return rc;
}

/* Every block length that some call of at most so many tokens can meet; DW adds up from its second block on. */
int pl_gemm_blocks_prepare(pl_gemm_blocks *g, const pl_gemm_call *shape, pl_error *err) {
    int rc = 0;
    bool dw = shape->kind == PL_GEMM_DW;
    pl_gemm_call c = *shape;
    int64_t *tokens = dw ? &c.k : &c.m, most = pl_rows_padded(*tokens);
    if (is_outer(g, shape)) return pl_gemm_outer_prepare(g->outer, shape, err);
    if (shape->kind == PL_GEMM_Y) {
        c.m = 1;
        PL_GO(rc, walk(g, &c, true, err));
    }
    for (int64_t t = PL_ROW_SLACK; t <= PL_MIN(most, BLOCK); t = t < BLOCK_MIN ? t + PL_ROW_SLACK : 2 * t) {
        *tokens = t;
        c.accumulate = shape->accumulate;
        PL_GO(rc, walk(g, &c, true, err));
        c.accumulate = true;
        if (dw && t < most) PL_GO(rc, walk(g, &c, true, err));
    }
out:
    return rc;
}
#endif
