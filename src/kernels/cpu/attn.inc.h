/* kernels/cpu/attn.inc.h: attention forward over key ranges, in one pass over the keys (online softmax,
 * arXiv:2205.14135).
 *
 * A task is a block of columns of one run and one key/value head; a column is a query of the run and one of the heads
 * that share the key/value head, so that grouped heads read k and v once. Columns lie in the lanes of vectors: every
 * product is C[rows, columns] += A B with A read by broadcast straight from k or v, whatever their stride and head
 * size, and the softmax needs no sums across lanes. Tasks are independent and write different rows: bits do not depend
 * on threads. A NaN or infinity in v may reach queries of the same block that do not see its key (0 * NaN). */

#define KEYS 64          /* rows of a tile of scores */
#define MAX_COLUMNS 48   /* columns of a tile */
#define TILE_FLOATS 6144 /* D * columns <= this */

/* Tiles of queries and outputs stay in the second-level cache, and four of them on a thread's stack. */
static int64_t tile_columns(int64_t D) { return D <= 128 ? MAX_COLUMNS : 16; }

static void tile_product(float *c, const float *a, int64_t ars, int64_t aks, const float *b, int64_t ld, int64_t M,
                         int64_t nv, int64_t K, bool accumulate) {
    tiles(c, ld, a, ars, aks, b, ld, M, nv, K, accumulate);
}

/* tile[d][lane] = factor * rows[lane][d] for n lanes; the lanes up to a whole vector are 0. */
static void lanes_pack(float *tile, int64_t ld, const float *const *rows, int64_t n, int64_t D, float factor) {
    vf r[VW], f = v_set(factor);
    for (int64_t c = 0; c < n; c += VW) {
        EACH_VECTOR(d, k, D) {
            for (int64_t i = 0; i < VW; i++) r[i] = c + i < n ? v_mul(f, v_get(rows[c + i] + d, k)) : v_zero();
            v_transpose(r);
            for (int64_t i = 0; i < k; i++) v_store(tile + (d + i) * ld + c, r[i]);
        }
    }
}

/* rows[lane][d] = tile[d][lane] * factor[lane]; rows that are NULL are passed over. */
static void lanes_unpack(float *const *rows, const float *tile, int64_t ld, int64_t n, int64_t D, const float *factor) {
    vf r[VW];
    for (int64_t c = 0; c < n; c += VW) {
        vf f = v_get(factor + c, PL_MIN(VW, n - c));
        EACH_VECTOR(d, k, D) {
            for (int64_t i = 0; i < VW; i++) r[i] = i < k ? v_mul(f, v_load(tile + (d + i) * ld + c)) : v_zero();
            v_transpose(r);
            for (int64_t i = 0; i < PL_MIN(VW, n - c); i++)
                if (rows[c + i]) v_put(rows[c + i] + d, r[i], k);
        }
    }
}

/* The columns of a task: column c0 + l is query i = (c0 + l) / G of the run, head g * G + (c0 + l) % G. */
typedef struct attn_cols {
    const pl_attn *a;
    const pl_attn_run *run;
    int64_t G, g, c0, nc; /* heads per key/value head; that head; first column; count */
    int64_t ld, nv;       /* row stride of tiles; vectors in use */
} attn_cols;

static int64_t col_query(const attn_cols *t, int64_t lane) { return (t->c0 + lane) / t->G; }
static int64_t col_head(const attn_cols *t, int64_t lane) { return t->g * t->G + (t->c0 + lane) % t->G; }
static int64_t col_offset(const attn_cols *t, int64_t lane, int64_t stride) {
    return (t->run->q_first + col_query(t, lane)) * stride + col_head(t, lane) * t->a->D;
}

/* tile[d][lane] = factor * x[row of lane][d]; unused lanes are 0. */
static void cols_pack(float *tile, const float *x, int64_t stride, float factor, const attn_cols *t) {
    const float *rows[MAX_COLUMNS];
    for (int64_t lane = 0; lane < t->nc; lane++) rows[lane] = x + col_offset(t, lane, stride);
    lanes_pack(tile, t->ld, rows, t->nc, t->a->D, factor);
}

