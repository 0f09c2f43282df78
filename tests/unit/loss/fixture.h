/* fixture.h: a tiny golden model with everything that runs it, for the tests of the model. */
#ifndef PL_TEST_FIXTURE_H
#define PL_TEST_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "loss/objective.h"
#include "model/head.h"
#include "model/model.h"

typedef struct fixture {
    pl_ops ops;
    pl_backend backend;
    pl_model model;
    pl_arena arena;
    pl_trainable trainable; /* of fixture_open_training */
    pl_lora lora;           /* of fixture_open with an adapter */
    const pl_weights *weights;
    pl_lora *adapter; /* NULL: none */
    pl_decoder decoder;
    pl_head head;
    pl_forest forest;
    pl_dataset data; /* rows given by the test */
    int32_t ids[4096];
    pl_row rows[8];
    pl_span answers[16];
    double reference[16];
    pl_mix mix; /* what is minimised; dpo's sigmoid or sft's nll after fixture_load_batch */
    pl_loss_params params;
    bool label[8];
    double state[PL_LOSS_STATE];
} fixture;

/* `adapter`: directory under tests/golden, or NULL. Level and mode from PLUMB_CPU and PLUMB_BF16 of the environment. */
void fixture_open(fixture *f, const char *model, const char *adapter);
void fixture_open_training(fixture *f, const char *model, const char *adapter, bool recompute);
void fixture_close(fixture *f);
/* One row without a prompt: every token but the first is a target. */
void fixture_text(fixture *f, const int64_t *ids, int64_t n);
void fixture_forward(fixture *f, bool keep);
/* tests/golden/<dir>/<file>: pairs or rows into f->data, and the batch; returns the golden loss. */
double fixture_load_batch(fixture *f, const char *dir, const char *file, bool share);
/* Loss (mean) of f->data and its gradient in f->trainable. */
double fixture_loss_and_gradient(fixture *f);

void test_threads(int n); /* of OpenMP, where there is */
void test_bf16(bool on);  /* of fixtures opened from now on */
real *test_zeros(int64_t n);
real *test_gradients(const fixture *f); /* of everything trained, one behind the other; freed by the caller */
pl_tensors *test_tensors(const char *dir, const char *file);
double test_max(double a, double b); /* NaN wins */

#endif
