/* The linear layers of a block with their adapters against plain sums in double: ranks that differ from module to
 * module, modules that are not adapted, rows in lanes and rows that threads share, with and without dropout; forward,
 * dx, dA and dB. A module in another's place must be found. ctest-label: threads */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "model/linear.h"
#include "unit/alloc_hook.h"

enum { N = PL_LIN_COUNT, LAYERS = 2, LAYER = 1 };

typedef struct setting {
    int64_t T, r[N]; /* r 0: not adapted */
    int threads;
    real dropout;
    bool recompute; /* of down, low is computed again */
    bool lowest;    /* nothing below the block is trained: no dx of q, k, v */
    pl_cpu_level level;
} setting;

typedef struct bed {
    setting s;
    pl_arch arch;
    pl_ops ops;
    pl_gemm *gemm;
    pl_arena arena;
    pl_decoder d;
    pl_weights w;
    pl_layer_weights layers[LAYERS];
    pl_lora lora;
    pl_lora_module modules[LAYERS * N];
    pl_forest forest;
    real *x[N], *y[N], *dy[N], *dx[N]; /* those of q, k, v are one, and of gate, up */
    real *y0[N], *da0[N], *db0[N];     /* what stood there before */
    void *all[512];
    int nall;
} bed;

/* A number, and the sum of the magnitudes of all that was added to make it. */
typedef struct num {
    double v, size;
} num;

static double worst;
static uint64_t state = 88172645463325252u;

static double dice(void) { /* -1 .. 1 */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(int64_t)state / 9223372036854775808.0;
}

static void *room(bed *b, int64_t n, size_t bytes) {
    void *p = calloc((size_t)PL_MAX(n, 1), bytes);
    assert_non_null(p);
    assert_true(b->nall < PL_LEN(b->all));
    return b->all[b->nall++] = p;
}

