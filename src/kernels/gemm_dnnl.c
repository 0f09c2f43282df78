/* kernels/gemm_dnnl.c: oneDNN matmul primitives by exact shape, kept for the life of the provider. The only file that
 * knows oneDNN; it compiles against 2.6 (Debian 12) and 3.x (Ubuntu 24.04). */
#include "kernels/gemm_impl.h"

#if PL_GEMM_HAS_DNNL
#ifdef _OPENMP
#include <omp.h>
#endif
#include <stdio.h>
#include <string.h>

#include "plumb/log.h"

#include "oneapi/dnnl/dnnl.h"

enum { PRIMITIVE_BYTES = 112 * 1024 }; /* measured: code and descriptors of one matmul */

typedef struct primitive {
    pl_dnnl_shape shape;
    dnnl_primitive_t p;
    dnnl_memory_t a, b, c, scratch; /* handles are set for every call */
} primitive;

struct pl_dnnl {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool native_bf16, alone;
    atomic_bool own_told, *told; /* that a product is slow */
    char name[24];
    primitive *list;
    int64_t count, capacity;
    int32_t *table; /* open addressing over indices into list, -1: free; a power of two, at most half full */
    int64_t slots;
    void *scratch;
    size_t scratch_bytes;
};

static int check(dnnl_status_t status, const char *what, pl_error *err) {
    if (status == dnnl_success) return 0;
    if (status == dnnl_out_of_memory) return PL_FAIL(err, PL_E_NOMEM, "oneDNN: %s", what);
    return PL_FAIL(err, PL_E_INTERNAL, "oneDNN: %s failed with status %d", what, (int)status);
}
#define DNNL_GO(rc, call, err) PL_GO(rc, check((call), #call, (err)))

/* --- the two APIs --------------------------------------------------------------------------------------------------
 */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc;
static dnnl_status_t desc_init(desc *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}
static dnnl_status_t desc_init_tag(desc *d, const dnnl_dims_t dims, dnnl_data_type_t type, dnnl_format_tag_t tag) {
    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, tag);
}
static void desc_release(desc *d) {
    if (*d) dnnl_memory_desc_destroy(*d);
}
static const_dnnl_memory_desc_t desc_of(const desc *d) { return *d; }
static dnnl_status_t append_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const desc *a, const desc *b,
                                 const desc *c, const_dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, *a, *b, NULL, *c, attr);
}
#else
typedef dnnl_memory_desc_t desc;
static dnnl_status_t desc_init(desc *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}
static dnnl_status_t desc_init_tag(desc *d, const dnnl_dims_t dims, dnnl_data_type_t type, dnnl_format_tag_t tag) {
    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, tag);
}
static void desc_release(desc *d) { PL_UNUSED(d); }
static const dnnl_memory_desc_t *desc_of(const desc *d) { return d; }
static dnnl_status_t append_sum(dnnl_post_ops_t ops) { return dnnl_post_ops_append_sum(ops, 1.0f); }
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const desc *a, const desc *b,
                                 const desc *c, const_dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t op;
    dnnl_status_t status = dnnl_matmul_desc_init(&op, a, b, NULL, c);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &op, attr, engine, NULL) : status;
}
#endif

/* --- life ----------------------------------------------------------------------------------------------------------
 */
/* Works until the process makes its first primitive; after that the level stays what it is. */
static void limit_level(pl_cpu_level level) {
    if (level == PL_CPU_AVX2) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    if (level == PL_CPU_AVX512) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core);
}

int pl_dnnl_new(pl_dnnl **out, pl_cpu_level level, bool alone, pl_error *err) {
    int rc;
    pl_dnnl *d = NULL;
    PL_GO(rc, PL_NEW(&d, 1, err));
    limit_level(level);
    d->alone = alone;
    d->told = &d->own_told;
    DNNL_GO(rc, dnnl_engine_create(&d->engine, dnnl_cpu, 0), err);
    DNNL_GO(rc, dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags), err);
    unsigned have = (unsigned)dnnl_get_effective_cpu_isa(), want = (unsigned)dnnl_cpu_isa_avx512_core_bf16;
    d->native_bf16 = level >= PL_CPU_AVX512_BF16 && (have & want) == want;
    const dnnl_version_t *v = dnnl_version();
    snprintf(d->name, sizeof d->name, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    *out = d;
    d = NULL;
out:
    pl_dnnl_free(d);
    return rc;
}

