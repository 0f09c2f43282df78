/* bench/long.c: what a token costs in one sequence of 1k, 2k, ... 32k tokens: SFT with LoRA on plain text, one sequence
 * a step, on two layers of SmolLM2-135M's width with a vocabulary of 8,192.
 *
 *   bench_long [--shape NAME] [--bf16 0|1] [--first TOKENS] [--most TOKENS] [--threads N] [--dir DIR] [--json FILE]
 *
 * Attention is the only part whose cost per token grows, linearly. "of bound" is the cost per token divided by that of
 * the shortest length whose attention part is multiplied by the lengths' ratio: 1 or less is what was promised. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cli/spin.h"
#include "base/file.h"
#include "kernels/ops.h"
#include "probe.h"
#include "report.h"
#include "run.h"

typedef struct cost {
    int64_t n;
    double token, attention; /* seconds a token */
} cost;

static void print_line(const bench_result *r, const cost *c, double bound, double of_fma) {
    printf("%8d %9.0f %9.2f %9.2f %9.2f %9.3f %8.0f%% %7.2f %6d/%d\n", (int)c->n, 1 / c->token, c->token * 1e6,
           c->attention * 1e6, (c->token - c->attention) * 1e6, bound, 100 * of_fma, r->peak_bytes * 1e-9,
           (int)r->quiet, (int)r->steps);
    fflush(stdout);
}

static void report_cost(const bench_result *r, const cost *c, const cost *first) {
    double times = (double)c->n / (double)first->n;
    double bound = c->token / (first->token - first->attention + first->attention * times);
    double of_fma = r->attn_flop / r->parts[PART_ATTENTION] / r->fma;
    report_number("token_us", c->token * 1e6);
    report_number("attention_us", c->attention * 1e6);
    report_number("other_us", (c->token - c->attention) * 1e6);
    report_number("of_bound", bound);
    print_line(r, c, bound, of_fma);
}

/* A short sequence that is not timed, then some of n tokens. *first is set by the first call. */
static int measure(bench_setting s, int64_t n, cost *first) {
    enum { MOST = 6 };
    bench_lengths rows[MOST];
    char name[64];
    s.pairs = n >= 16384 ? 2 : n >= 8192 ? 4 : MOST;
    s.lengths = rows;
    for (int i = 0; i < s.pairs; i++) rows[i] = (bench_lengths){(i ? n : PL_MIN(n, 256)) - 1, 1, 1};
    bench_result r = bench_run(&s);
    snprintf(name, sizeof name, "%d", (int)n);
    report_begin("long", name);
    bench_report_setting(&s, &r);
    bench_report_result(&s, &r);
    report_count("tokens", n);
    if (r.ok) {
        cost c = {n, r.step / (double)n, r.parts[PART_ATTENTION] / (double)n};
        if (first->n == 0) *first = c;
        report_cost(&r, &c, first);
    } else {
        printf("%8d failed: %s\n", (int)n, r.error);
    }
    report_end();
    return !r.ok;
}

static double number(int argc, char **argv, const char *name, double fallback) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return atof(argv[i + 1]);
    return fallback;
}

static const char *text(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return fallback;
}

int main(int argc, char **argv) {
    cli_spin_shortly(argv);
    pl_error err;
    cost first = {0};
    int failed = 0;
    int64_t least = (int64_t)number(argc, argv, "--first", 1024), most = (int64_t)number(argc, argv, "--most", 32768);
    bench_setting s = {.shape = bench_shape_find(text(argc, argv, "--shape", "smollm2-2l")),
                       .bf16 = number(argc, argv, "--bf16", pl_cpu_detect() >= PL_CPU_AVX512_BF16) != 0,
                       .threads = (int)number(argc, argv, "--threads", 0),
                       .dir = text(argc, argv, "--dir", "build/bench-models"),
                       .rows = ROWS_TEXT,
                       .set = '1',
                       .batch = 1};
    if (!s.shape) return fprintf(stderr, "bench_long: no such shape\n"), 2;
    if (pl_dir_make(s.dir, &err)) return fprintf(stderr, "%s\n", err.text), 1;
    report_open(report_path(argc, argv));
    printf("%s, %s, %s\n%8s %9s %9s %9s %9s %9s %9s %7s %8s\n", probe_cpu_name(), s.shape->name,
           s.bf16 ? "bf16" : "f32", "tokens", "tok/s", "us/token", "attention", "the rest", "of bound", "of FMA", "GB",
           "quiet");
    for (int64_t n = least; n <= most; n *= 2) failed |= measure(s, n, &first);
    return failed;
}
