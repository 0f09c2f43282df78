/* kernels/cpu/attn_bwd.inc.h: attention backward (arXiv:2205.14135) with five products: a tile of scores is made once,
 * from lse, and serves dq, dk and dv.
 *
 * A task is a chunk of key rows and a key/value head: the task owns dk and dv there, and goes through the columns (as
 * in attn.inc.h) of all runs that see the chunk, in order. The rows of a tree that is longer than a chunk are several
 * chunks; a block of columns that sees more than one adds its parts of dq in the order of the chunks: each task waits
 * until the earlier chunks of its tree have passed the block. Later chunks begin further down the diagonal, so nobody
 * waits for long, and tasks are handed out in order, so all that a task waits for is under way. No sum depends on
 * threads. */
#include <sched.h>
#include <stdatomic.h>

#define CHUNK_FLOATS 16384 /* keys of a chunk * D in whole vectors <= this: k, v, dk, dv in the second-level cache */
#define CHUNK_KEYS 256
#define RING 1024 /* tasks whose progress is known; more than there are threads */

typedef struct attn_grad {
    float *dq, *dk, *dv, *delta;
    const float *d_o, *o, *lse, *q, *k, *v;
    const pl_attn *a;
    _Atomic int64_t *ring;
    int64_t chunk_keys, threads;
    bool apart; /* trees are apart: see tree_next */
} attn_grad;

/* --- trees and chunks --- */

/* Runs [run0, run1) see rows [row0, row1) and no others do. Its chunks are even cuts of these rows. */
typedef struct attn_tree {
    int64_t run0, run1, row0, row1;
    int64_t chunks;
} attn_tree;

static void run_rows(const pl_attn *a, const pl_attn_run *run, int64_t *row0, int64_t *row1) {
    *row0 = run->own_first, *row1 = run->own_first + run->own_past + run->q_count;
    for (int64_t s = 0; s < run->range_count; s++) {
        pl_key_range r = a->ranges[run->range_first + s];
        if (r.count == 0) continue;
        *row0 = PL_MIN(*row0, r.first), *row1 = PL_MAX(*row1, r.first + r.count);
    }
}

/* The next tree: a run whose rows lie behind all earlier ones begins a new one. */
static bool tree_next(attn_tree *t, const attn_grad *g) {
    const pl_attn *a = g->a;
    int64_t low, high;
    if (t->run1 == a->nruns) return false;
    t->run0 = t->run1;
    run_rows(a, a->runs + t->run0, &t->row0, &t->row1);
    for (t->run1++; t->run1 < a->nruns; t->run1++) {
        run_rows(a, a->runs + t->run1, &low, &high);
        if (g->apart && low >= t->row1) break;
        t->row0 = PL_MIN(t->row0, low), t->row1 = PL_MAX(t->row1, high);
    }
    t->chunks = (t->row1 - t->row0 + g->chunk_keys - 1) / g->chunk_keys;
    return true;
}

/* Whether trees follow one another: no run looks back behind the beginning of its tree. If not, all is one tree. */
static bool trees_apart(attn_grad *g) {
    attn_tree t = {0};
    int64_t end = 0;
    for (g->apart = true; tree_next(&t, g); end = t.row1)
        if (t.row0 < end) return false;
    return true;
}

static pl_key_range chunk_rows(const attn_tree *t, int64_t chunk) {
    int64_t n = t->row1 - t->row0, first = t->row0 + pl_cut(n, chunk, t->chunks);
    return (pl_key_range){first, t->row0 + pl_cut(n, chunk + 1, t->chunks) - first};
}

static pl_key_range common_rows(pl_key_range a, pl_key_range b) {
    int64_t first = PL_MAX(a.first, b.first), end = PL_MIN(a.first + a.count, b.first + b.count);
    return (pl_key_range){first, PL_MAX(0, end - first)};
}

