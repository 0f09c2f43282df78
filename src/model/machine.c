/* machine.c: finds out what the machine has, and sets up ops, matrix products and threads for it. */
#include "model/machine.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static int64_t read_number(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    char line[256];
    long long value = -1;
    size_t n = strlen(key);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0) {
            if (sscanf(line + n, " %lld", &value) != 1) value = -1; /* cgroup's "max" is no limit */
            break;
        }
    fclose(f);
    return value;
}

static int64_t cgroup_limit(void) {
    int64_t v2 = read_number("/sys/fs/cgroup/memory.max", "");
    if (v2 >= 0) return v2;
    int64_t v1 = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", "");
    return v1 >= 0 && v1 < INT64_MAX / 4 ? v1 : -1;
}

static int64_t cgroup_used(void) {
    int64_t v2 = read_number("/sys/fs/cgroup/memory.current", "");
    return v2 >= 0 ? v2 : PL_MAX(read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", ""), 0);
}

int64_t pl_machine_free_bytes(void) {
    int64_t available = read_number("/proc/meminfo", "MemAvailable:");
    available = available < 0 ? INT64_MAX : available * 1024;
    int64_t limit = cgroup_limit();
    return limit < 0 ? available : PL_MIN(available, PL_MAX(limit - cgroup_used(), 0));
}

int64_t pl_machine_resident_bytes(void) { return PL_MAX(read_number("/proc/self/status", "VmRSS:"), 0) * 1024; }

/* Cores of cgroup v2's cpu.max ("quota period"), rounded up; 0 when there is no quota. */
static int64_t quota_cores(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return 0;
    long long quota = 0, period = 0;
    int got = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    return got == 2 && period > 0 && quota > 0 ? (quota + period - 1) / period : 0;
}

static int64_t allowed_cores(void) {
    cpu_set_t set;
    int64_t cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    int64_t quota = quota_cores();
    return PL_MAX(1, quota > 0 ? PL_MIN(cores, quota) : cores);
}

int pl_machine_new(pl_machine **out, const pl_machine_options *o, pl_error *err) {
    pl_machine *m = NULL;
    int rc;
    PL_GO(rc, PL_NEW(&m, 1, err));
    m->detected = pl_cpu_detect();
    m->level = m->detected;
    if (o && o->cpu && *o->cpu) {
        pl_cpu_level mask;
        PL_GO(rc, pl_cpu_level_parse(&mask, o->cpu, err));
        m->level = PL_MIN(mask, m->detected);
    }
    m->threads = o && o->threads > 0 ? PL_MIN(o->threads, PL_MAX_THREADS) : allowed_cores();
#ifdef _OPENMP
    omp_set_dynamic(0);
    m->threads = PL_MIN(m->threads, omp_get_thread_limit()); /* no more are given, whatever is asked for */
    omp_set_num_threads((int)m->threads);
#else
    m->threads = 1;
#endif
    pl_ops_init(&m->ops, m->level);
    PL_GO(rc, pl_gemm_new(&m->gemm, m->level, &m->ops, err));
    *out = m;
    return 0;
out:
    pl_machine_free(m);
    return rc;
}

void pl_machine_free(pl_machine *m) {
    if (!m) return;
    pl_gemm_free(m->gemm);
    pl_free(m);
}

pl_backend pl_machine_backend(pl_machine *m, int bf16) {
    bool on = bf16 < 0 ? pl_gemm_native_bf16(m->gemm) : bf16 != 0;
    return (pl_backend){.ops = &m->ops, .gemm = m->gemm, .bf16 = on};
}

static void cpu_name(char out[128]) {
    snprintf(out, 128, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!colon) continue;
        snprintf(out, 128, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    fclose(f);
}

void pl_machine_describe(const pl_machine *m, pl_machine_report *r) {
    *r = (pl_machine_report){.native_bf16 = pl_gemm_native_bf16(m->gemm), .threads = m->threads};
    cpu_name(r->cpu_name);
    snprintf(r->level, sizeof r->level, "%s", pl_cpu_level_name(m->level));
    snprintf(r->detected, sizeof r->detected, "%s", pl_cpu_level_name(m->detected));
    snprintf(r->gemm, sizeof r->gemm, "%s", pl_gemm_name(m->gemm));
    r->cores_online = sysconf(_SC_NPROCESSORS_ONLN);
    r->cores_allowed = allowed_cores();
    r->memory_bytes = read_number("/proc/meminfo", "MemTotal:") * 1024;
    r->memory_available_bytes = pl_machine_free_bytes();
    r->cgroup_limit_bytes = cgroup_limit();
    snprintf(r->version, sizeof r->version, "%s", PLUMB_VERSION);
    snprintf(r->compiler, sizeof r->compiler, "%s", __VERSION__);
    pl_machine_libraries(r->libraries, sizeof r->libraries);
}
