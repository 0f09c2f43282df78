/* kernels/cpu/elem.inc.h: elementwise ops, biases and moving rows, on vectors. Memory-bound: threads take blocks.
 * Additions over tokens give each thread columns, so that every sum runs over t in order, as the reference's. */

#define BLOCK 4096

/* i walks over n elements in vectors of k lanes; only the last may have k < VW. */
#define EACH_VECTOR(i, k, n) for (int64_t i = 0, k; i < (n) && ((k = PL_MIN(VW, (n)-i)), true); i += VW)

static inline vf v_get(const float *p, int64_t k) { return k == VW ? v_load(p) : v_load_n(p, k); }
static inline void v_put(float *p, vf a, int64_t k) {
    if (k == VW)
        v_store(p, a);
    else
        v_store_n(p, a, k);
}

static inline void add_span(float *y, const float *x, int64_t n) {
    EACH_VECTOR(i, k, n) v_put(y + i, v_add(v_get(y + i, k), v_get(x + i, k)), k);
}

static void op_add(float *y, const float *x, int64_t n) {
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, { add_span(y + at, x + at, PL_MIN(BLOCK, n - at)); });
}

static void axpy_span(float *y, float a, const float *x, int64_t n) {
    vf va = v_set(a);
    EACH_VECTOR(i, k, n) v_put(y + i, v_fma(va, v_get(x + i, k), v_get(y + i, k)), k);
}

static void op_axpy(float *y, float a, const float *x, int64_t n) {
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, { axpy_span(y + at, a, x + at, PL_MIN(BLOCK, n - at)); });
}

static void scale_span(float *y, float a, int64_t n) {
    vf va = v_set(a);
    EACH_VECTOR(i, k, n) v_put(y + i, v_mul(va, v_get(y + i, k)), k);
}

static void op_scale(float *y, float a, int64_t n) {
    PL_LOOP(n > PL_SERIAL_ELEMS, at, n, BLOCK, { scale_span(y + at, a, PL_MIN(BLOCK, n - at)); });
}

static void op_scale_rows(float *y, const float *a, int64_t T, int64_t C, int64_t ld) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, {
        if (a[t] != 1) scale_span(y + t * ld, a[t], C);
    });
}

static void op_add_bias(float *y, const float *b, int64_t T, int64_t C) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, t, T, 1, { add_span(y + t * C, b, C); });
}

#define COLUMNS (8 * VW) /* a thread's slice of the columns */

/* db[c .. c+n) += column sums, n <= COLUMNS, in registers for a full slice. */
static void sum_columns(float *db, const float *dy, int64_t T, int64_t C, int64_t n) {
    if (n < COLUMNS) {
        for (int64_t t = 0; t < T; t++) add_span(db, dy + t * C, n);
        return;
    }
    vf s[8];
    for (int i = 0; i < 8; i++) s[i] = v_load(db + i * VW);
    for (int64_t t = 0; t < T; t++)
        for (int i = 0; i < 8; i++) s[i] = v_add(s[i], v_load(dy + t * C + i * VW));
    for (int i = 0; i < 8; i++) v_store(db + i * VW, s[i]);
}

static void op_sum_rows(float *db, const float *dy, int64_t T, int64_t C) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, COLUMNS, { sum_columns(db + c, dy + c, T, C, PL_MIN(COLUMNS, C - c)); });
}

static double squares_of_block(const float *x, int64_t n) {
    vd low = vd_zero(), high = vd_zero();
    EACH_VECTOR(i, k, n) {
        vf a = v_get(x + i, k);
        vd l = vd_low(a), h = vd_high(a);
        low = vd_fma(l, l, low);
        high = vd_fma(h, h, high);
    }
    return vd_sum(vd_add(low, high));
}

static double op_sum_squares(const float *x, int64_t n) {
    enum { WAVE = 256 }; /* blocks whose sums wait on the stack */
    double total = 0, part[WAVE];
    for (int64_t first = 0; first < n; first += WAVE * BLOCK) {
        int64_t count = PL_MIN(WAVE, (n - first + BLOCK - 1) / BLOCK);
        PL_LOOP(n > 4 * PL_SERIAL_ELEMS, b, count, 1, {
            int64_t at = first + b * BLOCK;
            part[b] = squares_of_block(x + at, PL_MIN(BLOCK, n - at));
        });
        for (int64_t b = 0; b < count; b++) total += part[b];
    }
    return total;
}

static void op_embed_bwd(float *dtable, const float *dy, const int32_t *ids, int64_t T, int64_t C) {
    PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, COLUMNS, {
        for (int64_t t = 0; t < T; t++) add_span(dtable + ids[t] * C + c, dy + t * C + c, PL_MIN(COLUMNS, C - c));
    });
}

static void op_scatter_add_rows(float *y, const float *x, const int64_t *rows, int64_t n, int64_t C) {
    PL_LOOP(n * C > PL_SERIAL_ELEMS, c, C, COLUMNS, {
        for (int64_t i = 0; i < n; i++) add_span(y + rows[i] * C + c, x + i * C + c, PL_MIN(COLUMNS, C - c));
    });
}

static void add_elem_ops(pl_ops *ops) {
    ops->add = op_add;
    ops->axpy = op_axpy;
    ops->scale = op_scale;
    ops->scale_rows = op_scale_rows;
    ops->add_bias = op_add_bias;
    ops->sum_rows = op_sum_rows;
    ops->sum_squares = op_sum_squares;
    ops->embed_bwd = op_embed_bwd;
    ops->scatter_add_rows = op_scatter_add_rows;
}
