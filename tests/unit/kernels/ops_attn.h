/* ops_attn.h: the cases of attention for test_ops.c: random forests (segments that see their ancestors), generation
 * over a key cache, grouped heads, strides with gaps, head sizes that fit no vector. */
#ifndef OPS_ATTN_H
#define OPS_ATTN_H

#include "unit/kernels/ops_harness.h"

#define MAX_RUNS 40
#define MAX_RANGES 400

typedef struct attn_shape {
    pl_attn a;
    pl_attn_run runs[MAX_RUNS];
    pl_key_range ranges[MAX_RANGES];
    int64_t key_rows; /* rows of k and v */
} attn_shape;

static inline void attn_heads(pl_attn *a, dice *d) {
    static const int64_t sizes[] = {1, 2, 5, 8, 16, 17, 32, 64, 65, 80, 128, 129, 256};
    a->D = sizes[d->next % 3 ? pick(d, 0, 7) : pick(d, 8, PL_LEN(sizes) - 1)];
    a->KV = pick(d, 1, 3);
    a->H = a->KV * pick(d, 1, 4);
    a->q_stride = a->H * a->D + (coin(d) ? 0 : pick(d, 1, 9));
    a->kv_stride = a->KV * a->D + (coin(d) ? 0 : pick(d, 1, 9));
    a->o_stride = a->H * a->D + (coin(d) ? 0 : pick(d, 1, 9));
    a->scale = 1 / sqrtf((float)a->D);
}

/* Segments of 1 .. longest rows, each under no parent or an earlier one; rows that no run mentions lie between some of
 * them. */
static inline void forest_shape(attn_shape *s, int64_t segments, int64_t longest, dice *d) {
    int64_t parent[MAX_RUNS], row = 0, nranges = 0;
    for (int64_t i = 0; i < segments; i++) {
        row += pick(d, 0, 5) == 0 ? pick(d, 1, 20) : 0;
        pl_attn_run *run = &s->runs[i];
        int64_t count = pick(d, 1, longest);
        *run = (pl_attn_run){row, count, row, 0, nranges, 0};
        parent[i] = pick(d, 0, 3) == 0 ? -1 : pick(d, -1, i - 1);
        for (int64_t up = parent[i]; up >= 0 && nranges + 2 < MAX_RANGES; up = parent[up]) {
            pl_key_range whole = {s->runs[up].q_first, s->runs[up].q_count};
            int64_t cut = coin(d) ? 0 : pick(d, 0, whole.count); /* as one range or as two, one of them perhaps empty */
            s->ranges[nranges++] = (pl_key_range){whole.first, whole.count - cut};
            if (cut) s->ranges[nranges++] = (pl_key_range){whole.first + whole.count - cut, cut};
        }
        run->range_count = nranges - run->range_first;
        row += count;
    }
    s->a.T = s->key_rows = row + pick(d, 0, 3);
    s->a.nruns = segments;
}

/* New tokens of sequences whose keys lie in a cache: a shared prompt, then own rows of which some are past. */
static inline void cache_shape(attn_shape *s, int64_t sequences, int64_t prompt, int64_t longest, dice *d) {
    int64_t row = 0, key = prompt + 3;
    s->ranges[0] = (pl_key_range){1, prompt};
    for (int64_t i = 0; i < sequences; i++) {
        int64_t count = pick(d, 0, 3) == 0 ? pick(d, 1, 5) : 1, past = pick(d, 0, longest);
        s->runs[i] = (pl_attn_run){row, count, key, past, 0, pick(d, 0, 1)};
        row += count, key += past + count + pick(d, 0, 4);
    }
    s->a.T = row, s->key_rows = key, s->a.nruns = sequences;
}

static int64_t most_keys(const attn_shape *s) {
    int64_t most = 1;
    for (int64_t r = 0; r < s->a.nruns; r++) {
        int64_t keys = s->runs[r].own_past + s->runs[r].q_count;
        for (int64_t i = 0; i < s->runs[r].range_count; i++) keys += s->ranges[s->runs[r].range_first + i].count;
        most = PL_MAX(most, keys);
    }
    return most;
}

static void run_attn(const pl_ops *ops, void *const *p, const kcase *c) {
    const attn_shape *s = c->extra;
    ops->attn(p[0], c->flag ? NULL : p[1], p[2], p[3], p[4], &s->a);
}

