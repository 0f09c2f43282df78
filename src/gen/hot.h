/* gen/hot.h: a copy of the matrices that decoding reads, in huge pages and in the type that is multiplied.
 *
 * Decoding reads every weight once a step, so its speed is that of the memory; a file map has 4 KB pages, which some
 * machines read at two thirds of the speed of huge ones, and weights stored wider than they are multiplied cost their
 * width. The copy costs about as much as PL_HOT_STEPS steps lose without it, so it is made after so many: a call that
 * ends earlier never pays, and none pays more than twice the least. It is not made when memory is short; results are
 * the same bits either way. */
#ifndef PL_HOT_H
#define PL_HOT_H

#include "base/arena.h"
#include "model/decoder.h"
#include "model/model.h"

#define PL_HOT_STEPS 16

typedef struct pl_hot {
    bool off;           /* never copy */
    bool ready;         /* weights may be used */
    int64_t steps;      /* decoding steps so far */
    pl_arena arena;     /* the copies */
    pl_weights weights; /* as the model's, matrices but the embeddings' table in the arena */
} pl_hot;

/* Before a step that decodes: the weights to use, the model's or the copy. `reserved`: bytes that the caller may still
 * come to use. A copy that cannot be made is none, not an error. */
const pl_weights *pl_hot_weights(pl_hot *h, const pl_model *m, const pl_backend *backend, int64_t reserved);
void pl_hot_release(pl_hot *h); /* safe on zeroed storage */

#endif
