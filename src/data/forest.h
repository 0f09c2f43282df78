/* data/forest.h: the forest batch (DESIGN 2.1): a flat list of tokens cut into segments. A token attends to all tokens
 * of its segment's ancestors and causally to its own segment; its position continues its parent's. Nothing is padded, a
 * prompt is there once.
 *
 *   prompt segment  p0 p1 p2            branch 0
 *   chosen          c0 c1 c2 c3         branch 1, parent = prompt
 *   rejected        r0 r1               branch 2, parent = prompt
 *
 * Mismatched answers (KTO's, pl_answer_is_aside) lie behind everything else, so that what gets a gradient is the first
 * part of every list (`trained`) and a backward pass ends there.
 *
 * targets: which token's hidden state predicts which id. The last prompt token predicts the first token of both
 * answers. */
#ifndef PL_FOREST_H
#define PL_FOREST_H

#include "base/arena.h"
#include "data/dataset.h"
#include "kernels/ops.h"

typedef struct pl_segment {
    int64_t first, count; /* tokens [first, first + count) */
    int64_t parent;       /* an earlier segment, or -1 */
    int64_t position;     /* of its first token */
} pl_segment;

typedef struct pl_target {
    int64_t token; /* row of the batch whose hidden state predicts */
    int32_t id;
    int32_t sequence;
} pl_target;

/* One answer: its scored tokens are targets [first_target, first_target + ntargets), in order. */
typedef struct pl_sequence {
    int64_t row;    /* index into the dataset */
    int32_t answer; /* 0 chosen or completion, 1 rejected or mismatched */
    int64_t first_target, ntargets;
    int64_t prompt_targets; /* the first of its targets that are prompt tokens */
    int64_t length;         /* completion tokens after truncation, scored or not */
    int64_t last;           /* token of the batch that ends it: where a score head reads */
} pl_sequence;

typedef struct pl_forest_caps {
    int64_t tokens, segments, targets, sequences, ranges, trees;
} pl_forest_caps;

/* How far the lists of a batch reach. */
typedef struct pl_extent {
    int64_t T, nsegments, ntargets, ntrees, nread;
} pl_extent;

typedef struct pl_forest {
    pl_forest_caps caps;
    int64_t T, nsegments, ntargets, nsequences, nranges, ntrees;
    /* The part before the mismatched answers; all of it where there are none, or nothing is shared. */
    pl_extent trained;
    int32_t *ids;         /* [T] */
    int64_t *position;    /* [T] */
    uint64_t *dropout_id; /* [T]: pair in the step << 40 | branch << 32 | position in the row (DECISIONS 4) */
    pl_segment *segments;
    pl_attn_run *runs; /* one per segment */
    pl_key_range *ranges;
    pl_target *targets;     /* grouped by sequence */
    pl_sequence *sequences; /* grouped by row, answers in order */
    int64_t *tree_length;   /* [ntrees] longest sequence of each tree, for length-dependent RoPE; a mismatched answer is
                               counted as a tree of its own, as long as its row's */
    int64_t *tree_first;    /* [ntrees + 1] first token of each tree */
    int64_t unshared_tokens; /* what TRL counts in num_tokens: every prompt once per answer */
    /* Tokens whose rows somebody reads behind the last layer, where that is not all of them (pl_forest_read_*). */
    bool narrow;
    int64_t nread;
    int64_t *read;          /* [nread] rising */
    uint64_t *read_id;      /* [nread] their dropout ids */
    pl_attn_run *read_runs; /* one per segment: its read rows as queries, counted through `read`; may be empty */
} pl_forest;

/* Room for the largest micro-batch of `d` under a budget of tokens (a larger tree goes alone) and at most max_trees
 * rows (0: any). */
pl_forest_caps pl_forest_caps_of(const pl_dataset *d, int64_t budget_tok, int64_t max_trees);
/* Grows *caps to what every micro-batch of rows[0..n) needs when pl_forest_cut cuts them in this order (max_trees 0).
 */
void pl_forest_caps_add(pl_forest_caps *caps, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok,
                        bool score_prompt);
int pl_forest_take(pl_forest *f, const pl_forest_caps *caps, pl_arena *arena, pl_error *err);
/* Tokens that row r takes as a tree (shared prompt). */
int64_t pl_row_tree_tokens(const pl_dataset *d, int64_t r);
/* Length of the next micro-batch: how many of rows[0..n) go together under the budget, in order; at least 1. */
int64_t pl_forest_cut(const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok, int64_t max_trees);
/* Builds the batch of rows[0..n). `step_index` is the place of rows[0] in the optimizer step (dropout ids). share:
 * false repeats the prompt for each answer (the oracle form of the tests; it needs up to twice the caps' tokens and
 * trees). score_prompt: prompt tokens are targets of answer 0 too. PL_E_INTERNAL when caps are too small (or a row
 * does not exist); *f is then as it was. */
int pl_forest_build(pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index, bool share,
                    bool score_prompt, pl_error *err);
/* The part of a batch that gets a gradient, as a batch: f's own tokens and targets under the same numbers, borrowed.
 * Its sequences are still f's; those of mismatched answers have no tokens in it, and their targets are none of its. */
pl_forest pl_forest_trained(const pl_forest *f);

/* Says which rows are read behind the last layer, after a build (which leaves it at all rows): those of targets, those
 * that end a sequence (where score heads read), or tokens[0..n). Of a segment, all between its first and its last. */
void pl_forest_read_targets(pl_forest *f);
void pl_forest_read_ends(pl_forest *f);
void pl_forest_read_tokens(pl_forest *f, const int64_t *tokens, int64_t n);
/* The read rows as the batch: what is run where nothing but these is wanted. Queries only: ids and positions are NULL.
 * Borrowed. */
pl_forest pl_forest_reads(const pl_forest *f);
/* Rows that come out of the last layer, of f or of its trained part; and which of them is this token's, a read one. */
static inline int64_t pl_forest_rows(const pl_forest *f) { return f->narrow ? f->nread : f->T; }
static inline int64_t pl_forest_trained_rows(const pl_forest *f) { return f->narrow ? f->trained.nread : f->trained.T; }
int64_t pl_forest_row(const pl_forest *f, int64_t token);

#endif
