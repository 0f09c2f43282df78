/* run.c: see run.h. */
#include "run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "model/machine.h"
#include "plumb/log.h"
#include "plumb/train.h"
#include "probe.h"
#include "report.h"

#define MAX_STEPS 512

typedef struct timed_step {
    double seconds, flop;
    bool quiet;
} timed_step;

typedef struct watch {
    const bench_setting *s;
    bench_result *r;
    double began, last;   /* wall */
    double cpu, cpu_last; /* processor time of the timed steps */
    double peak;          /* of FMA, GFLOP/s */
    double tokens;
    bool quiet;      /* the last probe */
    bench_work work; /* when the last step ended */
    double parts[PART_COUNT];
    timed_step steps[MAX_STEPS];
    int64_t n;
} watch;

static bench_work work_since(const bench_work *before) {
    bench_work w = bench_parts_work();
    for (int i = 0; i < 2; i++)
        w.tokens[i] -= before->tokens[i], w.rows[i] -= before->rows[i], w.pairs[i] -= before->pairs[i];
    return w;
}

static bool machine_is_quiet(const watch *w) {
    return probe_rate(probe_best_f32(), w->r->threads, 0.005) >= 0.9 * w->peak;
}

static void on_step(watch *w, const pl_train_event *e, double now) {
    if (e->done == 1) { /* not timed */
        w->r->loss = e->values[0].value;
        w->peak = probe_peak(probe_best_f32(), w->r->threads, 0.05);
        w->r->fma = w->peak * 1e9;
        w->work = (bench_work){0};
        bench_parts_reset();
    } else if (w->n < MAX_STEPS) {
        bench_work work = work_since(&w->work);
        double head, attention, flop = bench_counted(w->s, &work, &head, &attention);
        w->steps[w->n] = (timed_step){now - w->last, flop, w->quiet};
        w->tokens += e->tokens_per_second * (now - w->last);
        w->cpu += probe_cpu_seconds() - w->cpu_last;
        w->work = bench_parts_work();
        for (int p = 0; p < PART_COUNT; p++) w->parts[p] = bench_parts_seconds((bench_part)p);
    }
    bool quiet = machine_is_quiet(w);
    if (e->done > 1 && w->n < MAX_STEPS) w->steps[w->n++].quiet &= quiet;
    w->quiet = quiet;
    w->cpu_last = probe_cpu_seconds();
    w->last = probe_now();
}

static void on_event(void *user, const pl_train_event *e) {
    watch *w = user;
    double now = probe_now();
    if (e->kind == PL_TRAIN_PLAN) {
        w->r->planned_bytes = (double)e->planned_bytes;
        w->r->start = now - w->began;
    }
    if (e->kind == PL_TRAIN_STEP) on_step(w, e, now);
}

static int ascending(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x), memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* flop/s of the steps that count, and how far all of them lie apart. */
static void step_rate(const watch *w) {
    double rates[MAX_STEPS], seconds = 0, flop = 0;
    bench_result *r = w->r;
    for (int64_t i = 0; i < w->n; i++) r->quiet += w->steps[i].quiet, rates[i] = w->steps[i].flop / w->steps[i].seconds;
    bool all = 2 * r->quiet < w->n;
    for (int64_t i = 0; i < w->n; i++)
        if (all || w->steps[i].quiet) seconds += w->steps[i].seconds, flop += w->steps[i].flop;
    qsort(rates, (size_t)w->n, sizeof *rates, ascending);
    r->spread = (rates[w->n - 1] - rates[0]) / rates[w->n / 2];
    r->rate = flop / seconds;
}

