/* parts.c: the wrappers: they forward every call, keep the time, and change what a variant asks for. */
#include "parts.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <stdlib.h>
#include <string.h>

#include "model/worker.h"
#include "probe.h"

static struct {
    pl_ops real;
    double seconds[PART_COUNT];
    bench_variant variant;
    bench_work work;
    bool in_head;
} bench;

static const char *const names[] = {"linear", "lora", "head", "attention", "pointwise", "optimizer", "batches"};
const char *bench_part_name(bench_part p) { return names[p]; }
void bench_parts_reset(void) {
    memset(bench.seconds, 0, sizeof bench.seconds);
    bench.work = (bench_work){0};
}
double bench_parts_seconds(bench_part p) { return bench.seconds[p]; }
void bench_variant_set(const bench_variant *v) { bench.variant = *v; }
bench_work bench_parts_work(void) { return bench.work; }

/* What runs inside the head belongs to the head, which is timed as a whole. Of what threads do side by side each adds
 * its share. */
static void stop(bench_part p, double began) {
    double seconds = probe_now() - began;
    if (bench.in_head) return;
#ifdef _OPENMP
    if (omp_in_parallel()) seconds /= omp_get_num_threads();
#pragma omp atomic
#endif
    bench.seconds[p] += seconds;
}

/* --- ops --- */
#define TIMED(part, op, params, args)                                                                                  \
    static void timed_##op params {                                                                                    \
        double began = probe_now();                                                                                    \
        bench.real.op args;                                                                                            \
        stop(part, began);                                                                                             \
    }
TIMED(PART_POINTWISE, to_real, (real * y, const void *x, pl_dtype t, int64_t n), (y, x, t, n))
TIMED(PART_POINTWISE, add, (real * y, const real *x, int64_t n), (y, x, n))
TIMED(PART_POINTWISE, scale, (real * y, real a, int64_t n), (y, a, n))
TIMED(PART_POINTWISE, add_bias, (real * y, const real *b, int64_t T, int64_t C), (y, b, T, C))
TIMED(PART_POINTWISE, sum_rows, (real * db, const real *dy, int64_t T, int64_t C), (db, dy, T, C))
TIMED(PART_POINTWISE, embed, (real * y, const void *w, pl_dtype t, const int32_t *ids, int64_t T, int64_t C),
      (y, w, t, ids, T, C))
TIMED(PART_POINTWISE, rmsnorm, (real * y, real *r, const real *x, const real *w, real eps, int64_t T, int64_t C),
      (y, r, x, w, eps, T, C))
TIMED(PART_POINTWISE, rmsnorm_bwd,
      (real * dx, bool acc, real *dw, const real *dy, const real *x, const real *w, const real *r, int64_t T,
       int64_t C),
      (dx, acc, dw, dy, x, w, r, T, C))
TIMED(PART_POINTWISE, rope,
      (real * x, int64_t ld, const real *c, const real *s, bool inv, int64_t T, int64_t H, int64_t D, int64_t rot),
      (x, ld, c, s, inv, T, H, D, rot))
TIMED(PART_POINTWISE, swiglu, (real * y, const real *g, const real *u, int64_t n), (y, g, u, n))
TIMED(PART_POINTWISE, swiglu_bwd, (real * dg, real *du, const real *dy, const real *g, const real *u, int64_t n),
      (dg, du, dy, g, u, n))
TIMED(PART_POINTWISE, dropout,
      (real * y, bool acc, const real *x, const uint64_t *id, uint64_t key, real p, int64_t T, int64_t C),
      (y, acc, x, id, key, p, T, C))
TIMED(PART_ATTENTION, attn, (real * o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a),
      (o, lse, q, k, v, a))
TIMED(PART_ATTENTION, attn_bwd,
      (real * dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse, const real *q,
       const real *k, const real *v, const pl_attn *a),
      (dq, dk, dv, delta, d_o, o, lse, q, k, v, a))
TIMED(PART_LORA, product, (const pl_product *x), (x))
TIMED(PART_OPTIMIZER, adamw, (real * p, const real *g, real *m, real *v, int64_t n, const pl_adamw *a),
      (p, g, m, v, n, a))
static double timed_sum_squares(const real *x, int64_t n) {
    double began = probe_now(), sum = bench.real.sum_squares(x, n);
    stop(PART_OPTIMIZER, began);
    return sum;
}

void bench_parts_watch(pl_ops *ops) {
    bench.real = *ops;
#define WATCH(op) ops->op = timed_##op
    WATCH(to_real), WATCH(add), WATCH(scale), WATCH(add_bias), WATCH(sum_rows), WATCH(embed), WATCH(rmsnorm);
    WATCH(rmsnorm_bwd), WATCH(rope), WATCH(swiglu), WATCH(swiglu_bwd), WATCH(dropout), WATCH(attn), WATCH(attn_bwd);
    WATCH(adamw), WATCH(sum_squares), WATCH(product);
}

