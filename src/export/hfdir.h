/* export/hfdir.h: writes a Hugging Face model directory from the one the run started from. */
#ifndef PL_HFDIR_H
#define PL_HFDIR_H

#include "model/arch.h"
#include "tensor/safetensors.h"

/* Copies from `from` to `to` (which exists): config.json byte for byte but for the value of dtype/torch_dtype,
 * generation_config.json, and the tokenizer's files with additional_chat_templates/. Files that are not there are
 * skipped; config.json must be. Weights are not copied. PL_E_IO, PL_E_FORMAT. */
int pl_hfdir_copy(const char *from, const char *to, pl_dtype dtype, pl_error *err);
/* Only the tokenizer's files (for an adapter directory). */
int pl_hfdir_copy_tokenizer(const char *from, const char *to, pl_error *err);
/* DIR/model.safetensors of architecture a, every parameter of pl_arch_params in `dtype`, produced by fill(user, i, …)
 * where i is the index in params. */
int pl_hfdir_write_weights(const char *dir, const pl_param_spec *params, int64_t n, pl_dtype dtype,
                           pl_tensor_fill *fill, void *user, pl_error *err);
/* config.json with the value of its top-level dtype and torch_dtype keys replaced; every other byte as it was. Owned:
 * pl_free. */
int pl_hfdir_config_text(char **out, size_t *out_len, const char *text, size_t n, pl_dtype dtype, pl_error *err);

#endif
