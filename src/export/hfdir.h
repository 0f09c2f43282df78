/* export/hfdir.h: writes a Hugging Face model directory from the one the run started from. */
#ifndef PL_HFDIR_H
#define PL_HFDIR_H

#include "model/arch.h"
#include "plumb/tokenizer.h"
#include "tensor/safetensors.h"

/* Copies from `from` to `to` (which exists): config.json byte for byte but for the value of dtype/torch_dtype,
 * generation_config.json, and the tokenizer's files with additional_chat_templates/. Files that are not there are
 * skipped; config.json must be. Weights are not copied. PL_E_IO, PL_E_FORMAT. */
int pl_hfdir_copy(const char *from, const char *to, pl_dtype dtype, pl_error *err);
/* What the files of a reward model say beyond those of the model it comes from. transformers reads the score at the
 * last id that is not pad_token_id, so the pad must end no answer: where the tokenizer pads with an eos (or with
 * nothing), another special token takes its place, in the tokenizer's files too. */
typedef struct pl_hfdir_classifier {
    const char *architecture; /* "LlamaForSequenceClassification"; static */
    bool is_new;              /* the files are those of a causal model */
    int32_t pad;              /* pad_token_id; -1: null, and transformers refuses batches of more than one */
    const char *pad_token;    /* what the tokenizer's files are to say, borrowed from it; NULL: as they are */
} pl_hfdir_classifier;
void pl_hfdir_classifier_init(pl_hfdir_classifier *c, const pl_arch *a, const pl_tokenizer *tokenizer);
/* As pl_hfdir_copy, but with architectures, pad_token_id, and (is_new) the one label that transformers writes;
 * generation_config.json stays behind. */
int pl_hfdir_copy_classifier(const char *from, const char *to, pl_dtype dtype, const pl_hfdir_classifier *c,
                             pl_error *err);
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
