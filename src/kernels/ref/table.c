/* kernels/ref/table.c: the reference column of the op table: every op, on every machine. */
#include "kernels/ref/ref.h"

void pl_ops_add_ref(pl_ops *ops) {
    *ops = (pl_ops){
        .level = "generic",
        .to_real = pl_ref_to_real,
        .from_real = pl_ref_from_real,
        .add = pl_ref_add,
        .axpy = pl_ref_axpy,
        .scale = pl_ref_scale,
        .scale_rows = pl_ref_scale_rows,
        .add_bias = pl_ref_add_bias,
        .sum_rows = pl_ref_sum_rows,
        .sum_squares = pl_ref_sum_squares,
        .embed = pl_ref_embed,
        .embed_bwd = pl_ref_embed_bwd,
        .gather_rows = pl_ref_gather_rows,
        .scatter_add_rows = pl_ref_scatter_add_rows,
        .rmsnorm = pl_ref_rmsnorm,
        .rmsnorm_bwd = pl_ref_rmsnorm_bwd,
        .rope = pl_ref_rope,
        .attn = pl_ref_attn,
        .attn_bwd = pl_ref_attn_bwd,
        .swiglu = pl_ref_swiglu,
        .swiglu_bwd = pl_ref_swiglu_bwd,
        .head_tile = pl_ref_head_tile,
        .head_softmax = pl_ref_head_softmax,
        .exp_sum = pl_ref_exp_sum,
        .select = pl_ref_select,
        .block_max = pl_ref_block_max,
        .dropout = pl_ref_dropout,
        .product = pl_ref_product,
        .adamw = pl_ref_adamw,
    };
}
