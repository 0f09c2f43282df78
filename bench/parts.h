/* bench/parts.h: where the time of a step goes, and steps with something of plumb taken away.
 *
 * The benchmark links plumb's own layers and puts itself between them (the linker's --wrap, and the table of ops): what
 * is timed is the program's own training loop, unchanged. One run per process. */
#ifndef PL_BENCH_PARTS_H
#define PL_BENCH_PARTS_H

#include <stdbool.h>

#include "kernels/ops.h"

typedef enum bench_part {
    PART_LINEAR,    /* products with the model's matrices */
    PART_LORA,      /* products with A and B */
    PART_HEAD,      /* all of the head */
    PART_ATTENTION, /* attention, both ways */
    PART_POINTWISE, /* norms, RoPE, SwiGLU, copies, dropout */
    PART_OPTIMIZER, /* AdamW and the norm of the gradient */
    PART_DATA,      /* building the batches */
    PART_COUNT
} bench_part;
const char *bench_part_name(bench_part p);

/* What a step is run with; all zero is plumb as it is. */
typedef struct bench_variant {
    bool padded;    /* every answer with its own prompt, and padded to the longest of the micro-batch */
    bool unshared;  /* every answer with its own prompt */
    bool all_rows;  /* the head multiplies every token, not only those that predict */
    bool recompute; /* the head computes its logits again for the backward pass */
} bench_variant;

/* Times every op of the table from now on. */
void bench_parts_watch(pl_ops *ops);
void bench_parts_reset(void);
double bench_parts_seconds(bench_part p);
void bench_variant_set(const bench_variant *v);
/* Work counted since the reset: tokens of all forward passes with and without a backward pass to come, head rows of
 * both, and visible query-key pairs of both. */
typedef struct bench_work {
    double tokens[2], rows[2], pairs[2]; /* [0] scored only, [1] trained */
} bench_work;
bench_work bench_parts_work(void);

#endif
