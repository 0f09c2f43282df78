/* bench/probe.c: see probe.h. */
#include "probe.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static double clock_seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static clockid_t probe_clock = CLOCK_MONOTONIC;
double probe_now(void) { return clock_seconds(probe_clock); }
double probe_cpu_seconds(void) { return clock_seconds(CLOCK_PROCESS_CPUTIME_ID); }
void probe_use_cpu_time(void) { probe_clock = CLOCK_PROCESS_CPUTIME_ID; }

const char *probe_cpu_name(void) {
    static char name[128] = "unknown CPU";
    char line[256];
    unsigned family = 0, model = 0;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (!value) break; /* the first CPU says it all */
        value[strcspn(value, "\n")] = 0;
        if (strncmp(line, "model name", 10) == 0) snprintf(name, sizeof name - 40, "%.80s", value + 2);
        if (strncmp(line, "cpu family", 10) == 0) family = (unsigned)atoi(value + 2);
        if (strncmp(line, "model\t", 6) == 0) model = (unsigned)atoi(value + 2);
    }
    if (f) fclose(f);
    size_t used = strlen(name);
    snprintf(name + used, sizeof name - used, " (family %u, model %u)", family, model);
    return name;
}

const char *probe_kind_name(probe_kind kind) {
    static const char *const names[] = {"AVX2 f32", "AVX-512 f32", "AVX512-BF16"};
    return names[kind];
}

bool probe_can(probe_kind kind) {
    __builtin_cpu_init();
    if (kind == PROBE_AVX2_F32) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (kind == PROBE_AVX512_F32) return __builtin_cpu_supports("avx512f");
    return __builtin_cpu_supports("avx512bf16");
}

probe_kind probe_best_f32(void) { return probe_can(PROBE_AVX512_F32) ? PROBE_AVX512_F32 : PROBE_AVX2_F32; }

/* --- multiply-adds: ROUNDS x CHAINS independent chains; the sum is returned so that they are not removed
 * ----------------------- */
enum { CHAINS = 12, ROUNDS = 20000 };

__attribute__((target("avx2,fma"))) static float burn_avx2(void) {
    __m256 sum[CHAINS], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_set1_ps((float)c);
    for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_fmadd_ps(sum[c], x, y);
    }
    float out[8], total = 0;
    for (int c = 0; c < CHAINS; c++) _mm256_storeu_ps(out, sum[c]), total += out[0];
    return total;
}

__attribute__((target("avx512f"))) static float burn_avx512(void) {
    __m512 sum[CHAINS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm512_set1_ps((float)c);
    for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++) sum[c] = _mm512_fmadd_ps(sum[c], x, y);
    }
    float out[16], total = 0;
    for (int c = 0; c < CHAINS; c++) _mm512_storeu_ps(out, sum[c]), total += out[0];
    return total;
}

__attribute__((target("avx512f,avx512bf16"))) static float burn_bf16(void) {
    __m512 sum[CHAINS];
    __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.01f), _mm512_set1_ps(0.02f)), y = x;
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm512_set1_ps((float)c);
    for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++) sum[c] = _mm512_dpbf16_ps(sum[c], x, y);
    }
    float out[16], total = 0;
    for (int c = 0; c < CHAINS; c++) _mm512_storeu_ps(out, sum[c]), total += out[0];
    return total;
}

static float burn(probe_kind kind) {
    return kind == PROBE_AVX2_F32 ? burn_avx2() : kind == PROBE_AVX512_F32 ? burn_avx512() : burn_bf16();
}

/* Sum over threads of the rate of the fastest burst, and of the rate over all the time. */
static double burn_rate(probe_kind kind, int threads, double seconds, bool fastest) {
    const double flop[] = {8 * 2, 16 * 2, 32 * 2};
    double rate = 0, sink = 0;
    if (!probe_can(kind)) return 0;
    (void)threads; /* without OpenMP */
#pragma omp parallel num_threads(threads) reduction(+ : rate, sink)
    {
        double start = probe_now(), best = 1e9, end;
        int64_t bursts = 0;
        do {
            double t = probe_now();
            sink += (double)burn(kind);
            end = probe_now();
            bursts++;
            if (end - t < best) best = end - t;
        } while (end - start < seconds);
        double time = fastest ? best : (end - start) / (double)bursts;
        rate += CHAINS * (double)ROUNDS * flop[kind] / time * 1e-9;
    }
    return sink != sink ? 0 : rate;
}

double probe_peak(probe_kind kind, int threads, double seconds) { return burn_rate(kind, threads, seconds, true); }
double probe_rate(probe_kind kind, int threads, double seconds) { return burn_rate(kind, threads, seconds, false); }

