/* kernels/cpu/attn.inc.h: attention forward over key ranges, in one pass over the keys (online softmax,
 * arXiv:2205.14135).
 *
 * A task is a block of columns of one run and one key/value head; a column is a query of the run and one of the heads
 * that share the key/value head, so that grouped heads read k and v once and short segments fill the tiles. Scores are
 * C[keys, columns] = K Q', columns in the lanes of vectors, with k read by broadcast whatever its stride: the softmax
 * needs no sums across lanes, and keys beyond the diagonal are left out key by key. Outputs are O[columns, D], the head
 * dimension in the lanes, and read scores by broadcast: nothing but Q is transposed. Tasks are independent and write
 * different rows: bits do not depend on threads. A NaN or infinity in v may reach queries close by that do not see its
 * key (0 * NaN). */

#define KEYS 64          /* rows of a tile of scores */
#define MAX_COLUMNS 48   /* columns of a tile */
#define TILE_FLOATS 6144 /* D in whole vectors * columns <= this */
#define MAX_HEAD 256
#define LOG2_E 1.44269504f /* scores are in units of ln 2 */
#define LN_2 0.693147181f

/* Tiles of queries and outputs stay in the second-level cache, and on a thread's stack. */
static int64_t tile_columns(int64_t D) { return D <= 128 ? MAX_COLUMNS : 16; }
static int64_t whole_vectors(int64_t n) { return (n + VW - 1) / VW * VW; }

/* A square of a transposition: tile[i][lane] = factor * x[lane][i] for VW lanes and k <= VW numbers of each; wide, if
 * not NULL, takes the rows as they are, filled up with zeros. */
INLINED void square_pack(float *tile, int64_t ld, float *wide, int64_t ldw, const float *const *x, int64_t d, int64_t k,
                         vf factor, const bool whole) {
    vf r[VW];
    UNROLL for (int i = 0; i < VW; i++) r[i] = v_mul(factor, whole ? v_load(x[i] + d) : v_load_n(x[i] + d, k));
    if (wide) {
        UNROLL for (int i = 0; i < VW; i++) v_store(wide + i * ldw, r[i]);
    }
    v_transpose(r);
    UNROLL for (int i = 0; i < VW; i++) {
        if (whole || i < k) v_store(tile + i * ld, r[i]);
    }
}

/* The columns of a task: column c0 + l is query i = (c0 + l) / G of the run, head g * G + (c0 + l) % G. */
typedef struct attn_cols {
    const pl_attn *a;
    const pl_attn_run *run;
    int64_t G, g, c0, nc;                          /* heads per key/value head; that head; first column; count */
    int64_t ld, nv;                                /* row stride of tiles with columns in lanes; vectors in use */
    int64_t ldw;                                   /* row stride of tiles with the head dimension in lanes */
    int32_t query[MAX_COLUMNS], head[MAX_COLUMNS]; /* of each lane; lanes from nc on repeat the last column */
} attn_cols;

static void cols_init(attn_cols *t, const pl_attn *a, const pl_attn_run *run, int64_t g, int64_t c0, int64_t nc) {
    int64_t G = a->H / a->KV, query = c0 / G, head = c0 % G;
    t->a = a, t->run = run, t->G = G, t->g = g, t->c0 = c0, t->nc = nc;
    t->ld = tile_columns(a->D), t->nv = (nc + VW - 1) / VW, t->ldw = whole_vectors(a->D);
    for (int64_t lane = 0; lane < t->nv * VW; lane++) {
        t->query[lane] = (int32_t)query, t->head[lane] = (int32_t)(g * G + head);
        if (lane + 1 >= nc) continue;
        if (++head == G) head = 0, query++;
    }
}

static int64_t col_offset(const attn_cols *t, int64_t lane, int64_t stride) {
    return (t->run->q_first + t->query[lane]) * stride + t->head[lane] * t->a->D;
}
/* Where lse and delta of a lane stand. */
static int64_t col_stat(const attn_cols *t, int64_t lane) {
    return (t->run->q_first + t->query[lane]) * t->a->H + t->head[lane];
}
/* The last of the run's own keys that a lane sees. */
static int64_t col_limit(const attn_cols *t, int64_t lane) { return t->run->own_past + t->query[lane]; }

/* tile[d][lane] = factor * x[row of lane][d]; wide[lane][d], if not NULL, the same. */
static void cols_pack(float *tile, float *wide, const float *x, int64_t stride, float factor, const attn_cols *t) {
    int64_t D = t->a->D, ld = t->ld, ldw = t->ldw;
    vf f = v_set(factor);
    for (int64_t c = 0; c < t->nv * VW; c += VW) {
        const float *rows[VW];
        for (int64_t i = 0; i < VW; i++) rows[i] = x + col_offset(t, c + i, stride);
        EACH_VECTOR(d, k, D) {
            float *w = wide ? wide + c * ldw + d : NULL;
            if (k == VW)
                square_pack(tile + d * ld + c, ld, w, ldw, rows, d, VW, f, true);
            else
                square_pack(tile + d * ld + c, ld, w, ldw, rows, d, k, f, false);
        }
    }
}

