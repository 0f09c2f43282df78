/* pack.c: the weights of a stretch of the layers, packed once for all row blocks of all lanes. A product of oneDNN
 * otherwise lays its weights out anew for each block of rows, and converts what is not stored as it multiplies. */
#include "model/linear.h"

static pl_gemm_call call_of(const pl_decoder *d, bool back, int64_t out, int64_t in) {
    return (pl_gemm_call){.kind = back ? PL_GEMM_DX : PL_GEMM_Y,
                          .bf16 = d->backend.bf16,
                          .n = back ? in : out,
                          .k = back ? out : in,
                          .ldb = in};
}

static size_t bytes_of(const pl_decoder *d, pl_lin which, bool back) {
    int64_t out, in;
    bool bias;
    pl_arch_lin_shape(d->arch, which, &out, &in, &bias);
    pl_gemm_call call = call_of(d, back, out, in);
    return pl_gemm_packed_bytes(d->backend.gemm, &call);
}

bool pl_pass_packs(const pl_decoder *d, pl_lin which, bool back) {
    return d->packed_bytes > 0 && bytes_of(d, which, back) > 0;
}

/* A forward pass packs all of a block at once (some of it of the next layer); a backward pass less. */
size_t pl_pass_packed_bytes(const pl_decoder *d) {
    size_t bytes = 0, back = 0;
    if (pl_pass_lanes(d, d->max_T) == 0) return 0;
    for (int i = 0; i < PL_LIN_COUNT; i++) bytes += bytes_of(d, (pl_lin)i, false), back += bytes_of(d, (pl_lin)i, true);
    return PL_MAX(bytes, back);
}

void pl_pass_unpack(pl_pass *p) {
    p->packed_used = 0;
    for (int i = 0; i < PL_LIN_COUNT; i++) p->packed[i] = NULL;
}

void pl_pass_pack(pl_pass *p, int64_t layer, bool back, pl_lin first, pl_lin last) {
    const pl_decoder *d = p->d;
    pl_gemm_call calls[PL_LIN_COUNT];
    void *out[PL_LIN_COUNT];
    int n = 0;
    if (d->packed_bytes == 0 || pl_pass_lanes(d, p->f->T) == 0) return;
    for (int i = (int)first; i <= (int)last; i++) {
        const pl_mat *w = &p->w->layers[layer].w[i];
        size_t bytes = bytes_of(d, (pl_lin)i, back);
        if (bytes == 0) continue;
        calls[n] = call_of(d, back, w->rows, w->cols);
        calls[n].b = w->data;
        calls[n].b_type = w->type;
        out[n++] = d->packed + p->packed_used;
        p->packed[i] = d->packed + p->packed_used;
        p->packed_used += bytes;
    }
    pl_gemm_pack(d->backend.gemm, out, calls, n);
}
