/* data/forest.c: rows of a dataset laid out as a forest batch. Owns the layout only: which rows go together is decided
 * by the caller with pl_forest_cut, what is computed over the batch belongs to the model. */
#include "data/forest.h"

int64_t pl_row_tree_tokens(const pl_dataset *d, int64_t r) {
    const pl_row *row = &d->rows[r];
    int64_t tokens = row->prompt.count;
    for (int64_t a = 0; a < row->answers; a++) tokens += d->answers[row->first_answer + a].count;
    return tokens;
}

int64_t pl_forest_cut(const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok, int64_t max_trees) {
    int64_t tokens = 0, taken = 0;
    while (taken < n && (max_trees <= 0 || taken < max_trees)) {
        int64_t tree = pl_row_tree_tokens(d, rows[taken]);
        if (taken > 0 && tree > budget_tok - tokens) break;
        tokens += tree;
        taken++;
    }
    return taken;
}

/* Bounds that hold for every batch that pl_forest_cut makes of distinct rows: at most `trees` rows and, unless it is
 * one row alone, at most budget_tok tokens. */
pl_forest_caps pl_forest_caps_of(const pl_dataset *d, int64_t budget_tok, int64_t max_trees) {
    int64_t longest = 1, shortest = INT64_MAX, total = 0, most_answers = 0, answer_tokens = 0;
    for (int64_t r = 0; r < d->n; r++) {
        int64_t tree = pl_row_tree_tokens(d, r);
        longest = PL_MAX(longest, tree);
        shortest = PL_MIN(shortest, tree);
        total += tree;
        most_answers = PL_MAX(most_answers, d->rows[r].answers);
        answer_tokens = PL_MAX(answer_tokens, tree - d->rows[r].prompt.count);
    }
    pl_forest_caps c = {0};
    if (d->n == 0) return c;
    int64_t most = max_trees > 0 ? PL_MIN(max_trees, d->n) : d->n;
    int64_t by_rows = most <= total / longest ? most * longest : total;
    c.tokens = PL_MAX(longest, PL_MIN(PL_MAX(budget_tok, 1), by_rows));
    c.trees = PL_MIN(most, PL_MAX(1, c.tokens / PL_MAX(shortest, 1)));
    c.sequences = c.trees * most_answers;
    c.segments = c.trees + c.sequences;
    c.ranges = c.sequences;
    /* Prompt tokens are targets only where there is one answer, so that no token is a target twice. */
    bool answers_only = d->kind == PL_DATA_PREFERENCE;
    c.targets = answers_only && c.trees <= c.tokens / PL_MAX(answer_tokens, 1) ? c.trees * answer_tokens : c.tokens;
    if (pl_answer_is_aside(d, 1)) c.trees *= 2;
    return c;
}

int pl_forest_take(pl_forest *f, const pl_forest_caps *caps, pl_arena *arena, pl_error *err) {
    int rc;
    pl_forest g = {.caps = *caps};
    PL_GO(rc, PL_TAKE(arena, &g.ids, caps->tokens, "forest.tokens", err));
    PL_GO(rc, PL_TAKE(arena, &g.position, caps->tokens, "forest.tokens", err));
    PL_GO(rc, PL_TAKE(arena, &g.dropout_id, caps->tokens, "forest.tokens", err));
    PL_GO(rc, PL_TAKE(arena, &g.segments, caps->segments, "forest.segments", err));
    PL_GO(rc, PL_TAKE(arena, &g.runs, caps->segments, "forest.segments", err));
    PL_GO(rc, PL_TAKE(arena, &g.ranges, caps->ranges, "forest.segments", err));
    PL_GO(rc, PL_TAKE(arena, &g.read, caps->tokens, "forest.tokens", err));
    PL_GO(rc, PL_TAKE(arena, &g.read_id, caps->tokens, "forest.tokens", err));
    PL_GO(rc, PL_TAKE(arena, &g.read_runs, caps->segments, "forest.segments", err));
    PL_GO(rc, PL_TAKE(arena, &g.targets, caps->targets, "forest.targets", err));
    PL_GO(rc, PL_TAKE(arena, &g.sequences, caps->sequences, "forest.targets", err));
    PL_GO(rc, PL_TAKE(arena, &g.tree_length, caps->trees, "forest.trees", err));
    PL_GO(rc, PL_TAKE(arena, &g.tree_first, caps->trees + 1, "forest.trees", err));
    *f = g;
out:
    return rc;
}

/* Scored tokens of one answer: those that some earlier token of the row predicts. */
static int64_t scored_tokens(int64_t prompt, int64_t answer, bool score_prompt) {
    int64_t scored = prompt > 0 ? answer : PL_MAX(answer - 1, 0);
    return score_prompt ? scored + PL_MAX(prompt - 1, 0) : scored;
}

