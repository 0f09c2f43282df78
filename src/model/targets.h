/* model/targets.h: which linear layers of an architecture a LoRA configuration means. */
#ifndef PL_TARGETS_H
#define PL_TARGETS_H

#include "adapt/peft.h"
#include "model/arch.h"

/* All modules of the model in the order of torch's named_modules(); owned: pl_free. */
int pl_arch_modules(pl_module **out, int64_t *n, const pl_arch *a, pl_error *err);
/* sites[layer*PL_LIN_COUNT + lin]; owned: pl_free. Errors as pl_peft_match. */
int pl_arch_match(pl_peft_site **out, const pl_arch *a, const pl_peft_config *c, pl_error *err);
/* pl_peft_config_name_targets for the modules of a: before an adapter is saved, so that adapter_config.json names them.
 */
int pl_arch_name_targets(pl_peft_config *c, const pl_arch *a, pl_error *err);

#endif
