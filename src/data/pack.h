/* data/pack.h: packing: which documents make one row of a batch (a bin of at most max_length tokens), as TRL's
 * pack_dataset puts them together (trl-spec 4, 9). The forest keeps documents apart whatever they share; packing
 * decides how many of them a batch of per_device_train_batch_size rows holds, and what becomes of those that are too
 * long.
 *
 *   bfd        a document longer than max_length loses its end; best fit, longest first
 *   bfd_split  such a document is cut into pieces of max_length; every piece is a document of its own; then as bfd
 *   wrapped    one document after the other, cut every max_length tokens; every piece is a document of its own
 *
 * As in TRL, nothing is packed across windows of 1,000 rows of the file. */
#ifndef PL_PACK_H
#define PL_PACK_H

#include "data/dataset.h"

typedef enum pl_pack_strategy { PL_PACK_BFD, PL_PACK_BFD_SPLIT, PL_PACK_WRAPPED } pl_pack_strategy;

enum { PL_PACK_WINDOW = 1000 }; /* rows: the batch size of datasets.map */

/* Tokens [first, first + count) of a row. */
typedef struct pl_piece {
    int64_t row, first, count;
} pl_piece;

/* Bin b holds pieces first[b] to first[b + 1], in order. */
typedef struct pl_pack_plan {
    int64_t npieces, nbins;
    pl_piece *pieces; /* [npieces] owned */
    int64_t *first;   /* [nbins + 1] owned */
} pl_pack_plan;

/* Packs rows of these lengths (tokens; a row of none is left out). Pure; O(n log n) for n rows and pieces. PL_E_RANGE
 * for max_length < 1. *out is for pl_pack_plan_release. */
int pl_pack_plan_make(pl_pack_plan *out, const int64_t *lengths, int64_t n, pl_pack_strategy strategy,
                      int64_t max_length, pl_error *err);
void pl_pack_plan_release(pl_pack_plan *p);

/* The bins of a packed dataset: bin b is its rows first[b] to first[b + 1]. */
typedef struct pl_bins {
    int64_t n;
    int64_t *first;      /* [n + 1] owned */
    int64_t most_rows;   /* of a bin */
    int64_t tokens;      /* of all bins */
    int64_t max_length;  /* a bin's room */
    int64_t rows;        /* of the dataset that was packed */
    int64_t cut_rows;    /* rows that lost their end (bfd) or were cut into several documents */
    int64_t lost_tokens; /* bfd: beyond max_length */
    int64_t unscored;    /* documents none of whose tokens is scored: they share a bin, and train nothing */
} pl_bins;

/* Replaces d, whose rows have one answer each, by the dataset of its documents, bin after bin. A document of a row
 * keeps the row's source and line; what it holds of the row's prompt is its prompt. prompt_scored: prompt tokens are
 * trained too. PL_E_RANGE when no token is left to train on; *d is then as it was. */
int pl_dataset_pack(pl_dataset **d, pl_bins *bins, pl_pack_strategy strategy, int64_t max_length, bool prompt_scored,
                    pl_error *err);
void pl_bins_release(pl_bins *b);
/* What was packed, as a line for people through pl_log. */
void pl_bins_log(const pl_bins *b, const char *name, pl_pack_strategy strategy);

#endif
