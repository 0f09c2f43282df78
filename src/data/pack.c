/* data/pack.c: the bins, from lengths alone; then the documents of a dataset in their order. */
#include "data/pack.h"

#include <stdlib.h>

#include "data/rows.h"
#include "plumb/log.h"

/* --- bins
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* A bin of the window that has room left. */
typedef struct open_bin {
    int64_t bin, room;
} open_bin;

/* A piece on its way to a bin. */
typedef struct placed {
    pl_piece piece;
    int64_t at;  /* among the pieces of the window, before sorting */
    int64_t bin; /* of the window */
} placed;

typedef struct packer {
    pl_pack_plan plan;
    int64_t max_length;
    placed *window; /* the pieces of one window */
    open_bin *open; /* by room, and among equal ones by the time since when they have it */
    int64_t nopen;
} packer;

static int64_t pieces_of(int64_t length, int64_t max_length) { return (length + max_length - 1) / max_length; }

/* Longest first, equal ones in their order. */
static int by_length(const void *a, const void *b) {
    const placed *x = a, *y = b;
    if (x->piece.count != y->piece.count) return x->piece.count > y->piece.count ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* The first open bin with at least this much room; nopen when there is none. */
static int64_t find_room(const packer *p, int64_t room) {
    int64_t low = 0, high = p->nopen;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (p->open[middle].room < room)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Behind all that have as much room: the first to come is the first to be filled. A full bin is not open. */
static void add_open(packer *p, open_bin b) {
    if (b.room == 0) return;
    int64_t at = find_room(p, b.room + 1);
    for (int64_t i = p->nopen; i > at; i--) p->open[i] = p->open[i - 1];
    p->open[at] = b;
    p->nopen++;
}

static open_bin take_open(packer *p, int64_t at) {
    open_bin b = p->open[at];
    p->nopen--;
    for (int64_t i = at; i < p->nopen; i++) p->open[i] = p->open[i + 1];
    return b;
}

/* Best fit, longest first: every piece goes to the bin that it fills most, or to a new one. Returns the bins. A piece
 * as long as a bin is never open, so at most one piece of a row is. */
static int64_t fill_bins(packer *p, int64_t n) {
    int64_t nbins = 0;
    p->nopen = 0;
    qsort(p->window, (size_t)n, sizeof *p->window, by_length);
    for (int64_t i = 0; i < n; i++) {
        int64_t count = p->window[i].piece.count, at = find_room(p, count);
        open_bin b = at < p->nopen ? take_open(p, at) : (open_bin){nbins++, p->max_length};
        p->window[i].bin = b.bin;
        b.room -= count;
        add_open(p, b);
    }
    return nbins;
}

static int by_bin(const void *a, const void *b) {
    const placed *x = a, *y = b;
    if (x->bin != y->bin) return x->bin < y->bin ? -1 : 1;
    return by_length(a, b);
}

/* Pieces were placed by length, so that is their order in a bin. */
static void close_window(packer *p, int64_t n) {
    pl_pack_plan *plan = &p->plan;
    (void)fill_bins(p, n);
    qsort(p->window, (size_t)n, sizeof *p->window, by_bin);
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || p->window[i].bin != p->window[i - 1].bin) plan->first[plan->nbins++] = plan->npieces;
        plan->pieces[plan->npieces++] = p->window[i].piece;
    }
    plan->first[plan->nbins] = plan->npieces;
}

static void add_to_window(packer *p, int64_t *n, int64_t row, int64_t first, int64_t count) {
    p->window[*n] = (placed){.piece = {row, first, count}, .at = *n};
    ++*n;
}

static void pack_best_fit(packer *p, const int64_t *lengths, int64_t begin, int64_t end, bool split) {
    int64_t n = 0;
    for (int64_t r = begin; r < end; r++)
        for (int64_t at = 0; at < lengths[r] && (split || at == 0); at += p->max_length)
            add_to_window(p, &n, r, at, PL_MIN(lengths[r] - at, p->max_length));
    if (n > 0) close_window(p, n);
}

