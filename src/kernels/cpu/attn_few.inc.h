/* kernels/cpu/attn_few.inc.h: attention of runs of one query: new tokens over the KV cache. Its time is that of reading
 * keys and values from memory.
 *
 * With queries in the lanes of vectors most lanes would idle, so here the head dimension lies in the lanes. A task is
 * some runs, one after the other, that see the same ranges (samples of a prompt), and some key/value heads: a block of
 * keys, then of values, is read once for all of them, whole rows of the cache in their order. What is summed for one
 * query does not depend on who shares its task. */

#define FEW_GROUP 8    /* most query heads of a key/value head: more of them fill the lanes of tiles */
#define FEW_LANES 96   /* queries times heads of a task */
#define FEW_FLOATS 512 /* of a row of keys that a task reads, if not one head is more */
#define FEW_VECTORS 4  /* of a row of values at a time */

static bool is_few(const pl_attn *a, const pl_attn_run *run) { return run->q_count == 1 && a->H / a->KV <= FEW_GROUP; }

static bool same_ranges(const pl_attn *a, const pl_attn_run *x, const pl_attn_run *y) {
    if (x->range_count != y->range_count) return false;
    for (int64_t i = 0; i < x->range_count; i++) {
        const pl_key_range *r = a->ranges + x->range_first + i, *s = a->ranges + y->range_first + i;
        if (r->first != s->first || r->count != s->count) return false;
    }
    return true;
}

/* --- one query head and a block of keys --- */

/* p[j] = scale * (q . k[j]) for VW keys; those behind the last are the last again. */
INLINED void few_scores_all(float *p, const float *q, const float *k, const pl_attn *a, int64_t last) {
    vf r[VW];
    int64_t at[VW];
    UNROLL for (int j = 0; j < VW; j++) r[j] = v_zero(), at[j] = PL_MIN(j, last) * a->kv_stride;
    EACH_VECTOR(d, n, a->D) {
        vf x = v_get(q + d, n);
        if (n == VW) {
            UNROLL for (int j = 0; j < VW; j++) r[j] = v_fma(x, v_load(k + at[j] + d), r[j]);
        } else {
            UNROLL for (int j = 0; j < VW; j++) r[j] = v_fma(x, v_get(k + at[j] + d, n), r[j]);
        }
    }
    v_store(p, v_mul(v_set(a->scale), v_sums(r)));
}

/* p [KEYS], whole vectors of it. */
static void few_scores(float *p, const float *q, const float *k, const pl_attn *a, int64_t n) {
    int64_t j = 0;
    for (; j + VW <= n; j += VW) few_scores_all(p + j, q, k + j * a->kv_stride, a, VW - 1);
    if (j < n) few_scores_all(p + j, q, k + j * a->kv_stride, a, n - j - 1);
}

/* A query's running softmax. */
typedef struct few_state {
    float max, total;
} few_state;

/* Scores p of n keys become exp(score - new maximum); returns exp(old - new). */
static float few_softmax(float *p, few_state *s, int64_t n) {
    float top = row_max(p, n, s->max), scale = expf(s->max - top);
    vf sum = v_zero();
    EACH_VECTOR(j, c, n) {
        vf e = v_select(v_mask_n(c), v_exp(v_sub(v_get(p + j, c), v_set(top))), v_zero());
        sum = v_add(sum, e);
        v_put(p + j, e, c);
    }
    s->total = s->total * scale + v_sum(sum);
    s->max = top;
    return scale;
}

/* o = o * scale + sum_j p[j] v[j] for `count` <= FEW_VECTORS whole vectors of a row, a constant where it is inlined. */
INLINED void few_sums_of(float *o, const float *v, int64_t stride, const float *p, int64_t n, const int count,
                         float scale) {
    vf even[FEW_VECTORS], odd[FEW_VECTORS];
    UNROLL for (int i = 0; i < count; i++) even[i] = v_mul(v_load(o + i * VW), v_set(scale)), odd[i] = v_zero();
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
        vf a = v_set(p[j]), b = v_set(p[j + 1]);
        UNROLL for (int i = 0; i < count; i++) {
            even[i] = v_fma(a, v_load(v + j * stride + i * VW), even[i]);
            odd[i] = v_fma(b, v_load(v + (j + 1) * stride + i * VW), odd[i]);
        }
    }
    if (j < n) {
        UNROLL for (int i = 0; i < count; i++) even[i] = v_fma(v_set(p[j]), v_load(v + j * stride + i * VW), even[i]);
    }
    UNROLL for (int i = 0; i < count; i++) v_store(o + i * VW, v_add(even[i], odd[i]));
}