/* What a batch of rows[0..n) takes. */
static pl_forest_caps need_of(const pl_dataset *d, const int64_t *rows, int64_t n, bool share, bool score_prompt) {
    pl_forest_caps need = {0};
    for (int64_t i = 0; i < n; i++) {
        const pl_row *row = &d->rows[rows[i]];
        need.tokens += share ? row->prompt.count : row->prompt.count * row->answers;
        need.segments += row->answers + (share ? 1 : 0);
        need.ranges += share ? row->answers : 0;
        need.sequences += row->answers;
        need.trees += share && !pl_answer_is_aside(d, row->answers - 1) ? 1 : row->answers;
        for (int64_t a = 0; a < row->answers; a++) {
            int64_t count = d->answers[row->first_answer + a].count;
            need.tokens += count;
            need.targets += scored_tokens(row->prompt.count, count, score_prompt && a == 0);
        }
    }
    return need;
}

void pl_forest_caps_add(pl_forest_caps *caps, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t budget_tok,
                        bool score_prompt) {
    for (int64_t at = 0, take; at < n; at += take) {
        take = pl_forest_cut(d, rows + at, n - at, budget_tok, 0);
        pl_forest_caps need = need_of(d, rows + at, take, true, score_prompt);
        *caps = (pl_forest_caps){PL_MAX(caps->tokens, need.tokens),   PL_MAX(caps->segments, need.segments),
                                 PL_MAX(caps->targets, need.targets), PL_MAX(caps->sequences, need.sequences),
                                 PL_MAX(caps->ranges, need.ranges),   PL_MAX(caps->trees, need.trees)};
    }
}

/* Rows that exist and fit into the caps, so that the filling below needs no checks. */
static int check_caps(const pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, bool share,
                      bool score_prompt, pl_error *err) {
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= d->n)
            return PL_FAIL(err, PL_E_INTERNAL, "forest: row %" PRId64 " of %" PRId64, rows[i], d->n);
    pl_forest_caps need = need_of(d, rows, n, share, score_prompt);
    const pl_forest_caps *c = &f->caps;
    if (need.tokens > c->tokens || need.segments > c->segments || need.targets > c->targets ||
        need.sequences > c->sequences || need.ranges > c->ranges || need.trees > c->trees)
        return PL_FAIL(err, PL_E_INTERNAL,
                       "forest: %" PRId64 " rows need %" PRId64 " tokens, %" PRId64 " targets and %" PRId64
                       " trees; there is room for %" PRId64 ", %" PRId64 " and %" PRId64,
                       n, need.tokens, need.targets, need.trees, c->tokens, c->targets, c->trees);
    return 0;
}

/* Unique for every token of a step and independent of the layout: 24 bits of row in the step, 8 of branch, 32 of
 * position. */
static uint64_t dropout_id(int64_t pair, int64_t branch, int64_t position) {
    return ((uint64_t)pair << 40) | (((uint64_t)branch & 0xff) << 32) | ((uint64_t)position & 0xffffffff);
}

static void add_tokens(pl_forest *f, const int32_t *ids, int64_t count, int64_t pair, int64_t branch,
                       int64_t position) {
    for (int64_t t = 0; t < count; t++) {
        f->ids[f->T] = ids[t];
        f->position[f->T] = position + t;
        f->dropout_id[f->T] = dropout_id(pair, branch, position + t);
        f->T++;
    }
}

/* Ranges of all ancestors of segment s in batch order, neighbours merged. A parent lies before its children, so walking
 * up gives descending ranges; they are written backwards from the room that the depth takes. */
static void add_ranges(pl_forest *f, int64_t s, pl_attn_run *run) {
    int64_t depth = 0;
    for (int64_t p = f->segments[s].parent; p >= 0; p = f->segments[p].parent) depth++;
    pl_key_range *base = f->ranges + f->nranges;
    int64_t i = depth;
    for (int64_t p = f->segments[s].parent; p >= 0; p = f->segments[p].parent)
        base[--i] = (pl_key_range){f->segments[p].first, f->segments[p].count};
    int64_t kept = 0;
    for (i = 0; i < depth; i++) {
        if (kept > 0 && base[kept - 1].first + base[kept - 1].count == base[i].first)
            base[kept - 1].count += base[i].count;
        else
            base[kept++] = base[i];
    }
    run->range_first = f->nranges;
    run->range_count = kept;
    f->nranges += kept;
}