static void primitive_release(primitive *p) {
    dnnl_memory_t memories[] = {p->a, p->b, p->c, p->scratch};
    for (int i = 0; i < 4; i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    if (p->p) dnnl_primitive_destroy(p->p);
}

void pl_dnnl_free(pl_dnnl *d) {
    if (!d) return;
    for (int64_t i = 0; i < d->count; i++) primitive_release(&d->list[i]);
    pl_free(d->list);
    pl_free(d->table);
    pl_free(d->scratch);
    if (d->stream) dnnl_stream_destroy(d->stream);
    if (d->engine) dnnl_engine_destroy(d->engine);
    pl_free(d);
}

const char *pl_dnnl_name(const pl_dnnl *d) { return d->name; }
bool pl_dnnl_native_bf16(const pl_dnnl *d) { return d->native_bf16; }
void pl_dnnl_share_told(pl_dnnl *d, atomic_bool *told) { d->told = told; }

size_t pl_dnnl_bytes(const pl_dnnl *d) {
    return sizeof *d + (size_t)d->capacity * sizeof *d->list + (size_t)d->slots * sizeof *d->table + d->scratch_bytes +
           (size_t)d->count * PRIMITIVE_BYTES;
}

/* --- the table of primitives ---------------------------------------------------------------------------------------
 */
static uint64_t hash(const pl_dnnl_shape *s) {
    const int64_t v[] = {s->m,
                         s->n,
                         s->k,
                         s->lda,
                         s->ldb,
                         s->ldc,
                         s->b_packed * 16 + s->a_cols * 8 + s->b_cols * 4 + s->bf16 * 2 + s->accumulate};
    uint64_t h = 0;
    for (int i = 0; i < PL_LEN(v); i++) h = (h ^ (uint64_t)v[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return h;
}

/* The slot that holds the shape, or the free one where it belongs. */
static int64_t slot_of(const pl_dnnl *d, const pl_dnnl_shape *s) {
    int64_t i = (int64_t)(hash(s) & (uint64_t)(d->slots - 1));
    while (d->table[i] >= 0 && memcmp(&d->list[d->table[i]].shape, s, sizeof *s) != 0) i = (i + 1) & (d->slots - 1);
    return i;
}

static int grow(pl_dnnl *d, pl_error *err) {
    int rc = 0;
    int32_t *table = NULL;
    if (d->count < d->capacity) return 0;
    int64_t capacity = d->capacity ? 2 * d->capacity : 32;
    size_t old = (size_t)d->capacity * sizeof *d->list, bytes = (size_t)capacity * sizeof *d->list;
    PL_GO(rc, PL_NEW(&table, 2 * capacity, err));
    PL_GO(rc, pl_realloc((void **)&d->list, old, bytes, err));
    d->capacity = capacity;
    pl_free(d->table);
    d->table = table;
    d->slots = 2 * capacity;
    memset(table, 0xff, (size_t)d->slots * sizeof *table);
    for (int64_t i = 0; i < d->count; i++) d->table[slot_of(d, &d->list[i].shape)] = (int32_t)i;
    return 0;
out:
    pl_free(table);
    return rc;
}

/* --- making one ----------------------------------------------------------------------------------------------------
 */
static int attr_make(dnnl_primitive_attr_t *out, bool accumulate, pl_error *err) {
    int rc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    DNNL_GO(rc, dnnl_primitive_attr_create(&attr), err);
    DNNL_GO(rc, dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), err);
    if (accumulate) {
        DNNL_GO(rc, dnnl_post_ops_create(&ops), err);
        DNNL_GO(rc, append_sum(ops), err);
        DNNL_GO(rc, dnnl_primitive_attr_set_post_ops(attr, ops), err);
    }
    *out = attr;
    attr = NULL;
out:
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return rc;
}

/* [rows, cols] with row stride ld, stored as it is or as its transpose. */
static dnnl_status_t matrix(desc *d, int64_t rows, int64_t cols, int64_t ld, bool transposed, dnnl_data_type_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return desc_init(d, dims, type, strides);
}

/* B [k,n] as oneDNN's products copy it for themselves: panels of PL_PACK_ROWS columns, bf16 in pairs of k. */
static dnnl_status_t packed_matrix(desc *d, int64_t k, int64_t n, dnnl_data_type_t type) {
    dnnl_dims_t dims = {k, n};
    return desc_init_tag(d, dims, type, type == dnnl_bf16 ? dnnl_BA16a64b2a : dnnl_BA16a64b);
}

static dnnl_status_t b_matrix(desc *d, const pl_dnnl_shape *s, dnnl_data_type_t type) {
    return s->b_packed ? packed_matrix(d, s->k, s->n, type) : matrix(d, s->k, s->n, s->ldb, s->b_cols != 0, type);
}

/* oneDNN plans a product for the threads that the making thread may start. */
static int threads_for(bool alone, int restore) {
#ifdef _OPENMP
    int before = omp_get_max_threads();
    if (restore > 0) omp_set_num_threads(restore);
    if (alone) omp_set_num_threads(1);
    return before;
#else
    PL_UNUSED(alone);
    return restore;
#endif
}

static const char *implementation(const_dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name) == dnnl_success && name ? name
                                                                                                             : "";
}

/* oneDNN takes any layout, and multiplies those that it has no kernel for by plain loops, a hundred times slower.
 * Providers are made for AVX2 and better, where nothing that plumb asks for should be of these. */
static void warn_of_loops(pl_dnnl *d, const_dnnl_primitive_desc_t pd, const pl_dnnl_shape *s) {
    const char *name = implementation(pd);
    if (!strstr(name, "ref") || atomic_exchange(d->told, true)) return;
    pl_log(PL_LOG_WARN,
           "%s multiplies %" PRId64 " x %" PRId64 " x %" PRId64 " (%s, rows of %" PRId64 ", %" PRId64 ", %" PRId64
           "%s%s%s) by plain loops (%s), which is very slow; other shapes may be so, too",
           d->name, s->m, s->n, s->k, s->bf16 ? "bf16" : "f32", s->lda, s->ldb, s->ldc,
           s->a_cols ? ", A transposed" : "",
           s->b_packed ? ", B packed"
           : s->b_cols ? ", B transposed"
                       : "",
           s->accumulate ? ", added" : "", name);
}

static int primitive_make(pl_dnnl *d, primitive *p, const pl_dnnl_shape *s, size_t *scratch_bytes, pl_error *err) {
    int rc;
    desc a, b, c;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&c, 0, sizeof c);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_data_type_t type = s->bf16 ? dnnl_bf16 : dnnl_f32;
    int threads = threads_for(d->alone, 0);
    PL_GO(rc, attr_make(&attr, s->accumulate != 0, err));
    DNNL_GO(rc, matrix(&a, s->m, s->k, s->lda, s->a_cols != 0, type), err);
    DNNL_GO(rc, b_matrix(&b, s, type), err);
    DNNL_GO(rc, matrix(&c, s->m, s->n, s->ldc, false, dnnl_f32), err);
    DNNL_GO(rc, matmul_desc(&pd, d->engine, &a, &b, &c, attr), err);
    warn_of_loops(d, pd, s);
    DNNL_GO(rc, dnnl_primitive_create(&p->p, pd), err);
    DNNL_GO(rc, dnnl_memory_create(&p->a, desc_of(&a), d->engine, DNNL_MEMORY_NONE), err);
    DNNL_GO(rc, dnnl_memory_create(&p->b, desc_of(&b), d->engine, DNNL_MEMORY_NONE), err);
    DNNL_GO(rc, dnnl_memory_create(&p->c, desc_of(&c), d->engine, DNNL_MEMORY_NONE), err);
    *scratch_bytes = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    DNNL_GO(rc,
            dnnl_memory_create(&p->scratch, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0), d->engine,
                               DNNL_MEMORY_NONE),
            err);
    p->shape = *s;