/* o[0 .. D) = o * scale + sum_j p[j] v[j]. */
static void few_sums(float *o, const float *v, int64_t stride, const float *p, int64_t n, int64_t D, float scale) {
    int64_t d = 0;
    for (; d + FEW_VECTORS * VW <= D; d += FEW_VECTORS * VW)
        few_sums_of(o + d, v + d, stride, p, n, FEW_VECTORS, scale);
    for (; d + VW <= D; d += VW) few_sums_of(o + d, v + d, stride, p, n, 1, scale);
    if (d == D) return;
    vf sum = v_mul(v_get(o + d, D - d), v_set(scale));
    for (int64_t j = 0; j < n; j++) sum = v_fma(v_set(p[j]), v_get(v + j * stride + d, D - d), sum);
    v_put(o + d, sum, D - d);
}

/* --- a task --- */

typedef struct few_part {
    const pl_attn *a;
    const pl_attn_run *runs; /* [n] with the same ranges */
    int64_t n, g, ng;        /* key/value heads [g, g + ng) */
} few_part;

/* Walks over the keys of a task in blocks of at most KEYS: the ranges, then the own keys of each run. */
typedef struct few_walk {
    int64_t span, at;                /* position */
    int64_t row, n, first_run, runs; /* the block: rows of the cache, and the runs that see them */
} few_walk;

static bool few_next(few_walk *w, const few_part *t) {
    int64_t ranges = t->runs->range_count;
    for (; w->span < ranges + t->n; w->span++, w->at = 0) {
        bool own = w->span >= ranges;
        const pl_attn_run *run = t->runs + (own ? w->span - ranges : 0);
        pl_key_range r = {run->own_first, run->own_past + 1};
        if (!own) r = t->a->ranges[run->range_first + w->span];
        if (w->at >= r.count) continue;
        w->row = r.first + w->at, w->n = PL_MIN(KEYS, r.count - w->at);
        w->first_run = own ? w->span - ranges : 0, w->runs = own ? 1 : t->n;
        w->at += w->n;
        return true;
    }
    return false;
}

typedef struct few_tiles {
    float p[FEW_LANES][KEYS];
    float scale[FEW_LANES];
    few_state state[FEW_LANES];
} few_tiles;

static int64_t few_at(const few_part *t, const few_walk *w) { return w->row * t->a->kv_stride + t->g * t->a->D; }

/* A block of keys (sums false) or of values, for every query that sees it. */
static void few_block(few_tiles *s, float *o, const float *q, const float *x, const few_part *t, const few_walk *w,
                      bool sums) {
    const pl_attn *a = t->a;
    int64_t G = a->H / a->KV, D = a->D;
    for (int64_t g = 0; g < t->ng; g++) {
        const float *rows = x + few_at(t, w) + g * D;
        for (int64_t r = w->first_run; r < w->first_run + w->runs; r++)
            for (int64_t h = 0; h < G; h++) {
                int64_t lane = (r * t->ng + g) * G + h, token = t->runs[r].q_first, head = ((t->g + g) * G + h) * D;
                if (sums) {
                    few_sums(o + token * a->o_stride + head, rows, a->kv_stride, s->p[lane], w->n, D, s->scale[lane]);
                    continue;
                }
                few_scores(s->p[lane], q + token * a->q_stride + head, rows, a, w->n);
                s->scale[lane] = few_softmax(s->p[lane], &s->state[lane], w->n);
            }
    }
}

/* Reads a block once, in the order in which it lies: so memory delivers it at its full rate, into the caches that the
 * products then read in pieces. Without, their first pass waits for nearly every piece; prefetching did not help. */
static void few_stream(const float *x, const few_part *t, const few_walk *w) {
    vf sum[4];
    int64_t width = t->ng * t->a->D, stride = t->a->kv_stride;
    UNROLL for (int i = 0; i < 4; i++) sum[i] = v_zero();
    for (int64_t row = 0; row < w->n; row++) {
        const float *r = x + few_at(t, w) + row * stride;
        for (int64_t d = 0; d + 48 < width; d += 64) {
            UNROLL for (int i = 0; i < 4; i++) sum[i] = v_add(sum[i], v_set(r[d + 16 * i]));
        }
    }
    vf used = v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3]));
    __asm__ volatile("" ::"x"(used)); /* or the compiler would leave the loads out */
}