static real *some(bed *b, int64_t n, double size) {
    real *p = room(b, n, sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = (real)(size * dice());
    return p;
}

static real *copy(bed *b, const real *x, int64_t n) {
    real *p = room(b, n, sizeof *p);
    memcpy(p, x, (size_t)n * sizeof *p);
    return p;
}

static bool adds_y(int i) { return i == PL_LIN_O || i == PL_LIN_DOWN; }
static bool first_of_x(int i) { return i != PL_LIN_K && i != PL_LIN_V && i != PL_LIN_UP; }
static int64_t in_of(const bed *b, int i) { return b->layers[LAYER].w[i].cols; }
static int64_t out_of(const bed *b, int i) { return b->layers[LAYER].w[i].rows; }
static pl_lora_module *module_of(bed *b, int i) { return &b->modules[LAYER * N + i]; }

static void make_module(bed *b, int i) {
    int64_t r = b->s.r[i], in = in_of(b, i), out = out_of(b, i);
    pl_lora_module *m = module_of(b, i);
    if (r == 0) return;
    *m = (pl_lora_module){
        .r = r, .scale = (real)(0.5 + 0.25 * i), .a = some(b, r * in, 0.3), .b = some(b, r * out, 0.3)};
    m->da = some(b, r * in, 1), m->db = some(b, r * out, 1);
    b->da0[i] = copy(b, m->da, r * in), b->db0[i] = copy(b, m->db, r * out);
    b->lora.max_r = PL_MAX(b->lora.max_r, r);
}

static void make_linear(bed *b, int i) {
    int64_t rows, cols, T = pl_rows_padded(b->s.T);
    bool bias;
    pl_arch_lin_shape(&b->arch, (pl_lin)i, &rows, &cols, &bias);
    for (int l = 0; l < LAYERS; l++) {
        b->layers[l].w[i] = (pl_mat){.data = some(b, rows * cols, 0.3), .type = PL_F32, .rows = rows, .cols = cols};
        if (bias) b->layers[l].b[i] = some(b, rows, 1);
    }
    b->x[i] = first_of_x(i) ? some(b, T * cols, 1) : b->x[i - 1];
    b->dx[i] = first_of_x(i) ? some(b, T * cols, 1) : b->dx[i - 1];
    b->y[i] = some(b, T * rows, 1), b->y0[i] = copy(b, b->y[i], T * rows);
    b->dy[i] = some(b, T * rows, 1);
    make_module(b, i);
}

static void take_decoder(bed *b) {
    const setting *s = &b->s;
    pl_backend backend = {&b->ops, b->gemm, false};
    pl_decoder_spec spec = {.max_tokens = s->T,
                            .training = true,
                            .recompute = s->recompute,
                            .max_rank = b->lora.max_r,
                            .dropout = s->dropout > 0};
    pl_arena plan;
    pl_error err;
    pl_arena_init_measuring(&plan, "plan");
    assert_int_equal(pl_decoder_take(&b->d, &b->arch, &backend, &spec, &plan, &err), 0);
    assert_int_equal(pl_arena_init(&b->arena, "test", plan.peak, &err), 0);
    assert_int_equal(pl_decoder_take(&b->d, &b->arch, &backend, &spec, &b->arena, &err), 0);
    assert_int_equal(pl_decoder_prepare(&b->d, &b->w, &b->lora, NULL, &err), 0);
}

static void open_bed(bed *b, const setting *s) {
    *b = (bed){.s = *s};
    b->arch =
        (pl_arch){.V = 8, .C = 40, .F = 112, .L = LAYERS, .H = 3, .KV = 1, .D = 16, .eps = 1e-5, .qkv_bias = true};
    b->w = (pl_weights){.arch = &b->arch, .layers = b->layers};
    b->lora = (pl_lora){.dropout = s->dropout, .dropout_key = 77, .modules = b->modules};
#ifdef _OPENMP
    omp_set_num_threads(s->threads);
#endif
    pl_ops_init(&b->ops, s->level);
    assert_int_equal(pl_gemm_new(&b->gemm, pl_cpu_detect(), &b->ops, NULL), 0);
    for (int i = 0; i < N; i++) make_linear(b, i);
    b->forest =
        (pl_forest){.T = s->T, .trained.T = s->T, .dropout_id = room(b, pl_rows_padded(s->T), sizeof(uint64_t))};
    for (int64_t t = 0; t < s->T; t++) b->forest.dropout_id[t] = (uint64_t)(t * 3 + 1);
    take_decoder(b);
}

static void close_bed(bed *b) {
    pl_arena_release(&b->arena);
    pl_gemm_free(b->gemm);
    for (int i = 0; i < b->nall; i++) free(b->all[i]);
}

/* --- what is tested: a block's linear layers as the decoder runs them --- */

static bed *at_hand; /* of the row functions, which get a pass only */

static int forward(const pl_pass *p, int64_t layer, pl_error *err) {
    bed *b = at_hand;
    int rc;
    PL_GO(rc, pl_linear_forward_all(p, layer, PL_LIN_Q, 3, b->y + PL_LIN_Q, b->x[PL_LIN_Q], err));
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_O, b->y[PL_LIN_O], b->x[PL_LIN_O], true, false, err));
    PL_GO(rc, pl_linear_forward_all(p, layer, PL_LIN_GATE, 2, b->y + PL_LIN_GATE, b->x[PL_LIN_GATE], err));
    PL_GO(rc, pl_linear_forward(p, layer, PL_LIN_DOWN, b->y[PL_LIN_DOWN], b->x[PL_LIN_DOWN], true, false, err));
out:
    return rc;
}

static int backward(const pl_pass *p, int64_t layer, pl_error *err) {
    bed *b = at_hand;
    int rc = 0;
    for (int i = 0; rc == 0 && i < N; i++) {
        real *dx = b->s.lowest && i <= PL_LIN_V ? NULL : b->dx[i];
        rc = pl_linear_backward(p, layer, (pl_lin)i, dx, !first_of_x(i), b->dy[i], b->x[i], err);
    }
    return rc;
}

static void run(bed *b) {
    pl_pass p = {.d = &b->d, .w = &b->w, .lora = &b->lora, .f = &b->forest};
    pl_linear_ends ends[N];
    pl_error err;
    at_hand = b;
    for (int i = 0; i < N; i++) ends[i] = (pl_linear_ends){(pl_lin)i, b->dy[i], b->x[i]};
    pl_pass_pack(&p, LAYER, false, PL_LIN_Q, PL_LIN_DOWN);
    assert_int_equal(pl_pass_rows(&p, LAYER, forward, &err), 0);
    pl_pass_unpack(&p);
    pl_pass_pack(&p, LAYER, true, PL_LIN_Q, PL_LIN_DOWN);
    assert_int_equal(pl_pass_rows(&p, LAYER, backward, &err), 0);
    assert_int_equal(pl_linear_gradients(&p, LAYER, ends, N, &err), 0);
}

/* --- the reference --- */