static void summarize(const watch *w) {
    bench_result *r = w->r;
    double total = 0, n = (double)w->n;
    bench_work work = w->work;
    for (int64_t i = 0; i < w->n; i++) total += w->steps[i].seconds;
    step_rate(w);
    r->steps = w->n;
    r->flop = bench_counted(w->s, &work, &r->head_flop, &r->attn_flop) / n;
    r->head_flop /= n, r->attn_flop /= n;
    r->step = r->flop / r->rate;
    r->tokens = w->tokens / n / r->step;
    r->idle = fmax(0, 1 - w->cpu / total / r->threads);
    r->rest = 1;
    for (int p = 0; p < PART_COUNT; p++) {
        double share = w->parts[p] / total;
        r->parts[p] = share * r->step;
        r->rest -= share;
    }
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

static int set_all(pl_options *o, const bench_setting *s, const char *model, const char *data, const char *out,
                   pl_error *err) {
    char batch[32];
    snprintf(batch, sizeof batch, "%d", (int)s->batch);
    const char *lora = s->full ? NULL : "all-linear", *dropout = s->full ? NULL : "0";
    const char *const values[][2] = {{"model_name_or_path", model},
                                     {"dataset_name", data},
                                     {"output_dir", out},
                                     {"overwrite_output_dir", "true"},
                                     {"cache_dir", out},
                                     {"use_peft", s->full ? "false" : "true"},
                                     {"lora_target_modules", lora},
                                     {"lora_dropout", dropout},
                                     {"per_device_train_batch_size", batch},
                                     {"num_train_epochs", "1"},
                                     {"train_sampling_strategy", "sequential"},
                                     {"max_length", "65536"},
                                     {"bf16", s->bf16 ? "true" : "false"},
                                     {"precompute_ref_log_probs", s->cached ? "true" : NULL},
                                     {"save_strategy", "no"},
                                     {"logging_steps", "1"}};
    int rc = 0;
    for (int i = 0; rc == 0 && i < PL_LEN(values); i++)
        if (values[i][1]) rc = pl_options_set(o, values[i][0], values[i][1], err);
    return rc;
}

static int go_on(void *user) {
    (void)user;
    return 0;
}

static const char *weights_of(const bench_setting *s) { return s->weights ? s->weights : "bfloat16"; }

static int train(const bench_setting *s, watch *w, pl_error *err) {
    const char *command = s->rows == ROWS_PAIRS ? "dpo" : "sft";
    char *model = NULL, *data = NULL, *out = NULL;
    pl_config c;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_machine *machine = NULL;
    pl_machine_options mo = {.threads = s->threads};
    pl_train_hooks hooks = {.user = w, .event = on_event, .stop = go_on};
    int rc;
    PL_GO(rc, bench_model_make(&model, s->dir, s->shape, weights_of(s), err));
    PL_GO(rc, pl_asprintf(&data, err, "%s/rows-%d.jsonl", s->dir, (int)getpid()));
    PL_GO(rc, pl_asprintf(&out, err, "%s/run-%d", s->dir, (int)getpid()));
    PL_GO(rc, bench_data_write(data, s->rows, s->lengths, s->pairs, err));
    PL_GO(rc, pl_options_new(&o, pl_train_command(command), pl_train_bases(bases, &c), NULL, err));
    PL_GO(rc, set_all(o, s, model, data, out, err));
    PL_GO(rc, pl_options_finish(o, err));
    w->began = probe_now();
    PL_GO(rc, pl_machine_new(&machine, &mo, err));
    w->r->threads = (int)machine->threads;
    bench_parts_watch(&machine->ops);
    PL_GO(rc, pl_train(machine, command, &c, o, &hooks, err));
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
static void run_child(const bench_setting *s, bench_result *r) {
    pl_error err;
    watch w = {.s = s, .r = r, .quiet = true};
    pl_log_set(print_log, NULL);
    bench_variant_set(&s->variant);
    if (train(s, &w, &err) == 0 && w.n == 0) PL_FAIL(&err, PL_E_RANGE, "fewer than two steps, the first is not timed");
    if (w.n == 0) {
        snprintf(r->error, sizeof r->error, "%.500s", err.text);
        return;
    }
    r->peak_bytes = peak_bytes();
    summarize(&w);
    bench_measure_gemm(r, s);
    r->ok = true;
}

/* So that making the model is not in the run's memory. */
static void model_child(const bench_setting *s, bench_result *r) {
    pl_error err;
    char *model = NULL;
    if (bench_model_make(&model, s->dir, s->shape, weights_of(s), &err))
        snprintf(r->error, sizeof r->error, "%.500s", err.text);
    pl_free(model);
}

static void in_child(void (*run)(const bench_setting *s, bench_result *r), const bench_setting *s, bench_result *r) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        char command[512];
        run(s, r);
        snprintf(command, sizeof command, "rm -rf %s/run-%d %s/rows-%d.jsonl", s->dir, (int)getpid(), s->dir,
                 (int)getpid());
        int rc = system(command);
        fflush(NULL);
        _exit(rc != 0);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        r->ok = false;
        if (!r->error[0]) snprintf(r->error, sizeof r->error, "the process ended with status %d", status);
    }
}