/* What is asked for ahead, into the second-level cache: pieces of rows, that the hardware does not foresee. A few lines
 * at a time between tiles of a product: all at once they would fill the queue of misses, and the products would wait
 * behind them. Nothing is computed from it: it may be wrong. */
typedef struct fetch_part {
    const float *x;
    int64_t rows, stride, width;
} fetch_part;

typedef struct fetch_list {
    fetch_part part[12];
    int64_t n, at, d;     /* parts, the one at hand, the place in its row */
    int64_t total, lines; /* lines in all, at a time */
} fetch_list;

static void fetch_clear(fetch_list *f) { f->n = f->at = f->d = f->total = 0; }

static void fetch_add(fetch_list *f, const float *x, int64_t stride, int64_t rows, int64_t width) {
    if (rows <= 0) return;
    f->part[f->n++] = (fetch_part){x, rows, stride, width};
    f->total += rows * ((width + 15) / 16);
}

/* The rows of a task's queries, all heads of its group. */
static void fetch_cols(fetch_list *f, const float *x, int64_t stride, const attn_cols *t) {
    int64_t first = t->query[0], width = t->G * t->a->D;
    fetch_add(f, x + (t->run->q_first + first) * stride + t->g * width, stride, t->query[t->nc - 1] + 1 - first, width);
}

/* The keys or values that these queries are the first to see. */
static void fetch_own(fetch_list *f, const float *x, const attn_cols *t) {
    int64_t stride = t->a->kv_stride, first = col_limit(t, 0);
    fetch_add(f, x + (t->run->own_first + first) * stride + t->g * t->a->D, stride, col_limit(t, t->nc - 1) + 1 - first,
              t->a->D);
}

/* All of it is to be asked for in so many calls. */
static void fetch_share(fetch_list *f, int64_t calls) { f->lines = (f->total + calls - 1) / PL_MAX(1, calls); }

static void fetch_some(fetch_list *f) {
    int64_t left = f->lines, d = f->d;
    for (; f->at < f->n && left > 0; f->at++, d = 0) {
        fetch_part *p = f->part + f->at;
        const float *x = p->x;
        for (; left > 0 && p->rows > 0; left--) {
            v_fetch(x + d);
            d += 16;
            if (d >= p->width) d = 0, x += p->stride, p->rows--;
        }
        p->x = x;
        if (p->rows > 0) break;
    }
    f->d = d;
}

static void cols_limits(float *limit, const attn_cols *t) {
    for (int64_t lane = 0; lane < t->nv * VW; lane++) limit[lane] = (float)col_limit(t, lane);
}

/* A block of keys that a task meets: n rows from `row` on; own >= 0: index among the run's own keys of the first, where
 * some lane does not see all of the block. */
typedef struct key_block {
    int64_t row, n, own;
} key_block;

/* Walks over the keys of a task in blocks of at most KEYS: first the run's ranges, then its own up to the last
 * query's. */
typedef struct key_walk {
    int64_t span, at; /* position */
    key_block b;
} key_walk;

static bool walk_next(key_walk *w, const attn_cols *t) {
    const pl_attn_run *run = t->run;
    for (; w->span <= run->range_count; w->span++, w->at = 0) {
        bool is_own = w->span == run->range_count;
        pl_key_range r = {run->own_first, col_limit(t, t->nc - 1) + 1};
        if (!is_own) r = t->a->ranges[run->range_first + w->span];
        if (w->at >= r.count) continue;
        int64_t n = PL_MIN(KEYS, r.count - w->at);
        w->b = (key_block){r.first + w->at, n, is_own && w->at + n - 1 > col_limit(t, 0) ? w->at : -1};
        w->at += n;
        return true;
    }
    return false;
}

/* How many keys of a block lane `lane` sees. */
static int64_t keys_seen(const key_block *b, const attn_cols *t, int64_t lane) {
    return b->own < 0 ? b->n : PL_MAX(0, PL_MIN(b->n, col_limit(t, lane) + 1 - b->own));
}

/* How many keys of the block some lane of vector c sees: a staircase under the diagonal. Products with scores read
 * TILE_ROWS rows or columns at a time, so zeros stand behind each step. */
typedef struct key_stairs {
    int64_t n[MAX_COLUMNS / VW];
} key_stairs;

static key_stairs stairs_of(const key_block *b, const attn_cols *t) {
    key_stairs s = {{0}};
    for (int64_t c = 0; c < t->nv; c++) s.n[c] = keys_seen(b, t, c * VW + VW - 1);
    return s;
}