/* The forward result is made on the way by the op under test: an error there shows in both. */
static void run_attn_bwd(const pl_ops *ops, void *const *p, const kcase *c) {
    const attn_shape *s = c->extra;
    ops->attn_bwd(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], &s->a);
}

static void name_shape(kcase *c, const attn_shape *s) {
    snprintf(c->shape, sizeof c->shape, "T %d, runs %d, H %d, KV %d, D %d, strides %d %d %d, at most %d keys",
             (int)s->a.T, (int)s->a.nruns, (int)s->a.H, (int)s->a.KV, (int)s->a.D, (int)s->a.q_stride,
             (int)s->a.kv_stride, (int)s->a.o_stride, (int)most_keys(s));
}

/* Scores are sums of D products of normals times D^-1/2: each errs by about EPS sqrt(D); an output is a mean of v under
 * weights that err by as much relative to themselves, and the online sums add a few roundings per block. */
static double attn_error(const attn_shape *s) {
    return ((double)FLT_EPSILON) * (32 + 2 * (double)s->a.D + sqrt((double)most_keys(s)));
}

static int attn_forward(const pl_ops *ref, const pl_ops *ops, const attn_shape *s, bool odd, dice *d) {
    kcase c = {.op = "attn", .run = run_attn, .extra = s, .flag = coin(d)};
    name_shape(&c, s);
    buf_out(&c, "o", s->a.T * s->a.o_stride, attn_error(s), 4 * attn_error(s), d);
    buf_out(&c, "lse", s->a.T * s->a.H, attn_error(s), 4 * attn_error(s), d);
    float *q = buf_normal(&c, "q", s->a.T * s->a.q_stride, odd ? 6 : 1, d);
    buf_normal(&c, "k", s->key_rows * s->a.kv_stride, 1, d);
    buf_normal(&c, "v", s->key_rows * s->a.kv_stride, 1, d);
    if (odd) { /* a NaN in a query is its own row's */
        for (int j = 0; j < 3; j++) q[pick(d, 0, s->a.T * s->a.q_stride - 1)] = (float)NAN;
        c.b[0].rel *= 40, c.b[0].abs *= 40, c.b[1].rel *= 40, c.b[1].abs *= 40;
    }
    int bad = check_case(&c, ref, ops);
    case_free(&c);
    return bad;
}

/* dk and dv of a key add up over the queries that see it: as many as the rows, times the heads of a group. */
static int attn_backward(const pl_ops *ref, const pl_ops *ops, const attn_shape *s, dice *d) {
    const pl_attn *a = &s->a;
    kcase c = {.op = "attn_bwd", .run = run_attn_bwd, .extra = s};
    name_shape(&c, s);
    double error = 2 * attn_error(s), group = (double)(a->H / a->KV);
    buf_out(&c, "dq", a->T * a->q_stride, error, error, d);
    buf_out(&c, "dk", a->T * a->kv_stride, error, error * group * 4, d);
    buf_out(&c, "dv", a->T * a->kv_stride, error, error * group * 4, d);
    buf_out(&c, "delta", a->T * a->H, error, error * sqrt((double)a->D), d);
    buf_normal(&c, "do", a->T * a->o_stride, 1, d);
    float *o = buf_normal(&c, "o", a->T * a->o_stride, 1, d), *lse = buf_normal(&c, "lse", a->T * a->H, 1, d);
    const float *q = buf_normal(&c, "q", a->T * a->q_stride, 1, d);
    const float *k = buf_normal(&c, "k", a->T * a->kv_stride, 1, d);
    const float *v = buf_normal(&c, "v", a->T * a->kv_stride, 1, d);
    ref->attn(o, lse, q, k, v, a);
    int bad = check_case(&c, ref, ops);
    case_free(&c);
    return bad;
}

static inline int attentions(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    attn_shape s;
    for (int round = 0; round < 24; round++) {
        memset(&s, 0, sizeof s);
        s.a.runs = s.runs, s.a.ranges = s.ranges;
        attn_heads(&s.a, d);
        if (round % 4 == 3)
            cache_shape(&s, pick(d, 1, 6), pick(d, 0, 150), 100, d);
        else
            forest_shape(&s, round % 4 == 0 ? pick(d, 1, 3) : pick(d, 1, 12), round % 4 == 0 ? 130 : 30, d);
        bad += attn_forward(ref, ops, &s, false, d);
        if (round % 3 == 0) bad += attn_forward(ref, ops, &s, true, d);
        if (round % 4 != 3) bad += attn_backward(ref, ops, &s, d);
    }
    return bad;
}

#endif