static void few_begin(few_tiles *s, float *o, const few_part *t) {
    const pl_attn *a = t->a;
    int64_t G = a->H / a->KV;
    for (int64_t r = 0; r < t->n; r++)
        memset(o + t->runs[r].q_first * a->o_stride + t->g * G * a->D, 0, (size_t)(t->ng * G * a->D) * sizeof *o);
    for (int64_t lane = 0; lane < t->n * t->ng * G; lane++) s->state[lane] = (few_state){-INFINITY, 0};
}

static void few_end(const few_tiles *s, float *o, float *lse, const few_part *t) {
    const pl_attn *a = t->a;
    int64_t G = a->H / a->KV, heads = t->ng * G;
    for (int64_t r = 0; r < t->n; r++)
        for (int64_t h = 0; h < heads; h++) {
            const few_state *e = &s->state[r * heads + h];
            int64_t token = t->runs[r].q_first, head = t->g * G + h;
            scale_span(o + token * a->o_stride + head * a->D, 1 / e->total, a->D);
            if (lse) lse[token * a->H + head] = e->max + logf(e->total);
        }
}

static void few_task(float *o, float *lse, const float *q, const float *k, const float *v, const few_part *t) {
    few_tiles s;
    few_begin(&s, o, t);
    for (few_walk w = {0}; few_next(&w, t);) {
        few_stream(k, t, &w);
        few_block(&s, o, q, k, t, &w, false);
        few_stream(v, t, &w);
        few_block(&s, o, q, v, t, &w, true);
    }
    few_end(&s, o, lse, t);
}

/* --- tasks of all runs --- */

/* How runs are cut into tasks: key/value heads and runs of one at most. */
typedef struct few_cut {
    int64_t heads, runs;
} few_cut;

/* Walks forward through the tasks. */
typedef struct few_cursor {
    int64_t run, base; /* base: number of the first task from this run on */
} few_cursor;

/* Runs from `run` on that a task may hold. */
static int64_t few_runs(const pl_attn *a, const few_cut *c, int64_t run) {
    int64_t n = 1;
    while (n < c->runs && run + n < a->nruns && is_few(a, a->runs + run + n) &&
           same_ranges(a, a->runs + run, a->runs + run + n))
        n++;
    return n;
}

static bool few_seek(few_part *t, few_cursor *at, const pl_attn *a, const few_cut *c, int64_t task) {
    int64_t chunks = (a->KV + c->heads - 1) / c->heads;
    for (int64_t n; at->run < a->nruns; at->run += n) {
        n = 1;
        if (!is_few(a, a->runs + at->run)) continue;
        n = few_runs(a, c, at->run);
        if (task >= at->base + chunks) {
            at->base += chunks;
            continue;
        }
        int64_t g = pl_cut(a->KV, task - at->base, chunks), end = pl_cut(a->KV, task - at->base + 1, chunks);
        *t = (few_part){a, a->runs + at->run, n, g, end - g};
        return true;
    }
    return false;
}

static int64_t few_tasks(const pl_attn *a, const few_cut *c) {
    few_part t;
    few_cursor at = {0, 0};
    int64_t n = 0;
    while (few_seek(&t, &at, a, c, n)) n++;
    return n;
}

/* As large as tasks may be, or smaller where there are too few of them for all threads. */
static few_cut few_cut_of(const pl_attn *a, bool shared) {
    int64_t G = a->H / a->KV, enough = shared ? PL_LOOP_TEAM() : 0;
    few_cut c = {PL_MAX(1, PL_MIN(FEW_FLOATS / a->D, PL_MIN(a->KV, FEW_LANES / G))), 1};
    c.runs = PL_MAX(1, PL_MIN(FEW_LANES / (c.heads * G), a->nruns));
    while (c.runs > 1 && few_tasks(a, &c) < enough) c.runs = (c.runs + 1) / 2;
    while (c.heads > 1 && few_tasks(a, &c) < enough) c.heads = (c.heads + 1) / 2;
    return c;
}

static void few_worker(float *o, float *lse, const float *q, const float *k, const float *v, const pl_attn *a,
                       const few_cut *c, int64_t *next) {
    few_cursor at = {0, 0};
    for (few_part t; few_seek(&t, &at, a, c, task_take(next));) few_task(o, lse, q, k, v, &t);
}
