/* bench/step.c: the optimizer step of DPO with LoRA (r = 16, all linear layers) at real shapes, on the lengths of
 * hh-rlhf, through pl_train as the program runs it; against the matrix products that the same process measures.
 *
 *   bench_step [--shape NAME]... [--bf16 0|1] [--pairs N] [--batch N] [--cached] [--full] [--threads N] [--ablation]
 * [--cpu-time]
 *              [--dir DIR]
 *   bench_step --fixtures [--shape NAME]... [--pairs N] [--dir DIR]
 *
 * Without arguments: smollm2-135m and qwen2.5-0.5b in bf16 (where native) and f32 with a live reference, then the
 * ablation. Each line is a process of its own, so that its peak memory is its own. Times are means over the steps but
 * the first, because steps differ in length. Work is counted as docs/performance.md says; "of GEMM" is work / time /
 * the speed of the model's own products (weighted by their work), measured before and after the run; "of peak" takes
 * the fastest of them.
 * --fixtures only writes the models and the rows and prints their paths: bench/peers runs other trainers on them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "fixture.h"
#include "kernels/gemm_impl.h"
#include "model/machine.h"
#include "parts.h"
#include "plumb/log.h"
#include "plumb/train.h"
#include "probe.h"

#define RANK 16
#define MAX_STEPS 512

typedef struct setting {
    const bench_shape *shape;
    const bench_lengths *lengths;
    const char *name, *dir;
    int bf16, threads;
    bool cached, full;
    int64_t pairs, batch;
    bench_variant variant;
} setting;

typedef struct result {
    bool ok;
    char error[512];
    double gemm, gemm_best;   /* flop/s of the model's products */
    double start;             /* seconds until everything is ready for the first step */
    double step, spread;      /* mean, and (longest - shortest) / median */
    double parts[PART_COUNT]; /* seconds a step */
    double flop;              /* counted, per step */
    double loss, tokens;      /* of the first step; unshared tokens a second */
    double peak_bytes, planned_bytes;
    int64_t steps;
} result;

/* --- the speed of the products
 * --------------------------------------------------------------------------------------------------
 */
static double time_product(pl_dnnl *d, const pl_dnnl_shape *s, const void *a, const void *b, float *c) {
    pl_error err;
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        double began = probe_now();
        if (pl_dnnl_multiply(d, s, a, b, c, &err)) return NAN;
        if (i) best = fmin(best, probe_now() - began);
    }
    return best;
}

/* Forward and dX of the model's matrices over 1024 tokens with operands as oneDNN likes them. */
static void measure_gemm(result *r, const setting *s) {
    const bench_shape *m = s->shape;
    int64_t kv = m->C / m->H * m->KV, T = 1024;
    const int64_t shapes[][3] = {{m->C, m->C, 2}, {kv, m->C, 2}, {m->F, m->C, 2}, {m->C, m->F, 1}};
    size_t bytes = (size_t)PL_MAX(m->F, T) * (size_t)PL_MAX(m->F, T) * 4;
    pl_error err;
    pl_dnnl *d = NULL;
    float *a = NULL, *b = NULL, *c = NULL;
    double flop = 0, seconds = 0;
    if (pl_dnnl_new(&d, pl_cpu_detect(), false, &err) || pl_alloc_zero((void **)&a, bytes, &err) ||
        pl_alloc_zero((void **)&b, bytes, &err) || pl_alloc_zero((void **)&c, bytes, &err))
        exit(1);
    for (int64_t i = 0; i < (int64_t)(bytes / 4); i++)
        a[i] = b[i] = s->bf16 ? 0.0078125f : 1.0f + (float)(i % 977) * 1e-3f;
    for (int i = 0; i < PL_LEN(shapes); i++)
        for (int back = 0; back < 2; back++) {
            int64_t out = shapes[i][0], in = shapes[i][1], n = back ? in : out, k = back ? out : in;
            pl_dnnl_shape g = {.m = T, .n = n, .k = k, .lda = k, .ldb = in, .ldc = n, .b_cols = !back, .bf16 = s->bf16};
            double t = time_product(d, &g, a, b, c), work = 2.0 * (double)T * (double)n * (double)k;
            flop += work * (double)shapes[i][2];
            seconds += t * (double)shapes[i][2];
            r->gemm_best = fmax(r->gemm_best, work / t);
        }
    r->gemm = fmax(r->gemm, flop / seconds);
    pl_dnnl_free(d);
    pl_free(a), pl_free(b), pl_free(c);
}

/* --- one run
 * --------------------------------------------------------------------------------------------------------------------
 */
