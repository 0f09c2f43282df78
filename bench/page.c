/* bench/page.c: one JSON document and a page of tables from the lines that the benchmarks wrote (bench/report.h).
 *
 *   bench_page LINES OUT.json OUT.md [--commit TEXT] [--require NAME,NAME...]
 *
 * The document is {"machine": {...}, "results": [line, ...]}. A bench that no table below is for gets one of all of its
 * keys. Ends with 1 when a line is no JSON object with a bench and its `what`, when a required bench is missing, or
 * when a line tells of an error. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "model/machine.h"
#include "probe.h"

#define MOST_COLUMNS 16
#define MAX_LINE 65536

/* --- the tables --- */
typedef enum style { TEXT, SHARE, WHOLE, ONE, TWO, THREE } style; /* SHARE: of one, shown in per cent; decimals */

typedef struct column {
    const char *key, *title;
    style style;
} column;

typedef struct table {
    const char *bench, *title, *text;
    column columns[MOST_COLUMNS];
} table;

static const table tables[] = {
    {"machine",
     "The machine",
     "Fused multiply-adds on registers (the fastest bursts); bytes of three streams (triad), of two (copy) and of one "
     "(read), the best of five.",
     {{"what", "", TEXT},
      {"avx2_gflops", "AVX2 f32 GFLOP/s", WHOLE},
      {"avx512_gflops", "AVX-512 f32", WHOLE},
      {"bf16_gflops", "AVX512-BF16", WHOLE},
      {"triad_gb_s", "triad GB/s", ONE},
      {"copy_gb_s", "copy GB/s", ONE},
      {"read_gb_s", "read GB/s", ONE}}},
    {"gemm",
     "Matrix products",
     "GFLOP/s and the share of the FMA peak of the mode; each the median of five samples beside which the machine gave "
     "90 % of its peak. Y forward, dX and dW backward.",
     {{"what", "out x in, tokens", TEXT},
      {"mode", "", TEXT},
      {"threads", "threads", WHOLE},
      {"y_gflops", "Y", WHOLE},
      {"y_of_peak", "of peak", SHARE},
      {"dx_gflops", "dX", WHOLE},
      {"dx_of_peak", "of peak", SHARE},
      {"dw_gflops", "dW", WHOLE},
      {"dw_of_peak", "of peak", SHARE}}},
    {"gemv",
     "Products of few rows (decoding)",
     "8192 x 2048: G weights/s, and the share of the read bandwidth that it is.",
     {{"what", "", TEXT},
      {"threads", "threads", WHOLE},
      {"rows_1", "1 row", TWO},
      {"of_read_1", "of read", SHARE},
      {"rows_2", "2 rows", TWO},
      {"rows_4", "4 rows", TWO},
      {"rows_8", "8 rows", TWO},
      {"rows_16", "16 rows", TWO}}},
    {"ops",
     "Operations",
     "Over arrays several times the cache, but attention (1,024 tokens; or five trees of 110 -> {40, 49}), the "
     "products of "
     "LoRA and what says `in cache`. Medians; +- is half the distance of the quartiles. Attention backward is counted "
     "as "
     "five products. GB/s counts what the operation must move; of triad is what it reads in a second, lines that are "
     "fetched to be overwritten included, against a triad over the same arrays in turns with it.",
     {{"what", "", TEXT},
      {"threads", "threads", WHOLE},
      {"us", "us", ONE},
      {"spread", "+-", SHARE},
      {"gflops", "GFLOP/s", WHOLE},
      {"of_fma", "of FMA peak", SHARE},
      {"gb_s", "GB/s", ONE},
      {"of_triad", "of triad", SHARE}}},
    {"step",
     "The step",
     "Rows a second and unshared tokens a second of whole optimizer steps; counted work / time / the speed of the "
     "model's own products in the same process (of GEMM; of peak: of the fastest of them). Lengths A: hh-rlhf, "
     "B: 512 + 512 + 512, C: prompt : completion 0.42, median 409. Times are sums over the steps but the first, "
     "without "
     "those beside which the FMA probe fell under 90 % (quiet of steps are left); spread is that of the steps' rates.",
     {{"what", "", TEXT},
      {"threads", "threads", WHOLE},
      {"rows_per_s", "rows/s", THREE},
      {"tokens_per_s", "tokens/s", WHOLE},
      {"step_s", "step s", THREE},
      {"of_gemm", "of GEMM", SHARE},
      {"of_gemm_best", "of peak", SHARE},
      {"gemm_gflops", "GEMM GFLOP/s", WHOLE},
      {"peak_gb", "peak GB", TWO},
      {"planned_gb", "planned", TWO},
      {"start_s", "set-up s", TWO},
      {"spread", "spread", SHARE},
      {"quiet_steps", "quiet", WHOLE},
      {"steps", "steps", WHOLE}}},
    {"step",
     "Its parts",
     "Of the step's wall time. What threads do side by side counts for each by its share; rest is what is in no part, "
     "waiting included; idle is the part of the cores' time in which they did nothing. Head of GEMM: its work / its "
     "time "
     "/ the speed of its two products alone.",
     {{"what", "", TEXT},
      {"linear", "matmul", SHARE},
      {"lora", "LoRA", SHARE},
      {"attention", "attention", SHARE},
      {"head", "head", SHARE},
      {"pointwise", "elementwise", SHARE},
      {"optimizer", "optimizer", SHARE},
      {"batches", "data", SHARE},
      {"rest", "rest", SHARE},
      {"idle", "cores idle", SHARE},
      {"head_of_gemm", "head of GEMM", SHARE},
      {"attention_of_fma", "attention of FMA peak", SHARE}}},
    {"ablation",
     "What each idea gives",
     "Every variant has the same losses. The lines that begin with \"the last\" are compared with the one that has "
     "all.",
     {{"what", "", TEXT},
      {"rows_per_s", "pairs/s", THREE},
      {"gain", "gain", TWO},
      {"in_all", "in all", TWO},
      {"of_gemm", "of GEMM", SHARE},
      {"peak_gb", "peak GB", TWO}}},
    {"threads",
     "Threads",
     "Run in turns; medians.",
     {{"what", "", TEXT},
      {"rows_per_s", "pairs/s", THREE},
      {"in_all", "times one thread", TWO},
      {"gemm_gflops", "GEMM GFLOP/s", WHOLE},
      {"of_gemm", "of GEMM", SHARE},
      {"idle", "cores idle", SHARE}}},
    {"long",
     "Long sequences",
     "One sequence a step. Of bound: the cost of a token / (that of the shortest length, its attention part multiplied "
     "by "
     "the lengths' ratio); 1 or less: the cost grows within the attention's quadratic term.",
     {{"what", "tokens", TEXT},
      {"shape", "shape", TEXT},
      {"mode", "mode", TEXT},
      {"tokens_per_s", "tokens/s", WHOLE},
      {"token_us", "us a token", ONE},
      {"attention_us", "of it attention", ONE},
      {"other_us", "the rest", ONE},
      {"of_bound", "of bound", THREE},
      {"attention_of_fma", "attention of FMA peak", SHARE},
      {"peak_gb", "peak GB", TWO}}},
    {"decode",
     "Decoding",
     "Medians over the steps. A step reads every matrix once and each sequence's keys and values: of bound is these "
     "bytes / "
     "the read bandwidth / its time.",
     {{"what", "", TEXT},
      {"dtype", "stored", TEXT},
      {"precision", "mode", TEXT},
      {"threads", "threads", WHOLE},
      {"sequences", "sequences", WHOLE},
      {"weights", "weights from", TEXT},
      {"context", "context", WHOLE},
      {"tokens_per_s", "tokens/s", ONE},
      {"step_ms", "ms a step", TWO},
      {"gb_per_s", "GB/s", ONE},
      {"read_gb_per_s", "read GB/s", ONE},
      {"of_bound", "of bound", SHARE}}},
    {"prefill",
     "Prefill",
     "The whole call; the best of three. Of GEMM: 2N for each token and the attention's work / time / the speed of the "
     "model's forward products.",
     {{"what", "", TEXT},
      {"precision", "mode", TEXT},
      {"threads", "threads", WHOLE},
      {"prompts", "prompts", WHOLE},
      {"tokens", "tokens", WHOLE},
      {"tokens_per_s", "tokens/s", WHOLE},
      {"gflops", "GFLOP/s", WHOLE},
      {"gemm_gflops", "GEMM GFLOP/s", WHOLE},
      {"of_gemm", "of GEMM", SHARE}}},
    {"start",
     "Start-up",
     "From the program's start to the end of its first step, without the step: first with a new cache directory, then "
     "with the first run's caches (median, least, most).",
     {{"what", "", TEXT},
      {"shape", "", TEXT},
      {"runs", "runs", WHOLE},
      {"ready_s", "ready s", TWO},
      {"least_s", "least", TWO},
      {"most_s", "most", TWO},
      {"step_s", "the step s", TWO},
      {"step_end_s", "its end s", TWO}}},
};

