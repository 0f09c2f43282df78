/* bench/step.c: the optimizer step at real shapes, as the program runs it (bench/run.h), against the matrix products
 * that the same process measures.
 *
 *   bench_step [--shape NAME]... [--bf16 0|1|best] [--cached] [--full] [--sft] [--lengths A|B|C] [--weights
 * bfloat16|float32]
 *              [--pairs N] [--batch N] [--threads N] [--rounds N] [--dir DIR] [--cpu-time] [--json FILE]
 *              [--ablation | --scaling]
 *   bench_step --fixtures [--shape NAME]... [--pairs N] [--dir DIR]
 *
 * DPO with LoRA and a live reference on the lengths of hh-rlhf unless told otherwise, smollm2-135m, in both modes (bf16
 * where it is native). "of GEMM" is work / time / the speed of the model's own products, "of peak" takes the fastest of
 * them. --ablation takes one thing after another away; --scaling goes from one thread to all of them; with --rounds the
 * variants are run in turns and the median of each counts.
 * --fixtures only writes the models and the rows and prints their paths: bench/peers runs other trainers on them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cli/spin.h"
#include "base/file.h"
#include "kernels/ops.h"
#include "probe.h"
#include "report.h"
#include "run.h"

static bool native_bf16(void) { return pl_cpu_detect() >= PL_CPU_AVX512_BF16; }

/* --- one setting --- */
static void name_setting(char name[128], const bench_setting *s) {
    snprintf(name, 128, "%s %s %s%s%s %c x%d", s->shape->name, s->bf16 ? "bf16" : "f32",
             s->rows != ROWS_PAIRS ? "sft"
             : s->cached           ? "cached"
                                   : "live",
             s->full ? " full" : "", s->weights ? " f32 weights" : "", s->set, (int)s->batch);
}

static void print_head(void) {
    printf("%-32s %8s %8s %7s %8s %8s %7s %7s %7s %7s %6s\n", "", "rows/s", "tok/s", "step s", "of GEMM", "of peak",
           "GB", "plan GB", "start s", "spread", "quiet");
}

static void print_result(const bench_setting *s, const char *name, const bench_result *r) {
    if (!r->ok) {
        printf("%-32s failed: %s\n", name, r->error);
        return;
    }
    printf("%-32s %8.3f %8.0f %7.3f %7.1f%% %7.1f%% %7.2f %7.2f %7.2f %6.0f%% %3d/%d\n", name,
           (double)s->batch / r->step, r->tokens, r->step, 100 * r->rate / r->gemm, 100 * r->rate / r->gemm_best,
           r->peak_bytes * 1e-9, r->planned_bytes * 1e-9, r->start, 100 * r->spread, (int)r->quiet, (int)r->steps);
    printf("    %.0f GFLOP a row; products %.0f, at best %.0f GFLOP/s; head %.0f%% of its own; loss %.6f; parts:",
           r->flop * 1e-9 / (double)s->batch, r->gemm * 1e-9, r->gemm_best * 1e-9,
           100 * r->head_flop / r->parts[PART_HEAD] / r->head_gemm, r->loss);
    for (int p = 0; p < PART_COUNT; p++)
        printf(" %s %.1f%%,", bench_part_name((bench_part)p), 100 * r->parts[p] / r->step);
    printf(" rest %.1f%%; idle %.1f%% of the cores\n", 100 * r->rest, 100 * r->idle);
    fflush(stdout);
}

/* 0, or 1 after a failure. */
static int measure(const bench_setting *s, int rounds) {
    char name[128];
    bench_result r;
    name_setting(name, s);
    bench_run_rounds(s, 1, rounds, &r);
    print_result(s, name, &r);
    report_begin("step", name);
    bench_report_setting(s, &r);
    bench_report_result(s, &r);
    report_end();
    return !r.ok;
}

/* --- several, in turns --- */
#define MOST 64

static void report_variant(const char *bench, const char *name, const bench_setting *s, const bench_result *r,
                           double first, double before) {
    double speed = (double)s->batch / r->step;
    report_begin(bench, name);
    bench_report_setting(s, r);
    bench_report_result(s, r);
    if (r->ok) {
        report_number("gain", speed / before);
        report_number("in_all", speed / first);
    }
    report_end();
    if (r->ok)
        printf("%-32s %8.3f %7.2fx %7.2fx %7.2f\n", name, speed, speed / before, speed / first, r->peak_bytes * 1e-9);
    else
        printf("%-32s failed: %s\n", name, r->error);
    fflush(stdout);
}

