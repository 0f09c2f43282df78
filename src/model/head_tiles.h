/* model/head_tiles.h: how the head goes through the vocabulary: for model/head.c alone.
 *
 * Tiles of the vocabulary outside, rows inside: the weights of a tile are packed once (kernels/gemm.h), and a tile of
 * logits is written, read and multiplied back by one thread, from its cache. Threads share either
 *   many rows: all pack the weights of a few tiles, then each takes its own rows through them; or
 *   the vocabulary, when rows are few (pl_head_split): each packs its own tiles, and takes all rows through them.
 * Threads do not meet before the end, where what each has summed over its tiles is added up, in their order. */
#ifndef PL_HEAD_TILES_H
#define PL_HEAD_TILES_H

#include "model/head.h"

typedef struct pl_head_tile {
    int64_t v0, n;         /* ids [v0, v0 + n) */
    bool first;            /* of those that are summed into one place */
    const void *packed[2]; /* for the logits and for the product back; NULL: the weights as they are stored */
} pl_head_tile;

/* Rows [r0, r0 + rows) of the head, with the room of their logits. */
typedef struct pl_head_part {
    int64_t r0, rows;
    int64_t z_row; /* of the round's: where the part's logits begin */
    real *z;       /* [rows, tile->n]: rows without gaps, which oneDNN's packed products want */
    /* [R] of the head, [R,C]: where this part's tiles are summed */
    pl_head_stat *stat;
    real *scale, *sum;
    int lane;  /* of products; 0: threads share them */
    bool back; /* a part of those rows */
    bool same; /* rows of the lane's last logits */
    /* weights that are packed next, to be asked for while this tile's logits are read: lines of 64 bytes */
    const char *ahead;
    int64_t ahead_lines;
} pl_head_part;

typedef struct pl_head_run pl_head_run;
struct pl_head_run {
    pl_head *h;
    const pl_weights *w;
    const pl_forest *f;
    /* called for all rows and all tiles; those that are summed into one place in order */
    int (*step)(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err);
    bool splits;     /* where threads share the vocabulary, the caller adds up what is summed in several places */
    int64_t rows;    /* of the head: the first so many go through the vocabulary ... */
    int64_t back;    /* ... and step calls pl_head_tile_back for the first so many */
    real *dw;        /* [V,C] += z^T h, with the z that step leaves; NULL: not wanted */
    const double *c; /* [N] for step */
};

int pl_head_tiles_run(const pl_head_run *run, pl_error *err);
/* part->z = logits of the tile. */
int pl_head_tile_logits(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err);
/* The part's rows of part->sum += part->z W[tile]. */
int pl_head_tile_back(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err);

/* Threads that share so many rows out, 0 when they share products instead; rows of a round of them. */
int pl_head_lanes(const pl_head *h, int64_t rows);
int64_t pl_head_round_rows(int lanes);
/* Do threads share the vocabulary, and if they do: how many others than the first have a place of their own to sum in,
 * for pl_head_split_rows() rows? */
int pl_head_split(const pl_head *h, int64_t rows);
int64_t pl_head_split_rows(const pl_head *h);
/* Sets h->meet. Bytes of packed weights for a head of max_rows rows; 0: they are not packed. */
size_t pl_head_packed_bytes(pl_head *h);
int pl_head_tiles_prepare(const pl_head *h, const pl_weights *w, bool trained, pl_error *err);

static inline const void *pl_head_weights(const pl_weights *w, int64_t id) {
    return (const char *)w->head.data + (size_t)(id * w->head.cols) * pl_dtype_bytes(w->head.type);
}

#endif
