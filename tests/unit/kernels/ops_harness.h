/* ops_harness.h: runs one op on guarded copies of its buffers, at a level and by the reference, and compares.
 *
 * A case names the op, its buffers and how closely each output must agree. It is run with every buffer flush against an
 * inaccessible page, once at the end (so that its start is as unaligned as its size) and once at the start, with canary
 * bytes on the other side, and with 1, 2 and 3 threads: outputs must agree with the reference and be the same bytes for
 * every thread count, and inputs must be as they were. */
#ifndef OPS_HARNESS_H
#define OPS_HARNESS_H

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/rng.h"
#include "kernels/ops.h"

#define MAX_BUFS 14
#define PAGE 4096u
#define CANARY 0xA5

typedef enum kind { K_F32, K_F64, K_BYTES } kind;

typedef struct kbuf {
    const char *name;
    kind kind;
    size_t bytes;
    void *init; /* owned */
    bool out;
    double rel, abs; /* |got - want| <= rel |want| + abs; NaN and infinities must be equal in kind */
    int alias;       /* this buffer is the same memory as that one; -1: its own */
} kbuf;

typedef struct kcase kcase;
struct kcase {
    const char *op;
    char shape[128];
    int nb;
    kbuf b[MAX_BUFS];
    void (*run)(const pl_ops *ops, void *const *p, const kcase *c);
    int64_t i[8];
    real r[2];
    bool flag, flag2;
    const void *extra;
};

/* Prints a failure, unless it was planted: those are found by the thousand. */
static inline void complain(const char *level, const char *format, ...) {
    if (strcmp(level, "planted") == 0) return;
    va_list args;
    va_start(args, format);
    printf("%s ", level);
    vprintf(format, args);
    va_end(args);
}

/* Numbers of the tests: a pure function of a running counter. */
typedef struct dice {
    uint64_t seed, next;
} dice;

static inline uint64_t roll(dice *d) {
    pl_rng_block b = pl_philox(d->seed, 77, d->next++);
    return (uint64_t)b.v[0] << 32 | b.v[1];
}
static inline int64_t pick(dice *d, int64_t low, int64_t high) {
    return low + (int64_t)(roll(d) % (uint64_t)(high - low + 1));
}
static inline bool coin(dice *d) { return roll(d) & 1; }

static inline void *must_alloc(size_t bytes) {
    void *p = NULL;
    pl_error err = {0};
    if (pl_alloc(&p, bytes + 1, &err) != 0) fprintf(stderr, "out of memory in a test\n");
    return p;
}

static inline void *buf_raw(kcase *c, const char *name, kind k, size_t bytes) {
    kbuf *b = &c->b[c->nb++];
    *b = (kbuf){.name = name, .kind = k, .bytes = bytes, .init = must_alloc(bytes), .alias = -1};
    memset(b->init, 0, bytes);
    return b->init;
}

/* n normals of standard deviation s; the buffer's index is c->nb - 1 afterwards. */
static inline float *buf_normal(kcase *c, const char *name, int64_t n, float s, dice *d) {
    float *x = buf_raw(c, name, K_F32, (size_t)n * sizeof(float));
    pl_rng_normal(x, n, s, roll(d), 0);
    return x;
}

static inline void set_out(kcase *c, double rel, double abs) {
    kbuf *b = &c->b[c->nb - 1];
    b->out = true, b->rel = rel, b->abs = abs;
}

/* The buffer last added is compared byte by byte. */
static inline void set_out_exact(kcase *c) {
    c->b[c->nb - 1].out = true;
    c->b[c->nb - 1].kind = K_BYTES;
}

/* An output that the op must fill: its old contents do not matter. */
static inline void buf_out(kcase *c, const char *name, int64_t n, double rel, double abs, dice *d) {
    buf_normal(c, name, n, 3, d);
    set_out(c, rel, abs);
}

static inline void alias_last(kcase *c, int to) { c->b[c->nb - 1].alias = to; }

static inline void case_free(kcase *c) {
    for (int i = 0; i < c->nb; i++) pl_free(c->b[i].init);
    c->nb = 0;
}

/* Non-finite and tiny values at random places; `huge` also values whose squares overflow. */
static inline void inject(float *x, int64_t n, bool huge, dice *d) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e-41f, -0.0f, -1e-39f, 3e38f, -3e38f, 89.5f, -104.f};
    int64_t kinds = huge ? PL_LEN(odd) : 6;
    for (int64_t j = 0; j < 1 + n / 16 && n > 0; j++) x[pick(d, 0, n - 1)] = odd[pick(d, 0, kinds - 1)];
}

typedef struct guarded {
    char *map;
    size_t map_bytes, offset, bytes;
} guarded;

static inline void *guard_new(guarded *g, size_t bytes, bool at_end) {
    size_t inner = (bytes + PAGE - 1) / PAGE * PAGE + (bytes == 0 ? PAGE : 0);
    g->map_bytes = inner + 2 * PAGE;
    g->map = mmap(NULL, g->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED) return NULL;
    memset(g->map, CANARY, g->map_bytes);
    mprotect(g->map, PAGE, PROT_NONE);
    mprotect(g->map + PAGE + inner, PAGE, PROT_NONE);
    g->bytes = bytes;
    g->offset = PAGE + (at_end ? inner - bytes : 0);
    return g->map + g->offset;
}

