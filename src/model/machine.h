/* model/machine.h: the inside of pl_machine. */
#ifndef PL_MACHINE_H
#define PL_MACHINE_H

#include "model/decoder.h"
#include "plumb/machine.h"

struct pl_machine {
    pl_cpu_level level, detected;
    int64_t threads;
    pl_ops ops;
    pl_gemm *gemm;
};

/* bf16 of a command: -1 unset (native bf16 decides), 0, 1. */
pl_backend pl_machine_backend(pl_machine *m, int bf16);
/* Bytes that a new run may take: the smaller of MemAvailable and what the cgroup leaves. */
int64_t pl_machine_free_bytes(void);
/* What the process holds now (VmRSS); 0 when the system does not say. */
int64_t pl_machine_resident_bytes(void);

/* "oneDNN 2.6.3, json-c 0.16, ...": what is loaded, not what the headers were. */
void pl_machine_libraries(char *out, size_t size);

#endif