/* Scores: c[key][lane] = sum_d keys[key][d] x[d][lane], where the staircase reaches. */
static void stairs_scores(float *c, const float *keys, int64_t stride, const float *x, const key_stairs *s,
                          const attn_cols *t) {
    for (int64_t v = 0, done = 0; v < t->nv; done = s->n[v++])
        tiles(c + done * t->ld + v * VW, t->ld, keys + done * stride, stride, 1, x + v * VW, t->ld, s->n[v] - done,
              t->nv - v, t->a->D, false);
}

static void stairs_zeros(float *s, int64_t ld, int64_t seen, int64_t n) {
    for (int64_t j = seen; j < PL_MIN(n, seen + TILE_ROWS); j++) v_store(s + j * ld, v_zero());
}

/* Outputs: o[lane][d] (+)= sum_key s[key][lane] keys[key][d], over the keys that each group of lanes sees. */
static void stairs_sums(float *o, const float *keys, int64_t stride, const float *s, const key_block *b,
                        const attn_cols *t, bool accumulate, fetch_list *fetch) {
    int64_t nv = t->ldw / VW, step = wide_rows(nv);
    for (int64_t lane = 0; lane < t->nc; lane += step) {
        int64_t rows = PL_MIN(step, t->nc - lane);
        tiles_wide(o + lane * t->ldw, t->ldw, s + lane, 1, t->ld, keys, stride, rows, nv,
                   keys_seen(b, t, lane + rows - 1), accumulate);
        fetch_some(fetch);
    }
}

/* Calls of fetch_some that a block of keys makes there. */
static int64_t stairs_steps(const attn_cols *t) {
    int64_t step = wide_rows(t->ldw / VW);
    return (t->nc + step - 1) / step;
}

/* Turns scores s [n][ld] of one vector of lanes, of which all see the first by_all, into 2^(s - new maximum); updates
 * maximum and sum; returns 2^(old - new). */
static vf softmax_lanes(float *s, int64_t ld, int64_t by_all, int64_t n, int64_t own, vf limit, float *max,
                        float *sum) {
    vf old = v_load(max), top = old, top2 = old;
    int64_t j = 0;
    for (; j + 2 <= by_all; j += 2) {
        top = v_max(v_load(s + j * ld), top); /* a NaN is passed over; it shows in the sum */
        top2 = v_max(v_load(s + (j + 1) * ld), top2);
    }
    if (j < by_all) top = v_max(v_load(s + j++ * ld), top);
    for (; j < n; j++) {
        vf z = v_select(v_le(v_set((float)(own + j)), limit), v_load(s + j * ld), v_set(-INFINITY));
        v_store(s + j * ld, z);
        top2 = v_max(z, top2);
    }
    top = v_max(top, top2);
    vf scale = v_exp2(v_sub(old, top)), total = v_mul(v_load(sum), scale);
    for (j = 0; j < n; j++) {
        vf e = v_exp2(v_sub(v_load(s + j * ld), top));
        v_store(s + j * ld, e);
        total = v_add(total, e);
    }
    v_store(max, top);
    v_store(sum, total);
    return scale;
}

typedef struct attn_fwd_tiles {
    _Alignas(64) float q[TILE_FLOATS], o[TILE_FLOATS], s[KEYS * MAX_COLUMNS], v[KEYS * MAX_HEAD];
    _Alignas(64) float max[MAX_COLUMNS], sum[MAX_COLUMNS], limit[MAX_COLUMNS], scale[MAX_COLUMNS];
} attn_fwd_tiles;

/* Rows of n numbers, filled up with zeros to whole vectors. */
static void rows_widen(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++) EACH_VECTOR(d, k, n) v_store(y + i * ldy + d, v_get(x + i * ldx + d, k));
}

static void fwd_block(attn_fwd_tiles *f, const float *k, const float *v, const attn_cols *t, const key_block *b,
                      bool first, fetch_list *fetch) {
    int64_t ld = t->ld, ldw = t->ldw, stride = t->a->kv_stride, at = b->row * stride + t->g * t->a->D, ldv = stride;
    const float *values = v + at;
    key_stairs stairs = stairs_of(b, t);
    stairs_scores(f->s, k + at, stride, f->q, &stairs, t);
    for (int64_t c = 0; c < t->nv * VW; c += VW) {
        int64_t n = stairs.n[c / VW];
        stairs_zeros(f->s + c, ld, n, b->n);
        if (n == 0) continue;
        vf scale =
            softmax_lanes(f->s + c, ld, keys_seen(b, t, c), n, b->own, v_load(f->limit + c), f->max + c, f->sum + c);
        if (first || v_mask_bits(v_eq(scale, v_set(1.0f))) == v_mask_bits(v_mask_n(VW))) continue;
        v_store(f->scale + c, scale);
        for (int64_t lane = c; lane < PL_MIN(c + VW, t->nc); lane++) scale_span(f->o + lane * ldw, f->scale[lane], ldw);
    }
    if (ldw != t->a->D) { /* tiles read whole vectors */
        rows_widen(f->v, ldw, values, stride, b->n, t->a->D);
        values = f->v, ldv = ldw;
    }
    stairs_sums(f->o, values, ldv, f->s, b, t, !first, fetch);
}