typedef struct watch {
    result *r;
    double began, last;
    double steps[MAX_STEPS];
    int64_t n;
} watch;

static void on_event(void *user, const pl_train_event *e) {
    watch *w = user;
    double t = probe_now();
    if (e->kind == PL_TRAIN_PLAN) {
        w->r->planned_bytes = (double)e->planned_bytes;
        w->r->start = t - w->began;
    }
    if (e->kind != PL_TRAIN_STEP) return;
    if (e->done == 1) {
        w->r->loss = e->values[0].value;
        bench_parts_reset();
    } else if (w->n < MAX_STEPS) {
        w->steps[w->n++] = t - w->last;
        w->r->tokens += e->tokens_per_second * (t - w->last);
    }
    w->last = t;
}

static int ascending(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x), memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Counted work (docs/performance.md): forward and dX of all matrices for shared tokens, LoRA, four products of C with
 * each head row's vocabulary, attention 4 per pair forward and 8 backward; a live reference adds a forward pass. */
static double counted(const setting *s, const bench_work *w) {
    const bench_shape *m = s->shape;
    double N = bench_linear_elements(m), D = (double)m->C / (double)m->H, kv = D * (double)m->KV, C = (double)m->C,
           F = (double)m->F, L = (double)m->L, V = (double)m->V;
    double sides = L * (2 * (C + C) + 2 * (C + kv) + 3 * (C + F));
    double trained = w->tokens[1] * (4 * N + (s->full ? 2 * N : 6 * RANK * sides));
    double head = (s->full ? 6 : 4) * V * C * w->rows[1] + 2 * V * C * w->rows[0];
    return trained + 2 * N * w->tokens[0] + head + 12 * C * L * w->pairs[1] + 4 * C * L * w->pairs[0];
}

static void summarize(const setting *s, watch *w) {
    result *r = w->r;
    double total = 0;
    bench_work work = bench_parts_work();
    for (int64_t i = 0; i < w->n; i++) total += w->steps[i];
    qsort(w->steps, (size_t)w->n, sizeof *w->steps, ascending);
    r->steps = w->n;
    r->spread = (w->steps[w->n - 1] - w->steps[0]) / w->steps[w->n / 2];
    r->tokens /= total;
    r->flop = counted(s, &work) / (double)w->n;
    r->step = total / (double)w->n; /* steps differ in length: work and time are those of all of them */
    for (int p = 0; p < PART_COUNT; p++) r->parts[p] = bench_parts_seconds((bench_part)p) / (double)w->n;
}

static double peak_bytes(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kb) == 1) break;
    if (f) fclose(f);
    return 1024.0 * (double)kb;
}

static int set_all(pl_options *o, const setting *s, const char *model, const char *data, const char *out,
                   pl_error *err) {
    char batch[32];
    snprintf(batch, sizeof batch, "%d", (int)s->batch);
    const char *const values[][2] = {{"model_name_or_path", model},
                                     {"dataset_name", data},
                                     {"output_dir", out},
                                     {"overwrite_output_dir", "true"},
                                     {"cache_dir", out},
                                     {"use_peft", s->full ? "false" : "true"},
                                     {"lora_target_modules", "all-linear"},
                                     {"lora_dropout", "0"},
                                     {"per_device_train_batch_size", batch},
                                     {"num_train_epochs", "1"},
                                     {"train_sampling_strategy", "sequential"},
                                     {"max_length", "8192"},
                                     {"bf16", s->bf16 ? "true" : "false"},
                                     {"precompute_ref_log_probs", s->cached ? "true" : "false"},
                                     {"save_strategy", "no"},
                                     {"logging_steps", "1"}};
    int rc = 0;
    for (int i = 0; rc == 0 && i < PL_LEN(values); i++)
        if (!s->full || strncmp(values[i][0], "lora", 4) != 0) rc = pl_options_set(o, values[i][0], values[i][1], err);
    return rc;
}

static int stop_at_end(void *user) {
    (void)user;
    return 0;
}

