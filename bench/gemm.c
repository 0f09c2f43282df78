/* bench/gemm.c: the machine's ceilings, then the matrix product (kernels/gemm.h) at the shapes of training and decoding
 * against them.
 *
 *   bench_gemm [--all | --native | --tiny] [--threads N] [--cpu-time] [--json FILE]
 *                                                      PLUMB_CPU=generic|avx2|avx512|avx512bf16 limits the level
 *
 * --native: weights in bf16 for bf16 products and in f32 for f32 ones only, products on all threads only; --tiny: one
 * shape, to see that it works.
 *
 * Cells are GFLOP/s, the median of good samples (probe.h), and per cent of the FMA peak of the mode on as many threads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "kernels/gemm.h"
#include "probe.h"
#include "report.h"

typedef struct shape {
    const char *name;
    int64_t out, in, tokens;
    bool quick; /* without --all too */
} shape;

static const shape shapes[] = {
    {"SmolLM2 q, o", 576, 576, 1024, true},          {"SmolLM2 k, v", 192, 576, 1024, false},
    {"SmolLM2 gate, up", 1536, 576, 1024, true},     {"SmolLM2 down", 576, 1536, 1024, true},
    {"Qwen-0.5B gate, up", 4864, 896, 1024, true},   {"Qwen-0.5B down", 896, 4864, 1024, true},
    {"Llama-1B gate, up", 8192, 2048, 512, true},    {"head tile of SmolLM2", 8192, 576, 256, true},
    {"tail: q, o, 300 tokens", 576, 576, 300, true}, {"LoRA A, r = 16", 16, 576, 1024, false},
    {"LoRA B, r = 16", 576, 16, 1024, false},
};

typedef struct mode {
    const char *name;
    bool bf16;
    pl_dtype type;
} mode;
static const mode modes[] = {{"f32, W f32", false, PL_F32}, {"f32, W bf16", false, PL_BF16},
                             {"f32, W f16", false, PL_F16}, {"bf16, W bf16", true, PL_BF16},
                             {"bf16, W f32", true, PL_F32}, {"bf16, W f16", true, PL_F16}};

typedef struct bench {
    pl_ops ops;
    pl_gemm *gemm;
    float *a, *c, *values;
    void *w;
    pl_gemm_call call;
    double peak[PROBE_KINDS];
    int threads;
    bool cpu_time;
    int good, taken; /* samples */
} bench;

typedef struct choice {
    bool all, native, tiny, cpu_time;
} choice;