static void pack_wrapped(packer *p, const int64_t *lengths, int64_t begin, int64_t end) {
    pl_pack_plan *plan = &p->plan;
    int64_t room = 0;
    for (int64_t r = begin; r < end; r++)
        for (int64_t at = 0, count; at < lengths[r]; at += count) {
            if (room == 0) {
                plan->first[plan->nbins++] = plan->npieces;
                room = p->max_length;
            }
            count = PL_MIN(lengths[r] - at, room);
            plan->pieces[plan->npieces++] = (pl_piece){r, at, count};
            room -= count;
        }
    plan->first[plan->nbins] = plan->npieces;
}

/* Room for the pieces of all rows, and of the window that has most of them. A row that is wrapped has one piece more
 * than when it is cut from its own beginning. */
static int take_room(packer *p, const int64_t *lengths, int64_t n, pl_pack_strategy strategy, pl_error *err) {
    int64_t total = 0, most = 0, inside = 0;
    for (int64_t r = 0; r < n; r++) {
        if (r % PL_PACK_WINDOW == 0) inside = 0;
        int64_t pieces = strategy == PL_PACK_BFD ? 1 : pieces_of(lengths[r], p->max_length);
        pieces += strategy == PL_PACK_WRAPPED;
        total += pieces;
        inside += pieces;
        most = PL_MAX(most, inside);
    }
    int rc;
    PL_GO(rc, PL_NEW(&p->plan.pieces, PL_MAX(total, 1), err));
    PL_GO(rc, PL_NEW(&p->plan.first, total + 1, err));
    if (strategy == PL_PACK_WRAPPED) goto out;
    PL_GO(rc, PL_NEW(&p->window, PL_MAX(most, 1), err));
    PL_GO(rc, PL_NEW(&p->open, PL_PACK_WINDOW, err));
out:
    return rc;
}

int pl_pack_plan_make(pl_pack_plan *out, const int64_t *lengths, int64_t n, pl_pack_strategy strategy,
                      int64_t max_length, pl_error *err) {
    packer p = {.max_length = max_length};
    int rc;
    if (max_length < 1) return PL_FAIL(err, PL_E_RANGE, "packing into %" PRId64 " tokens", max_length);
    PL_GO(rc, take_room(&p, lengths, n, strategy, err));
    for (int64_t begin = 0; begin < n; begin += PL_PACK_WINDOW) {
        int64_t end = PL_MIN(n, begin + PL_PACK_WINDOW);
        if (strategy == PL_PACK_WRAPPED)
            pack_wrapped(&p, lengths, begin, end);
        else
            pack_best_fit(&p, lengths, begin, end, strategy == PL_PACK_BFD_SPLIT);
    }
    *out = p.plan;
    p.plan = (pl_pack_plan){0};
out:
    pl_pack_plan_release(&p.plan);
    pl_free(p.window);
    pl_free(p.open);
    return rc;
}

void pl_pack_plan_release(pl_pack_plan *p) {
    pl_free(p->pieces);
    pl_free(p->first);
    *p = (pl_pack_plan){0};
}

/* --- documents
 * -----------------------------------------------------------------------------------------------------------------
 */

static int64_t row_tokens(const pl_dataset *d, int64_t r) {
    return d->rows[r].prompt.count + d->answers[d->rows[r].first_answer].count;
}

static int row_lengths(int64_t **out, const pl_dataset *d, pl_error *err) {
    int64_t *lengths = NULL;
    int rc = PL_NEW(&lengths, PL_MAX(d->n, 1), err);
    for (int64_t r = 0; rc == 0 && r < d->n; r++) lengths[r] = row_tokens(d, r);
    if (rc == 0) *out = lengths;
    return rc;
}

/* Tokens [first, first + count) of a row as a row of its own. Its first token is predicted by nothing. */
static int add_document(pl_rows *to, pl_bins *bins, const pl_dataset *d, const pl_piece *p, bool prompt_scored,
                        pl_error *err) {
    const pl_row *row = &d->rows[p->row];
    pl_span answer = d->answers[row->first_answer];
    int64_t P = row->prompt.count, prompt = PL_MAX(0, PL_MIN(P - p->first, p->count)), rest = p->count - prompt;
    pl_row_ids ids = {.source = row->source, .line = row->line, .prompt_count = prompt, .answers = 1};
    ids.prompt = d->ids + row->prompt.first + PL_MIN(p->first, P);
    ids.answer[0] = d->ids + answer.first + PL_MAX(p->first - P, 0);
    ids.answer_count[0] = rest;
    bins->tokens += p->count;
    bins->unscored += prompt_scored || prompt == 0 ? p->count < 2 : rest == 0;
    return pl_rows_add(to, &ids, err);
}