static int train(const setting *s, watch *w, pl_error *err) {
    char *model = NULL, *data = NULL, *out = NULL;
    pl_config c;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_machine_options mo = {.threads = s->threads};
    pl_train_hooks hooks = {.user = w, .event = on_event, .stop = stop_at_end};
    int rc;
    PL_GO(rc, bench_model_make(&model, s->dir, s->shape, "bfloat16", err));
    PL_GO(rc, pl_asprintf(&data, err, "%s/rows-%d.jsonl", s->dir, (int)getpid()));
    PL_GO(rc, pl_asprintf(&out, err, "%s/run-%d", s->dir, (int)getpid()));
    PL_GO(rc, bench_data_write(data, s->lengths, s->pairs, err));
    PL_GO(rc, pl_options_new(&o, pl_train_command("dpo"), pl_train_bases(bases, &c), NULL, err));
    PL_GO(rc, set_all(o, s, model, data, out, err));
    PL_GO(rc, pl_options_finish(o, err));
    w->began = probe_now();
    PL_GO(rc, pl_machine_new(&machine, &mo, err));
    bench_parts_watch(&machine->ops);
    PL_GO(rc, pl_train(machine, "dpo", &c, o, &hooks, err));
out:
    pl_machine_free(machine);
    pl_options_free(o);
    pl_free(model), pl_free(data), pl_free(out);
    return rc;
}

static void print_log(void *user, pl_log_level level, const char *text) {
    (void)user, (void)level;
    if (getenv("BENCH_LOG")) fprintf(stderr, "%s\n", text);
}

/* The run first, so that its peak memory is not that of the measurements beside it. */
static void child(const setting *s, result *r) {
    pl_error err;
    watch w = {.r = r};
    pl_log_set(print_log, NULL);
    bench_variant_set(&s->variant);
    if (train(s, &w, &err)) {
        snprintf(r->error, sizeof r->error, "%.500s", err.text);
        return;
    }
    if (w.n == 0) return;
    r->peak_bytes = peak_bytes();
    summarize(s, &w);
    measure_gemm(r, s);
    measure_gemm(r, s);
    r->ok = true;
}

static result run(const setting *s) {
    result *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), r;
    if (shared == MAP_FAILED) exit(1);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        child(s, shared);
        char command[512];
        snprintf(command, sizeof command, "rm -rf %s/run-%d %s/rows-%d.jsonl", s->dir, (int)getpid(), s->dir,
                 (int)getpid());
        int rc = system(command);
        fflush(NULL);
        _exit(rc != 0);
    }
    int status;
    waitpid(pid, &status, 0);
    r = *shared;
    munmap(shared, sizeof *shared);
    if (!r.ok && !r.error[0]) snprintf(r.error, sizeof r.error, "the process ended with status %d", status);
    return r;
}

/* --- tables
 * ---------------------------------------------------------------------------------------------------------------------
 */
static void print_head(void) {
    printf("%-30s %8s %8s %7s %8s %8s %7s %7s %7s %7s\n", "", "pairs/s", "tok/s", "step s", "of GEMM", "of peak", "GB",
           "plan GB", "start s", "spread");
}

static void print_result(const setting *s, const result *r) {
    if (!r->ok) {
        printf("%-30s failed: %s\n", s->name, r->error);
        return;
    }
    double rate = r->flop / r->step;
    printf("%-30s %8.3f %8.0f %7.3f %7.1f%% %7.1f%% %7.2f %7.2f %7.2f %6.0f%%\n", s->name, (double)s->batch / r->step,
           r->tokens, r->step, 100 * rate / r->gemm, 100 * rate / r->gemm_best, r->peak_bytes * 1e-9,
           r->planned_bytes * 1e-9, r->start, 100 * r->spread);
    double rest = r->step;
    printf("    %.0f GFLOP a pair; products %.0f, at best %.0f GFLOP/s; loss %.6f; parts:",
           r->flop * 1e-9 / (double)s->batch, r->gemm * 1e-9, r->gemm_best * 1e-9, r->loss);
    for (int p = 0; p < PART_COUNT; p++) {
        printf(" %s %.1f%%,", bench_part_name((bench_part)p), 100 * r->parts[p] / r->step);
        rest -= r->parts[p];
    }
    printf(" rest %.1f%%\n", 100 * rest / r->step);
    fflush(stdout);
}

static bool native_bf16(void) { return pl_cpu_detect() >= PL_CPU_AVX512_BF16; }

static void ablation(setting s) {
    static const struct {
        const char *name;
        bench_variant v;
        bool cached;
    } rows[] = {{"padded, all rows in the head", {1, 1, 1, 1}, false},
                {"packed", {0, 1, 1, 1}, false},
                {"+ shared prompts", {0, 0, 1, 1}, false},
                {"+ completion-only head", {0, 0, 0, 1}, false},
                {"+ one-pass head", {0, 0, 0, 0}, false},
                {"+ cached reference", {0, 0, 0, 0}, true}};
    double first = 0, loss = 0;
    printf("\nablation: %s, %s, %d pairs a step\n%-30s %8s %8s %8s %7s\n", s.shape->name, s.bf16 ? "bf16" : "f32",
           (int)s.batch, "", "pairs/s", "gain", "in all", "GB");
    double before = 0;
    for (int i = 0; i < PL_LEN(rows); i++) {
        s.variant = rows[i].v;
        s.cached = rows[i].cached;
        result r = run(&s);
        if (!r.ok) {
            printf("%-30s failed: %s\n", rows[i].name, r.error);
            continue;
        }
        double speed = (double)s.batch / r.step;
        if (first == 0) first = before = speed, loss = r.loss;
        printf("%-30s %8.3f %7.2fx %7.2fx %7.2f%s\n", rows[i].name, speed, speed / before, speed / first,
               r.peak_bytes * 1e-9, fabs(r.loss - loss) <= 2e-3 ? "" : "   LOSS DIFFERS");
        before = speed;
        fflush(stdout);
    }
}