bench_result bench_run(const bench_setting *s) {
    bench_result *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), r;
    if (shared == MAP_FAILED) exit(1);
    in_child(model_child, s, shared);
    if (!shared->error[0]) in_child(run_child, s, shared);
    r = *shared;
    munmap(shared, sizeof *shared);
    return r;
}

int bench_threads(int wanted) {
    pl_error err;
    pl_machine *m = NULL;
    pl_machine_options o = {.threads = wanted};
    if (pl_machine_new(&m, &o, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    int threads = (int)m->threads;
    pl_machine_free(m);
    return threads;
}

static int by_step(const void *a, const void *b) {
    const bench_result *x = a, *y = b;
    if (x->ok != y->ok) return x->ok - y->ok; /* failures first: they are not the median of what went well */
    return (x->step > y->step) - (x->step < y->step);
}

void bench_run_rounds(const bench_setting *s, int n, int rounds, bench_result *out) {
    bench_result *all = calloc((size_t)(n * rounds), sizeof *all);
    if (!all) exit(1);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++) all[i * rounds + round] = bench_run(&s[i]);
    for (int i = 0; i < n; i++) {
        qsort(all + i * rounds, (size_t)rounds, sizeof *all, by_step);
        out[i] = all[i * rounds].ok ? all[i * rounds + rounds / 2] : all[i * rounds];
    }
    free(all);
}

/* --- lines of results --- */
void bench_report_setting(const bench_setting *s, const bench_result *r) {
    char set[] = {s->set, 0};
    report_text("shape", s->shape->name);
    report_text("mode", s->bf16 ? "bf16" : "f32");
    report_text("train", s->rows == ROWS_PAIRS ? "dpo" : "sft");
    report_text("weights", s->full ? "full" : "lora");
    report_text("reference", s->rows != ROWS_PAIRS ? "none" : s->cached ? "cached" : "live");
    report_text("lengths", set);
    report_count("batch", s->batch);
    report_count("rows", s->pairs);
    report_count("threads", r->threads);
}

void bench_report_result(const bench_setting *s, const bench_result *r) {
    if (!r->ok) {
        report_text("error", r->error);
        return;
    }
    report_number("rows_per_s", (double)s->batch / r->step);
    report_number("tokens_per_s", r->tokens);
    report_number("step_s", r->step);
    report_number("of_gemm", r->rate / r->gemm);
    report_number("of_gemm_best", r->rate / r->gemm_best);
    report_number("gemm_gflops", r->gemm * 1e-9);
    report_number("gemm_best_gflops", r->gemm_best * 1e-9);
    report_number("row_gflop", r->flop * 1e-9 / (double)s->batch);
    report_number("peak_gb", r->peak_bytes * 1e-9);
    report_number("planned_gb", r->planned_bytes * 1e-9);
    report_number("start_s", r->start);
    report_number("spread", r->spread);
    report_count("steps", r->steps);
    report_count("quiet_steps", r->quiet);
    report_number("loss", r->loss);
    for (int p = 0; p < PART_COUNT; p++) report_number(bench_part_name((bench_part)p), r->parts[p] / r->step);
    report_number("rest", r->rest);
    report_number("idle", r->idle);
    report_number("head_of_gemm", r->head_flop / r->parts[PART_HEAD] / r->head_gemm);
    report_number("attention_of_fma", r->attn_flop / r->parts[PART_ATTENTION] / r->fma);
}