static int ablation(bench_setting s, int rounds) {
    static const struct {
        const char *name;
        bench_variant v;
        bool cached, f32, one_thread, wide;
    } rows[] = {{"padded, all rows in the head", {1, 1, 1, 1}, 0, 0, 0, 0},
                {"packed: no padding", {0, 1, 1, 1}, 0, 0, 0, 0},
                {"+ shared prompts", {0, 0, 1, 1}, 0, 0, 0, 0},
                {"+ only predicting rows in the head", {0, 0, 0, 1}, 0, 0, 0, 0},
                {"+ one-pass head", {0, 0, 0, 0}, 0, 0, 0, 0},
                {"+ cached reference", {0, 0, 0, 0}, 1, 0, 0, 0},
                {"the last, weights stored in f32", {0, 0, 0, 0}, 1, 0, 0, 1},
                {"the last but products in f32", {0, 0, 0, 0}, 1, 1, 0, 0},
                {"the last but one thread", {0, 0, 0, 0}, 1, 0, 1, 0}};
    enum { STAIRS = 6 };
    bench_setting all[PL_LEN(rows)];
    bench_result r[PL_LEN(rows)];
    int n = 0, failed = 0;
    for (int i = 0; i < PL_LEN(rows); i++) {
        if (rows[i].f32 && !s.bf16) continue; /* nothing to take away */
        all[n] = s;
        all[n].variant = rows[i].v;
        all[n].cached = rows[i].cached;
        all[n].bf16 = s.bf16 && !rows[i].f32;
        if (rows[i].one_thread) all[n].threads = 1;
        if (rows[i].wide) all[n].weights = "float32";
        n++;
    }
    printf("\nablation: %s, %s, %d pairs a step\n%-32s %8s %8s %8s %7s\n", s.shape->name, s.bf16 ? "bf16" : "f32",
           (int)s.batch, "", "pairs/s", "gain", "in all", "GB");
    bench_run_rounds(all, n, rounds, r);
    for (int i = 0, row = 0; i < n; i++, row++) {
        while (rows[row].f32 && !s.bf16) row++;
        int before = i == 0 ? 0 : i < STAIRS ? i - 1 : STAIRS - 1;
        bool same = !r[i].ok || !r[0].ok || fabs(r[i].loss - r[0].loss) <= 2e-3;
        if (!same) printf("%s: LOSS DIFFERS: %.6f, not %.6f\n", rows[row].name, r[i].loss, r[0].loss);
        failed |= !same || !r[i].ok;
        report_variant("ablation", rows[row].name, &all[i], &r[i], (double)s.batch / r[0].step,
                       (double)s.batch / r[before].step);
    }
    return failed;
}

static int scaling(bench_setting s, int rounds, int cores) {
    bench_setting all[MOST];
    bench_result r[MOST];
    int n = 0, failed = 0;
    /* all counts up to eight, then doubling, and all cores */
    for (int threads = 1; threads <= cores && n < MOST; threads += threads < 8 ? 1 : threads) {
        all[n] = s, all[n++].threads = threads;
    }
    if (n < MOST && all[n - 1].threads < cores) all[n] = s, all[n++].threads = cores;
    printf("\nthreads: %s, %s, %d pairs a step\n%-32s %8s %8s %8s %7s\n", s.shape->name, s.bf16 ? "bf16" : "f32",
           (int)s.batch, "", "pairs/s", "gain", "in all", "GB");
    bench_run_rounds(all, n, rounds, r);
    for (int i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s, %d", s.shape->name, s.bf16 ? "bf16" : "f32", all[i].threads);
        report_variant("threads", name, &all[i], &r[i], (double)s.batch / r[0].step,
                       (double)s.batch / r[PL_MAX(i - 1, 0)].step);
        failed |= !r[i].ok;
    }
    return failed;
}

static int write_fixtures(const bench_setting *s, const bench_shape *const *shapes, int n) {
    char *path = NULL;
    pl_error err;
    int rc;
    for (int i = 0; i < n; i++) {
        PL_GO(rc, bench_model_make(&path, s->dir, shapes[i], "bfloat16", &err));
        printf("model %s %s\n", shapes[i]->name, path);
        pl_free(path), path = NULL;
    }
    PL_GO(rc, pl_asprintf(&path, &err, "%s/rows-of-%d.jsonl", s->dir, (int)s->pairs));
    PL_GO(rc, bench_data_write(path, ROWS_PAIRS, s->lengths, s->pairs, &err));
    printf("rows %s\n", path);
out:
    if (rc) fprintf(stderr, "%s\n", err.text);
    pl_free(path);
    return rc ? 1 : 0;
}