/* --- products, head --- */
int __real_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err);
int __wrap_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err);
int __wrap_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err) {
    double began = probe_now();
    int rc = __real_pl_gemm_run(g, c, err);
    stop(PART_LINEAR, began);
    return rc;
}

int __real_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err);
int __wrap_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err);
int __wrap_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err) {
    double began = probe_now();
    int rc = __real_pl_gemm_run_all(g, calls, n, err);
    stop(PART_LINEAR, began);
    return rc;
}

void __real_pl_gemm_pack(pl_gemm *g, void *const *out, const pl_gemm_call *calls, int n);
void __wrap_pl_gemm_pack(pl_gemm *g, void *const *out, const pl_gemm_call *calls, int n);
void __wrap_pl_gemm_pack(pl_gemm *g, void *const *out, const pl_gemm_call *calls, int n) {
    double began = probe_now();
    __real_pl_gemm_pack(g, out, calls, n);
    stop(PART_LINEAR, began);
}

static double visible_pairs(const pl_forest *f) {
    double pairs = 0;
    for (int64_t s = 0; s < f->nsegments; s++) {
        const pl_attn_run *r = &f->runs[s];
        double n = (double)r->q_count;
        for (int64_t i = 0; i < r->range_count; i++) pairs += n * (double)f->ranges[r->range_first + i].count;
        pairs += n * (n + 1) / 2;
    }
    return pairs;
}

int __real_pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x, bool grad,
                           pl_error *err);
int __wrap_pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x, bool grad,
                           pl_error *err);
int __wrap_pl_head_forward(pl_head *h, const pl_weights *w, const pl_forest *f, const real *x, bool grad,
                           pl_error *err) {
    double began = probe_now();
    bench.in_head = true;
    int rc = __real_pl_head_forward(h, w, f, x, grad, err);
    bench.in_head = false;
    stop(PART_HEAD, began);
    bench.work.tokens[grad] += (double)f->T;
    bench.work.rows[grad] += (double)h->R;
    bench.work.pairs[grad] += visible_pairs(f);
    return rc;
}

int __real_pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *g, const pl_forest *f, const double *c,
                            real *dx, pl_error *err);
int __wrap_pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *g, const pl_forest *f, const double *c,
                            real *dx, pl_error *err);
int __wrap_pl_head_backward(pl_head *h, const pl_weights *w, const pl_grads *g, const pl_forest *f, const double *c,
                            real *dx, pl_error *err) {
    double began = probe_now();
    bench.in_head = true;
    int rc = __real_pl_head_backward(h, w, g, f, c, dx, err);
    bench.in_head = false;
    stop(PART_HEAD, began);
    return rc;
}

int __real_pl_head_take(pl_head *h, const pl_arch *a, const pl_backend *b, const pl_head_spec *s, pl_arena *arena,
                        pl_error *err);
int __wrap_pl_head_take(pl_head *h, const pl_arch *a, const pl_backend *b, const pl_head_spec *s, pl_arena *arena,
                        pl_error *err);
int __wrap_pl_head_take(pl_head *h, const pl_arch *a, const pl_backend *b, const pl_head_spec *s, pl_arena *arena,
                        pl_error *err) {
    pl_head_spec spec = *s;
    spec.trained |= bench.variant.recompute;
    return __real_pl_head_take(h, a, b, &spec, arena, err);
}

/* --- batches --- */
void __real_pl_forest_caps_add(pl_forest_caps *caps, const pl_dataset *d, const int64_t *rows, int64_t n,
                               int64_t budget, bool score_prompt);
void __wrap_pl_forest_caps_add(pl_forest_caps *caps, const pl_dataset *d, const int64_t *rows, int64_t n,
                               int64_t budget, bool score_prompt);
void __wrap_pl_forest_caps_add(pl_forest_caps *caps, const pl_dataset *d, const int64_t *rows, int64_t n,
                               int64_t budget, bool score_prompt) {
    const bench_variant *v = &bench.variant;
    pl_forest_caps c = {0};
    __real_pl_forest_caps_add(&c, d, rows, n, budget, score_prompt);
    if (v->padded || v->unshared) {
        c.tokens = v->padded ? c.sequences * d->longest_row : 2 * c.tokens;
        c.trees = c.sequences;
    }
    if (v->all_rows) c.targets = c.tokens + c.sequences; /* a shared last token predicts for each answer */
    *caps = (pl_forest_caps){PL_MAX(caps->tokens, c.tokens),   PL_MAX(caps->segments, c.segments),
                             PL_MAX(caps->targets, c.targets), PL_MAX(caps->sequences, c.sequences),
                             PL_MAX(caps->ranges, c.ranges),   PL_MAX(caps->trees, c.trees)};
}