out:
    (void)threads_for(false, threads);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    desc_release(&a), desc_release(&b), desc_release(&c);
    return rc;
}

/* Any oneDNN takes a packed B; some would multiply it by plain loops. */
bool pl_dnnl_takes_packed(pl_dnnl *d, bool bf16) {
    desc a, b, c;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&c, 0, sizeof c);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    pl_dnnl_shape s = {.m = PL_PACK_ROWS, .n = PL_PACK_ROWS, .k = PL_PACK_ROWS, .b_packed = 1};
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    if (bf16 && !d->native_bf16) return false;
    bool ok = attr_make(&attr, false, NULL) == 0 && matrix(&a, s.m, s.k, s.k, false, type) == dnnl_success &&
              b_matrix(&b, &s, type) == dnnl_success && matrix(&c, s.m, s.n, s.n, false, dnnl_f32) == dnnl_success &&
              matmul_desc(&pd, d->engine, &a, &b, &c, attr) == dnnl_success &&
              strncmp(implementation(pd), "brg", 3) == 0;
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    desc_release(&a), desc_release(&b), desc_release(&c);
    return ok;
}

/* Borrowed until the next call that makes one. */
static int primitive_get(pl_dnnl *d, primitive **out, const pl_dnnl_shape *s, pl_error *err) {
    int rc;
    primitive p = {0};
    size_t bytes = 0;
    if (d->slots) {
        int32_t found = d->table[slot_of(d, s)];
        if (found >= 0) return *out = &d->list[found], 0;
    }
    PL_GO(rc, grow(d, err));
    PL_GO(rc, primitive_make(d, &p, s, &bytes, err));
    if (bytes > d->scratch_bytes) {
        PL_GO(rc, pl_realloc(&d->scratch, d->scratch_bytes, bytes, err));
        d->scratch_bytes = bytes;
    }
    d->list[d->count] = p;
    d->table[slot_of(d, s)] = (int32_t)d->count;
    *out = &d->list[d->count++];
    return 0;
out:
    primitive_release(&p);
    return pl_error_context(err, rc, "product of %" PRId64 " x %" PRId64 " x %" PRId64, s->m, s->n, s->k);
}