/* Part s of what query i of the run sees in these rows; s == range_count: its own keys. */
static pl_key_range seen_rows(const pl_attn *a, const pl_attn_run *run, int64_t i, int64_t s, pl_key_range rows) {
    pl_key_range own = {run->own_first, run->own_past + i + 1};
    return common_rows(rows, s == run->range_count ? own : a->ranges[run->range_first + s]);
}

static bool run_sees(const pl_attn *a, const pl_attn_run *run, int64_t i, pl_key_range rows) {
    for (int64_t s = 0; s <= run->range_count; s++)
        if (seen_rows(a, run, i, s, rows).count > 0) return true;
    return false;
}

/* --- progress: ring[task % RING] = task * PASSED + blocks of columns passed; only grows --- */
#define PASSED ((int64_t)1 << 40)

static void ring_wait(const attn_grad *g, int64_t task, int64_t passed) {
    for (int n = 0; atomic_load_explicit(g->ring + task % RING, memory_order_acquire) < task * PASSED + passed; n++)
        if (n > 1000) sched_yield();
}

static void ring_tell(const attn_grad *g, int64_t task, int64_t passed) {
    atomic_store_explicit(g->ring + task % RING, task * PASSED + passed, memory_order_release);
}

/* --- a task --- */
typedef struct attn_bwd_tiles {
    _Alignas(64) float k[CHUNK_FLOATS], v[CHUNK_FLOATS], dk[CHUNK_FLOATS], dv[CHUNK_FLOATS]; /* [keys][ldw] */
    _Alignas(64) float q_lanes[TILE_FLOATS], do_lanes[TILE_FLOATS];                          /* [D][ld] */
    _Alignas(64) float q[TILE_FLOATS], d_o[TILE_FLOATS], dq[TILE_FLOATS];                    /* [columns][ldw] */
    _Alignas(64) float p[KEYS * MAX_COLUMNS], ds[KEYS * MAX_COLUMNS];                        /* [keys][ld] */
    _Alignas(64) float lse[MAX_COLUMNS], delta[MAX_COLUMNS], limit[MAX_COLUMNS];
    bool mentioned[CHUNK_KEYS];
} attn_bwd_tiles;

typedef struct chunk_task {
    const attn_tree *tree;
    int64_t chunk, g, number; /* of the tree; key/value head; of the task */
    pl_key_range rows;
} chunk_task;

/* Scores and dP of keys [from, n) := P = 2^(s - lse) and dS = P (dP - delta), 0 where a lane does not see the key. */
INLINED void bwd_lanes(attn_bwd_tiles *f, int64_t ld, int64_t from, int64_t n, int64_t c, int64_t own,
                       const bool masked) {
    vf lse = v_load(f->lse + c), delta = v_load(f->delta + c), limit = v_load(f->limit + c);
    for (int64_t j = from; j < n; j++) {
        float *s = f->p + j * ld + c, *dp = f->ds + j * ld + c;
        vf p = v_exp2(v_sub(v_load(s), lse)), ds = v_mul(p, v_sub(v_load(dp), delta));
        if (masked) {
            vm seen = v_le(v_set((float)(own + j)), limit);
            p = v_select(seen, p, v_zero()), ds = v_select(seen, ds, v_zero());
        }
        v_store(s, p);
        v_store(dp, ds);
    }
}

/* dk and dv of the block's keys: sums over the columns that see them, from the first that sees a group's first. */
static void bwd_keys(attn_bwd_tiles *f, const key_block *b, const attn_cols *t, fetch_list *fetch) {
    int64_t ld = t->ld, ldw = t->ldw, nv = ldw / VW, step = wide_rows(nv), at = b->row * ldw, lane = 0;
    for (int64_t j = 0; j < b->n; j += step) {
        int64_t rows = PL_MIN(step, b->n - j);
        while (lane < t->nc && keys_seen(b, t, lane) <= j) lane++;
        tiles_wide(f->dv + at + j * ldw, ldw, f->p + j * ld + lane, ld, 1, f->d_o + lane * ldw, ldw, rows, nv,
                   t->nc - lane, true);
        tiles_wide(f->dk + at + j * ldw, ldw, f->ds + j * ld + lane, ld, 1, f->q + lane * ldw, ldw, rows, nv,
                   t->nc - lane, true);
        fetch_some(fetch);
    }
}