/* --- lines --- */
typedef struct lines {
    pl_json **v;
    char **texts;
    int64_t n;
} lines;

static void die(const pl_error *err) {
    fprintf(stderr, "bench_page: %s\n", err->text);
    exit(1);
}

static const char *text_of(const pl_json *line, const char *key) {
    size_t n;
    const pl_json *v = pl_json_get(line, key);
    return v && pl_json_kind_of(v) == PL_J_STRING ? pl_json_string(v, &n) : NULL;
}

static void lines_add(lines *l, const char *text, size_t n, int64_t number) {
    char what[64];
    pl_error err;
    snprintf(what, sizeof what, "line %d of the results", (int)number);
    l->v = realloc(l->v, (size_t)(l->n + 1) * sizeof *l->v);
    l->texts = realloc(l->texts, (size_t)(l->n + 1) * sizeof *l->texts);
    if (!l->v || !l->texts || !(l->texts[l->n] = strndup(text, n))) exit(1);
    if (pl_json_parse(&l->v[l->n], text, n, what, &err)) die(&err);
    if (!text_of(l->v[l->n], "bench") || !text_of(l->v[l->n], "what")) {
        fprintf(stderr, "bench_page: %s: no \"bench\" and \"what\"\n", what);
        exit(1);
    }
    l->n++;
}

