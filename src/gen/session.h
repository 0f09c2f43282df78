/* gen/session.h: a model directory with its tokenizer and, where asked for, an adapter on top: what every command that
 * only runs a model opens first. */
#ifndef PL_SESSION_H
#define PL_SESSION_H

#include "model/model.h"
#include "plumb/tokenizer.h"

typedef struct pl_session {
    pl_model model;
    pl_tokenizer *tokenizer; /* owned; NULL when the directory has none */
    pl_arena arena;          /* of the adapter */
    pl_lora adapter;
    bool has_adapter;
} pl_session;

/* adapter may be NULL. The session must not be moved afterwards. need_tokenizer: a directory without one is an error.
 */
int pl_session_open(pl_session *s, const char *model_dir, const char *adapter, bool need_tokenizer, const pl_ops *ops,
                    pl_error *err);
/* The same of a model with a score head; a causal model is one with the adapter of a reward model, which brings the
 * head (PL_E_UNSUPPORTED without). */
int pl_session_open_scored(pl_session *s, const char *model_dir, const char *adapter, const pl_ops *ops, pl_error *err);
void pl_session_close(pl_session *s); /* safe on zeroed storage */
/* The adapter, or NULL. */
const pl_lora *pl_session_lora(const pl_session *s);

#endif
