/* plumb/loss.h: parameters of the objectives. */
#ifndef PLUMB_LOSS_H
#define PLUMB_LOSS_H

#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Parameters of all objectives; an objective's row says which of them it reads. */
typedef struct pl_loss_params {
    double beta; /* pull towards the reference, > 0 */
} pl_loss_params;
/* The option rows of pl_loss_params. */
extern const pl_option pl_loss_options[];

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