static void die(const pl_error *err) {
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static void *take(int64_t bytes) {
    void *p = NULL;
    pl_error err;
    if (pl_alloc_zero(&p, (size_t)bytes, &err)) die(&err);
    return p;
}

static void run_call(void *arg) {
    bench *b = arg;
    pl_error err;
    if (pl_gemm_run(b->gemm, &b->call, &err)) die(&err);
}

/* Operands for the largest matrices that are used: random, or all weights of one kind where the rest repeats. */
enum { MOST = 8192 * 2048, MOST_TOKENS = 1024 * 4864 };

static void set_threads(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

static double seconds_per_call(bench *b, probe_kind kind, double flop_guess) {
    probe_rule rule = {kind, b->threads, 5, b->peak[kind], b->cpu_time};
    probe_samples s = probe_time(run_call, b, flop_guess, &rule);
    b->good += s.good, b->taken += s.taken;
    return s.median;
}

static double measure(bench *b, pl_gemm_kind kind, const mode *m, const shape *s, double *per_cent) {
    pl_error err;
    bool y = kind == PL_GEMM_Y, dw = kind == PL_GEMM_DW;
    pl_gemm_call c = {
        .kind = kind, .bf16 = m->bf16, .accumulate = dw, .a = b->a, .b = b->w, .b_type = m->type, .c = b->c};
    c.m = dw ? s->out : s->tokens;
    c.n = y ? s->out : s->in;
    c.k = y ? s->in : dw ? s->tokens : s->out;
    c.lda = dw ? c.m : c.k;
    c.ldb = y ? c.k : c.n;
    c.ldc = c.n;
    if (dw) c.b = b->values, c.b_type = PL_F32;
    b->call = c;
    if (pl_gemm_prepare(b->gemm, &c, &err)) die(&err);
    bool native = m->bf16 && pl_gemm_native_bf16(b->gemm);
    probe_kind kind_of = native ? PROBE_AVX512_BF16 : probe_best_f32();
    double flop = 2.0 * (double)c.m * (double)c.n * (double)c.k;
    double rate = flop * 1e-9 / seconds_per_call(b, kind_of, flop);
    *per_cent = 100 * rate / b->peak[kind_of];
    return rate;
}

static void fill_weights(bench *b, pl_dtype type) { b->ops.from_real(b->w, type, b->values, MOST); }

static bool is_wanted(const choice *c, const mode *m) {
    return !(c->native || c->tiny) || m->type == (m->bf16 ? PL_BF16 : PL_F32);
}

/* One shape in one mode: a line of the table. */
static void product_line(bench *b, const mode *m, const shape *s) {
    static const char *const keys[][2] = {
        {"y_gflops", "y_of_peak"}, {"dx_gflops", "dx_of_peak"}, {"dw_gflops", "dw_of_peak"}};
    char what[96];
    snprintf(what, sizeof what, "%s: %d x %d, %d", s->name, (int)s->out, (int)s->in, (int)s->tokens);
    report_begin("gemm", what);
    report_text("mode", m->name);
    report_count("threads", b->threads);
    printf("%-26s", s->name);
    for (int k = PL_GEMM_Y; k <= PL_GEMM_DW; k++) {
        double per_cent, rate;
        if (k == PL_GEMM_DW && m->type != (m->bf16 ? PL_BF16 : PL_F32)) continue; /* no weights in it */
        rate = measure(b, (pl_gemm_kind)k, m, s, &per_cent);
        printf("%8.0f (%3.0f%%)", rate, per_cent);
        fflush(stdout);
        report_number(keys[k - PL_GEMM_Y][0], rate);
        report_number(keys[k - PL_GEMM_Y][1], per_cent / 100);
    }
    report_end();
    printf("   %d x %d, %d\n", (int)s->out, (int)s->in, (int)s->tokens);
}

static void products(bench *b, const choice *o) {
    for (int64_t m = 0; m < PL_LEN(modes); m++) {
        if (!is_wanted(o, &modes[m])) continue;
        fill_weights(b, modes[m].type);
        printf("\n%s, %d thread%s: GFLOP/s (%% of peak)\n%-26s%16s%16s%16s\n", modes[m].name, b->threads,
               b->threads > 1 ? "s" : "", "out x in, tokens", "Y", "dX", "dW");
        for (int64_t s = 0; s < (o->tiny ? 1 : PL_LEN(shapes)); s++)
            if (o->all || shapes[s].quick) product_line(b, &modes[m], &shapes[s]);
    }
}

/* Decoding: every weight once for m rows; the ceiling is reading the weights. */
static void decode(bench *b, const choice *o) {
    double read = probe_read(b->threads, b->cpu_time);
    printf("\ndecoding, 8192 x 2048, %d thread%s: G weights/s and %% of %.0f GB/s\n%-14s%18s%18s%18s%18s%18s\n",
           b->threads, b->threads > 1 ? "s" : "", read, "rows", "1", "2", "4", "8", "16");
    for (int64_t m = 0; m < PL_LEN(modes); m++) {
        if (!is_wanted(o, &modes[m])) continue;
        fill_weights(b, modes[m].type);
        printf("%-14s", modes[m].name);
        report_begin("gemv", modes[m].name);
        report_count("threads", b->threads);
        for (int64_t rows = 1; rows <= 16; rows *= 2) {
            char key[32];
            b->call = (pl_gemm_call){.kind = PL_GEMM_Y,
                                     .bf16 = modes[m].bf16,
                                     .m = rows,
                                     .n = 8192,
                                     .k = 2048,
                                     .b_type = modes[m].type,
                                     .a = b->a,
                                     .lda = 2048,
                                     .b = b->w,
                                     .ldb = 2048,
                                     .c = b->c,
                                     .ldc = 8192};
            probe_kind kind = probe_best_f32();
            double weights = 8192.0 * 2048, guess = weights * b->peak[kind] * 1e9 / (read * 1e9 / 4 + 1);
            double rate = weights * 1e-9 / seconds_per_call(b, kind, guess);
            double of_read = rate * (double)pl_dtype_bytes(modes[m].type) / read;
            printf("%10.2f (%3.0f%%)", rate, 100 * of_read);
            fflush(stdout);
            snprintf(key, sizeof key, "rows_%d", (int)rows);
            report_number(key, rate);
            snprintf(key, sizeof key, "of_read_%d", (int)rows);
            report_number(key, of_read);
        }
        report_end();
        printf("\n");
    }
}

static void ceilings(bench *b, const choice *o) {
    static const char *const keys[] = {"avx2_gflops", "avx512_gflops", "bf16_gflops"};
    int threads = b->threads;
    char what[32];
    snprintf(what, sizeof what, "%d thread%s", threads, threads > 1 ? "s" : "");
    report_begin("machine", what);
    report_count("threads", threads);
    for (int k = 0; k < PROBE_KINDS; k++) {
        b->peak[k] = probe_peak((probe_kind)k, threads, o->tiny ? 0.02 : 0.3);
        printf("%s: %s peak %.0f GFLOP/s\n", what, probe_kind_name((probe_kind)k), b->peak[k]);
        if (probe_can((probe_kind)k)) report_number(keys[k], b->peak[k]);
    }
    double triad = probe_triad(threads), copy = probe_copy(threads), read = probe_read(threads, o->cpu_time);
    printf("%s: memory triad %.1f GB/s, copy %.1f GB/s, read %.1f GB/s\n", what, triad, copy, read);
    report_number("triad_gb_s", triad);
    report_number("copy_gb_s", copy);
    report_number("read_gb_s", read);
    report_end();
}

static void run_level(pl_cpu_level level, int threads, bool only_ceilings, const choice *o) {
    pl_error err;
    bench b = {.threads = threads, .cpu_time = o->cpu_time};
    set_threads(threads);
    ceilings(&b, o);
    if (only_ceilings) return;
    pl_ops_init(&b.ops, level);
    if (pl_gemm_new(&b.gemm, level, &b.ops, &err)) die(&err);
    b.a = take(MOST_TOKENS * 4 + 4096 * 4 * 32);
    b.c = take((int64_t)MOST * 4);
    b.values = take((int64_t)MOST * 4);
    b.w = take((int64_t)MOST * 4);
    pl_rng_normal(b.values, MOST, 0.02f, 1, 0);
    pl_rng_normal(b.a, MOST_TOKENS, 1.0f, 2, 0);
    printf("products: %s at level %s, bf16 %s\n", pl_gemm_name(b.gemm), pl_cpu_level_name(level),
           pl_gemm_native_bf16(b.gemm) ? "native" : "by rounded f32");
    products(&b, o);
    decode(&b, o);
    printf("held by the provider: %.1f MB; %d of %d samples were good\n\n", (double)pl_gemm_bytes(b.gemm) * 1e-6,
           b.good, b.taken);
    pl_gemm_free(b.gemm);
    pl_free(b.a), pl_free(b.c), pl_free(b.values), pl_free(b.w);
}

int main(int argc, char **argv) {
    choice o = {0};
    int only = 0, most = 1;
    pl_error err;
    pl_cpu_level level = pl_cpu_detect();
    const char *name = getenv("PLUMB_CPU");
    if (name && *name && pl_cpu_level_parse(&level, name, &err)) die(&err);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0) o.all = true;
        if (strcmp(argv[i], "--native") == 0) o.native = true;
        if (strcmp(argv[i], "--tiny") == 0) o.tiny = true;
        if (strcmp(argv[i], "--cpu-time") == 0) o.cpu_time = true;
        if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) only = atoi(argv[++i]);
    }
#ifdef _OPENMP
    most = omp_get_max_threads();
#endif
    report_open(report_path(argc, argv));
    pl_fp_state fp;
    pl_fp_enter(&fp);
    printf("%s, %d threads allowed\n", probe_cpu_name(), most);
    if (only > 0) {
        run_level(level, only, false, &o);
    } else {
        run_level(level, 1, most > 1 && (o.native || o.tiny), &o);
        if (most > 1) run_level(level, most, false, &o);
    }
    pl_fp_leave(&fp);
    return 0;
}
