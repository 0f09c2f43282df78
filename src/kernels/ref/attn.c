/* kernels/ref/attn.c: attention over key ranges, forward and backward, one query and one head at a time, in two passes
 * over the keys. Query i of a run sees all keys of the run's ranges, then its own keys up to itself. */
#include "kernels/ref/ref.h"

/* The keys of one query as a short list of row intervals: the run's ranges, then its own part. */
static int64_t span_count(const pl_attn_run *run) { return run->range_count + 1; }

static pl_key_range span_at(const pl_attn *a, const pl_attn_run *run, int64_t i, int64_t s) {
    if (s < run->range_count) return a->ranges[run->range_first + s];
    return (pl_key_range){run->own_first, run->own_past + i + 1};
}

static real dot(const real *x, const real *y, int64_t n) {
    real sum = 0;
    for (int64_t d = 0; d < n; d++) sum += x[d] * y[d];
    return sum;
}

/* log sum exp of the scaled scores of one query. */
static real query_lse(const real *q, const real *k, const pl_attn *a, const pl_attn_run *run, int64_t i) {
    real max = -INFINITY, sum = 0;
    for (int64_t s = 0; s < span_count(run); s++) {
        pl_key_range span = span_at(a, run, i, s);
        for (int64_t j = span.first; j < span.first + span.count; j++) {
            real z = a->scale * dot(q, k + j * a->kv_stride, a->D);
            if (z > max) {
                sum *= r_exp(max - z);
                max = z;
            }
            sum += r_exp(z - max);
        }
    }
    return max + r_log(sum);
}

static void query_fwd(real *o, const real *q, const real *k, const real *v, real lse, const pl_attn *a,
                      const pl_attn_run *run, int64_t i) {
    for (int64_t d = 0; d < a->D; d++) o[d] = 0;
    for (int64_t s = 0; s < span_count(run); s++) {
        pl_key_range span = span_at(a, run, i, s);
        for (int64_t j = span.first; j < span.first + span.count; j++) {
            real p = r_exp(a->scale * dot(q, k + j * a->kv_stride, a->D) - lse);
            for (int64_t d = 0; d < a->D; d++) o[d] += p * v[j * a->kv_stride + d];
        }
    }
}

void pl_ref_attn(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a) {
    int64_t group = a->H / a->KV;
    for (int64_t r = 0; r < a->nruns; r++) {
        const pl_attn_run *run = a->runs + r;
#pragma omp parallel for collapse(2) schedule(static)
        for (int64_t i = 0; i < run->q_count; i++) {
            for (int64_t h = 0; h < a->H; h++) {
                int64_t t = run->q_first + i, head = h / group * a->D;
                const real *qt = q + t * a->q_stride + h * a->D;
                real l = query_lse(qt, k + head, a, run, i);
                query_fwd(o + t * a->o_stride + h * a->D, qt, k + head, v + head, l, a, run, i);
                if (lse) lse[t * a->H + h] = l;
            }
        }
    }
}

static void zero_rows(real *dk, real *dv, int64_t first, int64_t count, const pl_attn *a) {
    for (int64_t j = first; j < first + count; j++)
        for (int64_t c = 0; c < a->KV * a->D; c++) dk[j * a->kv_stride + c] = dv[j * a->kv_stride + c] = 0;
}

/* One query of one head: P = exp(z - lse), dP = do . v, dS = P (dP - delta). */
static void query_bwd(real *dq, real *dk, real *dv, real delta, const real *d_o, real lse, const real *q, const real *k,
                      const real *v, const pl_attn *a, const pl_attn_run *run, int64_t i) {
    for (int64_t d = 0; d < a->D; d++) dq[d] = 0;
    for (int64_t s = 0; s < span_count(run); s++) {
        pl_key_range span = span_at(a, run, i, s);
        for (int64_t j = span.first; j < span.first + span.count; j++) {
            int64_t at = j * a->kv_stride;
            real p = r_exp(a->scale * dot(q, k + at, a->D) - lse);
            real ds = a->scale * (p * (dot(d_o, v + at, a->D) - delta));
            for (int64_t d = 0; d < a->D; d++) {
                dq[d] += ds * k[at + d];
                dk[at + d] += ds * q[d];
                dv[at + d] += p * d_o[d];
            }
        }
    }
}

/* Threads take key/value heads: all sums over queries run in the order of the runs. */
void pl_ref_attn_bwd(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                     const real *q, const real *k, const real *v, const pl_attn *a) {
    int64_t group = a->H / a->KV, D = a->D;
    for (int64_t r = 0; r < a->nruns; r++) {
        const pl_attn_run *run = a->runs + r;
        zero_rows(dk, dv, run->own_first, run->own_past + run->q_count, a);
        for (int64_t s = 0; s < run->range_count; s++)
            zero_rows(dk, dv, a->ranges[run->range_first + s].first, a->ranges[run->range_first + s].count, a);
    }
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < a->KV; g++) {
        for (int64_t r = 0; r < a->nruns; r++) {
            const pl_attn_run *run = a->runs + r;
            for (int64_t n = 0; n < run->q_count * group; n++) {
                int64_t i = n / group, t = run->q_first + i, h = g * group + n % group;
                const real *dot_ = d_o + t * a->o_stride + h * D;
                real *dt = delta + t * a->H + h;
                *dt = dot(dot_, o + t * a->o_stride + h * D, D);
                query_bwd(dq + t * a->q_stride + h * D, dk + g * D, dv + g * D, *dt, dot_, lse[t * a->H + h],
                          q + t * a->q_stride + h * D, k + g * D, v + g * D, a, run, i);
            }
        }
    }
}