typedef struct matrix {
    num *at;
    int64_t rows, cols;
} matrix;

static matrix zeros(bed *b, int64_t rows, int64_t cols) {
    return (matrix){room(b, rows * cols, sizeof(num)), rows, cols};
}

static matrix of(bed *b, const real *x, int64_t rows, int64_t cols) {
    matrix m = zeros(b, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) m.at[i] = (num){(double)x[i], fabs((double)x[i])};
    return m;
}

/* c += scale op(x) op(y), with x, y transposed where told. */
static void add_product(matrix c, double scale, matrix x, bool turn_x, matrix y, bool turn_y) {
    int64_t K = turn_x ? x.rows : x.cols;
    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.cols; j++)
            for (int64_t k = 0; k < K; k++) {
                num p = turn_x ? x.at[k * x.cols + i] : x.at[i * x.cols + k];
                num q = turn_y ? y.at[j * y.cols + k] : y.at[k * y.cols + j];
                num *to = &c.at[i * c.cols + j];
                to->v += scale * p.v * q.v, to->size += scale * p.size * q.size;
            }
}

static void add_matrix(matrix c, matrix x) {
    for (int64_t i = 0; i < c.rows * c.cols; i++) c.at[i].v += x.at[i].v, c.at[i].size += x.at[i].size;
}

/* The mask of module i: what dropout does to ones. */
static void drop(bed *b, int i, matrix x) {
    if (b->s.dropout == 0) return;
    real *ones = room(b, x.rows * x.cols, sizeof *ones);
    uint64_t key = pl_rng_mix(b->lora.dropout_key, (uint64_t)(LAYER * N + i));
    for (int64_t k = 0; k < x.rows * x.cols; k++) ones[k] = 1;
    b->ops.dropout(ones, false, ones, b->forest.dropout_id, key, b->s.dropout, x.rows, x.cols);
    for (int64_t k = 0; k < x.rows * x.cols; k++) x.at[k].v *= (double)ones[k], x.at[k].size *= (double)ones[k];
}

typedef struct expected {
    matrix y[N], dx[N], da[N], db[N];
} expected;

/* Layer i with the adapter of module m. */
static void expect(bed *b, expected *e, int i, int m) {
    int64_t T = b->s.T, in = in_of(b, i), out = out_of(b, i), r = b->s.r[m];
    matrix x = of(b, b->x[i], T, in), dy = of(b, b->dy[i], T, out), w = of(b, b->layers[LAYER].w[i].data, out, in);
    e->y[i] = adds_y(i) ? of(b, b->y0[i], T, out) : zeros(b, T, out);
    e->dx[i] = first_of_x(i) ? zeros(b, T, in) : e->dx[i - 1];
    for (int64_t k = 0; b->layers[LAYER].b[i] && k < T * out; k++) {
        double bias = (double)b->layers[LAYER].b[i][k % out];
        e->y[i].at[k].v += bias, e->y[i].at[k].size += fabs(bias);
    }
    add_product(e->y[i], 1, x, false, w, true);
    add_product(e->dx[i], 1, dy, false, w, false);
    if (r == 0) return;
    const pl_lora_module *mod = module_of(b, m);
    matrix A = of(b, mod->a, r, in), B = of(b, mod->b, out, r), low = zeros(b, T, r), dlow = zeros(b, T, r);
    matrix through = zeros(b, T, in);
    e->da[i] = of(b, b->da0[i], r, in), e->db[i] = of(b, b->db0[i], out, r);
    drop(b, i, x);
    add_product(low, (double)mod->scale, x, false, A, true);
    add_product(e->y[i], 1, low, false, B, true);
    add_product(dlow, (double)mod->scale, dy, false, B, false);
    add_product(through, 1, dlow, false, A, false);
    drop(b, i, through);
    add_matrix(e->dx[i], through);
    add_product(e->da[i], 1, dlow, true, x, false);
    add_product(e->db[i], 1, dy, true, low, false);
}

/* How far x is off, of what rounding n sums in a row allows. */
static double off(const real *x, matrix want, int64_t n) {
    double far = 0;
    for (int64_t i = 0; i < want.rows * want.cols; i++) {
        double bar = (double)(n + 8) * ldexp(1, -24) * want.at[i].size, by = fabs((double)x[i] - want.at[i].v);
        if (!(by <= far * bar)) far = by <= bar * 1e9 ? by / bar : INFINITY; /* NaN too */
    }
    return far;
}

