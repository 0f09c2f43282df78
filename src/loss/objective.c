/* objective.c: the table of objectives and the options of their parameters. */
#include "loss/objective.h"

#include <string.h>

const pl_option pl_loss_options[] = {{.name = "beta",
                                      .type = PL_OPT_F64,
                                      .offset = offsetof(pl_loss_params, beta),
                                      .fallback = "0.1",
                                      .min = 1e-6,
                                      .max = 1e3,
                                      .group = "Objective",
                                      .help = "pull towards the reference"},
                                     {0}};

const pl_objective *const pl_objectives[] = {&pl_objective_dpo_sigmoid, &pl_objective_sft_nll, NULL};

const pl_objective *pl_objective_find(const char *name, pl_loss_rows rows) {
    for (int i = 0; pl_objectives[i]; i++)
        if (pl_objectives[i]->rows == rows && strcmp(pl_objectives[i]->name, name) == 0) return pl_objectives[i];
    return NULL;
}