/* One block of keys; b->row counts from the chunk's first. */
static void bwd_block(attn_bwd_tiles *f, const attn_cols *t, const key_block *b, bool first, fetch_list *fetch) {
    const float *k = f->k + b->row * t->ldw, *v = f->v + b->row * t->ldw;
    key_stairs stairs = stairs_of(b, t);
    stairs_scores(f->p, k, t->ldw, f->q_lanes, &stairs, t);
    stairs_scores(f->ds, v, t->ldw, f->do_lanes, &stairs, t);
    for (int64_t c = 0; c < t->nv * VW; c += VW) {
        int64_t n = stairs.n[c / VW], by_all = keys_seen(b, t, c);
        bwd_lanes(f, t->ld, 0, by_all, c, b->own, false);
        bwd_lanes(f, t->ld, by_all, n, c, b->own, true);
        stairs_zeros(f->p + c, t->ld, n, b->n);
        stairs_zeros(f->ds + c, t->ld, n, b->n);
    }
    bwd_keys(f, b, t, fetch);
    stairs_sums(f->dq, k, t->ldw, f->ds, b, t, !first, fetch);
}

/* delta = do . o, which the first task to meet a column computes. */
static void bwd_pack(attn_bwd_tiles *f, const attn_grad *g, const attn_cols *t, bool first) {
    const pl_attn *a = t->a;
    cols_pack(f->q_lanes, f->q, g->q, a->q_stride, a->scale * LOG2_E, t);
    cols_pack(f->do_lanes, f->d_o, g->d_o, a->o_stride, 1.0f, t);
    cols_limits(f->limit, t);
    for (int64_t lane = 0; lane < t->nv * VW; lane++) {
        int64_t at = col_stat(t, lane), o = col_offset(t, lane, a->o_stride);
        if (first && lane < t->nc) g->delta[at] = sum_products(g->d_o + o, g->o + o, NULL, a->D, false);
        f->lse[lane] = g->lse[at] * LOG2_E, f->delta[lane] = g->delta[at];
    }
}

/* dq = or += the task's part, in the order of the chunks. */
static void bwd_put_dq(const attn_bwd_tiles *f, const attn_grad *g, const attn_cols *t, bool first) {
    vf scale = v_set(t->a->scale);
    for (int64_t lane = 0; lane < t->nc; lane++) {
        float *y = g->dq + col_offset(t, lane, t->a->q_stride);
        EACH_VECTOR(d, n, t->a->D) {
            vf part = v_load(f->dq + lane * t->ldw + d);
            v_put(y + d, first ? v_mul(scale, part) : v_fma(scale, part, v_get(y + d, n)), n);
        }
    }
}

/* Waits until the earlier chunks of the tree that these columns see are done with them; false if there are none. */
static bool bwd_turn(const attn_grad *g, const chunk_task *x, const attn_cols *t, int64_t block) {
    bool any = false;
    for (int64_t c = 0; c < x->chunk; c++) {
        if (!run_sees(t->a, t->run, t->query[t->nc - 1], chunk_rows(x->tree, c))) continue;
        ring_wait(g, x->number - (x->chunk - c) * t->a->KV, block + 1);
        any = true;
    }
    return any;
}

/* Keys and values that this thread's next task is likely to read: of another head, or of as many rows of the next tree;
 * a part of them with each block of columns. */
static void fetch_next_keys(fetch_list *f, const attn_grad *g, const chunk_task *x, const attn_cols *t) {
    const pl_attn *a = t->a;
    int64_t head = x->g + g->threads, first = t->run->own_first + t->query[0];
    int64_t rows = t->query[t->nc - 1] + 1 - t->query[0];
    if (head >= a->KV) first += x->tree->row1 - x->tree->row0, head %= a->KV;
    rows = PL_MIN(rows, a->T - first);
    fetch_add(f, g->k + first * a->kv_stride + head * a->D, a->kv_stride, rows, a->D);
    fetch_add(f, g->v + first * a->kv_stride + head * a->D, a->kv_stride, rows, a->D);
}

