/* bench/fixture.h: models of real shapes with random weights, and preference rows of given lengths, for the benchmarks.
 *
 * The tokenizer has one token per byte, so a text of n bytes is n tokens and rows get exactly the lengths asked for. */
#ifndef PL_BENCH_FIXTURE_H
#define PL_BENCH_FIXTURE_H

#include <stdint.h>

#include "plumb/error.h"

typedef struct bench_shape {
    const char *name; /* "smollm2-135m" */
    const char *model_type;
    int64_t C, F, L, H, KV, V;
    int tied;
    double theta;
} bench_shape;

extern const bench_shape bench_shapes[]; /* ends with a row without a name */
const bench_shape *bench_shape_find(const char *name);

/* Elements of all linear layers of all blocks. */
double bench_linear_elements(const bench_shape *s);

/* A model directory under `root`, made where it is missing; *dir owned. */
int bench_model_make(char **dir, const char *root, const bench_shape *s, const char *dtype, pl_error *err);

/* Tokens of each part of a row (chosen and rejected with their EOS). */
typedef struct bench_lengths {
    int64_t prompt, chosen, rejected;
} bench_lengths;

/* n rows evenly spaced over the list of hh-rlhf (bench/hh_lengths.txt), in the file's order; owned. */
int bench_lengths_hh(bench_lengths **out, int64_t n, pl_error *err);
/* JSON lines with texts of these lengths, from a fixed seed. */
int bench_data_write(const char *path, const bench_lengths *rows, int64_t n, pl_error *err);

#endif
