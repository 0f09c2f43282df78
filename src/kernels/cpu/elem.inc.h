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

/* A thread's slice of C columns, whole vectors: one slice a thread, because memory is fast along rows. */
static int64_t slice_of(int64_t C) {
    int64_t vectors = (C + VW - 1) / VW, team = PL_LOOP_THREADS() ? PL_LOOP_TEAM() : 1;
    return PL_MAX(4, (vectors + team - 1) / team) * VW;
}

/* db[c .. c+n) += column sums; four rows for each time that the sums are read and written. */
static void sum_columns(float *db, const float *dy, int64_t T, int64_t C, int64_t n) {
    int64_t t = 0;
    for (; t + 4 <= T; t += 4) {
        const float *row = dy + t * C;
        EACH_VECTOR(i, k, n) {
            vf s = v_add(v_add(v_get(db + i, k), v_get(row + i, k)), v_get(row + C + i, k));
            v_put(db + i, v_add(v_add(s, v_get(row + 2 * C + i, k)), v_get(row + 3 * C + i, k)), k);
        }
    }
    for (; t < T; t++) add_span(db, dy + t * C, n);
}

static void op_sum_rows(float *db, const float *dy, int64_t T, int64_t C) {
    int64_t slice = slice_of(C);
    PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, slice, { sum_columns(db + c, dy + c, T, C, PL_MIN(slice, C - c)); });
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

/* y += x; y_next, a row of the same length, is asked for meanwhile. */
static void add_span_ahead(float *y, const float *x, const float *y_next, int64_t n) {
    EACH_VECTOR(i, k, n) {
        v_fetch(y_next + i);
        v_put(y + i, v_add(v_get(y + i, k), v_get(x + i, k)), k);
    }
}

static void op_embed_bwd(float *dtable, const float *dy, const int32_t *ids, int64_t T, int64_t C) {
    int64_t slice = slice_of(C);
    PL_LOOP(T * C > PL_SERIAL_ELEMS, c, C, slice, {
        for (int64_t t = 0; t < T; t++)
            add_span_ahead(dtable + ids[t] * C + c, dy + t * C + c, dtable + ids[PL_MIN(t + 1, T - 1)] * C + c,
                           PL_MIN(slice, C - c));
    });
}

/* y = x; x_next, as long, is asked for meanwhile. */
static void copy_span_ahead(float *y, const float *x, const float *x_next, int64_t n) {
    EACH_VECTOR(i, k, n) {
        v_fetch(x_next + i);
        v_put(y + i, v_get(x + i, k), k);
    }
}

static void op_gather_rows(float *y, const float *x, const int64_t *rows, int64_t n, int64_t C) {
    PL_LOOP(n * C > PL_SERIAL_ELEMS, t, n, 1,
            { copy_span_ahead(y + t * C, x + rows[t] * C, x + rows[PL_MIN(t + 1, n - 1)] * C, C); });
}

static void op_scatter_add_rows(float *y, const float *x, const int64_t *rows, int64_t n, int64_t C) {
    int64_t slice = slice_of(C);
    PL_LOOP(n * C > PL_SERIAL_ELEMS, c, C, slice, {
        for (int64_t i = 0; i < n; i++)
            add_span_ahead(y + rows[i] * C + c, x + i * C + c, y + rows[PL_MIN(i + 1, n - 1)] * C + c,
                           PL_MIN(slice, C - c));
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
    ops->gather_rows = op_gather_rows;
    ops->scatter_add_rows = op_scatter_add_rows;
}