/* x[row of lane][d] = tile[d][lane] * factor[lane]. */
static void cols_unpack(float *x, int64_t stride, const float *tile, const float *factor, const attn_cols *t) {
    float *rows[MAX_COLUMNS];
    for (int64_t lane = 0; lane < t->nc; lane++) rows[lane] = x + col_offset(t, lane, stride);
    lanes_unpack(rows, tile, t->ld, t->nc, t->a->D, factor);
}

/* limit[lane]: the last of the run's own keys that the lane sees. */
static void cols_limits(float *limit, const attn_cols *t) {
    for (int64_t lane = 0; lane < t->nv * VW; lane++)
        limit[lane] = (float)(t->run->own_past + col_query(t, PL_MIN(lane, t->nc - 1)));
}

/* Walks over the keys of a task in blocks of at most KEYS: first the run's ranges, then its own up to the last query's.
 * own >= 0: index among the run's own keys of the block's first, where some lane does not see all of the block. */
typedef struct key_walk {
    int64_t span, at;        /* position */
    int64_t row, count, own; /* the block */
} key_walk;

static bool walk_next(key_walk *w, const attn_cols *t) {
    const pl_attn_run *run = t->run;
    for (; w->span <= run->range_count; w->span++, w->at = 0) {
        bool is_own = w->span == run->range_count;
        int64_t last = run->own_past + col_query(t, t->nc - 1), first = run->own_past + col_query(t, 0);
        pl_key_range r = {run->own_first, last + 1};
        if (!is_own) r = t->a->ranges[run->range_first + w->span];
        if (w->at >= r.count) continue;
        w->row = r.first + w->at;
        w->count = PL_MIN(KEYS, r.count - w->at);
        w->own = is_own && w->at + w->count - 1 > first ? w->at : -1;
        w->at += w->count;
        return true;
    }
    return false;
}

/* How many keys of the block some lane of vector c sees: a staircase under the diagonal. */
typedef struct key_stairs {
    int64_t n[MAX_COLUMNS / VW];
} key_stairs;

static key_stairs stairs_of(const key_walk *w, const attn_cols *t) {
    key_stairs s;
    for (int64_t c = 0; c < t->nv; c++) {
        int64_t last = t->run->own_past + col_query(t, PL_MIN((c + 1) * VW, t->nc) - 1) - w->own;
        s.n[c] = w->own < 0 ? w->count : PL_MAX(0, PL_MIN(w->count, last + 1));
    }
    return s;
}

/* Scores: c[key][lane] = sum_d keys[key][d] x[d][lane], where the staircase reaches. */
static void stairs_scores(float *c, const float *keys, const float *x, const key_stairs *s, const attn_cols *t) {
    int64_t kv = t->a->kv_stride;
    for (int64_t v = 0, done = 0; v < t->nv; done = s->n[v++])
        tile_product(c + done * t->ld + v * VW, keys + done * kv, kv, 1, x + v * VW, t->ld, s->n[v] - done, t->nv - v,
                     t->a->D, false);
}

/* Outputs: o[d][lane] (+)= sum_key keys[key][d] s[key][lane], over the same. The first step of a first block reaches
 * all lanes. */
static void stairs_sums(float *o, const float *keys, const float *x, const key_stairs *s, const attn_cols *t,
                        bool first) {
    int64_t kv = t->a->kv_stride;
    for (int64_t v = 0, done = 0; v < t->nv; done = s->n[v++]) {
        if (s->n[v] == done) continue;
        tile_product(o + v * VW, keys + done * kv, 1, kv, x + done * t->ld + v * VW, t->ld, t->a->D, t->nv - v,
                     s->n[v] - done, !(first && done == 0));
    }
}

/* Turns scores s [n][ld] of one vector of lanes into exp(s - new maximum); updates maximum and sum; returns exp(old -
 * new). */
