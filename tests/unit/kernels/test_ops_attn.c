/* Attention over long ranges at every level against the reference, for every thread count: rows that are several chunks
 * of the backward pass, so that threads wait for one another; trees that do and do not follow one another; thousands of
 * keys. Small shapes of all kinds are in test_ops.c. ctest-label: threads */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/kernels/ops_attn.h"

static void set_heads(attn_shape *s, int64_t KV, int64_t group, int64_t D) {
    pl_attn *a = &s->a;
    a->KV = KV, a->H = KV * group, a->D = D;
    a->q_stride = a->H * D + 3, a->kv_stride = KV * D, a->o_stride = a->H * D;
    a->scale = 1 / sqrtf((float)D);
    a->runs = s->runs, a->ranges = s->ranges;
}

static void add_run(attn_shape *s, int64_t first, int64_t count, int64_t range_first, int64_t range_count) {
    s->runs[s->a.nruns++] = (pl_attn_run){first, count, first, 0, range_first, range_count};
    s->a.T = s->key_rows = PL_MAX(s->a.T, first + count);
}

/* One sequence. */
static void one_row(attn_shape *s, dice *d) { add_run(s, 0, pick(d, 500, 640), 0, 0); }

/* Three trees, each longer than a chunk: a prompt and two answers. */
static void long_trees(attn_shape *s, dice *d) {
    for (int64_t tree = 0, row = 0; tree < 3; tree++) {
        int64_t prompt = pick(d, 120, 290);
        s->ranges[tree] = (pl_key_range){row, prompt};
        add_run(s, row, prompt, 0, 0);
        row += prompt + pick(d, 0, 2);
        for (int64_t i = 0; i < 2; i++) {
            int64_t count = pick(d, 1, 130);
            add_run(s, row, count, tree, 1);
            row += count;
        }
    }
}

/* Two prompts, then an answer to each in turn: no tree is apart from the other. */
static void mixed_trees(attn_shape *s, dice *d) {
    int64_t row = 0;
    for (int64_t i = 0; i < 2; i++, row += s->ranges[i - 1].count) {
        s->ranges[i] = (pl_key_range){row, pick(d, 100, 200)};
        add_run(s, row, s->ranges[i].count, 0, 0);
    }
    for (int64_t i = 0; i < 5; i++, row = s->a.T) add_run(s, row, pick(d, 1, 70), i % 2, 1);
}

/* Few queries that see 4,500 keys nobody asks about, and answers that see only the end of them. */
static void many_keys(attn_shape *s, dice *d) {
    s->ranges[0] = (pl_key_range){pick(d, 0, 40), 4300};
    s->ranges[1] = (pl_key_range){4400, 100};
    add_run(s, 4500, pick(d, 1, 12), 0, 2);
    add_run(s, s->a.T, pick(d, 1, 60), 1, 1);
    add_run(s, s->a.T, pick(d, 1, 12), 0, 1);
}

/* More tasks than the backward pass keeps the progress of. */
static void many_trees(attn_shape *s, dice *d) {
    for (int64_t i = 0; i < MAX_RUNS; i++) add_run(s, s->a.T, pick(d, 1, 3), 0, 0);
}

typedef struct long_case {
    void (*make)(attn_shape *s, dice *d);
    int64_t KV, group, D;
} long_case;

static const long_case long_cases[] = {
    {one_row, 1, 3, 16},     {one_row, 2, 1, 24},    {one_row, 1, 1, 129},     {long_trees, 2, 2, 16},
    {long_trees, 1, 1, 136}, {mixed_trees, 2, 1, 8}, {mixed_trees, 1, 2, 160}, {many_keys, 2, 2, 16},
    {many_keys, 1, 3, 40},   {many_trees, 30, 1, 1},
};

static int long_attentions(const pl_ops *ref, const pl_ops *ops, dice *d) {
    int bad = 0;
    for (int64_t i = 0; i < PL_LEN(long_cases); i++) {
        const long_case *c = &long_cases[i];
        attn_shape s;
        memset(&s, 0, sizeof s);
        set_heads(&s, c->KV, c->group, c->D);
        c->make(&s, d);
        bad += attn_forward(ref, ops, &s, false, d);
        bad += attn_backward(ref, ops, &s, d);
    }
    return bad;
}

static void test_long_ranges(void **state) {
    PL_UNUSED(state);
    pl_ops ref, ops;
    const uint64_t seed = 20251107;
    pl_ops_add_ref(&ref);
    for (int level = PL_CPU_AVX2; level < PL_CPU_LEVELS; level++) { /* the level below is the reference */
        if (level > (int)pl_cpu_detect()) {
            printf("%s: this machine has not got it, skipped\n", pl_cpu_level_name((pl_cpu_level)level));
            continue;
        }
        if (level == PL_CPU_AVX512_BF16) continue; /* has avx512's attention */
        pl_ops_init(&ops, (pl_cpu_level)level);
        dice d = {seed, 0};
        int bad = long_attentions(&ref, &ops, &d);
        if (bad) printf("%s: seed %llu\n", ops.level, (unsigned long long)seed);
        assert_int_equal(bad, 0);
    }
}

