/* kernels/cpu/ops.inc.h: the ops of kernels/ops.h written once over a small vector vocabulary. A file of an
 * instruction-set folder includes its vec_*.h, then this, and calls add_vector_ops. Everything here is static: each
 * level has its own copy. */
#include <string.h>

#include "kernels/convert.h"
#include "kernels/loop.h"
#include "kernels/ref/ref.h"

#include "kernels/cpu/vec_exp.inc.h"

#include "kernels/cpu/elem.inc.h"

#include "kernels/cpu/convert.inc.h"
#include "kernels/cpu/head.inc.h"
#include "kernels/cpu/mlp.inc.h"
#include "kernels/cpu/norm.inc.h"
#include "kernels/cpu/sample.inc.h"

#include "kernels/cpu/tile.inc.h"

#include "kernels/cpu/attn.inc.h"

#include "kernels/cpu/attn_bwd.inc.h"

static void add_vector_ops(pl_ops *ops) {
    add_elem_ops(ops);
    add_convert_ops(ops);
    add_norm_ops(ops);
    add_tile_ops(ops);
    add_mlp_ops(ops);
    add_head_ops(ops);
    add_sample_ops(ops);
    add_attn_ops(ops);
}