/* --- memory --- */
enum { STREAM = 32 * 1024 * 1024, HUGE_PAGE = 2 * 1024 * 1024 };

void *probe_pages(size_t bytes) {
    void *p = aligned_alloc(HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (p) (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* By the compiler's vectors, whatever it would make of a loop. */
typedef float floats __attribute__((vector_size(64)));

/* a = b + 3 c, or a = -b (a plain copy might be compiled to memcpy, which writes around the cache); GB/s as counted. */
static double stream_rate(int threads, bool triad) {
    int n = STREAM / 16;
    (void)threads;
    floats *a = probe_pages(STREAM * 4u), *b = probe_pages(STREAM * 4u), *c = probe_pages(STREAM * 4u);
    double best = 1e9;
    for (int run = 0; run < 6 && a && b && c; run++) {
        double t = probe_now();
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int part = 0; part < 64; part++) {
            int from = part * (n / 64), to = from + n / 64;
            if (run == 0)
                for (int i = from; i < to; i++) a[i] = (floats){0}, b[i] = a[i] + 1.0f, c[i] = a[i] + 2.0f;
            else if (triad)
                for (int i = from; i < to; i++) a[i] = b[i] + 3.0f * c[i];
            else
                for (int i = from; i < to; i++) a[i] = -b[i];
        }
        t = probe_now() - t;
        if (run > 0 && t < best) best = t;
    }
    free(a), free(b), free(c);
    return best < 1e9 ? (triad ? 12.0 : 8.0) * STREAM / best * 1e-9 : 0;
}

double probe_triad(int threads) { return stream_rate(threads, true); }
double probe_copy(int threads) { return stream_rate(threads, false); }

/* Four sums of sixteen lanes each, by the compiler's vectors: enough to be limited by memory. */
typedef int lanes __attribute__((vector_size(64)));
static int read_part(const lanes *x, int n) {
    lanes sum[4] = {{0}};
    for (int i = 0; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++) sum[j] ^= x[i + j];
    lanes all = (sum[0] ^ sum[1]) ^ (sum[2] ^ sum[3]);
    int out = 0;
    for (int i = 0; i < 16; i++) out ^= all[i];
    return out;
}

double probe_read(int threads, bool cpu_time) {
    int n = 3 * STREAM / 16, sink = 0, part = n / 64;
    lanes *x = probe_pages((size_t)n * sizeof *x);
    double best = 1e9;
    clockid_t id = cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    int shares = cpu_time ? threads : 1;
    if (!x) return 0;
    memset(x, 1, (size_t)n * sizeof *x);
    for (int run = 0; run < 5; run++) {
        double t = clock_seconds(id);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(^ : sink)
        for (int i = 0; i < 64; i++) sink ^= read_part(x + (size_t)i * (size_t)part, part);
        t = (clock_seconds(id) - t) / shares;
        if (t < best) best = t;
    }
    free(x);
    return sink == 12345 ? 0 : 64.0 * part * 64.0 / best * 1e-9;
}

/* --- samples
 * ------------------------------------------------------------------------------------------------------------------ */
static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { MAX_SAMPLES = 64 };

probe_samples probe_time(void (*run)(void *arg), void *arg, double flop_guess, const probe_rule *rule) {
    double good[MAX_SAMPLES], all[MAX_SAMPLES];
    probe_samples s = {0};
    clockid_t id = rule->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    int shares = rule->cpu_time ? rule->threads : 1, want = rule->want > MAX_SAMPLES / 3 ? MAX_SAMPLES / 3 : rule->want;
    run(arg);
    double times = 0.01 * rule->peak * 1e9 / (flop_guess + 1); /* about 10 ms a sample */
    int calls = times > 1e4 ? 10000 : 1 + (int)times;
    while (s.good < want && s.taken < 3 * want) {
        bool quiet = rule->cpu_time || burn_rate(rule->kind, rule->threads, 0.005, false) >= 0.9 * rule->peak;
        double t = clock_seconds(id);
        for (int i = 0; i < calls; i++) run(arg);
        t = (clock_seconds(id) - t) / calls / shares;
        all[s.taken++] = t;
        if (quiet) good[s.good++] = t;
    }
    double *list = s.good ? good : all;
    int n = s.good ? s.good : s.taken;
    qsort(list, (size_t)n, sizeof *list, by_size);
    s.best = list[0];
    s.median = list[n / 2];
    s.spread = (list[n * 3 / 4] - list[n / 4]) / s.median;
    return s;
}
