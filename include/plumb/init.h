/* plumb/init.h: a model directory with random weights, to pre-train from or to test with. */
#ifndef PLUMB_INIT_H
#define PLUMB_INIT_H

#include <stdbool.h>
#include <stdint.h>

#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct pl_init_options {
    const char *config;     /* config.json, or a directory that has one (and a tokenizer, which is copied) */
    const char *tokenizer;  /* directory to copy the tokenizer from; NULL: config's */
    const char *output_dir; /* made; must be empty or missing, unless overwrite_output_dir */
    bool overwrite_output_dir;
    int64_t seed;
    int dtype; /* 0 f32, 1 f16, 2 bf16, 3 auto: as config.json says, f32 where it says none */
} pl_init_options;
extern const pl_option pl_init_option_rows[];

typedef struct pl_init_report {
    int64_t tensors, parameters, bytes; /* bytes: of model.safetensors */
    const char *dtype;                  /* "float32", static */
} pl_init_report;

/* Matrices and embeddings: normal with config.json's initializer_range; norms one, biases zero. Every value depends on
 * seed, name of the tensor and place in it only. `out` may be NULL. PL_E_OPTION, PL_E_IO, PL_E_FORMAT. */
int pl_init_model(const pl_init_options *options, pl_init_report *out, pl_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