/* Rows with their answers lengthened by token 0 to the longest of them; owned copies. */
typedef struct padded_rows {
    pl_dataset d;
    int64_t *rows, *extra; /* [n], [2 n] */
} padded_rows;

static void *must(void *p) {
    if (!p) abort();
    return p;
}

static padded_rows pad(const pl_dataset *d, const int64_t *rows, int64_t n) {
    padded_rows p = {.d = *d};
    int64_t longest = 0, at = 0, a = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < 2; k++)
            longest =
                PL_MAX(longest, d->rows[rows[i]].prompt.count + d->answers[d->rows[rows[i]].first_answer + k].count);
    p.d.n = n;
    p.d.ids = must(malloc((size_t)(n * 3 * longest) * sizeof *p.d.ids));
    p.d.rows = must(malloc((size_t)n * sizeof *p.d.rows));
    p.d.answers = must(malloc((size_t)(2 * n) * sizeof *p.d.answers));
    p.rows = must(malloc((size_t)n * sizeof *p.rows));
    p.extra = must(malloc((size_t)(2 * n) * sizeof *p.extra));
    for (int64_t i = 0; i < n; i++) {
        const pl_row *r = &d->rows[rows[i]];
        p.rows[i] = i;
        p.d.rows[i] = *r;
        p.d.rows[i].first_answer = a;
        p.d.rows[i].prompt.first = at;
        memcpy(p.d.ids + at, d->ids + r->prompt.first, (size_t)r->prompt.count * sizeof *d->ids);
        at += r->prompt.count;
        for (int64_t k = 0; k < 2; k++, a++) {
            pl_span s = d->answers[r->first_answer + k];
            p.extra[a] = longest - r->prompt.count - s.count;
            p.d.answers[a] = (pl_span){at, s.count + p.extra[a]};
            memcpy(p.d.ids + at, d->ids + s.first, (size_t)s.count * sizeof *d->ids);
            memset(p.d.ids + at + s.count, 0, (size_t)p.extra[a] * sizeof *d->ids);
            at += s.count + p.extra[a];
        }
    }
    return p;
}

static void padded_free(padded_rows *p) {
    free(p->d.ids), free(p->d.rows), free(p->d.answers), free(p->rows), free(p->extra);
}

/* Padding predicts nothing. */
static void drop_padding(pl_forest *f, const padded_rows *p, const int64_t *rows) {
    int64_t kept = 0;
    for (int64_t s = 0; s < f->nsequences; s++) {
        pl_sequence *q = &f->sequences[s];
        memmove(f->targets + kept, f->targets + q->first_target,
                (size_t)(q->ntargets - p->extra[s]) * sizeof *f->targets);
        q->first_target = kept;
        q->row = rows[s / 2];
        q->ntargets -= p->extra[s];
        q->length -= p->extra[s];
        f->unshared_tokens -= p->extra[s];
        kept += q->ntargets;
    }
    f->ntargets = kept;
}

/* The other tokens become targets of no sequence, with coefficient zero. */
static void target_every_token(pl_forest *f) {
    bool *has = must(calloc((size_t)f->T, 1));
    for (int64_t i = 0; i < f->ntargets; i++) has[f->targets[i].token] = true;
    for (int64_t t = 0; t < f->T; t++)
        if (!has[t]) f->targets[f->ntargets++] = (pl_target){t, 0, 0};
    free(has);
    pl_worker *k = (pl_worker *)((char *)f - offsetof(pl_worker, forest));
    if (k->c) memset(k->c, 0, (size_t)f->caps.targets * sizeof *k->c);
}

int __real_pl_forest_build(pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                           bool share, bool score_prompt, pl_error *err);
int __wrap_pl_forest_build(pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                           bool share, bool score_prompt, pl_error *err);
int __wrap_pl_forest_build(pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index,
                           bool share, bool score_prompt, pl_error *err) {
    double began = probe_now();
    int rc;
    if (bench.variant.padded) {
        padded_rows p = pad(d, rows, n);
        rc = __real_pl_forest_build(f, &p.d, p.rows, n, step_index, false, score_prompt, err);
        if (rc == 0) drop_padding(f, &p, rows);
        padded_free(&p);
    } else {
        rc = __real_pl_forest_build(f, d, rows, n, step_index, share && !bench.variant.unshared, score_prompt, err);
    }
    if (rc == 0 && bench.variant.all_rows) target_every_token(f);
    stop(PART_DATA, began);
    return rc;
}