/* The largest distance of what layer i holds; of its dx only with all that add to it. */
static double distance(bed *b, const expected *e, int i) {
    int64_t T = b->s.T, r = b->s.r[i], in = in_of(b, i), out = out_of(b, i);
    double far = off(b->y[i], e->y[i], in + r);
    bool last = i == N - 1 || first_of_x(i + 1);
    if (last && !(b->s.lowest && i <= PL_LIN_V)) far = fmax(far, off(b->dx[i], e->dx[i], 3 * (out + r)));
    if (r == 0) return far;
    far = fmax(far, off(module_of(b, i)->da, e->da[i], T + out));
    return fmax(far, off(module_of(b, i)->db, e->db[i], T + in));
}

static void check_setting(const setting *s) {
    bed b;
    expected e = {0};
    open_bed(&b, s);
    run(&b);
    for (int i = 0; i < N; i++) expect(&b, &e, i, i);
    for (int i = 0; i < N; i++) {
        double far = distance(&b, &e, i);
        if (!(far <= 1))
            fail_msg("%s: %.3g times its bound; %d rows, %d threads, level %d, dropout %g, ranks %d %d %d %d %d %d %d",
                     pl_lin_path((pl_lin)i), far, (int)s->T, s->threads, (int)s->level, (double)s->dropout,
                     (int)s->r[0], (int)s->r[1], (int)s->r[2], (int)s->r[3], (int)s->r[4], (int)s->r[5], (int)s->r[6]);
        worst = fmax(worst, far);
    }
    close_bed(&b);
}

static const int64_t ranks[][N] = {{16, 16, 16, 16, 16, 16, 16}, {8, 16, 24, 0, 16, 8, 32}, {16, 0, 16, 16, 0, 16, 0},
                                   {32, 16, 48, 16, 16, 32, 16}, {0, 16, 32, 8, 24, 0, 16}, {0, 0, 16, 0, 64, 64, 3},
                                   {1, 5, 16, 17, 16, 31, 16},   {16, 16, 0, 16, 0, 0, 16}};

static void agrees_with_double(void **unused) {
    (void)unused;
    static const int64_t rows[] = {65, 130, 205}; /* 65: shared by threads, and one lane of one thread */
    for (int k = 0; k < PL_LEN(ranks); k++)
        for (int i = 0; i < PL_LEN(rows); i++)
            for (int threads = 1; threads <= 3; threads++) {
                setting s = {.T = rows[i], .threads = threads, .level = pl_cpu_detect()};
                memcpy(s.r, ranks[k], sizeof s.r);
                s.dropout = (k + i + threads) % 3 == 0 ? (real)0.25 : 0;
                s.recompute = (k + threads) % 4 == 1, s.lowest = (k + i) % 4 == 2;
                check_setting(&s);
            }
    print_message("worst, of its bound: %.3f\n", worst);
}

static void levels_agree(void **unused) {
    (void)unused;
    for (int level = PL_CPU_GENERIC; level <= (int)pl_cpu_detect(); level++)
        for (int k = 0; k < 2; k++) {
            setting s = {.T = 150, .threads = 2, .level = (pl_cpu_level)level};
            memcpy(s.r, ranks[k], sizeof s.r);
            check_setting(&s);
        }
}

/* The bounds are tight enough to tell modules apart. */
static void finds_swapped_modules(void **unused) {
    (void)unused;
    static const int swaps[][2] = {{PL_LIN_K, PL_LIN_V}, {PL_LIN_GATE, PL_LIN_UP}};
    for (int k = 0; k < PL_LEN(swaps); k++) {
        setting s = {.T = 200, .threads = 2, .level = pl_cpu_detect()};
        bed b;
        expected e = {0};
        int p = swaps[k][0], q = swaps[k][1];
        memcpy(s.r, ranks[0], sizeof s.r);
        open_bed(&b, &s);
        run(&b);
        for (int i = 0; i < N; i++) expect(&b, &e, i, i == p ? q : i == q ? p : i);
        for (int i = 0; i < N; i++) {
            if (i == p || i == q)
                assert_true(distance(&b, &e, i) > 100);
            else if (in_of(&b, i) != in_of(&b, p)) /* others of the same input have their dx from the swapped too */
                assert_true(distance(&b, &e, i) <= 1);
        }
        close_bed(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_double), cmocka_unit_test(levels_agree),
                                       cmocka_unit_test(finds_swapped_modules)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
