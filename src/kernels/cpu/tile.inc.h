/* kernels/cpu/tile.inc.h: small matrix products in registers: the tiles that attention is made of, and the products of
 * adapters, whose one short side libraries do not like. */

/* c[m,:] (+)= sum_k A(m,k) b[k,:] for M rows and NV vectors in registers; A(m,k) = a[m*ars + k*aks]; ldb, ldc: row
 * strides of b and c. */
INLINED void tile_core(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                       int64_t K, bool accumulate, const int M, const int NV) {
    vf s[TILE_ROWS][4];
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int v = 0; v < NV; v++) s[m][v] = accumulate ? v_load(c + m * ldc + v * VW) : v_zero();
    }
    for (int64_t k = 0; k < K; k++, a += aks, b += ldb) {
        vf x[4];
        UNROLL for (int v = 0; v < NV; v++) x[v] = v_load(b + v * VW);
        UNROLL for (int m = 0; m < M; m++) {
            vf y = v_set(a[m * ars]);
            UNROLL for (int v = 0; v < NV; v++) s[m][v] = v_fma(y, x[v], s[m][v]);
        }
    }
    UNROLL for (int m = 0; m < M; m++) { UNROLL for (int v = 0; v < NV; v++) v_store(c + m * ldc + v * VW, s[m][v]); }
}

#define TILE_CASE(m)                                                                                                   \
    case m: tile_core(c, ldc, a, ars, aks, b, ldb, K, accumulate, m, NV); break
INLINED void tile_rows(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                       int64_t K, bool accumulate, int64_t M, const int NV) {
    switch (M) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
#if TILE_ROWS > 6
        TILE_CASE(7);
        TILE_CASE(8);
#endif
    default: break;
    }
}

static void tile_rows_1(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                        int64_t K, bool accumulate, int64_t M) {
    tile_rows(c, ldc, a, ars, aks, b, ldb, K, accumulate, M, 1);
}
static void tile_rows_2(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                        int64_t K, bool accumulate, int64_t M) {
    tile_rows(c, ldc, a, ars, aks, b, ldb, K, accumulate, M, 2);
}
#if TILE_VECS > 2
static void tile_rows_3(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                        int64_t K, bool accumulate, int64_t M) {
    tile_rows(c, ldc, a, ars, aks, b, ldb, K, accumulate, M, 3);
}
static void tile_rows_4(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                        int64_t K, bool accumulate, int64_t M) { /* six rows at most: 24 sums in 32 registers */
    const int NV = 4;
    switch (M) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
    default: break;
    }
}
#endif

/* The whole product: M rows, nv vectors. */
static void tiles(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                  int64_t M, int64_t nv, int64_t K, bool accumulate) {
    for (int64_t m = 0; m < M; m += TILE_ROWS) {
        int64_t rows = PL_MIN(TILE_ROWS, M - m);
        for (int64_t v = 0, vectors; v < nv; v += vectors) {
            float *cm = c + m * ldc + v * VW;
            const float *am = a + m * ars, *bv = b + v * VW;
            vectors = nv - v == 4 ? 2 : PL_MIN(TILE_VECS, nv - v);
            if (vectors == 1)
                tile_rows_1(cm, ldc, am, ars, aks, bv, ldb, K, accumulate, rows);
            else if (vectors == 2)
                tile_rows_2(cm, ldc, am, ars, aks, bv, ldb, K, accumulate, rows);
#if TILE_VECS > 2
            else
                tile_rows_3(cm, ldc, am, ars, aks, bv, ldb, K, accumulate, rows);
#endif
        }
    }
}

/* Rows of c that tiles_wide takes at a time. */
static int64_t wide_rows(int64_t nv) { return TILE_VECS > 2 && nv % 4 == 0 ? 6 : TILE_ROWS; }

/* The same for wide_rows(nv) rows at most: head sizes of whole cache lines times four suit tiles of four vectors. */
static void tiles_wide(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                       int64_t M, int64_t nv, int64_t K, bool accumulate) {
#if TILE_VECS > 2
    if (nv % 4 == 0) {
        for (int64_t v = 0; v < nv; v += 4)
            tile_rows_4(c + v * VW, ldc, a, ars, aks, b + v * VW, ldb, K, accumulate, M);
        return;
    }
#endif
    tiles(c, ldc, a, ars, aks, b, ldb, M, nv, K, accumulate);
}

/* --- products with a short side --- */

#define PRODUCT_DEPTH 256 /* rows of B at a time */
#define PRODUCT_VECS 6    /* vectors of columns at a time: 96 KB of packed B at most */
#define LINE 16           /* floats in a cache line */

/* packed[p][j] = alpha * B(p,j0+j) for p in [0, depth), one vector of columns j, of which n are there; others are zero.
 * B's columns lie apart: rows of the transposed are read and turned over in registers. */
