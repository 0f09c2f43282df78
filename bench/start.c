/* bench/start.c: how long the program takes from its start to the end of its first step, beside the step itself.
 *
 *   bench_start --plumb PROGRAM [--shape NAME] [--rounds N] [--dir DIR] [--json FILE]
 *
 * The program is run on the 16 pairs of bench_step, one step of four: once with a cache directory that is new, then
 * N times (default 5) with what the first has left there; the median counts. The model's file is in memory, as it is
 * after it was written or downloaded. The end of the step is when its line is in metrics.jsonl. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "fixture.h"
#include "probe.h"
#include "report.h"

#define MOST 32

typedef struct start {
    const char *plumb, *dir;
    char *model, *rows, *out, *cache;
} start;

typedef struct sample {
    double step_end, step; /* seconds: from the program's start; step_time as it says */
} sample;

static void stop_at(const pl_error *err) {
    fprintf(stderr, "bench_start: %s\n", err->text);
    exit(1);
}

static pid_t launch(const start *s) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0), dup2(null, 1);
    if (!getenv("BENCH_LOG")) dup2(null, 2);
    execl(s->plumb, s->plumb, "dpo", "--model_name_or_path", s->model, "--dataset_name", s->rows, "--output_dir",
          s->out, "--overwrite_output_dir", "--cache_dir", s->cache, "--use_peft", "--lora_target_modules",
          "all-linear", "--per_device_train_batch_size", "4", "--max_steps", "1", "--save_strategy", "no",
          (char *)NULL);
    _exit(127);
}

/* The value of step_time in the file's first line; negative while there is none. */
static double first_step(const char *path) {
    char line[8192];
    FILE *f = fopen(path, "r");
    double value = -1;
    if (f && fgets(line, sizeof line, f) && strchr(line, '\n')) {
        const char *at = strstr(line, "\"step_time\": ");
        if (at) value = atof(at + strlen("\"step_time\": "));
    }
    if (f) fclose(f);
    return value;
}

static sample run(const start *s) {
    char metrics[4096];
    sample x = {0, -1};
    int status = 0;
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", s->out);
    unlink(metrics);
    double began = probe_now();
    pid_t pid = launch(s), ended = 0;
    while (pid > 0 && x.step < 0 && ended == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        ended = waitpid(pid, &status, WNOHANG);
        x.step_end = probe_now() - began;
        x.step = first_step(metrics);
    }
    if (pid > 0 && ended == 0) waitpid(pid, &status, 0);
    if (x.step < 0 || status != 0) {
        fprintf(stderr, "bench_start: %s ended with status %d (BENCH_LOG=1 shows what it says)\n", s->plumb, status);
        exit(1);
    }
    return x;
}

static int by_start(const void *a, const void *b) {
    const sample *x = a, *y = b;
    double s = x->step_end - x->step, t = y->step_end - y->step;
    return (s > t) - (s < t);
}

static void report(const char *what, const char *shape, sample *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_start);
    sample m = x[n / 2];
    printf("%-12s ready for the first step after %.2f s (%.2f to %.2f); the step %.2f s; its end at %.2f s\n", what,
           m.step_end - m.step, x[0].step_end - x[0].step, x[n - 1].step_end - x[n - 1].step, m.step, m.step_end);
    report_begin("start", what);
    report_text("shape", shape);
    report_count("runs", n);
    report_number("ready_s", m.step_end - m.step);
    report_number("least_s", x[0].step_end - x[0].step);
    report_number("most_s", x[n - 1].step_end - x[n - 1].step);
    report_number("step_s", m.step);
    report_number("step_end_s", m.step_end);
    report_end();
}

static const char *option(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return fallback;
}

static void prepare(start *s, const bench_shape *shape) {
    enum { ROWS = 16 };
    pl_error err;
    bench_lengths *lengths = NULL;
    char command[1024];
    if (pl_asprintf(&s->rows, &err, "%s/start.jsonl", s->dir) || pl_asprintf(&s->out, &err, "%s/start-run", s->dir) ||
        pl_asprintf(&s->cache, &err, "%s/start-cache", s->dir) || pl_dir_make(s->dir, &err) ||
        bench_model_make(&s->model, s->dir, shape, "bfloat16", &err) ||
        bench_lengths_make(&lengths, strcmp(shape->name, "tiny") == 0 ? 't' : 'A', ROWS, &err) ||
        bench_data_write(s->rows, ROWS_PAIRS, lengths, ROWS, &err))
        stop_at(&err);
    pl_free(lengths);
    snprintf(command, sizeof command, "rm -rf '%s' '%s'", s->out, s->cache);
    if (system(command) != 0) exit(1);
}

int main(int argc, char **argv) {
    start s = {.plumb = option(argc, argv, "--plumb", "build/plumb"),
               .dir = option(argc, argv, "--dir", "build/bench-models")};
    const bench_shape *shape = bench_shape_find(option(argc, argv, "--shape", "smollm2-135m"));
    int rounds = atoi(option(argc, argv, "--rounds", "5"));
    sample x[MOST];
    if (!shape || rounds < 1 || rounds > MOST) return fprintf(stderr, "bench_start: see bench/start.c\n"), 2;
    prepare(&s, shape);
    report_open(report_path(argc, argv));
    printf("%s, %s\n", probe_cpu_name(), shape->name);
    x[0] = run(&s);
    report("first run", shape->name, x, 1);
    for (int i = 0; i < rounds; i++) x[i] = run(&s);
    report("later runs", shape->name, x, rounds);
    pl_free(s.model), pl_free(s.rows), pl_free(s.out), pl_free(s.cache);
    return 0;
}
