/* bench/decode.c: generation through pl_generate at real shapes: decoding against the memory bandwidth, prefill against
 * the matrix products, both measured by the same process.
 *
 *   bench_decode [--shape NAME]... [--dtype bfloat16|float16|float32] [--bf16 0|1] [--threads N] [--sequences N]
 *                [--samples N --top_k N] [--context N] [--new N] [--prompt N] [--map] [--dir DIR] [--json FILE]
 *
 * Without arguments: smollm2-135m and qwen2.5-0.5b stored in bf16, 1 and 2 threads, 1 and 8 sequences that decode
 * behind a prompt of 63 tokens, then prompts of 512 and 2,048 tokens. A step reads every matrix once (in the type that
 * is multiplied) and each sequence's keys and values; "of bound" is these bytes / the bandwidth / the median step.
 * --samples: so many sequences of each prompt, whose keys and values count once; --top_k: samples (0: of all ids).
 * Prefill's second bound adds attention's work at the peak of f32 multiply-adds (which it runs in always) to the time
 * of the products. Prefill counts 2N for each token and attention's 4C for each visible pair of a layer; its time is
 * that of the whole call, buffers included. --map: decode from the mapped file, without the copy. --json appends a line
 * for each result.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "fixture.h"
#include "gen/generator.h"
#include "kernels/gemm_impl.h"
#include "plumb/log.h"
#include "probe.h"
#include "report.h"

#define SKIP_STEPS 24 /* prefill, and decoding before the copy */
#define MAX_STEPS 4096

typedef struct setting {
    const bench_shape *shape;
    const char *dtype, *dir;
    int bf16, threads;
    bool map;
    int64_t sequences, samples, top_k, context, fresh, prompt;
} setting;

typedef struct stamps {
    double at[MAX_STEPS];
    int64_t n;
} stamps;

static void die(const pl_error *err) {
    fprintf(stderr, "bench_decode: %s\n", err->text);
    exit(1);
}

static int stamp(void *user) {
    stamps *s = user;
    if (s->n < MAX_STEPS) s->at[s->n++] = probe_now();
    return 0;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n ? x[n / 2] : NAN;
}

/* --- ceilings */

/* Flop/s of the model's forward products over 1,024 tokens, operands in the type that is multiplied. */
static double gemm_rate(const bench_shape *m, bool bf16) {
    int64_t kv = m->C / m->H * m->KV, T = 1024;
    const int64_t shapes[][3] = {{m->C, m->C, 2}, {kv, m->C, 2}, {m->F, m->C, 2}, {m->C, m->F, 1}};
    size_t bytes = (size_t)(PL_MAX(m->F, T) * PL_MAX(m->F, T) * 4);
    pl_error err;
    pl_dnnl *d = NULL;
    float *a = NULL, *b = NULL, *c = NULL;
    double flop = 0, seconds = 0;
    if (pl_dnnl_new(&d, pl_cpu_detect(), false, &err) || pl_alloc_zero((void **)&a, bytes, &err) ||
        pl_alloc_zero((void **)&b, bytes, &err) || pl_alloc_zero((void **)&c, bytes, &err))
        die(&err);
    for (size_t i = 0; i < bytes / 4; i++) a[i] = b[i] = bf16 ? 0.0078125f : 1.0f + (float)(i % 977) * 1e-3f;
    for (int i = 0; i < PL_LEN(shapes); i++) {
        int64_t n = shapes[i][0], k = shapes[i][1];
        pl_dnnl_shape g = {.m = T, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n, .b_cols = 1, .bf16 = bf16};
        double best = INFINITY;
        for (int run = 0; run < 6; run++) {
            double began = probe_now();
            if (pl_dnnl_multiply(d, &g, a, b, c, &err)) die(&err);
            if (run) best = fmin(best, probe_now() - began);
        }
        flop += 2.0 * (double)(T * n * k * shapes[i][2]);
        seconds += best * (double)shapes[i][2];
    }
    pl_dnnl_free(d);
    pl_free(a), pl_free(b), pl_free(c);
    return flop / seconds;
}

/* --- one run */

typedef struct run {
    pl_generate_stats stats;
    stamps steps;
} run;

static pl_generator *open_generator(const setting *s, pl_machine *machine, const char *model, int64_t fresh,
                                    int64_t samples) {
    pl_error err;
    pl_generator *g = NULL;
    pl_generate_options o;
    pl_generate_options_init(&o);
    o.model_name_or_path = model;
    o.max_new_tokens = fresh;
    o.batch_size = s->sequences;
    o.ignore_eos = true;
    o.num_return_sequences = samples;
    if (s->top_k >= 0) o.top_k = s->top_k;
    o.bf16 = s->bf16;
    if (pl_generator_open(&g, machine, &o, &err)) die(&err);
    return g;
}