/* Closes the segment of the tokens that were added since `first` (none: no segment). Returns its index, or `parent`. */
static int64_t add_segment(pl_forest *f, int64_t first, int64_t parent) {
    if (f->T == first) return parent;
    int64_t s = f->nsegments++;
    f->segments[s] = (pl_segment){first, f->T - first, parent, f->position[first]};
    f->runs[s] = (pl_attn_run){.q_first = first, .q_count = f->T - first, .own_first = first};
    add_ranges(f, s, &f->runs[s]);
    return s;
}

static void add_target(pl_forest *f, int64_t token, int32_t id) {
    f->targets[f->ntargets++] = (pl_target){token, id, (int32_t)f->nsequences};
}

/* Targets of one answer whose prompt and answer tokens lie at prompt_first and answer_first. */
static void add_sequence(pl_forest *f, int64_t r, int64_t answer, pl_span prompt, pl_span completion,
                         const int32_t *ids, int64_t prompt_first, int64_t answer_first, bool score_prompt) {
    pl_sequence *q = &f->sequences[f->nsequences];
    *q = (pl_sequence){.row = r, .answer = (int32_t)answer, .first_target = f->ntargets, .length = completion.count};
    q->last = completion.count > 0 ? answer_first + completion.count - 1 : prompt_first + prompt.count - 1;
    for (int64_t t = 1; score_prompt && answer == 0 && t < prompt.count; t++)
        add_target(f, prompt_first + t - 1, ids[prompt.first + t]);
    q->prompt_targets = f->ntargets - q->first_target;
    for (int64_t t = 0; t < completion.count; t++) {
        if (t == 0 && prompt.count == 0) continue;
        int64_t by = t > 0 ? answer_first + t - 1 : prompt_first + prompt.count - 1;
        add_target(f, by, ids[completion.first + t]);
    }
    q->ntargets = f->ntargets - q->first_target;
    f->nsequences++;
    f->unshared_tokens += prompt.count + completion.count;
}

static void close_tree(pl_forest *f, int64_t length) {
    f->tree_length[f->ntrees++] = length;
    f->tree_first[f->ntrees] = f->T;
}

static pl_extent extent_of(const pl_forest *f) {
    return (pl_extent){f->T, f->nsegments, f->ntargets, f->ntrees, f->nread};
}

static void set_extent(pl_forest *f, const pl_extent *e) {
    f->T = e->T;
    f->nsegments = e->nsegments;
    f->ntargets = e->ntargets;
    f->ntrees = e->ntrees;
    f->nread = e->nread;
}

static int64_t longest_of(const pl_dataset *d, const pl_row *row) {
    int64_t longest = 0;
    for (int64_t a = 0; a < row->answers; a++) longest = PL_MAX(longest, d->answers[row->first_answer + a].count);
    return row->prompt.count + longest;
}

/* One prompt and its answers as its children; mismatched ones at *aside, which moves on. */
static void add_tree(pl_forest *f, pl_extent *aside, const pl_dataset *d, int64_t r, int64_t pair, bool score_prompt) {
    const pl_row *row = &d->rows[r];
    int64_t P = row->prompt.count, prompt_first = f->T, longest = longest_of(d, row);
    add_tokens(f, d->ids + row->prompt.first, P, pair, 0, 0);
    int64_t root = add_segment(f, prompt_first, -1);
    for (int64_t a = 0; a < row->answers; a++) {
        pl_span s = d->answers[row->first_answer + a];
        pl_extent here = extent_of(f);
        if (pl_answer_is_aside(d, a)) set_extent(f, aside);
        int64_t first = f->T;
        add_tokens(f, d->ids + s.first, s.count, pair, a + 1, P);
        (void)add_segment(f, first, root);
        add_sequence(f, r, a, row->prompt, s, d->ids, prompt_first, first, score_prompt);
        if (!pl_answer_is_aside(d, a)) continue;
        close_tree(f, longest);
        *aside = extent_of(f);
        set_extent(f, &here);
    }
    close_tree(f, longest);
}

/* Where mismatched answers begin: behind the prompts and the other answers. */
static pl_extent trained_extent(const pl_dataset *d, const int64_t *rows, int64_t n, bool score_prompt) {
    pl_extent e = {.ntrees = n};
    for (int64_t i = 0; i < n; i++) {
        const pl_row *row = &d->rows[rows[i]];
        e.T += row->prompt.count;
        e.nsegments += row->prompt.count > 0;
        for (int64_t a = 0; a < row->answers; a++) {
            if (pl_answer_is_aside(d, a)) continue;
            int64_t count = d->answers[row->first_answer + a].count;
            e.T += count;
            e.nsegments += count > 0;
            e.ntargets += scored_tokens(row->prompt.count, count, score_prompt && a == 0);
        }
    }
    return e;
}

