/* kernels/cpu/attn_few.inc.h: attention of runs of one query: new tokens over the KV cache. Its time is that of reading
 * keys and values from memory, so while one block is worked on the next is asked for, a few lines at a time.
 *
 * With queries in the lanes of vectors most lanes would idle, so here the head dimension lies in the lanes. A task is
 * some runs, one after the other, that see the same ranges (samples of a prompt), and some key/value heads: a block of
 * keys, then of values, is read once for all of them, whole rows of the cache in their order. What is summed for one
 * query does not depend on who shares its task. */

#define FEW_GROUP 8                  /* most query heads of a key/value head: more of them fill the lanes of tiles */
#define FEW_LANES 96                 /* queries times heads of a task */
#define FEW_FLOATS 512               /* of a row of keys that a task reads, if not one head is more */
#define FEW_VECTORS 4                /* of a row of values at a time */
#define FEW_HEADS (VW == 16 ? 3 : 2) /* query heads at a time with each row of values: their sums stay in registers */

static bool is_few(const pl_attn *a, const pl_attn_run *run) { return run->q_count == 1 && a->H / a->KV <= FEW_GROUP; }

static bool same_ranges(const pl_attn *a, const pl_attn_run *x, const pl_attn_run *y) {
    if (x->range_count != y->range_count) return false;
    for (int64_t i = 0; i < x->range_count; i++) {
        const pl_key_range *r = a->ranges + x->range_first + i, *s = a->ranges + y->range_first + i;
        if (r->first != s->first || r->count != s->count) return false;
    }
    return true;
}

/* What is asked for ahead, into the second-level cache, a few lines at a time. Nothing is computed from it. */
typedef struct few_ahead {
    const float *at;
    int64_t left, pieces, lines, step; /* pieces still to come; of a call; lines of a piece; to the next one */
} few_ahead;

INLINED void few_fetch(few_ahead *f) {
    const float *at = f->at;
    for (int64_t i = f->left > 0 ? f->pieces : 0; i > 0; i--, at += f->step)
        for (int64_t line = 0; line < f->lines; line++) v_fetch(at + line * 16);
    f->at = at;
    f->left -= f->pieces;
}

/* n pieces of `width` numbers, `stride` apart, in so many calls. */
static few_ahead few_ahead_of(const float *x, int64_t stride, int64_t width, int64_t n, int64_t calls) {
    if (width == stride) { /* in one piece: a few lines are one */
        int64_t lines = (n * width / 16 + calls - 1) / calls;
        return (few_ahead){x, calls, 1, lines, lines * 16};
    }
    return (few_ahead){x, n, (n + calls - 1) / calls, (width + 15) / 16, stride};
}

/* --- a block of keys --- */

/* p[j] = scale * (q . k[j]) in units of ln 2 for VW keys. */
INLINED void few_scores_all(float *p, const float *q, const float *k, const pl_attn *a, few_ahead *ahead) {
    vf r[VW];
    int64_t stride = a->kv_stride;
    const float *at[VW / 4];
    UNROLL for (int j = 0; j < VW; j++) r[j] = v_zero();
    UNROLL for (int j = 0; j < VW; j += 4) at[j / 4] = k + j * stride;
    EACH_VECTOR(d, n, a->D) {
        vf x = v_get(q + d, n);
        few_fetch(ahead);
        if (n == VW) {
            UNROLL for (int j = 0; j < VW; j++) r[j] = v_fma(x, v_load(at[j / 4] + j % 4 * stride), r[j]);
        } else {
            UNROLL for (int j = 0; j < VW; j++) r[j] = v_fma(x, v_get(at[j / 4] + j % 4 * stride, n), r[j]);
        }
        UNROLL for (int j = 0; j < VW / 4; j++) at[j] += VW;
    }
    v_store(p, v_mul(v_set(a->scale * LOG2_E), v_sums(r)));
}

/* The first n < VW of them; p is filled up with the first. */
static void few_scores_some(float *p, const float *q, const float *k, const pl_attn *a, int64_t n) {
    vf r[VW];
    UNROLL for (int j = 0; j < VW; j++) {
        const float *row = k + (j < n ? j : 0) * a->kv_stride;
        r[j] = v_zero();
        EACH_VECTOR(d, c, a->D) r[j] = v_fma(v_get(q + d, c), v_get(row + d, c), r[j]);
    }
    v_store(p, v_mul(v_set(a->scale * LOG2_E), v_sums(r)));
}