/* Blocks of keys of a task. */
static int64_t walk_count(const attn_cols *t) {
    int64_t n = 0;
    for (key_walk w = {0}; walk_next(&w, t);) n++;
    return n;
}

static void fwd_task(float *o, float *lse, const float *q, const float *k, const float *v, const attn_cols *t,
                     const attn_cols *next) {
    attn_fwd_tiles f;
    fetch_list fetch;
    bool first = true;
    fetch_clear(&fetch);
    fetch_cols(&fetch, o, t->a->o_stride, t);
    if (next) {
        fetch_cols(&fetch, q, t->a->q_stride, next);
        fetch_own(&fetch, k, next);
        fetch_own(&fetch, v, next);
    }
    fetch_share(&fetch, walk_count(t) * stairs_steps(t));
    cols_pack(f.q, NULL, q, t->a->q_stride, t->a->scale * LOG2_E, t);
    cols_limits(f.limit, t);
    for (int64_t lane = 0; lane < t->nv * VW; lane++) f.max[lane] = -INFINITY, f.sum[lane] = 0;
    for (key_walk w = {0}; walk_next(&w, t); first = false) fwd_block(&f, k, v, t, &w.b, first, &fetch);
    for (int64_t lane = 0; lane < t->nc; lane++) {
        vf inverse = v_set(1 / f.sum[lane]);
        float *y = o + col_offset(t, lane, t->a->o_stride);
        EACH_VECTOR(d, n, t->a->D) v_put(y + d, v_mul(inverse, v_load(f.o + lane * t->ldw + d)), n);
        if (lse) lse[col_stat(t, lane)] = f.max[lane] * LN_2 + logf(f.sum[lane]);
    }
}

static int64_t task_take(int64_t *next) {
    int64_t task;
#pragma omp atomic capture
    task = (*next)++;
    return task;
}

#include "kernels/cpu/attn_few.inc.h"

/* Tasks are numbered through the runs; each thread walks forward with its own cursor. */
typedef struct task_cursor {
    int64_t run, base; /* base: number of the run's first task */
} task_cursor;

static bool task_seek(attn_cols *t, task_cursor *c, const pl_attn *a, int64_t task) {
    int64_t G = a->H / a->KV, width = tile_columns(a->D);
    for (; c->run < a->nruns; c->run++) {
        if (is_few(a, a->runs + c->run)) continue;
        int64_t cols = a->runs[c->run].q_count * G, tasks = (cols + width - 1) / width * a->KV;
        if (task >= c->base + tasks) {
            c->base += tasks;
            continue;
        }
        int64_t block = (task - c->base) / a->KV, vectors = (cols + VW - 1) / VW; /* shared out evenly */
        int64_t c0 = pl_cut(vectors, block, tasks / a->KV) * VW;
        int64_t nc = PL_MIN(cols, pl_cut(vectors, block + 1, tasks / a->KV) * VW) - c0;
        cols_init(t, a, a->runs + c->run, (task - c->base) % a->KV, c0, nc);
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

/* Takes tasks off the common counter until none is left, one ahead. */
static void attn_worker(float *o, float *lse, const float *q, const float *k, const float *v, const pl_attn *a,
                        int64_t *next) {
    task_cursor cursor = {0, 0};
    attn_cols t, ahead;
    bool more = task_seek(&t, &cursor, a, task_take(next));
    while (more) {
        more = task_seek(&ahead, &cursor, a, task_take(next));
        fwd_task(o, lse, q, k, v, &t, more ? &ahead : NULL);
        t = ahead;
    }
}

static void op_attn(float *o, float *lse, const float *q, const float *k, const float *v, const pl_attn *a) {
    int64_t next = 0, next_few = 0;
    bool shared = attn_work(a) > ATTN_SERIAL && PL_LOOP_THREADS();
    few_cut cut = few_cut_of(a, shared);
    few_job few = {.o = o, .lse = lse, .q = q, .k = k, .v = v, .a = a, .cut = &cut, .counter = &next_few};
    if (shared) {
#pragma omp parallel
        {
            few_job mine = few;
            attn_worker(o, lse, q, k, v, a, &next);
            few_worker(&mine);
        }
    } else {
        attn_worker(o, lse, q, k, v, a, &next);
        few_worker(&few);
    }
}