/* How the plan treats the dataset's rows. */
static void count_cuts(pl_bins *bins, const pl_pack_plan *plan, const int64_t *lengths, pl_pack_strategy strategy) {
    for (int64_t i = 0; i < plan->npieces; i++) {
        const pl_piece *p = &plan->pieces[i];
        bins->cut_rows += p->first == 0 && p->count < lengths[p->row];
        if (strategy == PL_PACK_BFD) bins->lost_tokens += lengths[p->row] - p->count;
    }
    for (int64_t b = 0; b < plan->nbins; b++)
        bins->most_rows = PL_MAX(bins->most_rows, plan->first[b + 1] - plan->first[b]);
}

int pl_dataset_pack(pl_dataset **d, pl_bins *bins, pl_pack_strategy strategy, int64_t max_length, bool prompt_scored,
                    pl_error *err) {
    pl_pack_plan plan = {0};
    pl_rows rows = {0};
    pl_dataset *packed = NULL;
    int64_t *lengths = NULL;
    pl_bins b = {.max_length = max_length, .rows = (*d)->n};
    int rc;
    if ((*d)->kind == PL_DATA_PREFERENCE) return PL_FAIL(err, PL_E_UNSUPPORTED, "preference pairs are not packed");
    PL_GO(rc, row_lengths(&lengths, *d, err));
    PL_GO(rc, pl_pack_plan_make(&plan, lengths, (*d)->n, strategy, max_length, err));
    count_cuts(&b, &plan, lengths, strategy);
    for (int64_t i = 0; i < plan.npieces; i++)
        PL_GO(rc, add_document(&rows, &b, *d, &plan.pieces[i], prompt_scored, err));
    if (b.unscored == plan.npieces) {
        rc = PL_FAIL(err, PL_E_RANGE, "packed into %" PRId64 " tokens, the rows have no token to train on", max_length);
        goto out;
    }
    PL_GO(rc, pl_rows_finish(&packed, &rows, (*d)->kind, err));
    packed->report = (*d)->report;
    b.n = plan.nbins;
    b.first = plan.first;
    plan.first = NULL;
    *bins = b;
    pl_dataset_free(*d);
    *d = packed;
out:
    pl_rows_release(&rows);
    pl_pack_plan_release(&plan);
    pl_free(lengths);
    return rc;
}

void pl_bins_release(pl_bins *b) {
    pl_free(b->first);
    *b = (pl_bins){0};
}

void pl_bins_log(const pl_bins *b, const char *name, pl_pack_strategy strategy) {
    static const char *const names[] = {"bfd", "bfd_split", "wrapped"};
    double share = 100.0 * (double)b->tokens / ((double)b->n * (double)b->max_length);
    pl_log(PL_LOG_INFO,
           "%s: packed (%s): %" PRId64 " rows in %" PRId64 " bins of at most %" PRId64
           " tokens, which are %.1f %% full",
           name, names[strategy], b->rows, b->n, b->max_length, share);
    if (b->cut_rows && strategy == PL_PACK_BFD)
        pl_log(PL_LOG_INFO, "%s: %" PRId64 " row%s truncated, %" PRId64 " tokens lost", name, b->cut_rows,
               b->cut_rows == 1 ? "" : "s", b->lost_tokens);
    else if (b->cut_rows)
        pl_log(PL_LOG_INFO, "%s: %" PRId64 " row%s cut into several documents", name, b->cut_rows,
               b->cut_rows == 1 ? "" : "s");
    if (b->unscored)
        pl_log(PL_LOG_INFO, "%s: %" PRId64 " document%s without a token to train: they only take room", name,
               b->unscored, b->unscored == 1 ? "" : "s");
}