static void product_pack_turned(float *packed, int64_t ld, const float *b, int64_t b_col, vf alpha, int64_t depth,
                                int64_t n) {
    EACH_VECTOR(p, k, depth) {
        vf r[VW];
        UNROLL for (int j = 0; j < VW; j++) r[j] = j < n ? v_mul(alpha, v_get(b + j * b_col + p, k)) : v_zero();
        v_transpose(r);
        UNROLL for (int i = 0; i < VW; i++) {
            if (i < k) v_store(packed + (p + i) * ld, r[i]);
        }
    }
}

/* packed[p][j] = alpha * B(p,j) for `depth` rows and n columns, then zeros up to whole vectors. */
static void product_pack(float *packed, int64_t ld, const pl_product *x, int64_t p0, int64_t depth, int64_t j0,
                         int64_t n) {
    const float *b = x->b + p0 * x->b_row + j0 * x->b_col;
    vf alpha = v_set(x->alpha);
    if (x->b_col == 1) {
        for (int64_t p = 0; p < depth; p++)
            EACH_VECTOR(j, k, n) v_store(packed + p * ld + j, v_mul(alpha, v_get(b + p * x->b_row + j, k)));
        return;
    }
    if (x->b_row == 1) {
        for (int64_t j = 0; j < ld; j += VW)
            product_pack_turned(packed + j, ld, b + j * x->b_col, x->b_col, alpha, depth, PL_MIN(VW, n - j));
        return;
    }
    for (int64_t j = 0; j < ld; j++)
        for (int64_t p = 0; p < depth; p++) packed[p * ld + j] = j < n ? x->alpha * b[p * x->b_row + j * x->b_col] : 0;
}

/* Rows [0, m) of C's columns [j0, j0 + n), n < the next whole vector: through a tile of whole vectors. */
static void product_edge(const pl_product *x, const float *a, const float *packed, int64_t ld, int64_t depth,
                         int64_t j0, int64_t n, bool accumulate) {
    float tile[TILE_ROWS * PRODUCT_VECS * VW];
    for (int64_t i = 0; i < x->m; i += TILE_ROWS) {
        int64_t rows = PL_MIN(TILE_ROWS, x->m - i);
        tiles(tile, ld, a + i * x->a_row, x->a_row, x->a_col, packed, ld, rows, ld / VW, depth, false);
        for (int64_t r = 0; r < rows; r++) {
            float *c = x->c + (i + r) * x->ldc + j0;
            EACH_VECTOR(j, k, n) {
                vf t = v_get(tile + r * ld + j, k);
                v_put(c + j, accumulate ? v_add(v_get(c + j, k), t) : t, k);
            }
        }
    }
}

/* C += A B for a short k: what is in C is added when the sums are done, so that it can come meanwhile, and C is gone
 * through row by row, 6 at a time. */
enum { SHORT_K = 64, ACROSS_ROWS = 6, ACROSS_VECS = TILE_VECS > 2 ? 4 : 2, ACROSS = ACROSS_VECS * VW };

INLINED void across_core(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                         int64_t K, bool accumulate, const int M) {
    vf s[ACROSS_ROWS][ACROSS_VECS];
    UNROLL for (int m = 0; m < M; m++) { UNROLL for (int v = 0; v < ACROSS_VECS; v++) s[m][v] = v_zero(); }
    for (int64_t k = 0; k < K; k++, a += aks, b += ldb) {
        vf x[ACROSS_VECS];
        UNROLL for (int v = 0; v < ACROSS_VECS; v++) x[v] = v_load(b + v * VW);
        UNROLL for (int m = 0; m < M; m++) {
            vf y = v_set(a[m * ars]);
            UNROLL for (int v = 0; v < ACROSS_VECS; v++) s[m][v] = v_fma(y, x[v], s[m][v]);
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int v = 0; v < ACROSS_VECS; v++) {
            float *to = c + m * ldc + v * VW;
            v_store(to, accumulate ? v_add(v_load(to), s[m][v]) : s[m][v]);
        }
    }
}

#define ACROSS_CASE(m)                                                                                                 \
    case m: across_core(c, ldc, a, ars, aks, b, ldb, K, accumulate, m); break
static void across_tile(float *c, int64_t ldc, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ldb,
                        int64_t K, bool accumulate, int64_t M) {
    switch (M) {
        ACROSS_CASE(1);
        ACROSS_CASE(2);
        ACROSS_CASE(3);
        ACROSS_CASE(4);
        ACROSS_CASE(5);
        ACROSS_CASE(6);
    default: break;
    }
}

/* The same columns of the next rows of C, which lie far off by the time that a product comes back to them. */
static inline void across_ahead(const float *c, int64_t ldc, int64_t rows) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < ACROSS; j += LINE) __builtin_prefetch(c + r * ldc + j, 0, 2);
}