static void few_scores(float *p, const float *q, const float *k, const pl_attn *a, int64_t n, few_ahead *ahead) {
    if (n >= VW)
        few_scores_all(p, q, k, a, ahead);
    else
        few_scores_some(p, q, k, a, n);
}

/* A query's running softmax, in base 2. */
typedef struct few_state {
    float max, total;
} few_state;

/* Scores p of n keys become 2^(score - new maximum); returns 2^(old - new). */
static float few_softmax(float *p, few_state *s, int64_t n) {
    float top = row_max(p, n, s->max), scale = top == s->max ? 1.0f : exp2f(s->max - top);
    vf sum = v_zero();
    EACH_VECTOR(j, c, n) {
        vf e = v_select(v_mask_n(c), v_exp2(v_sub(v_get(p + j, c), v_set(top))), v_zero());
        sum = v_add(sum, e);
        v_put(p + j, e, c);
    }
    s->total = s->total * scale + v_sum(sum);
    s->max = top;
    return scale;
}

/* o[h] = o[h] * scale[h] + sum_j p[h][j] v[j] for `heads` <= FEW_HEADS and `count` <= FEW_VECTORS whole vectors of a
 * row, constants where it is inlined. */
INLINED void few_sums_of(float *o, const float *v, const pl_attn *a, float (*p)[KEYS], const float *scale, int64_t n,
                         const int heads, const int count, few_ahead *ahead) {
    vf sum[FEW_HEADS * FEW_VECTORS];
    UNROLL for (int h = 0; h < heads; h++) {
        UNROLL for (int i = 0; i < count; i++) sum[h * count + i] =
            v_mul(v_load(o + h * a->D + i * VW), v_set(scale[h]));
    }
    int64_t stride = a->kv_stride;
    for (int64_t j = 0; j < n; j++, v += stride) {
        vf x[FEW_VECTORS];
        few_fetch(ahead);
        UNROLL for (int i = 0; i < count; i++) x[i] = v_load(v + i * VW);
        UNROLL for (int h = 0; h < heads; h++) {
            vf f = v_set(p[h][j]);
            UNROLL for (int i = 0; i < count; i++) sum[h * count + i] = v_fma(f, x[i], sum[h * count + i]);
        }
    }
    UNROLL for (int h = 0; h < heads; h++) {
        UNROLL for (int i = 0; i < count; i++) v_store(o + h * a->D + i * VW, sum[h * count + i]);
    }
}

/* The columns behind the last whole vector. */
static void few_sums_rest(float *o, const float *v, const pl_attn *a, const float *p, float scale, int64_t n,
                          int64_t d) {
    vf sum = v_mul(v_get(o + d, a->D - d), v_set(scale));
    for (int64_t j = 0; j < n; j++) sum = v_fma(v_set(p[j]), v_get(v + j * a->kv_stride + d, a->D - d), sum);
    v_put(o + d, sum, a->D - d);
}

INLINED void few_sums_heads(float *o, const float *v, const pl_attn *a, float (*p)[KEYS], const float *scale, int64_t n,
                            const int heads, few_ahead *ahead) {
    int64_t d = 0;
    for (; d + FEW_VECTORS * VW <= a->D; d += FEW_VECTORS * VW)
        few_sums_of(o + d, v + d, a, p, scale, n, heads, FEW_VECTORS, ahead);
    for (; d + VW <= a->D; d += VW) few_sums_of(o + d, v + d, a, p, scale, n, heads, 1, ahead);
    for (int h = 0; d < a->D && h < heads; h++) few_sums_rest(o + h * a->D, v, a, p[h], scale[h], n, d);
}