static void generate(run *r, const setting *s, pl_generator *g, int64_t tokens, int64_t n) {
    pl_error err;
    int32_t *ids = NULL;
    pl_prompt *prompts = NULL;
    if (PL_NEW(&ids, n * tokens, &err) || PL_NEW(&prompts, n, &err)) die(&err);
    for (int64_t i = 0; i < n * tokens; i++) ids[i] = (int32_t)(pl_rng_mix(3, (uint64_t)i) % (uint64_t)s->shape->V);
    for (int64_t i = 0; i < n; i++) prompts[i] = (pl_prompt){.ids = ids + i * tokens, .n = tokens};
    *r = (run){.steps.n = 0};
    pl_generate_hooks hooks = {.user = &r->steps, .stop = stamp};
    if (pl_generate(g, prompts, n, &hooks, &r->stats, &err)) die(&err);
    pl_free(ids);
    pl_free(prompts);
}

static void begin_line(const char *bench, const setting *s, bool bf16) {
    report_begin(bench, s->shape->name);
    report_text("shape", s->shape->name);
    report_text("dtype", s->dtype);
    report_text("precision", bf16 ? "bf16" : "f32");
    report_count("threads", s->threads);
}

static double matrix_bytes(const setting *s, bool bf16) {
    double elements = bench_linear_elements(s->shape) + (double)(s->shape->V * s->shape->C);
    return elements * (bf16 || strcmp(s->dtype, "float32") ? 2 : 4);
}

static void decode(const setting *s, pl_machine *machine, const char *model, double read) {
    const bench_shape *m = s->shape;
    pl_generator *g = open_generator(s, machine, model, s->fresh + SKIP_STEPS, s->samples);
    static run r;
    static double took[MAX_STEPS];
    g->hot.off = s->map;
    generate(&r, s, g, s->context, s->sequences / s->samples);
    int64_t n = 0;
    for (int64_t i = SKIP_STEPS; i + 1 < r.steps.n; i++) took[n++] = r.steps.at[i + 1] - r.steps.at[i];
    double step = median(took, n), own = SKIP_STEPS + (double)s->fresh / 2, keys = (double)s->context + own;
    double rows = (double)(s->sequences / s->samples * s->context) + (double)s->sequences * own;
    double cache = rows * (double)(2 * m->L * m->KV * (m->C / m->H)) * 4;
    double bytes = matrix_bytes(s, g->backend.bf16) + cache, rate = (double)s->sequences / step;
    printf(
        "%-14s %-9s %-5s %d thr %3d seq of %d %s  %8.1f tokens/s %7.2f ms/step %6.1f of %.1f GB/s, %3.0f %% of bound\n",
        m->name, s->dtype, g->backend.bf16 ? "bf16" : "f32", s->threads, (int)s->sequences,
        (int)(s->sequences / s->samples), s->map ? "map " : "copy", rate, step * 1e3, bytes / step * 1e-9, read,
        100 * bytes / step * 1e-9 / read);
    begin_line("decode", s, g->backend.bf16);
    report_count("sequences", s->sequences);
    report_count("samples", s->samples);
    report_text("weights", s->map ? "map" : "copy");
    report_number("context", keys);
    report_number("tokens_per_s", rate);
    report_number("step_ms", step * 1e3);
    report_number("bytes_per_step", bytes);
    report_number("gb_per_s", bytes / step * 1e-9);
    report_number("read_gb_per_s", read);
    report_number("of_bound", bytes / step * 1e-9 / read);
    report_end();
    fflush(stdout);
    pl_generator_free(g);
}