/* The unshared form: every answer with its own copy of the prompt, one root segment and one tree each. */
static void add_copies(pl_forest *f, const pl_dataset *d, int64_t r, int64_t pair, bool score_prompt) {
    const pl_row *row = &d->rows[r];
    for (int64_t a = 0; a < row->answers; a++) {
        pl_span s = d->answers[row->first_answer + a];
        int64_t first = f->T, P = row->prompt.count;
        add_tokens(f, d->ids + row->prompt.first, P, pair, 0, 0);
        add_tokens(f, d->ids + s.first, s.count, pair, a + 1, P);
        (void)add_segment(f, first, -1);
        add_sequence(f, r, a, row->prompt, s, d->ids, first, first + P, score_prompt);
        close_tree(f, P + s.count);
    }
}

int pl_forest_build(pl_forest *f, const pl_dataset *d, const int64_t *rows, int64_t n, int64_t step_index, bool share,
                    bool score_prompt, pl_error *err) {
    int rc = check_caps(f, d, rows, n, share, score_prompt, err);
    if (rc != 0) return rc;
    f->T = f->nsegments = f->ntargets = f->nsequences = f->nranges = f->ntrees = f->unshared_tokens = 0;
    f->nread = 0;
    f->narrow = false;
    f->tree_first[0] = 0;
    pl_extent aside = trained_extent(d, rows, n, score_prompt);
    for (int64_t i = 0; i < n; i++) {
        if (share)
            add_tree(f, &aside, d, rows[i], step_index + i, score_prompt);
        else
            add_copies(f, d, rows[i], step_index + i, score_prompt);
    }
    f->trained = extent_of(f);
    if (share) set_extent(f, &aside);
    return 0;
}

pl_forest pl_forest_trained(const pl_forest *f) {
    pl_forest part = *f;
    set_extent(&part, &f->trained);
    return part;
}

/* --- rows that are read behind the last layer
 * ------------------------------------------------------------------------------------------------- */

/* Until read_end, a run's q_first and q_count are the rows of the batch from the first to the last that is read. */
static void read_begin(pl_forest *f) {
    for (int64_t s = 0; s < f->nsegments; s++) {
        f->read_runs[s] = f->runs[s];
        f->read_runs[s].q_count = 0;
    }
}

static int64_t segment_of(const pl_forest *f, int64_t token) {
    int64_t low = 0, high = f->nsegments - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (f->segments[middle].first <= token)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void read_token(pl_forest *f, int64_t token) {
    pl_attn_run *run = &f->read_runs[segment_of(f, token)];
    int64_t end = PL_MAX(token + 1, run->q_first + run->q_count);
    run->q_first = run->q_count == 0 ? token : PL_MIN(run->q_first, token);
    run->q_count = (run->q_count == 0 ? token + 1 : end) - run->q_first;
}

static void read_end(pl_forest *f) {
    f->nread = 0;
    for (int64_t s = 0; s < f->nsegments; s++) {
        pl_attn_run *run = &f->read_runs[s];
        int64_t first = run->q_first;
        if (s == f->trained.nsegments) f->trained.nread = f->nread;
        run->own_past += first - f->runs[s].q_first;
        run->q_first = f->nread;
        for (int64_t t = first; t < first + run->q_count; t++) {
            f->read_id[f->nread] = f->dropout_id[t];
            f->read[f->nread++] = t;
        }
    }
    if (f->trained.nsegments == f->nsegments) f->trained.nread = f->nread;
    f->narrow = f->nread < f->T;
}

void pl_forest_read_targets(pl_forest *f) {
    read_begin(f);
    for (int64_t i = 0; i < f->ntargets; i++) read_token(f, f->targets[i].token);
    read_end(f);
}

void pl_forest_read_ends(pl_forest *f) {
    read_begin(f);
    for (int64_t s = 0; s < f->nsequences; s++) read_token(f, f->sequences[s].last);
    read_end(f);
}

void pl_forest_read_tokens(pl_forest *f, const int64_t *tokens, int64_t n) {
    read_begin(f);
    for (int64_t i = 0; i < n; i++) read_token(f, tokens[i]);
    read_end(f);
}

pl_forest pl_forest_reads(const pl_forest *f) {
    pl_forest part = *f;
    part.T = f->nread;
    part.ids = NULL;
    part.position = NULL;
    part.dropout_id = f->read_id;
    part.runs = f->read_runs;
    return part;
}

int64_t pl_forest_row(const pl_forest *f, int64_t token) {
    int64_t low = 0, high = f->nread - 1;
    if (!f->narrow) return token;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (f->read[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