/* oneDNN takes handles without const; it reads a and b. */
static void *unconst(const void *p) {
    void *q;
    memcpy(&q, &p, sizeof q);
    return q;
}

int pl_dnnl_multiply(pl_dnnl *d, const pl_dnnl_shape *shape, const void *a, const void *b, float *c, pl_error *err) {
    int rc;
    primitive *p = NULL;
#ifdef _OPENMP
    /* oneDNN planned it for a number of threads and is silently wrong with fewer (2.6, measured) */
    if (!d->alone && omp_in_parallel())
        return PL_FAIL(err, PL_E_STATE, "a matrix product for all threads inside a caller's parallel region");
#endif
    PL_GO(rc, primitive_get(d, &p, shape, err));
    if (!c) return 0;
    DNNL_GO(rc, dnnl_memory_set_data_handle(p->a, unconst(a)), err);
    DNNL_GO(rc, dnnl_memory_set_data_handle(p->b, unconst(b)), err);
    DNNL_GO(rc, dnnl_memory_set_data_handle(p->c, c), err);
    DNNL_GO(rc, dnnl_memory_set_data_handle(p->scratch, d->scratch), err);
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}, {DNNL_ARG_SCRATCHPAD, p->scratch}};
    DNNL_GO(rc, dnnl_primitive_execute(p->p, d->stream, (int)PL_LEN(args), args), err);
    DNNL_GO(rc, dnnl_stream_wait(d->stream), err);
out:
    return rc;
}
#endif