/* The reference with a part of dq left out, with dk a thousandth too large, and with sums that depend on threads. */
static void bwd_leaves_out(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                           const real *q, const real *k, const real *v, const pl_attn *a) {
    pl_ops ref;
    pl_ops_add_ref(&ref);
    ref.attn_bwd(dq, dk, dv, delta, d_o, o, lse, q, k, v, a);
    dq[(a->T - 1) * a->q_stride] = 0;
}
static void bwd_one_percent(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                            const real *q, const real *k, const real *v, const pl_attn *a) {
    pl_ops ref;
    pl_ops_add_ref(&ref);
    ref.attn_bwd(dq, dk, dv, delta, d_o, o, lse, q, k, v, a);
    for (int64_t i = 0; i < a->D; i++) dk[i] *= 1.01f;
}
#ifdef _OPENMP
static void bwd_from_threads(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                             const real *q, const real *k, const real *v, const pl_attn *a) {
    pl_ops ref;
    pl_ops_add_ref(&ref);
    ref.attn_bwd(dq, dk, dv, delta, d_o, o, lse, q, k, v, a);
    dv[0] *= 1 + 2e-7f * (float)omp_get_max_threads();
}
#endif

static void test_can_fail(void **state) {
    PL_UNUSED(state);
    pl_ops ref, wrong;
    attn_shape s;
    dice d = {5, 0};
    memset(&s, 0, sizeof s);
    set_heads(&s, 2, 2, 8);
    add_run(&s, 0, 70, 0, 0);
    pl_ops_add_ref(&ref);
    assert_int_equal(attn_backward(&ref, &ref, &s, &d), 0);
    wrong = ref, wrong.level = "planted", wrong.attn_bwd = bwd_leaves_out;
    assert_true(attn_backward(&ref, &wrong, &s, &d) > 0);
    wrong.attn_bwd = bwd_one_percent;
    assert_true(attn_backward(&ref, &wrong, &s, &d) > 0);
#ifdef _OPENMP
    wrong.attn_bwd = bwd_from_threads;
    assert_true(attn_backward(&ref, &wrong, &s, &d) > 0);
#endif
}

/* New tokens of sequences over a cache, some of a prompt that they share, all at once and each alone: the same bits. */
static int decode_alone(const pl_ops *ops, int64_t KV, int64_t group, int64_t D, dice *d) {
    attn_shape s;
    memset(&s, 0, sizeof s);
    set_heads(&s, KV, group, D);
    s.ranges[0] = (pl_key_range){3, pick(d, 60, 300)};
    s.ranges[1] = (pl_key_range){320, pick(d, 1, 70)};
    for (int64_t i = 0; i < 30; i++) /* enough for several tasks of a prompt */
        s.runs[s.a.nruns++] = (pl_attn_run){i, 1, 400 + 100 * i, pick(d, 0, 99), i >= 20, i < 28};
    int64_t qs = s.a.q_stride, os = s.a.o_stride, nq = 30 * qs, nk = 3400 * s.a.kv_stride, no = 30 * os;
    float *x = must_alloc((size_t)(nq + 2 * nk + 2 * no) * sizeof *x);
    float *q = x, *k = q + nq, *v = k + nk, *all = v + nk, *one = all + no;
    pl_rng_normal(x, nq + 2 * nk, 1, roll(d), 0);
    s.a.T = 30;
    ops->attn(all, NULL, q, k, v, &s.a);
    pl_attn alone = s.a;
    alone.nruns = 1;
    for (int64_t i = 0; i < 30; i++, alone.runs++) ops->attn(one, NULL, q, k, v, &alone);
    int bad = 0;
    for (int64_t i = 0; i < 30; i++) bad += memcmp(all + i * os, one + i * os, (size_t)(s.a.H * D) * sizeof *x) != 0;
    pl_free(x);
    return bad;
}

static void test_decode_alone(void **state) {
    PL_UNUSED(state);
    for (int level = PL_CPU_GENERIC; level <= PL_CPU_AVX512 && level <= (int)pl_cpu_detect(); level++) {
        pl_ops ops;
        dice d = {77, 0};
        pl_ops_init(&ops, (pl_cpu_level)level);
        assert_int_equal(decode_alone(&ops, 3, 3, 64, &d), 0);
        assert_int_equal(decode_alone(&ops, 2, 7, 40, &d), 0);
        assert_int_equal(decode_alone(&ops, 1, 16, 16, &d), 0);
        assert_int_equal(decode_alone(&ops, 9, 1, 129, &d), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_can_fail),
        cmocka_unit_test(test_long_ranges),
        cmocka_unit_test(test_decode_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
