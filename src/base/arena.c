/* arena.c: bump allocation over one mapping, or over nothing when measuring. */
#include "base/arena.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOUCH_CHUNK ((size_t)4 << 20) /* two huge pages */

void pl_arena_init_measuring(pl_arena *a, const char *name) {
    *a = (pl_arena){.name = name, .capacity = SIZE_MAX, .measuring = true};
}

int pl_arena_init(pl_arena *a, const char *name, size_t capacity, pl_error *err) {
    *a = (pl_arena){.name = name, .capacity = capacity};
    if (capacity == 0) return 0;
    void *p = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return PL_FAIL(err, PL_E_NOMEM, "the %s arena needs %zu bytes", name, capacity);
    a->base = p;
    /* Advice only: with huge pages the first touch of a GB takes a tenth of the time. */
    (void)madvise(p, capacity, MADV_HUGEPAGE);
    return 0;
}

void pl_arena_release(pl_arena *a) {
    if (!a) return;
    if (a->base) munmap(a->base, a->capacity);
    *a = (pl_arena){0};
}

static void touch(char *p, size_t n, size_t page) {
    for (size_t i = 0; i < n; i += page) ((volatile char *)p)[i] = p[i];
}

/* By all threads: a virtual machine may have to ask its host for every page, one thread for 0.4 GB a second. */
void pl_arena_touch(pl_arena *a) {
    if (!a->base) return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int64_t chunks = (int64_t)((a->capacity + TOUCH_CHUNK - 1) / TOUCH_CHUNK);
#pragma omp parallel for schedule(dynamic) if (chunks > 4)
    for (int64_t i = 0; i < chunks; i++) {
        size_t at = (size_t)i * TOUCH_CHUNK;
        touch(a->base + at, PL_MIN(TOUCH_CHUNK, a->capacity - at), page);
    }
}

static void count_tag(pl_arena *a, const char *tag, size_t bytes) {
    int i = 0;
    while (i < a->ntags && strcmp(a->tags[i].name, tag) != 0) i++;
    if (i == PL_ARENA_TAGS)
        i--; /* the last tag takes the rest */
    else if (i == a->ntags)
        a->tags[a->ntags++] = (pl_arena_tag){tag, 0};
    a->tags[i].bytes += bytes;
}

int pl_arena_take(pl_arena *a, size_t bytes, const char *tag, void **out, pl_error *err) {
    size_t rounded = (bytes + PL_ARENA_ALIGN - 1) / PL_ARENA_ALIGN * PL_ARENA_ALIGN;
    if (rounded < bytes || rounded > a->capacity - a->used)
        return PL_FAIL(err, PL_E_NOMEM, "the %s arena of %zu bytes has %zu left, %s needs %zu", a->name, a->capacity,
                       a->capacity - a->used, tag, bytes);
    *out = a->base ? a->base + a->used : NULL;
    a->used += rounded;
    if (a->used > a->peak) a->peak = a->used;
    count_tag(a, tag, rounded);
    return 0;
}

int pl_arena_take_array(pl_arena *a, int64_t n, size_t elem, const char *tag, void **out, pl_error *err) {
    size_t bytes = 0;
    int rc = pl_bytes2(&bytes, n, elem, err);
    return rc ? pl_error_context(err, rc, "%s", tag) : pl_arena_take(a, bytes, tag, out, err);
}

void pl_arena_init_again(pl_arena *a, const char *name, const pl_arena *of, pl_mark from) {
    *a = (pl_arena){.name = name, .base = of->base ? of->base + from : NULL, .capacity = of->used - from};
    a->measuring = of->measuring;
}

int pl_arena_take_spare(pl_arena *spare, pl_arena *arena, int64_t n, size_t elem, const char *tag, void **out,
                        pl_error *err) {
    size_t bytes = 0;
    int rc = pl_bytes2(&bytes, n, elem, err);
    bool fits = rc == 0 && spare && bytes <= (spare->capacity - spare->used) / PL_ARENA_ALIGN * PL_ARENA_ALIGN;
    return rc ? pl_error_context(err, rc, "%s", tag) : pl_arena_take(fits ? spare : arena, bytes, tag, out, err);
}

pl_mark pl_arena_mark(const pl_arena *a) { return a->used; }

void pl_arena_rewind(pl_arena *a, pl_mark mark) { a->used = mark; }