/* Whether nothing beside the buffer was written; unmaps. */
static inline bool guard_release(guarded *g) {
    bool clean = true;
    for (size_t i = PAGE; i < g->map_bytes - PAGE; i++) {
        if (i >= g->offset && i < g->offset + g->bytes) continue;
        clean = clean && (unsigned char)g->map[i] == CANARY;
    }
    munmap(g->map, g->map_bytes);
    return clean;
}

/* One execution; results[i] takes the outputs. Returns the number of violations: canaries, changed inputs. */
static inline int execute(const kcase *c, const pl_ops *ops, int threads, bool at_end, void **results) {
    guarded g[MAX_BUFS];
    void *p[MAX_BUFS] = {0};
    int bad = 0;
    for (int i = 0; i < c->nb; i++) {
        if (c->b[i].alias >= 0) continue;
        p[i] = guard_new(&g[i], c->b[i].bytes, at_end);
        memcpy(p[i], c->b[i].init, c->b[i].bytes);
    }
    for (int i = 0; i < c->nb; i++)
        if (c->b[i].alias >= 0) p[i] = p[c->b[i].alias];
#ifdef _OPENMP
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
#else
    PL_UNUSED(threads);
#endif
    c->run(ops, p, c);
#ifdef _OPENMP
    omp_set_num_threads(before);
#endif
    for (int i = 0; i < c->nb; i++) {
        bool written = c->b[i].out;
        for (int j = 0; j < c->nb; j++) written = written || (c->b[j].alias == i && c->b[j].out);
        if (c->b[i].out) memcpy(results[i], p[i], c->b[i].bytes);
        if (c->b[i].alias >= 0) continue;
        if (!written && memcmp(p[i], c->b[i].init, c->b[i].bytes) != 0) {
            bad++;
            complain(ops->level, "%s (%s): input %s was changed\n", c->op, c->shape, c->b[i].name);
        }
        if (!guard_release(&g[i])) {
            bad++;
            complain(ops->level, "%s (%s): written beside %s\n", c->op, c->shape, c->b[i].name);
        }
    }
    return bad;
}

static inline bool close_to(double got, double want, double rel, double abs) {
    if (isnan(want)) return isnan(got);
    if (isinf(want)) return got == want;
    return fabs(got - want) <= rel * fabs(want) + abs;
}

static inline int compare(const kcase *c, const pl_ops *ops, int i, const void *got, const void *want) {
    const kbuf *b = &c->b[i];
    if (b->kind == K_BYTES) {
        if (memcmp(got, want, b->bytes) == 0) return 0;
        size_t at = 0;
        while (((const char *)got)[at] == ((const char *)want)[at]) at++;
        complain(ops->level, "%s (%s): %s differs from the reference at byte %zu\n", c->op, c->shape, b->name, at);
        return 1;
    }
    int64_t n = (int64_t)(b->bytes / (b->kind == K_F32 ? 4 : 8));
    for (int64_t j = 0; j < n; j++) {
        double x = b->kind == K_F32 ? (double)((const float *)got)[j] : ((const double *)got)[j];
        double y = b->kind == K_F32 ? (double)((const float *)want)[j] : ((const double *)want)[j];
        if (close_to(x, y, b->rel, b->abs)) continue;
        complain(ops->level, "%s (%s): %s[%lld] is %.9g, reference %.9g, tolerance %.3g\n", c->op, c->shape, b->name,
                 (long long)j, x, y, b->rel * fabs(y) + b->abs);
        return 1;
    }
    return 0;
}

/* Returns the number of failures, each printed. Frees nothing. */
static inline int check_case(const kcase *c, const pl_ops *ref, const pl_ops *ops) {
    void *want[MAX_BUFS] = {0}, *first[MAX_BUFS] = {0}, *got[MAX_BUFS] = {0};
    int bad = 0;
    for (int i = 0; i < c->nb; i++) {
        want[i] = must_alloc(c->b[i].bytes), first[i] = must_alloc(c->b[i].bytes), got[i] = must_alloc(c->b[i].bytes);
    }
    bad += execute(c, ref, 1, false, want);
    bad += execute(c, ops, 1, true, first);
    for (int i = 0; i < c->nb; i++)
        if (c->b[i].out) bad += compare(c, ops, i, first[i], want[i]);
    for (int threads = 1; threads <= 3; threads++) {
        bad += execute(c, ops, threads, threads & 1, got);
        for (int i = 0; i < c->nb; i++) {
            if (!c->b[i].out || memcmp(got[i], first[i], c->b[i].bytes) == 0) continue;
            bad++;
            complain(ops->level, "%s (%s): %s depends on the thread count or the alignment\n", c->op, c->shape,
                     c->b[i].name);
        }
    }
    for (int i = 0; i < c->nb; i++) pl_free(want[i]), pl_free(first[i]), pl_free(got[i]);
    return bad;
}

#endif
