/* bench/run.h: one training run of the program's own loop at a real shape, timed step by step, in a process of its own
 * so that its peak memory is its own.
 *
 * Work is counted as docs/performance.md says. Times are sums over the steps but the first, because steps differ in
 * length; a step counts unless the probe of the FMA peak beside it (before or after) fell under 90 % of the machine's
 * best, as long as half of them are left. */
#ifndef PL_BENCH_RUN_H
#define PL_BENCH_RUN_H

#include "fixture.h"
#include "parts.h"

#define BENCH_RANK 16 /* LoRA on all linear layers */

typedef struct bench_setting {
    const bench_shape *shape;
    const bench_lengths *lengths; /* [pairs] */
    const char *dir;              /* for models, rows and the run */
    const char *weights;          /* dtype of the model's file; NULL: bfloat16 */
    char set;                     /* that lengths are of, for tables */
    bool bf16, cached, full;      /* mode; reference from a cache; all weights instead of LoRA */
    bench_rows rows;              /* ROWS_PAIRS: dpo, else sft */
    int threads;                  /* 0: the program's default */
    int64_t pairs, batch;         /* rows in all and of a step */
    bench_variant variant;
} bench_setting;

typedef struct bench_result {
    bool ok;
    char error[512];
    double gemm, gemm_best;      /* flop/s of the model's products */
    double fma;                  /* flop/s of the FMA peak, f32 */
    double head_gemm;            /* flop/s of the head's two products, tile by tile */
    double start;                /* seconds until everything is ready for the first step */
    double step, spread;         /* mean; (highest - lowest) / median of the steps' flop/s */
    double flop, rate;           /* counted, per step; flop/s of the steps that count */
    double parts[PART_COUNT];    /* seconds a step, of all steps */
    double rest, idle;           /* of the wall time: in no part; cores that did nothing */
    double head_flop, attn_flop; /* of flop */
    double tokens;               /* unshared tokens a second */
    double loss;                 /* of the first step */
    double peak_bytes, planned_bytes;
    int64_t steps, quiet; /* timed; of them not disturbed */
    int threads;
} bench_result;

bench_result bench_run(const bench_setting *s);
/* As many as the program would take when told `wanted`; 0: its default. */
int bench_threads(int wanted);
/* Every setting once, then again, `rounds` times; out[i] is the run of setting i with the median step. */
void bench_run_rounds(const bench_setting *s, int n, int rounds, bench_result *out);

/* --- work.c --- */
/* Floating-point operations of w, as they are counted; head and attention alone where asked for. */
double bench_counted(const bench_setting *s, const bench_work *w, double *head, double *attention);
/* Raises the speeds of r to those measured now, on as many threads as OpenMP would take. */
void bench_measure_gemm(bench_result *r, const bench_setting *s);

/* The line of JSON's keys that tell a setting, and those of a result. */
void bench_report_setting(const bench_setting *s, const bench_result *r);
void bench_report_result(const bench_setting *s, const bench_result *r);

#endif
