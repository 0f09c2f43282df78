/* model/nonfinite.h: after a number turned out not to be finite: where that came from. Slow, for errors only. */
#ifndef PL_NONFINITE_H
#define PL_NONFINITE_H

#include "model/weights.h"

#define PL_NONFINITE_NAME 128

/* The first tensor, in the order in which a forward pass meets them, that holds NaN or infinity:
 * "model.layers.1.mlp.down_proj.weight", an adapter's by PEFT's name; "" when there is none. lora may be NULL. */
void pl_weights_find_nonfinite(char name[PL_NONFINITE_NAME], const pl_weights *w, const pl_lora *lora);

#endif
