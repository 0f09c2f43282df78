/* kernels/ref/ref.h: the reference version of every op of kernels/ops.h, which is its specification: plain loops over
 * `real`, sums in double where that costs little. Other levels fall back on these for the cases they do not treat.
 * Shapes, aliasing and ownership as in kernels/ops.h. */
#ifndef PL_KERNELS_REF_H
#define PL_KERNELS_REF_H

#include "kernels/ops.h"

/* Below this many elements an op runs in the calling thread: a parallel region costs about as much. */
#define PL_SERIAL_ELEMS 16384

/* Bounds of part i of `parts` when n items are cut evenly: [n*i/parts, n*(i+1)/parts). */
static inline int64_t pl_cut(int64_t n, int64_t i, int64_t parts) { return n / parts * i + PL_MIN(i, n % parts); }

void pl_ref_to_real(real *y, const void *x, pl_dtype x_type, int64_t n);
void pl_ref_from_real(void *y, pl_dtype y_type, const real *x, int64_t n);

void pl_ref_add(real *y, const real *x, int64_t n);
void pl_ref_axpy(real *y, real a, const real *x, int64_t n);
void pl_ref_scale(real *y, real a, int64_t n);
void pl_ref_scale_rows(real *y, const real *a, int64_t T, int64_t C, int64_t ld);
void pl_ref_add_bias(real *y, const real *b, int64_t T, int64_t C);
void pl_ref_sum_rows(real *db, const real *dy, int64_t T, int64_t C);
double pl_ref_sum_squares(const real *x, int64_t n);

void pl_ref_embed(real *y, const void *table, pl_dtype type, const int32_t *ids, int64_t T, int64_t C);
void pl_ref_embed_bwd(real *dtable, const real *dy, const int32_t *ids, int64_t T, int64_t C);
void pl_ref_gather_rows(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C);
void pl_ref_scatter_add_rows(real *y, const real *x, const int64_t *rows, int64_t n, int64_t C);

void pl_ref_rmsnorm(real *y, real *rstd, const real *x, const real *w, real eps, int64_t T, int64_t C);
void pl_ref_rmsnorm_bwd(real *dx, bool accumulate, real *dw, const real *dy, const real *x, const real *w,
                        const real *rstd, int64_t T, int64_t C);
void pl_ref_rope(real *x, int64_t ld, const real *cosine, const real *sine, bool inverse, int64_t T, int64_t heads,
                 int64_t D, int64_t rot);
void pl_ref_attn(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a);
void pl_ref_attn_bwd(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                     const real *q, const real *k, const real *v, const pl_attn *a);
void pl_ref_swiglu(real *y, const real *g, const real *u, int64_t n);
void pl_ref_swiglu_bwd(real *dg, real *du, const real *dy, const real *g, const real *u, int64_t n);
void pl_ref_head_tile(real *z, int64_t ld, int64_t R, int64_t n, int64_t v0, pl_head_stat *stat, bool want_exp,
                      real *rescale);
void pl_ref_head_softmax(real *z, int64_t ld, int64_t R, int64_t n, const real *lse, const real *coef);
double pl_ref_exp_sum(double *p, const real *z, double factor, real top, int64_t n);
int64_t pl_ref_select(int32_t *index, const real *z, real least, int64_t n);
void pl_ref_block_max(real *max, const real *z, int64_t n);
void pl_ref_dropout(real *y, bool accumulate, const real *x, const uint64_t *row_id, uint64_t key, real p, int64_t T,
                    int64_t C);
void pl_ref_adamw(real *p, const real *g, real *m, real *v, int64_t n, const pl_adamw *a);

void pl_ref_product(const pl_product *x);

#endif