/* The heads of a group one after the other, some of them with each row of values. */
static void few_sums(float *o, const float *v, const pl_attn *a, float (*p)[KEYS], const float *scale, int64_t n,
                     few_ahead *ahead) {
    int64_t G = a->H / a->KV, h = 0;
    for (; h + FEW_HEADS <= G; h += FEW_HEADS)
        few_sums_heads(o + h * a->D, v, a, p + h, scale + h, n, FEW_HEADS, ahead);
    for (; h + 2 <= G; h += 2) few_sums_heads(o + h * a->D, v, a, p + h, scale + h, n, 2, ahead);
    for (; h < G; h++) few_sums_heads(o + h * a->D, v, a, p + h, scale + h, n, 1, ahead);
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

/* The rows of a block are to be asked for in so many calls. */
static few_ahead few_ask(const float *x, const few_part *t, const few_walk *w, int64_t calls) {
    if (!w) return (few_ahead){0};
    return few_ahead_of(x + few_at(t, w), t->a->kv_stride, t->ng * t->a->D, w->n, calls);
}

/* Scores of a block of keys, and their softmax, for every query that sees it; asks for the values meanwhile. */
static void few_block_scores(few_tiles *s, const float *q, const float *k, const float *v, const few_part *t,
                             const few_walk *w) {
    const pl_attn *a = t->a;
    int64_t G = a->H / a->KV, D = a->D, heads = t->ng * G;
    few_ahead ahead = few_ask(v, t, w, PL_MAX(1, w->runs * heads * (w->n / VW) * ((D + VW - 1) / VW)));
    for (int64_t g = 0; g < t->ng; g++)
        for (int64_t j = 0; j < w->n; j += VW) {
            const float *rows = k + few_at(t, w) + g * D + j * a->kv_stride;
            for (int64_t r = w->first_run; r < w->first_run + w->runs; r++)
                for (int64_t h = g * G; h < (g + 1) * G; h++) {
                    const float *query = q + t->runs[r].q_first * a->q_stride + (t->g * G + h) * D;
                    few_scores(s->p[r * heads + h] + j, query, rows, a, w->n - j, &ahead);
                }
        }
    for (int64_t lane = w->first_run * heads; lane < (w->first_run + w->runs) * heads; lane++)
        s->scale[lane] = few_softmax(s->p[lane], &s->state[lane], w->n);
}

/* Sums of a block of values; asks for the keys of the next block meanwhile, of this task or the next. */
static void few_block_sums(few_tiles *s, float *o, const float *k, const float *v, const few_part *t, const few_walk *w,
                           const few_part *next, const few_walk *then) {
    const pl_attn *a = t->a;
    int64_t G = a->H / a->KV, D = a->D, heads = t->ng * G;
    few_ahead ahead = few_ask(k, next, then, w->runs * t->ng * ((G + FEW_HEADS - 1) / FEW_HEADS) * w->n);
    for (int64_t g = 0; g < t->ng; g++)
        for (int64_t r = w->first_run; r < w->first_run + w->runs; r++) {
            int64_t lane = r * heads + g * G;
            few_sums(o + t->runs[r].q_first * a->o_stride + (t->g + g) * G * D, v + few_at(t, w) + g * D, a,
                     s->p + lane, s->scale + lane, w->n, &ahead);
        }
}

/* Reads a thread's first block in the order in which it lies: so memory delivers it at its full rate. */
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
            if (lse) lse[token * a->H + head] = e->max * LN_2 + logf(e->total);
        }
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

/* A thread's way through the tasks. */
typedef struct few_job {
    float *o, *lse;
    const float *q, *k, *v;
    const pl_attn *a;
    const few_cut *cut;
    int64_t *counter;
    few_cursor at;
} few_job;

/* Takes the next task, where there is one, when the last block of this one is at hand: its first keys are asked for
 * then. */
static bool few_task(few_job *j, const few_part *t, few_part *next) {
    few_tiles s;
    few_walk w = {0};
    bool more = false;
    few_begin(&s, j->o, t);
    for (bool here = few_next(&w, t); here;) {
        few_walk then = w;
        here = few_next(&then, t);
        few_block_scores(&s, j->q, j->k, j->v, t, &w);
        if (!here) {
            then = (few_walk){0};
            more = few_seek(next, &j->at, j->a, j->cut, task_take(j->counter)) && few_next(&then, next);
        }
        few_block_sums(&s, j->o, j->k, j->v, t, &w, here ? t : next, here || more ? &then : NULL);
        w = then;
    }
    few_end(&s, j->o, j->lse, t);
    return more;
}

static void few_worker(few_job *j) {
    few_part t, next;
    few_walk w = {0};
    bool more = few_seek(&t, &j->at, j->a, j->cut, task_take(j->counter));
    if (more && few_next(&w, &t)) few_stream(j->k, &t, &w);
    while (more) {
        more = few_task(j, &t, &next);
        t = next;
    }
}