static void measure(setting s, const char *what) {
    char name[96];
    snprintf(name, sizeof name, "%s %s %s%s", s.shape->name, s.bf16 ? "bf16" : "f32",
             s.full     ? "full"
             : s.cached ? "cached"
                        : "live",
             what);
    s.name = name;
    result r = run(&s);
    print_result(&s, &r);
}

static int write_fixtures(const setting *s, const bench_shape *const *shapes, int n) {
    char *path = NULL;
    pl_error err;
    int rc;
    for (int i = 0; i < n; i++) {
        PL_GO(rc, bench_model_make(&path, s->dir, shapes[i], "bfloat16", &err));
        printf("model %s %s\n", shapes[i]->name, path);
        pl_free(path), path = NULL;
    }
    PL_GO(rc, pl_asprintf(&path, &err, "%s/rows-of-%d.jsonl", s->dir, (int)s->pairs));
    PL_GO(rc, bench_data_write(path, s->lengths, s->pairs, &err));
    printf("rows %s\n", path);
out:
    if (rc) fprintf(stderr, "%s\n", err.text);
    pl_free(path);
    return rc ? 1 : 0;
}

int main(int argc, char **argv) {
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT") && setenv("GOMP_SPINCOUNT", "2000", 0) == 0)
        execv("/proc/self/exe", argv); /* as the program does */
    setting s = {.bf16 = -1, .pairs = 32, .batch = 4, .dir = "build/bench-models"};
    const bench_shape *wanted[8];
    int shapes = 0;
    bool only_ablation = false, only_fixtures = false;
    pl_error err;
    bench_lengths *lengths = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--cached") == 0)
            s.cached = true;
        else if (strcmp(a, "--cpu-time") == 0)
            probe_use_cpu_time();
        else if (strcmp(a, "--full") == 0)
            s.full = true;
        else if (strcmp(a, "--ablation") == 0)
            only_ablation = true;
        else if (strcmp(a, "--fixtures") == 0)
            only_fixtures = true;
        else if (strcmp(a, "--bf16") == 0)
            s.bf16 = atoi(v), i++;
        else if (strcmp(a, "--pairs") == 0)
            s.pairs = atoi(v), i++;
        else if (strcmp(a, "--batch") == 0)
            s.batch = atoi(v), i++;
        else if (strcmp(a, "--threads") == 0)
            s.threads = atoi(v), i++;
        else if (strcmp(a, "--dir") == 0)
            s.dir = v, i++;
        else if (strcmp(a, "--shape") == 0 && bench_shape_find(v) && shapes < 8)
            wanted[shapes++] = bench_shape_find(v), i++;
        else
            return fprintf(stderr, "bench_step: %s %s?\n", a, v), 2;
    }
    bool all = argc == 1;
    if (!shapes) wanted[shapes++] = &bench_shapes[0];
    if (all) wanted[shapes++] = &bench_shapes[1];
    if (pl_dir_make(s.dir, &err) || bench_lengths_hh(&lengths, s.pairs, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    s.lengths = lengths;
    if (only_fixtures) {
        int rc = write_fixtures(&s, wanted, shapes);
        pl_free(lengths);
        return rc;
    }
    printf("%s\n", probe_cpu_name());
    if (!only_ablation) print_head();
    for (int i = 0; i < shapes && !only_ablation; i++) {
        s.shape = wanted[i];
        for (int bf16 = 1; bf16 >= 0; bf16--) {
            if (s.bf16 >= 0 ? bf16 != s.bf16 : bf16 && !native_bf16()) continue;
            setting one = s;
            one.bf16 = bf16;
            measure(one, "");
        }
    }
    if (all || only_ablation) {
        s.shape = wanted[0];
        if (s.bf16 < 0) s.bf16 = native_bf16();
        ablation(s);
    }
    pl_free(lengths);
    return 0;
}
