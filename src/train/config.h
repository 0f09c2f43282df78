/* train/config.h: what the files of train/ share about the configuration. */
#ifndef PL_TRAIN_CONFIG_H
#define PL_TRAIN_CONFIG_H

#include "base/base.h"
#include "base/buf.h"
#include "base/json.h"
#include "loss/objective.h"
#include "plumb/train.h"

/* Rows for what does not exist yet: only the default is taken, silently, so that a file that states it works. */
#define PL_ROW_LATER(key, kind, value)                                                                                 \
    { .name = key, .type = kind, .fallback = value, .flags = PL_OPT_LATER | PL_OPT_HIDDEN | PL_OPT_NO_RECORD }
#define PL_ROW_LATER_BOOL(key) PL_ROW_LATER(key, PL_OPT_BOOL, "false")
#define PL_ROW_LATER_TRIBOOL(key) PL_ROW_LATER(key, PL_OPT_TRIBOOL, NULL)
#define PL_ROW_LATER_I64(key, value) PL_ROW_LATER(key, PL_OPT_I64, value)
#define PL_ROW_LATER_F64(key, value) PL_ROW_LATER(key, PL_OPT_F64, value)
#define PL_ROW_LATER_STR(key, value) PL_ROW_LATER(key, PL_OPT_STR, value)
#define PL_ROW_LATER_LIST(key) PL_ROW_LATER(key, PL_OPT_STRLIST, NULL)
#define PL_ROW_LATER_MAP(key) PL_ROW_LATER(key, PL_OPT_MAP, NULL)

/* Everything that a resumed run must share with the checkpoint, as a JSON object {"beta": "0.1", …}: all recorded
 * options but those about saving, logging, evaluation and places (DECISIONS 21). */
int pl_config_write_fixed(pl_buf *b, const char *command, const pl_config *c, pl_error *err);
/* Compares with what a checkpoint recorded. PL_E_MISMATCH names each key that differs, then and now. */
int pl_config_compare(const pl_json *then, const char *command, const pl_config *c, pl_error *err);
/* What is minimised: the objectives of loss_type with their weights, and the parameters with defaults that depend on
 * them filled in. PL_E_OPTION for what does not fit together, or a parameter that no objective reads. Logs warnings. */
int pl_config_objective(pl_mix *mix, pl_loss_params *params, const char *command, const pl_config *c,
                        const pl_options *o, pl_error *err);
/* "objective = sigmoid (arXiv:2305.18290 eq. 7), beta 0.1, ..." */
void pl_config_objective_sentence(char *out, size_t size, const pl_mix *mix, const pl_loss_params *p);
/* Options that contradict each other. `o` tells what the user has set. PL_E_OPTION. */
int pl_config_check(const pl_config *c, const pl_options *o, pl_error *err);

#endif