/* What is to come: rows of dq of these columns, and what the next columns read. */
static void bwd_fetch(fetch_list *f, const attn_grad *g, const chunk_task *x, const attn_cols *t,
                      const attn_cols *next) {
    int64_t steps = 0, step = wide_rows(t->ldw / VW);
    for (int64_t s = 0; s <= t->run->range_count; s++) {
        pl_key_range r = seen_rows(t->a, t->run, t->query[t->nc - 1], s, x->rows);
        steps += r.count / step + (r.count + KEYS - 1) / KEYS * stairs_steps(t);
    }
    fetch_clear(f);
    fetch_cols(f, g->dq, t->a->q_stride, t);
    if (next) {
        fetch_cols(f, g->d_o, t->a->o_stride, next);
        fetch_cols(f, g->o, t->a->o_stride, next);
        fetch_cols(f, g->q, t->a->q_stride, next);
    }
    fetch_own(f, g->dk, t);
    fetch_own(f, g->dv, t);
    fetch_next_keys(f, g, x, t);
    fetch_share(f, steps);
}

static void bwd_columns(attn_bwd_tiles *f, const attn_grad *g, const chunk_task *x, const attn_cols *t, int64_t block,
                        fetch_list *fetch) {
    const pl_attn_run *run = t->run;
    bool first_chunk = !bwd_turn(g, x, t, block), first = true;
    bwd_pack(f, g, t, first_chunk);
    for (int64_t s = 0; s <= run->range_count; s++) {
        pl_key_range r = seen_rows(t->a, run, t->query[t->nc - 1], s, x->rows);
        int64_t own = s == run->range_count ? r.first - run->own_first : -1, blocks = (r.count + KEYS - 1) / KEYS;
        for (int64_t i = 0; i < blocks; i++, first = false) {
            int64_t at = pl_cut(r.count, i, blocks), n = pl_cut(r.count, i + 1, blocks) - at;
            bool diagonal = own >= 0 && own + at + n - 1 > col_limit(t, 0);
            key_block b = {r.first + at - x->rows.first, n, diagonal ? own + at : -1};
            bwd_block(f, t, &b, first, fetch);
        }
    }
    bwd_put_dq(f, g, t, first_chunk);
}

static void chunk_mention(attn_bwd_tiles *f, const pl_attn *a, const pl_attn_run *run, pl_key_range rows) {
    for (int64_t s = 0; s <= run->range_count; s++) {
        pl_key_range r = seen_rows(a, run, run->q_count - 1, s, rows);
        memset(f->mentioned + (r.first - rows.first), true, (size_t)r.count);
    }
}

/* The blocks of columns of a tree that see a chunk, in order; blocks are numbered through the tree's runs. */
typedef struct block_walk {
    int64_t run, i, number; /* the next block: of this run the i-th */
} block_walk;

static bool block_next(attn_cols *t, int64_t *number, block_walk *w, const attn_grad *g, const chunk_task *x) {
    int64_t width = tile_columns(g->a->D), G = g->a->H / g->a->KV;
    for (; w->run < x->tree->run1; w->run++, w->i = 0) {
        const pl_attn_run *run = g->a->runs + w->run;
        int64_t cols = run->q_count * G, blocks = (cols + width - 1) / width, vectors = (cols + VW - 1) / VW;
        if (!run_sees(g->a, run, run->q_count - 1, x->rows)) w->number += blocks - w->i, w->i = blocks;
        for (; w->i < blocks; w->i++, w->number++) {
            int64_t c0 = pl_cut(vectors, w->i, blocks) * VW, c1 = PL_MIN(cols, pl_cut(vectors, w->i + 1, blocks) * VW);
            if (!run_sees(g->a, run, (c1 - 1) / G, x->rows)) continue;
            cols_init(t, g->a, run, x->g, c0, c1 - c0);
            *number = w->number++, w->i++;
            return true;
        }
    }
    return false;
}

