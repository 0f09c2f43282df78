/* bench/probe.h: what the machine can do at most, measured: the ceilings that benchmarks are quoted against. */
#ifndef PL_BENCH_PROBE_H
#define PL_BENCH_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum probe_kind { PROBE_AVX2_F32, PROBE_AVX512_F32, PROBE_AVX512_BF16, PROBE_KINDS } probe_kind;

double probe_now(void);         /* seconds */
double probe_cpu_seconds(void); /* processor time of this process */
/* From now on probe_now counts the processor time of this process: for one thread on a machine that others load. */
void probe_use_cpu_time(void);
const char *probe_cpu_name(void);
const char *probe_kind_name(probe_kind kind);
bool probe_can(probe_kind kind);
/* GFLOP/s (a multiply-add is two) of fused multiply-adds on registers over `threads` OpenMP threads, in about
 * `seconds`. */
double probe_peak(probe_kind kind, int threads, double seconds);
/* The same over all the time, not only its fastest bursts: what the machine gives now. */
double probe_rate(probe_kind kind, int threads, double seconds);
/* The widest f32 kind that this machine has. */
probe_kind probe_best_f32(void);
/* Memory in huge pages where the system gives them (a Zen 4 reads 4 KB pages at two thirds of the speed); free(). */
void *probe_pages(size_t bytes);
/* GB/s: a[i] = b[i] + s c[i] counted as three streams, a[i] = -b[i] as two, and reading only. 3 x 128 MB are allocated;
 * 0 without memory. Before a line is written to, it is read: that is not counted, and a copy suffers most of it. */
double probe_triad(int threads);
double probe_copy(int threads);
double probe_read(int threads, bool cpu_time); /* cpu_time: see probe_rule */

/* How samples are taken: a sample counts when the machine gave at least 90 % of `peak` (probe_peak of `kind` on
 * `threads`) just before it, until `want` are good or three times as many were taken. cpu_time: the processor time of
 * the process divided by `threads` instead of the wall's, for one thread on a machine that others load; spinning at
 * barriers counts. */
typedef struct probe_rule {
    probe_kind kind;
    int threads, want;
    double peak;
    bool cpu_time;
} probe_rule;
/* Seconds per call of run(arg), which does about flop_guess: best and median of the good samples, or of all if none
 * was. */
typedef struct probe_samples {
    double best, median, spread; /* spread: (third - first quartile) / median */
    int good, taken;
} probe_samples;
probe_samples probe_time(void (*run)(void *arg), void *arg, double flop_guess, const probe_rule *rule);

#endif