static lines lines_read(const char *path) {
    lines l = {0};
    pl_lines *in = NULL;
    pl_error err;
    const char *text;
    size_t n;
    if (pl_lines_open(&in, path, MAX_LINE, &err)) die(&err);
    for (;;) {
        if (pl_lines_next(in, &text, &n, &err)) die(&err);
        if (!text) break;
        lines_add(&l, text, n, pl_lines_number(in));
    }
    pl_lines_free(in);
    return l;
}

static void lines_free(lines *l) {
    for (int64_t i = 0; i < l->n; i++) pl_json_free(l->v[i]), free(l->texts[i]);
    free(l->v), free(l->texts);
}

static bool is_of(const pl_json *line, const char *bench) { return strcmp(text_of(line, "bench"), bench) == 0; }

static bool has_bench(const lines *l, const char *bench) {
    for (int64_t i = 0; i < l->n; i++)
        if (is_of(l->v[i], bench)) return true;
    return false;
}

/* --- the document --- */
typedef struct machine {
    char date[32], libraries[256];
    int threads;
    const char *commit;
} machine;

static machine describe(const char *commit) {
    machine m = {.commit = commit};
    pl_error err;
    pl_machine *here = NULL;
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(m.date, sizeof m.date, "%Y-%m-%d %H:%M UTC", &utc);
    pl_machine_libraries(m.libraries, sizeof m.libraries);
    if (pl_machine_new(&here, NULL, &err)) die(&err);
    m.threads = (int)here->threads;
    pl_machine_free(here);
    return m;
}

static void write_string(FILE *f, const char *s) {
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        if ((unsigned char)*s >= 0x20) fputc(*s, f);
    }
    fputc('"', f);
}

static void write_json(FILE *f, const lines *l, const machine *m) {
    const char *const facts[][2] = {{"cpu", probe_cpu_name()},  {"compiler", __VERSION__}, {"libraries", m->libraries},
                                    {"version", PLUMB_VERSION}, {"commit", m->commit},     {"date", m->date}};
    fprintf(f, "{\"machine\": {\"threads\": %d", m->threads);
    for (int i = 0; i < PL_LEN(facts); i++) fprintf(f, ", \"%s\": ", facts[i][0]), write_string(f, facts[i][1]);
    fprintf(f, "},\n\"results\": [");
    for (int64_t i = 0; i < l->n; i++) fprintf(f, "%s\n%s", i ? "," : "", l->texts[i]);
    fprintf(f, "\n]}\n");
}

/* --- the page --- */
static void write_cell(FILE *f, const pl_json *line, const column *c) {
    const pl_json *v = pl_json_get(line, c->key);
    pl_json_kind kind = v ? pl_json_kind_of(v) : PL_J_NULL;
    if (kind == PL_J_STRING) {
        fprintf(f, " %s |", text_of(line, c->key));
    } else if (kind == PL_J_INT || kind == PL_J_DOUBLE) {
        double x = pl_json_double(v);
        if (c->style == SHARE)
            fprintf(f, fabs(x) < 0.0995 ? " %.1f %% |" : " %.0f %% |", 100 * x);
        else if (c->style == TEXT)
            fprintf(f, " %.4g |", x);
        else
            fprintf(f, " %.*f |", (int)c->style - (int)WHOLE, x);
    } else {
        fprintf(f, " |");
    }
}

/* Columns that no line of the bench has are left out. */
static bool has_key(const lines *l, const char *bench, const char *key) {
    for (int64_t i = 0; i < l->n; i++)
        if (is_of(l->v[i], bench) && pl_json_get(l->v[i], key)) return true;
    return false;
}

