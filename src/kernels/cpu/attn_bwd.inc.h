/* kernels/cpu/attn_bwd.inc.h: attention backward (arXiv:2205.14135), two passes that recompute the probabilities from
 * lse: dq by (columns of a run, key/value head) with queries in the lanes, then dk and dv by (block of rows, key/value
 * head) with keys in the lanes and all runs that see them in order. No sum is shared between tasks: bits do not depend
 * on threads. Seven products instead of the five of one pass, for tasks that are many and equal at any batch shape. */

typedef struct attn_grad {
    float *dq, *dk, *dv, *delta;
    const float *d_o, *o, *lse, *q, *k, *v;
    const pl_attn *a;
} attn_grad;

/* --- dq
 * -----------------------------------------------------------------------------------------------------------------------
 */
typedef struct attn_dq_tiles {
    _Alignas(64) float q[TILE_FLOATS], d_o[TILE_FLOATS], dq[TILE_FLOATS], s[KEYS * MAX_COLUMNS], dp[KEYS * MAX_COLUMNS];
    _Alignas(64) float lse[MAX_COLUMNS], delta[MAX_COLUMNS], limit[MAX_COLUMNS], factor[MAX_COLUMNS];
} attn_dq_tiles;

/* s := exp(s - lse) (dp - delta), 0 where the lane does not see the key. */
static void dq_scores(attn_dq_tiles *f, const attn_cols *t, const key_walk *w, int64_t n, int64_t c) {
    vf lse = v_load(f->lse + c), delta = v_load(f->delta + c), limit = v_load(f->limit + c);
    for (int64_t j = 0; j < n; j++) {
        float *s = f->s + j * t->ld + c;
        vf ds = v_mul(v_exp(v_sub(v_load(s), lse)), v_sub(v_load(f->dp + j * t->ld + c), delta));
        if (w->own >= 0) ds = v_select(v_le(v_set((float)(w->own + j)), limit), ds, v_zero());
        v_store(s, ds);
    }
}

static void dq_task(const attn_grad *g, const attn_cols *t) {
    attn_dq_tiles f;
    const pl_attn *a = t->a;
    bool first = true;
    cols_pack(f.q, g->q, a->q_stride, a->scale, t);
    cols_pack(f.d_o, g->d_o, a->o_stride, 1.0f, t);
    cols_limits(f.limit, t);
    for (int64_t lane = 0; lane < t->nv * VW; lane++) {
        int64_t l = PL_MIN(lane, t->nc - 1), at = (t->run->q_first + col_query(t, l)) * a->H + col_head(t, l);
        f.lse[lane] = g->lse[at], f.delta[lane] = g->delta[at], f.factor[lane] = a->scale;
    }
    for (key_walk w = {0}; walk_next(&w, t); first = false) {
        int64_t at = w.row * a->kv_stride + t->g * a->D;
        key_stairs stairs = stairs_of(&w, t);
        stairs_scores(f.s, g->k + at, f.q, &stairs, t);
        stairs_scores(f.dp, g->v + at, f.d_o, &stairs, t);
        for (int64_t c = 0; c < t->nv; c++) dq_scores(&f, t, &w, stairs.n[c], c * VW);
        stairs_sums(f.dq, g->k + at, f.s, &stairs, t, first);
    }
    cols_unpack(g->dq, a->q_stride, f.dq, f.factor, t);
}

/* --- dk, dv
 * ---------------------------------------------------------------------------------------------------------------------
 */
typedef struct attn_dkv_tiles {
    _Alignas(64) float k[TILE_FLOATS], v[TILE_FLOATS], dk[TILE_FLOATS], dv[TILE_FLOATS];
    _Alignas(64) float s[KEYS * MAX_COLUMNS], dp[KEYS * MAX_COLUMNS];
    bool mentioned[MAX_COLUMNS];
    int64_t g, row0, rows, ld; /* key/value head; rows [row0, row0 + rows) in the lanes */
} attn_dkv_tiles;

/* The keys of a run that lie in the block: lanes [first, last); own: of them query i sees those up to lane i + shift.
 */