/* --- arguments --- */
typedef struct arguments {
    bench_setting s;
    const bench_shape *shapes[8];
    int nshapes, bf16, rounds; /* bf16 -1: both */
    bool ablation, scaling, fixtures;
} arguments;

/* Words without a value; 0 when it is none of them. */
static int take_flag(arguments *o, const char *a) {
    if (strcmp(a, "--cached") == 0) return o->s.cached = true;
    if (strcmp(a, "--full") == 0) return o->s.full = true;
    if (strcmp(a, "--sft") == 0) return o->s.rows = ROWS_COMPLETIONS, 1;
    if (strcmp(a, "--ablation") == 0) return o->ablation = true;
    if (strcmp(a, "--scaling") == 0) return o->scaling = true;
    if (strcmp(a, "--fixtures") == 0) return o->fixtures = true;
    if (strcmp(a, "--cpu-time") == 0) return probe_use_cpu_time(), 1;
    return 0;
}

static int take_value(arguments *o, const char *a, const char *v) {
    int n = atoi(v);
    if (strcmp(a, "--bf16") == 0) return o->bf16 = strcmp(v, "best") == 0 ? native_bf16() : n != 0, 1;
    if (strcmp(a, "--pairs") == 0) return o->s.pairs = n, n > 0;
    if (strcmp(a, "--batch") == 0) return o->s.batch = n, n > 0;
    if (strcmp(a, "--threads") == 0) return o->s.threads = n, n > 0;
    if (strcmp(a, "--rounds") == 0) return o->rounds = n, n > 0;
    if (strcmp(a, "--dir") == 0) return o->s.dir = v, 1;
    if (strcmp(a, "--json") == 0) return 1;
    if (strcmp(a, "--weights") == 0) return o->s.weights = v, 1;
    if (strcmp(a, "--lengths") == 0) return o->s.set = *v, strlen(v) == 1 && strchr("ABCt", *v);
    if (strcmp(a, "--shape") != 0 || !bench_shape_find(v) || o->nshapes == PL_LEN(o->shapes)) return 0;
    o->shapes[o->nshapes++] = bench_shape_find(v);
    return 1;
}

static int run_all(const arguments *o) {
    int failed = 0, cores = bench_threads(0);
    printf("%s, %d threads\n", probe_cpu_name(), cores);
    if (!o->ablation && !o->scaling) print_head();
    for (int i = 0; i < o->nshapes; i++)
        for (int bf16 = 1; bf16 >= 0; bf16--) {
            if (o->bf16 >= 0 ? bf16 != o->bf16 : bf16 && !native_bf16()) continue;
            bench_setting s = o->s;
            s.shape = o->shapes[i], s.bf16 = bf16;
            if (o->ablation && (bf16 || !native_bf16() || o->bf16 == 0)) failed |= ablation(s, o->rounds);
            if (o->scaling) failed |= scaling(s, o->rounds, cores);
            if (!o->ablation && !o->scaling) failed |= measure(&s, o->rounds);
        }
    return failed;
}

int main(int argc, char **argv) {
    cli_spin_shortly(argv);
    arguments o = {.s = {.pairs = 32, .batch = 4, .dir = "build/bench-models", .set = 'A'}, .bf16 = -1, .rounds = 1};
    pl_error err;
    bench_lengths *lengths = NULL;
    for (int i = 1; i < argc; i++) {
        if (take_flag(&o, argv[i])) continue;
        if (i + 1 == argc || !take_value(&o, argv[i], argv[i + 1]))
            return fprintf(stderr, "bench_step: %s?\n", argv[i]), 2;
        i++;
    }
    if (!o.nshapes) o.shapes[o.nshapes++] = bench_shape_find("smollm2-135m");
    if (pl_dir_make(o.s.dir, &err) || bench_lengths_make(&lengths, o.s.set, o.s.pairs, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    o.s.lengths = lengths;
    report_open(report_path(argc, argv));
    int rc = o.fixtures ? write_fixtures(&o.s, o.shapes, o.nshapes) : run_all(&o);
    pl_free(lengths);
    return rc;
}