static vf softmax_lanes(float *s, int64_t ld, int64_t n, int64_t own, vf limit, float *max, float *sum) {
    vf old = v_load(max), top = old, top2 = old;
    if (own >= 0) {
        for (int64_t j = 0; j < n; j++) {
            vf z = v_select(v_le(v_set((float)(own + j)), limit), v_load(s + j * ld), v_set(-INFINITY));
            v_store(s + j * ld, z);
        }
    }
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
        top = v_max(v_load(s + j * ld), top); /* a NaN is passed over; it shows in the sum */
        top2 = v_max(v_load(s + (j + 1) * ld), top2);
    }
    if (j < n) top = v_max(v_load(s + j * ld), top);
    top = v_max(top, top2);
    vf scale = v_exp(v_sub(old, top)), total = v_mul(v_load(sum), scale);
    for (j = 0; j < n; j++) {
        vf e = v_exp(v_sub(v_load(s + j * ld), top));
        v_store(s + j * ld, e);
        total = v_add(total, e);
    }
    v_store(max, top);
    v_store(sum, total);
    return scale;
}

typedef struct attn_fwd_tiles {
    _Alignas(64) float q[TILE_FLOATS], o[TILE_FLOATS], s[KEYS * MAX_COLUMNS];
    _Alignas(64) float max[MAX_COLUMNS], sum[MAX_COLUMNS], limit[MAX_COLUMNS], inverse[MAX_COLUMNS];
} attn_fwd_tiles;

static void fwd_block(attn_fwd_tiles *f, const float *k, const float *v, const attn_cols *t, const key_walk *w,
                      bool first) {
    int64_t D = t->a->D, ld = t->ld, at = w->row * t->a->kv_stride + t->g * D;
    key_stairs stairs = stairs_of(w, t);
    stairs_scores(f->s, k + at, f->q, &stairs, t);
    for (int64_t c = 0; c < t->nv * VW; c += VW) {
        if (stairs.n[c / VW] == 0) continue;
        vf scale = softmax_lanes(f->s + c, ld, stairs.n[c / VW], w->own, v_load(f->limit + c), f->max + c, f->sum + c);
        if (first || v_mask_bits(v_eq(scale, v_set(1.0f))) == v_mask_bits(v_mask_n(VW))) continue;
        for (int64_t d = 0; d < D; d++) v_store(f->o + d * ld + c, v_mul(v_load(f->o + d * ld + c), scale));
    }
    stairs_sums(f->o, v + at, f->s, &stairs, t, first);
}

static void fwd_task(float *o, float *lse, const float *q, const float *k, const float *v, const attn_cols *t) {
    attn_fwd_tiles f;
    bool first = true;
    cols_pack(f.q, q, t->a->q_stride, t->a->scale, t);
    cols_limits(f.limit, t);
    for (int64_t lane = 0; lane < t->nv * VW; lane++) f.max[lane] = -INFINITY, f.sum[lane] = 0;
    for (key_walk w = {0}; walk_next(&w, t); first = false) fwd_block(&f, k, v, t, &w, first);
    for (int64_t lane = 0; lane < t->nc; lane++) {
        f.inverse[lane] = 1 / f.sum[lane];
        if (lse)
            lse[(t->run->q_first + col_query(t, lane)) * t->a->H + col_head(t, lane)] = f.max[lane] + logf(f.sum[lane]);
    }
    cols_unpack(o, t->a->o_stride, f.o, f.inverse, t);
}

/* --- few columns: one new token of a sequence
 * ------------------------------------------------------------------------------------- With the columns in the lanes
 * most lanes would idle: here the head dimension lies in the lanes, a column at a time. */
#define FEW_COLUMNS 4

/* o[0 .. D) = o * scale + sum_j p[j] v[j]. */
static void few_sums(float *o, const float *v, int64_t stride, const float *p, int64_t n, int64_t D, float scale) {
    EACH_VECTOR(d, k, D) {
        vf even = v_mul(v_get(o + d, k), v_set(scale)), odd = v_zero();
        int64_t j = 0;
        for (; j + 2 <= n; j += 2) {
            even = v_fma(v_set(p[j]), v_get(v + j * stride + d, k), even);
            odd = v_fma(v_set(p[j + 1]), v_get(v + (j + 1) * stride + d, k), odd);
        }
        if (j < n) even = v_fma(v_set(p[j]), v_get(v + j * stride + d, k), even);
        v_put(o + d, v_add(even, odd), k);
    }
}