typedef struct seen_lanes {
    int64_t first, last;
    bool own;
    int64_t shift;
} seen_lanes;

static void rows_pack(float *tile, const float *x, float factor, const attn_dkv_tiles *f, const pl_attn *a) {
    const float *rows[MAX_COLUMNS];
    for (int64_t lane = 0; lane < f->rows; lane++) rows[lane] = x + (f->row0 + lane) * a->kv_stride + f->g * a->D;
    lanes_pack(tile, f->ld, rows, f->rows, a->D, factor);
}

static void rows_unpack(float *x, const float *tile, float factor, const attn_dkv_tiles *f, const pl_attn *a) {
    float *rows[MAX_COLUMNS], factors[MAX_COLUMNS];
    for (int64_t lane = 0; lane < f->rows; lane++) {
        rows[lane] = f->mentioned[lane] ? x + (f->row0 + lane) * a->kv_stride + f->g * a->D : NULL;
        factors[lane] = factor;
    }
    lanes_unpack(rows, tile, f->ld, f->rows, a->D, factors);
}

/* One vector of lanes of one query: p := exp(s - lse), dp := p (dp - delta), 0 outside [first, last]. */
static inline void dkv_scores(float *s, float *dp, float lse, float delta, int64_t lane, int64_t first, int64_t last) {
    vf p = v_exp(v_sub(v_load(s), v_set(lse)));
    vf ds = v_mul(p, v_sub(v_load(dp), v_set(delta)));
    if (first > lane || last < lane + VW - 1) {
        vf number = v_add(v_set((float)lane), vi_to_vf(vi_iota()));
        vm seen = v_mask_and(v_le(v_set((float)first), number), v_le(number, v_set((float)last)));
        p = v_select(seen, p, v_zero());
        ds = v_select(seen, ds, v_zero());
    }
    v_store(s, p);
    v_store(dp, ds);
}

/* Queries [i0, i0 + n) of the run, head h, against the lanes [c0, c0 + nv VW). */
static void dkv_queries(attn_dkv_tiles *f, const attn_grad *g, const pl_attn_run *run, const seen_lanes *seen,
                        int64_t h, int64_t i0, int64_t n, int64_t c0, int64_t nv) {
    const pl_attn *a = g->a;
    int64_t D = a->D, row = run->q_first + i0, ld = f->ld;
    const float *q = g->q + row * a->q_stride + h * D, *d_o = g->d_o + row * a->o_stride + h * D;
    tile_product(f->s + c0, q, a->q_stride, 1, f->k + c0, ld, n, nv, D, false);
    tile_product(f->dp + c0, d_o, a->o_stride, 1, f->v + c0, ld, n, nv, D, false);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (row + i) * a->H + h;
        int64_t end = seen->own ? PL_MIN(seen->last, i0 + i + 1 + seen->shift) : seen->last;
        for (int64_t c = c0; c < c0 + nv * VW; c += VW)
            dkv_scores(f->s + i * ld + c, f->dp + i * ld + c, g->lse[at], g->delta[at], c, seen->first, end - 1);
    }
    tile_product(f->dv + c0, d_o, 1, a->o_stride, f->s + c0, ld, D, nv, n, true);
    tile_product(f->dk + c0, q, 1, a->q_stride, f->dp + c0, ld, D, nv, n, true);
}

/* Under the diagonal the vectors come into sight one by one: steps of VW queries until all do, then blocks of KEYS. */
static void dkv_head(attn_dkv_tiles *f, const attn_grad *g, const pl_attn_run *run, const seen_lanes *seen, int64_t h) {
    int64_t c0 = seen->first / VW * VW, c1 = (seen->last + VW - 1) / VW * VW;
    int64_t i = seen->own ? PL_MAX(0, seen->first - seen->shift) : 0; /* the first query that sees a lane */
    while (i < run->q_count) {
        int64_t end = seen->own ? PL_MIN(c1, (i + seen->shift) / VW * VW + VW) : c1; /* lanes that query i may see */
        int64_t n = end < c1 ? end - seen->shift - i : KEYS;                         /* until the next vector is seen */
        n = PL_MIN(n, run->q_count - i);
        dkv_queries(f, g, run, seen, h, i, n, c0, (end - c0) / VW);
        i += n;
    }
}

