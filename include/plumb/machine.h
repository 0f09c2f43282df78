/* plumb/machine.h: what a program runs on: instruction set level, threads, matrix products. One per process is enough;
 * it must outlive what is run with it. Not for use by several threads at a time. */
#ifndef PLUMB_MACHINE_H
#define PLUMB_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plumb/error.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct pl_machine pl_machine;

typedef struct pl_machine_options {
    const char *cpu; /* highest level to use: "generic", "avx2", "avx512", "avx512bf16"; NULL: what there is (PLUMB_CPU
                        is read by the program) */
    int64_t threads; /* 0: the cores that affinity and cgroup allow */
} pl_machine_options;

/* PL_E_OPTION for an unknown level. */
int pl_machine_new(pl_machine **out, const pl_machine_options *options, pl_error *err);
void pl_machine_free(pl_machine *m);

typedef struct pl_machine_report {
    char cpu_name[128];
    char level[32], detected[32]; /* used; found */
    char gemm[64];                /* "oneDNN 2.6.3" */
    bool native_bf16;
    int64_t threads, cores_online, cores_allowed;
    int64_t memory_bytes, memory_available_bytes, cgroup_limit_bytes; /* cgroup: -1 when there is none */
    char version[32], libraries[256], compiler[64]; /* libraries: "oneDNN 2.6.3, json-c 0.16, ...", as loaded */
} pl_machine_report;
void pl_machine_describe(const pl_machine *m, pl_machine_report *out);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