static void write_table(FILE *f, const lines *l, const table *t) {
    column shown[MOST_COLUMNS];
    int n = 0;
    for (int i = 0; i < MOST_COLUMNS && t->columns[i].key; i++)
        if (has_key(l, t->bench, t->columns[i].key)) shown[n++] = t->columns[i];
    fprintf(f, "\n## %s\n%s%s\n|", t->title, t->text, *t->text ? "\n" : "");
    for (int i = 0; i < n; i++) fprintf(f, " %s |", shown[i].title);
    fprintf(f, "\n|");
    for (int i = 0; i < n; i++) fprintf(f, " --- |");
    fprintf(f, "\n");
    for (int64_t i = 0; i < l->n; i++) {
        if (!is_of(l->v[i], t->bench)) continue;
        const char *failed = text_of(l->v[i], "error");
        fprintf(f, "|");
        if (failed) fprintf(f, " %s | failed: %s |", text_of(l->v[i], "what"), failed);
        for (int c = 0; c < n && !failed; c++) write_cell(f, l->v[i], &shown[c]);
        fprintf(f, "\n");
    }
}

/* All keys of the bench's first line. */
static void write_plain_table(FILE *f, const lines *l, const pl_json *line) {
    table t = {text_of(line, "bench"), text_of(line, "bench"), "", {{0}}};
    int n = 0;
    for (pl_json_iter it = pl_json_first(line); it.key && n < MOST_COLUMNS; it = pl_json_next(it))
        if (strcmp(it.key, "bench") != 0)
            t.columns[n++] = (column){it.key, strcmp(it.key, "what") == 0 ? "" : it.key, TEXT};
    write_table(f, l, &t);
}

static bool has_table(const char *bench) {
    for (int i = 0; i < PL_LEN(tables); i++)
        if (strcmp(tables[i].bench, bench) == 0) return true;
    return false;
}

static void write_page(FILE *f, const lines *l, const machine *m) {
    fprintf(f,
            "# Measured\n%s, %d threads; %s; compiler %s; plumb %s, commit %s; %s.\n\nMade by `./dev bench` "
            "(bench/README.md says what is measured and how).\n",
            probe_cpu_name(), m->threads, m->libraries, __VERSION__, PLUMB_VERSION, m->commit, m->date);
    for (int i = 0; i < PL_LEN(tables); i++)
        if (has_bench(l, tables[i].bench)) write_table(f, l, &tables[i]);
    for (int64_t i = 0; i < l->n; i++) {
        const char *bench = text_of(l->v[i], "bench");
        bool first = true;
        for (int64_t j = 0; j < i && first; j++) first = !is_of(l->v[j], bench);
        if (first && !has_table(bench)) write_plain_table(f, l, l->v[i]);
    }
}

static int write_file(const char *path, const lines *l, const machine *m,
                      void (*write)(FILE *f, const lines *l, const machine *m)) {
    FILE *f = fopen(path, "w");
    if (f) write(f, l, m);
    if (f && fclose(f) == 0) return 0;
    fprintf(stderr, "bench_page: cannot write %s\n", path);
    return 1;
}

/* The document as somebody else would read it. */
static int read_back(const char *path, const lines *l) {
    pl_json *root = NULL;
    pl_error err;
    if (pl_json_load(&root, path, 1 << 28, &err)) die(&err);
    int wrong = pl_json_len(pl_json_get(root, "results")) != l->n || !pl_json_get(root, "machine");
    pl_json_free(root);
    return wrong;
}

static int missing(const lines *l, const char *names) {
    int wrong = 0;
    char *list = strdup(names), *next = list, *name;
    while (list && (name = strsep(&next, ",")))
        if (*name && !has_bench(l, name)) fprintf(stderr, "bench_page: nothing of \"%s\"\n", name), wrong = 1;
    free(list);
    return wrong;
}

static const char *option(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 4; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return fallback;
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "bench_page LINES OUT.json OUT.md: see bench/page.c\n"), 2;
    lines l = lines_read(argv[1]);
    machine m = describe(option(argc, argv, "--commit", "unknown"));
    int rc = write_file(argv[2], &l, &m, write_json) | write_file(argv[3], &l, &m, write_page);
    rc = rc || read_back(argv[2], &l);
    rc |= missing(&l, option(argc, argv, "--require", ""));
    for (int64_t i = 0; i < l.n; i++)
        if (text_of(l.v[i], "error"))
            fprintf(stderr, "bench_page: %s %s failed\n", text_of(l.v[i], "bench"), text_of(l.v[i], "what")), rc = 1;
    lines_free(&l);
    return rc;
}