static void dkv_seen(attn_dkv_tiles *f, const attn_grad *g, const pl_attn_run *run, const seen_lanes *seen) {
    int64_t G = g->a->H / g->a->KV;
    if (seen->first >= seen->last) return;
    for (int64_t lane = seen->first; lane < seen->last; lane++) f->mentioned[lane] = true;
    for (int64_t h = f->g * G; h < (f->g + 1) * G; h++) dkv_head(f, g, run, seen, h);
}

static void dkv_task(const attn_grad *g, int64_t block, int64_t head) {
    attn_dkv_tiles f;
    const pl_attn *a = g->a;
    int64_t width = tile_columns(a->D);
    f.g = head, f.row0 = block * width, f.rows = PL_MIN(width, a->T - f.row0), f.ld = width;
    rows_pack(f.k, g->k, a->scale, &f, a);
    rows_pack(f.v, g->v, 1.0f, &f, a);
    memset(f.dk, 0, (size_t)(a->D * width) * sizeof(float));
    memset(f.dv, 0, (size_t)(a->D * width) * sizeof(float));
    memset(f.mentioned, 0, sizeof f.mentioned);
    for (int64_t r = 0; r < a->nruns; r++) {
        const pl_attn_run *run = a->runs + r;
        for (int64_t s = 0; s < run->range_count; s++) {
            pl_key_range keys = a->ranges[run->range_first + s];
            seen_lanes seen = {PL_MAX(0, keys.first - f.row0), PL_MIN(f.rows, keys.first + keys.count - f.row0), false,
                               0};
            dkv_seen(&f, g, run, &seen);
        }
        int64_t lane0 = run->own_first - f.row0;
        seen_lanes own = {PL_MAX(0, lane0), PL_MIN(f.rows, lane0 + run->own_past + run->q_count), true,
                          lane0 + run->own_past};
        dkv_seen(&f, g, run, &own);
    }
    rows_unpack(g->dk, f.dk, a->scale, &f, a);
    rows_unpack(g->dv, f.dv, 1.0f, &f, a);
}

/* --- the op
 * -----------------------------------------------------------------------------------------------------------------------
 */
static void delta_row(const attn_grad *g, int64_t t) {
    const pl_attn *a = g->a;
    for (int64_t h = 0; h < a->H; h++) {
        int64_t at = t * a->o_stride + h * a->D;
        g->delta[t * a->H + h] = sum_products(g->d_o + at, g->o + at, NULL, a->D);
    }
}

static void op_attn_bwd(float *dq, float *dk, float *dv, float *delta, const float *d_o, const float *o,
                        const float *lse, const float *q, const float *k, const float *v, const pl_attn *a) {
    const attn_grad g = {dq, dk, dv, delta, d_o, o, lse, q, k, v, a};
    int64_t next = 0, width = tile_columns(a->D), blocks = (a->T + width - 1) / width;
    bool threads = attn_work(a) > ATTN_SERIAL;
    PL_UNUSED(threads);
#pragma omp parallel if (threads)
    {
        for (int64_t r = 0; r < a->nruns; r++) {
            const pl_attn_run *run = a->runs + r;
#pragma omp for schedule(static) nowait
            for (int64_t i = 0; i < run->q_count; i++) delta_row(&g, run->q_first + i);
        }
#pragma omp barrier
        task_cursor cursor = {0, 0};
        attn_cols t;
        for (;;) {
            int64_t task;
#pragma omp atomic capture
            task = next++;
            if (!task_seek(&t, &cursor, a, task)) break;
            dq_task(&g, &t);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t head = 0; head < a->KV; head++) dkv_task(&g, b, head);
    }
}

static void add_attn_ops(pl_ops *ops) {
    ops->attn = op_attn;
    ops->attn_bwd = op_attn_bwd;
}