static void few_column(float *o, float *lse, const float *q, const float *k, const float *v, const attn_cols *t) {
    const pl_attn *a = t->a;
    float p[KEYS], max = -INFINITY, total = 0;
    for (int64_t d = 0; d < a->D; d++) o[d] = 0;
    for (key_walk w = {0}; walk_next(&w, t);) {
        int64_t at = w.row * a->kv_stride + t->g * a->D;
        for (int64_t j = 0; j < w.count; j++) p[j] = a->scale * sum_products(q, k + at + j * a->kv_stride, NULL, a->D);
        float top = row_max(p, w.count, max), scale = expf(max - top);
        vf s = v_zero();
        EACH_VECTOR(j, n, w.count) {
            vf e = v_select(v_mask_n(n), v_exp(v_sub(v_get(p + j, n), v_set(top))), v_zero());
            s = v_add(s, e);
            v_put(p + j, e, n);
        }
        few_sums(o, v + at, a->kv_stride, p, w.count, a->D, scale);
        total = total * scale + v_sum(s);
        max = top;
    }
    scale_span(o, 1 / total, a->D);
    if (lse) *lse = max + logf(total);
}

static void few_task(float *o, float *lse, const float *q, const float *k, const float *v, const attn_cols *t) {
    for (int64_t lane = 0; lane < t->nc; lane++) {
        attn_cols one = *t;
        one.c0 += lane, one.nc = 1;
        int64_t row = t->run->q_first + col_query(t, lane), head = col_head(t, lane);
        few_column(o + row * t->a->o_stride + head * t->a->D, lse ? lse + row * t->a->H + head : NULL,
                   q + row * t->a->q_stride + head * t->a->D, k, v, &one);
    }
}

/* Tasks are numbered through the runs; each thread walks forward with its own cursor. */
typedef struct task_cursor {
    int64_t run, base; /* base: number of the run's first task */
} task_cursor;

static bool task_seek(attn_cols *t, task_cursor *c, const pl_attn *a, int64_t task) {
    int64_t G = a->H / a->KV, width = tile_columns(a->D);
    for (; c->run < a->nruns; c->run++) {
        int64_t cols = a->runs[c->run].q_count * G, tasks = (cols + width - 1) / width * a->KV;
        if (task >= c->base + tasks) {
            c->base += tasks;
            continue;
        }
        int64_t block = (task - c->base) / a->KV, vectors = (cols + VW - 1) / VW; /* shared out evenly */
        int64_t c0 = pl_cut(vectors, block, tasks / a->KV) * VW;
        int64_t nc = PL_MIN(cols, pl_cut(vectors, block + 1, tasks / a->KV) * VW) - c0;
        *t = (attn_cols){a, a->runs + c->run, G, (task - c->base) % a->KV, c0, nc, width, (nc + VW - 1) / VW};
        return true;
    }
    return false;
}

/* Multiply-adds of one of the two products, at most. */
static int64_t attn_work(const pl_attn *a) {
    int64_t pairs = 0;
    for (int64_t r = 0; r < a->nruns; r++) {
        const pl_attn_run *run = a->runs + r;
        int64_t keys = run->own_past + run->q_count;
        for (int64_t s = 0; s < run->range_count; s++) keys += a->ranges[run->range_first + s].count;
        pairs += run->q_count * keys;
    }
    return pairs * a->H * a->D;
}

#define ATTN_SERIAL 100000 /* multiply-adds: a few microseconds */

/* Takes tasks off the common counter until none is left. */
static void attn_worker(float *o, float *lse, const float *q, const float *k, const float *v, const pl_attn *a,
                        int64_t *next) {
    task_cursor cursor = {0, 0};
    attn_cols t;
    for (;;) {
        int64_t task;
#pragma omp atomic capture
        task = (*next)++;
        if (!task_seek(&t, &cursor, a, task)) break;
        if (t.nc <= FEW_COLUMNS)
            few_task(o, lse, q, k, v, &t);
        else
            fwd_task(o, lse, q, k, v, &t);
    }
}

static void op_attn(float *o, float *lse, const float *q, const float *k, const float *v, const pl_attn *a) {
    int64_t next = 0;
    if (attn_work(a) > ATTN_SERIAL && PL_LOOP_THREADS()) {
#pragma omp parallel
        attn_worker(o, lse, q, k, v, a, &next);
    } else {
        attn_worker(o, lse, q, k, v, a, &next);
    }
}
