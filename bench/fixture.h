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

/* Three real ones; smollm2-2l, two layers of the first with a small vocabulary, for long sequences; tiny, for tests. */
const bench_shape *bench_shape_find(const char *name);

/* Elements of all linear layers of all blocks. */
double bench_linear_elements(const bench_shape *s);

/* A model directory under `root`, made where it is missing; *dir owned. */
int bench_model_make(char **dir, const char *root, const bench_shape *s, const char *dtype, pl_error *err);

/* Tokens of each part of a row (chosen and rejected with their EOS). */
typedef struct bench_lengths {
    int64_t prompt, chosen, rejected;
} bench_lengths;

/* The length sets; n rows, owned.
 * 'A': evenly spaced over the list of hh-rlhf (bench/hh_lengths.txt), in the file's order.
 * 'B': 512 + 512 + 512.
 * 'C': prompt : completion = 0.42, median 409 of both together, as in the set that prefix sharing was published on
 *      (arXiv:2410.20305), whose own lengths are not at hand: 409 exp(0.6 z) tokens for z normal from a fixed seed,
 *      each z followed by -z so that the median holds for few rows too; the two answers are longer and shorter than
 *      their mean by a factor of exp(0.2 z').
 * 't': 20 + 10 + 10 or so, for tests. */
int bench_lengths_make(bench_lengths **out, char set, int64_t n, pl_error *err);

typedef enum bench_rows { ROWS_PAIRS, ROWS_COMPLETIONS, ROWS_TEXT } bench_rows;
/* JSON lines with texts of these lengths, from a fixed seed. Completions are the chosen answers; text is all in one. */
int bench_data_write(const char *path, bench_rows kind, const bench_lengths *rows, int64_t n, pl_error *err);

#endif
