/* base/arena.h: one block of memory per lifetime (process, model, step, scratch), dealt out in order.
 *
 * The same layout code runs twice: first over a measuring arena, which hands out NULL and only counts (this is the
 * plan), then over a real one of exactly that size. So the plan is true by construction. */
#ifndef PL_ARENA_H
#define PL_ARENA_H

#include "base/base.h"

#define PL_ARENA_ALIGN 64
#define PL_ARENA_TAGS 48

typedef struct pl_arena_tag {
    const char *name; /* borrowed, static */
    size_t bytes;     /* sum of all takes under this name, rewinds not subtracted: the most that was live is `peak` */
} pl_arena_tag;

typedef struct pl_arena {
    const char *name; /* borrowed, static: names the arena in errors */
    char *base;       /* NULL in a measuring arena */
    size_t capacity;  /* bytes; SIZE_MAX when measuring */
    size_t used, peak;
    bool measuring;
    int ntags;
    pl_arena_tag tags[PL_ARENA_TAGS];
} pl_arena;

typedef size_t pl_mark;

/* A measuring arena: takes succeed, hand out NULL, and count. Needs no release. */
void pl_arena_init_measuring(pl_arena *a, const char *name);
/* A real arena of `capacity` bytes, page-aligned, zero-filled, committed lazily. PL_E_NOMEM. */
int pl_arena_init(pl_arena *a, const char *name, size_t capacity, pl_error *err);
void pl_arena_release(pl_arena *a); /* NULL-safe on zeroed storage */
/* Touches every page, so that a shortage shows before the first step. */
void pl_arena_touch(pl_arena *a);
/* Borrowed until the arena is rewound past it or released; 64-byte aligned; *out is NULL when measuring.
 * Contents are zero the first time, whatever was there after a rewind. PL_E_NOMEM names arena, tag and sizes. */
int pl_arena_take(pl_arena *a, size_t bytes, const char *tag, void **out, pl_error *err);
#define PL_TAKE(arena, pp, n, tag, err) pl_arena_take_array((arena), (n), sizeof **(pp), (tag), (void **)(pp), (err))
int pl_arena_take_array(pl_arena *a, int64_t n, size_t elem, const char *tag, void **out, pl_error *err);
pl_mark pl_arena_mark(const pl_arena *a);
/* What `of` has dealt out since `from`, to be dealt out a second time: for buffers that are never live at the same
 * time. Of a measuring arena, a measuring one with that room. Needs no release. */
void pl_arena_init_again(pl_arena *a, const char *name, const pl_arena *of, pl_mark from);
/* As PL_TAKE, out of `spare` (NULL: none) where that has the room, else out of `arena`. */
#define PL_TAKE_SPARE(spare, arena, pp, n, tag, err)                                                                   \
    pl_arena_take_spare((spare), (arena), (n), sizeof **(pp), (tag), (void **)(pp), (err))
int pl_arena_take_spare(pl_arena *spare, pl_arena *arena, int64_t n, size_t elem, const char *tag, void **out,
                        pl_error *err);
void pl_arena_rewind(pl_arena *a, pl_mark mark);

#endif