static void prefill(const setting *s, pl_machine *machine, const char *model, int64_t tokens, int64_t prompts) {
    const bench_shape *m = s->shape;
    pl_generator *g = open_generator(s, machine, model, 1, 1);
    static run r;
    double best = INFINITY, gemm = gemm_rate(m, g->backend.bf16);
    double peak = 1e9 * probe_peak(probe_best_f32(), s->threads, 0.2);
    for (int i = 0; i < 4; i++) {
        generate(&r, s, g, tokens, prompts);
        if (i) best = fmin(best, r.stats.seconds);
    }
    gemm = fmax(gemm, gemm_rate(m, g->backend.bf16));
    double n = (double)(tokens * prompts), pairs = n * ((double)tokens + 1) / 2;
    double linear = 2 * bench_linear_elements(m) * n, attention = 4 * (double)(m->C * m->L) * pairs;
    double flop = linear + attention, both = linear / gemm + attention / peak;
    printf("%-14s %-9s %-5s %d thr, prefill %d x %d  %8.0f tokens/s %7.1f GFLOP/s, %3.0f %% of %.0f (with "
           "attention at %.0f: %.0f %%)\n",
           m->name, s->dtype, g->backend.bf16 ? "bf16" : "f32", s->threads, (int)prompts, (int)tokens, n / best,
           flop / best * 1e-9, 100 * flop / best / gemm, gemm * 1e-9, peak * 1e-9, 100 * both / best);
    begin_line("prefill", s, g->backend.bf16);
    report_count("prompts", prompts);
    report_count("tokens", tokens);
    report_number("tokens_per_s", n / best);
    report_number("gflops", flop / best * 1e-9);
    report_number("gemm_gflops", gemm * 1e-9);
    report_number("of_gemm", flop / best / gemm);
    report_number("of_gemm_and_f32_attention", both / best);
    report_end();
    fflush(stdout);
    pl_generator_free(g);
}

/* --- the list */

static void run_shape(setting s) {
    pl_error err;
    char *model = NULL;
    if (bench_model_make(&model, s.dir, s.shape, s.dtype, &err)) die(&err);
    int most = 1, given = s.threads;
#ifdef _OPENMP
    most = omp_get_max_threads();
#endif
    for (s.threads = 1; s.threads <= PL_MIN(most, 2); s.threads++) {
        if (given > 0 && s.threads != 1) break;
        if (given > 0) s.threads = given;
        pl_machine *machine = NULL;
        pl_machine_options o = {.threads = s.threads};
        if (pl_machine_new(&machine, &o, &err)) die(&err);
        double read = probe_read(s.threads, false);
        int64_t asked = s.sequences, prompt = s.prompt;
        for (int64_t n = asked ? asked : 1; n <= (asked ? asked : 8); n += 7) {
            s.sequences = n;
            if (s.fresh > 0) decode(&s, machine, model, read);
        }
        s.sequences = asked ? asked : 1;
        if (prompt > 0) prefill(&s, machine, model, prompt, s.sequences);
        if (prompt == 0) {
            prefill(&s, machine, model, 512, 1);
            prefill(&s, machine, model, 2048, 1);
            s.sequences = 8;
            prefill(&s, machine, model, 128, 8);
        }
        s.sequences = asked;
        pl_machine_free(machine);
    }
    pl_free(model);
}

static int usage(void) {
    fprintf(stderr, "usage: see the head of bench/decode.c\n");
    return 2;
}

int main(int argc, char **argv) {
    setting s = {.dtype = "bfloat16",
                 .dir = "/tmp/plumb-bench",
                 .bf16 = -1,
                 .samples = 1,
                 .top_k = -1,
                 .context = 63,
                 .fresh = 64};
    const bench_shape *chosen[8] = {0};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--map") == 0) {
            s.map = true;
            continue;
        }
        if (!value) return usage();
        i++;
        if (strcmp(name, "--shape") == 0 && n < PL_LEN(chosen)) {
            if (!(chosen[n++] = bench_shape_find(value))) return usage();
        } else if (strcmp(name, "--dtype") == 0)
            s.dtype = value;
        else if (strcmp(name, "--dir") == 0)
            s.dir = value;
        else if (strcmp(name, "--bf16") == 0)
            s.bf16 = atoi(value);
        else if (strcmp(name, "--threads") == 0)
            s.threads = atoi(value);
        else if (strcmp(name, "--sequences") == 0)
            s.sequences = atoi(value);
        else if (strcmp(name, "--samples") == 0)
            s.samples = atoi(value);
        else if (strcmp(name, "--top_k") == 0)
            s.top_k = atoi(value);
        else if (strcmp(name, "--context") == 0)
            s.context = atoi(value);
        else if (strcmp(name, "--new") == 0)
            s.fresh = atoi(value);
        else if (strcmp(name, "--prompt") == 0)
            s.prompt = atoi(value);
        else if (strcmp(name, "--json") != 0)
            return usage();
    }
    if (n == 0) chosen[n++] = bench_shape_find("smollm2-135m"), chosen[n++] = bench_shape_find("qwen2.5-0.5b");
    report_open(report_path(argc, argv));
    printf("%s\n", probe_cpu_name());
    for (int i = 0; i < n; i++) {
        s.shape = chosen[i];
        run_shape(s);
    }
    return 0;
}