static void bwd_columns_all(attn_bwd_tiles *f, const attn_grad *g, const chunk_task *x) {
    block_walk w = {x->tree->run0, 0, 0};
    attn_cols t, ahead;
    fetch_list fetch;
    int64_t number, next = 0;
    bool more = block_next(&t, &number, &w, g, x);
    for (ring_tell(g, x->number, number); more; t = ahead, number = next) {
        more = block_next(&ahead, &next, &w, g, x);
        bwd_fetch(&fetch, g, x, &t, more ? &ahead : NULL);
        bwd_columns(f, g, x, &t, number, &fetch);
        ring_tell(g, x->number, more ? next : PASSED - 1);
    }
}

static void bwd_task(const attn_grad *g, const chunk_task *x) {
    attn_bwd_tiles f;
    const pl_attn *a = g->a;
    int64_t ldw = whole_vectors(a->D), n = x->rows.count, at = x->rows.first * a->kv_stride + x->g * a->D;
    if (x->number >= RING) ring_wait(g, x->number - RING, PASSED - 1);
    ring_tell(g, x->number, 0);
    rows_widen(f.k, ldw, g->k + at, a->kv_stride, n, a->D);
    rows_widen(f.v, ldw, g->v + at, a->kv_stride, n, a->D);
    memset(f.dk, 0, (size_t)(n * ldw) * sizeof(float));
    memset(f.dv, 0, (size_t)(n * ldw) * sizeof(float));
    memset(f.mentioned, false, sizeof f.mentioned);
    for (int64_t r = x->tree->run0; r < x->tree->run1; r++) chunk_mention(&f, a, a->runs + r, x->rows);
    bwd_columns_all(&f, g, x);
    for (int64_t j = 0; j < n; j++, at += a->kv_stride) {
        if (!f.mentioned[j]) continue;
        EACH_VECTOR(d, k, a->D) {
            v_put(g->dk + at + d, v_mul(v_set(LN_2), v_load(f.dk + j * ldw + d)), k); /* of q * LOG2_E */
            v_put(g->dv + at + d, v_load(f.dv + j * ldw + d), k);
        }
    }
}

/* --- the op --- */

/* Takes tasks off the common counter until none is left: chunks in order, the heads of a chunk one after another. */
static void attn_bwd_worker(const attn_grad *g, int64_t *next) {
    attn_tree tree = {0};
    int64_t base = 0, KV = g->a->KV; /* number of the tree's first task */
    if (!tree_next(&tree, g)) return;
    for (;;) {
        int64_t task = task_take(next);
        while (task >= base + tree.chunks * KV) {
            base += tree.chunks * KV;
            if (!tree_next(&tree, g)) return;
        }
        int64_t chunk = (task - base) / KV;
        chunk_task x = {&tree, chunk, (task - base) % KV, task, chunk_rows(&tree, chunk)};
        bwd_task(g, &x);
    }
}

static void op_attn_bwd(float *dq, float *dk, float *dv, float *delta, const float *d_o, const float *o,
                        const float *lse, const float *q, const float *k, const float *v, const pl_attn *a) {
    _Atomic int64_t ring[RING];
    attn_grad g = {dq, dk, dv, delta, d_o, o, lse, q, k, v, a, ring, 0, 1, false};
    int64_t next = 0;
    for (int64_t i = 0; i < RING; i++) atomic_init(ring + i, -1);
    g.chunk_keys = PL_MIN(CHUNK_KEYS, CHUNK_FLOATS / whole_vectors(a->D));
    g.apart = trees_apart(&g);
    if (attn_work(a) > ATTN_SERIAL && PL_LOOP_THREADS()) {
        g.threads = PL_LOOP_TEAM();
#pragma omp parallel
        attn_bwd_worker(&g, &next);
    } else {
        attn_bwd_worker(&g, &next);
    }
}

static void add_attn_ops(pl_ops *ops) {
    ops->attn = op_attn;
    ops->attn_bwd = op_attn_bwd;
}