/* Columns [0, n) of C for the same of B, whole tiles of them. */
static void across(const pl_product *x, float *c, const float *b, int64_t ldb, int64_t n) {
    for (int64_t i = 0; i < x->m; i += ACROSS_ROWS) {
        int64_t rows = PL_MIN(ACROSS_ROWS, x->m - i), next = PL_MIN(ACROSS_ROWS, x->m - i - rows);
        const float *a = x->a + i * x->a_row;
        for (int64_t j = 0; j < n; j += ACROSS) {
            float *to = c + i * x->ldc + j;
            across_ahead(to + rows * x->ldc, x->ldc, next);
            across_tile(to, x->ldc, a, x->a_row, x->a_col, b + j, ldb, x->k, x->accumulate, rows);
        }
    }
}

/* Does what it can of x so, and returns the columns that it did. */
static int64_t product_across(const pl_product *x, float *packed) {
    int64_t done = x->n / ACROSS * ACROSS;
    if (x->k == 0 || x->k > SHORT_K || x->n <= PRODUCT_VECS * VW) return 0;
    if (x->b_col == 1 && x->alpha == 1) {
        across(x, x->c, x->b, x->b_row, done);
        return done;
    }
    int64_t most = PRODUCT_DEPTH * PRODUCT_VECS * VW / x->k / ACROSS * ACROSS;
    for (int64_t j = 0; j < done; j += most) {
        int64_t n = PL_MIN(most, done - j);
        product_pack(packed, n, x, 0, x->k, j, n);
        across(x, x->c + j, packed, n, n);
    }
    return done;
}

#if TILE_VECS > 2
/* Sums over many rows of B, k of them: 16 rows of C in registers, a vector at a time, so that each row of B is read
 * once. What is needed next is asked for, into the second-level cache two vectors ahead, into the first a few rows. */
enum { SUM_ROWS = 16, SUM_AHEAD = 6 };

static void sum_tile(float *c, int64_t ldc, const float *a, int64_t aks, const float *b, int64_t ldb, int64_t K,
                     bool accumulate) {
    vf s[SUM_ROWS];
    UNROLL for (int m = 0; m < SUM_ROWS; m++) s[m] = accumulate ? v_load(c + m * ldc) : v_zero();
    for (int64_t k = 0; k < K; k++) {
        const float *row = b + k * ldb;
        __builtin_prefetch(row + 2 * LINE, 0, 2);
        __builtin_prefetch(k + SUM_AHEAD < K ? row + SUM_AHEAD * ldb : b + (k + SUM_AHEAD - K) * ldb + VW);
        vf x = v_load(row);
        UNROLL for (int m = 0; m < SUM_ROWS; m++) s[m] = v_fma(v_set(a[k * aks + m]), x, s[m]);
    }
    UNROLL for (int m = 0; m < SUM_ROWS; m++) v_store(c + m * ldc, s[m]);
}

/* Does what it can of x so, and returns the columns that it did. */
static int64_t product_sums(const pl_product *x) {
    if (x->a_row != 1 || x->b_col != 1 || x->alpha != 1 || x->m % SUM_ROWS || x->k <= SUM_AHEAD) return 0;
    int64_t done = x->n / VW * VW;
    for (int64_t j = 0; j < done; j += VW)
        for (int64_t i = 0; i < x->m; i += SUM_ROWS)
            sum_tile(x->c + i * x->ldc + j, x->ldc, x->a + i, x->a_col, x->b + j, x->b_row, x->k, x->accumulate);
    return done;
}
#else
static int64_t product_sums(const pl_product *x) {
    PL_UNUSED(x);
    return 0;
}
#endif

static void op_product(const pl_product *x) {
    float packed[PRODUCT_DEPTH * PRODUCT_VECS * VW];
    int64_t done = product_sums(x);
    if (done == 0) done = product_across(x, packed);
    for (int64_t j = done; j < x->n; j += PRODUCT_VECS * VW) {
        int64_t n = PL_MIN(PRODUCT_VECS * VW, x->n - j), ld = (n + VW - 1) / VW * VW;
        for (int64_t p = 0; p < x->k || p == 0; p += PRODUCT_DEPTH) {
            int64_t depth = PL_MIN(PRODUCT_DEPTH, x->k - p);
            bool accumulate = x->accumulate || p > 0;
            const float *a = x->a + p * x->a_col;
            if (n == ld && x->b_col == 1 && x->alpha == 1) {
                tiles(x->c + j, x->ldc, a, x->a_row, x->a_col, x->b + p * x->b_row + j, x->b_row, x->m, n / VW, depth,
                      accumulate);
                continue;
            }
            product_pack(packed, ld, x, p, depth, j, n);
            if (n == ld)
                tiles(x->c + j, x->ldc, a, x->a_row, x->a_col, packed, ld, x->m, n / VW, depth, accumulate);
            else
                product_edge(x, a, packed, ld, depth, j, n, accumulate);
        }
    }
}

static void add_tile_ops(pl_ops *ops) { ops->product = op_product; }
