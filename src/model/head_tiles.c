/* head_tiles.c: tiles of the vocabulary: their products, who packs them and who multiplies which rows. */
#include "model/head_tiles.h"

#include "kernels/ref/ref.h"

enum {
    FEW_ROWS = PL_HEAD_ROWS / 4,   /* a thread; with fewer, threads share each product, of weights as stored */
    SPLIT_ROWS = 4 * PL_HEAD_ROWS, /* up to so many, threads share the vocabulary */
    LINE = 64,                     /* bytes */
    PACKED_BYTES = 5 << 20         /* packed weights stay in a cache until they are multiplied */
};

int pl_head_lanes(const pl_head *h, int64_t rows) { return rows < (int64_t)h->threads * FEW_ROWS ? 0 : h->threads; }
int64_t pl_head_split_rows(const pl_head *h) { return PL_MIN(h->max_rows, (int64_t)SPLIT_ROWS); }
int pl_head_split(const pl_head *h, int64_t rows) {
    int64_t tiles = (h->arch->V + h->tile - 1) / h->tile;
    return rows > SPLIT_ROWS ? 0 : (int)PL_MAX(PL_MIN(pl_head_lanes(h, rows), tiles) - 1, 0);
}
int64_t pl_head_round_rows(int lanes) { return (int64_t)PL_MAX(lanes, 1) * PL_HEAD_ROWS; }

/* --- products of one tile --- */
static pl_gemm_call logits_call(const pl_head *h, int64_t n) {
    int64_t C = h->arch->C;
    return (pl_gemm_call){.kind = PL_GEMM_Y, .bf16 = h->backend.bf16, .n = n, .k = C, .lda = C, .ldb = C, .ldc = n};
}

static pl_gemm_call back_call(const pl_head *h, int64_t n) {
    int64_t C = h->arch->C;
    return (pl_gemm_call){
        .kind = PL_GEMM_DX, .bf16 = h->backend.bf16, .accumulate = true, .n = C, .k = n, .lda = n, .ldb = C, .ldc = C};
}

static pl_gemm_call dw_call(const pl_head *h, int64_t n, int64_t rows) {
    int64_t C = h->arch->C;
    return (pl_gemm_call){.kind = PL_GEMM_DW,
                          .bf16 = h->backend.bf16,
                          .accumulate = true,
                          .m = n,
                          .n = C,
                          .k = rows,
                          .lda = n,
                          .b_type = PL_REAL,
                          .ldb = C,
                          .ldc = C};
}

static pl_gemm_call call_of(const pl_head *h, bool back, int64_t n) {
    return back ? back_call(h, n) : logits_call(h, n);
}

static void set_weights(pl_gemm_call *call, const pl_weights *w, int64_t v0, const void *packed) {
    call->b_packed = packed != NULL;
    call->b = packed ? packed : pl_head_weights(w, v0);
    call->b_type = w->head.type;
}

/* Products back have lanes of their own behind the others, so that those keep the rows of h that they have rounded. */
static int lanes_of_back(const pl_head *h) { return 2 * h->threads <= PL_MAX_THREADS ? h->threads : 0; }

int pl_head_tile_logits(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err) {
    pl_gemm_call call = logits_call(run->h, tile->n);
    set_weights(&call, run->w, tile->v0, tile->packed[0]);
    call.m = part->rows;
    call.a = run->h->h + part->r0 * run->h->arch->C;
    call.c = part->z;
    call.lane = part->lane;
    call.same_a = part->same;
    return pl_gemm_run(run->h->backend.gemm, &call, err);
}

int pl_head_tile_back(const pl_head_run *run, const pl_head_part *part, const pl_head_tile *tile, pl_error *err) {
    pl_gemm_call call = back_call(run->h, tile->n);
    set_weights(&call, run->w, tile->v0, tile->packed[1]);
    call.m = part->rows;
    call.a = part->z;
    call.c = part->sum + part->r0 * run->h->arch->C;
    call.lane = part->lane ? part->lane + lanes_of_back(run->h) : 0;
    return pl_gemm_run(run->h->backend.gemm, &call, err);
}

static int add_outer(const pl_head_run *run, const pl_head_tile *tile, int64_t r0, int64_t rows, pl_error *err) {
    int64_t C = run->h->arch->C;
    pl_gemm_call call = dw_call(run->h, tile->n, rows);
    call.a = run->h->z;
    call.b = run->h->h + r0 * C;
    call.c = run->dw + tile->v0 * C;
    call.same_b = tile->v0 > 0 && rows == run->rows; /* all rows in every tile */
    return pl_gemm_run(run->h->backend.gemm, &call, err);
}

/* --- preparation --- */
static size_t tile_bytes(const pl_head *h, bool back, int64_t n) {
    pl_gemm_call call = call_of(h, back, n);
    return pl_gemm_packed_bytes(h->backend.gemm, &call);
}

/* Lanes of the fewest rows that are shared out, and so most of those that share the vocabulary. */
static int most_split(const pl_head *h) { return 1 + pl_head_split(h, pl_head_split_rows(h)); }

size_t pl_head_packed_bytes(pl_head *h) {
    size_t bytes = tile_bytes(h, false, h->tile) + (h->training ? tile_bytes(h, true, h->tile) : 0);
    int lanes = pl_head_lanes(h, h->max_rows);
    if (lanes == 0 || bytes == 0) return 0;
    if (lanes > 1) h->meet = (int)PL_MAX(1, PL_MIN(PACKED_BYTES / bytes, PL_HEAD_MEET));
    return (size_t)PL_MAX(h->meet, most_split(h)) * bytes;
}

static int prepare_kind(const pl_head *h, const pl_weights *w, bool back, int64_t n, int lanes, pl_error *err) {
    pl_gemm_call call = call_of(h, back, n);
    int64_t most = pl_rows_padded(h->max_rows);
    int rc = 0;
    call.b_type = w->head.type;
    call.m = PL_MIN(PL_MIN(most, PL_HEAD_ROWS), lanes ? (int64_t)h->threads * FEW_ROWS : most);
    PL_GO(rc, pl_gemm_prepare(h->backend.gemm, &call, err));
    call.lane = lanes + (back ? lanes_of_back(h) : 0);
    call.m = PL_MIN(most, PL_HEAD_ROWS);
    call.b_packed = h->packed && tile_bytes(h, back, n) > 0;
    if (lanes) PL_GO(rc, pl_gemm_prepare(h->backend.gemm, &call, err));
out:
    return rc;
}

static int prepare_tile(const pl_head *h, const pl_weights *w, int64_t n, bool trained, pl_error *err) {
    int lanes = pl_head_lanes(h, h->max_rows), rc = 0;
    pl_gemm_call outer = dw_call(h, n, PL_MIN(pl_rows_padded(h->max_rows), pl_head_round_rows(lanes)));
    PL_GO(rc, prepare_kind(h, w, false, n, lanes, err));
    if (h->training) PL_GO(rc, prepare_kind(h, w, true, n, lanes, err));
    if (h->training && trained) PL_GO(rc, pl_gemm_prepare(h->backend.gemm, &outer, err));
out:
    return rc;
}

int pl_head_tiles_prepare(const pl_head *h, const pl_weights *w, bool trained, pl_error *err) {
    int64_t tail = h->arch->V % h->tile;
    int rc = prepare_tile(h, w, h->tile, trained, err);
    return rc || tail == 0 ? rc : prepare_tile(h, w, tail, trained, err);
}

/* --- tiles outside, rows inside --- */
/* Weights to be packed, one after the other from `room` on. */
typedef struct packing {
    int n;
    pl_gemm_call call[2 * PL_HEAD_MEET];
    void *out[2 * PL_HEAD_MEET];
    char *room; /* NULL: weights are not packed */
} packing;

static pl_head_tile tile_at(const pl_head_run *run, packing *k, int64_t v0) {
    const pl_head *h = run->h;
    pl_head_tile tile = {.v0 = v0, .n = PL_MIN(h->tile, h->arch->V - v0), .first = v0 == 0};
    for (int back = 0; back < (run->back ? 2 : 1) && k->room; back++) {
        size_t bytes = tile_bytes(h, back, tile.n);
        if (bytes == 0) continue;
        k->call[k->n] = call_of(h, back, tile.n);
        set_weights(&k->call[k->n], run->w, v0, NULL);
        k->out[k->n++] = k->room;
        tile.packed[back] = k->room;
        k->room += bytes;
    }
    return tile;
}

/* The tiles from v0 on that the next stretch of work multiplies, packed when rows are shared out. Their number. */
static int next_tiles(pl_head_tile tiles[PL_HEAD_MEET], const pl_head_run *run, int64_t v0, bool packs) {
    pl_head *h = run->h;
    int most = run->dw ? 1 : h->meet, n = 0;
    packing k = {.room = packs ? h->packed : NULL};
    for (; n < most && v0 < h->arch->V; n++, v0 += h->tile) tiles[n] = tile_at(run, &k, v0);
    if (k.n > 0) pl_gemm_pack(h->backend.gemm, k.out, k.call, k.n);
    return n;
}

static int64_t units_of(int64_t rows) { return (rows + PL_ROW_SLACK - 1) / PL_ROW_SLACK; }

/* Part i of n of rows [r0, r0 + rows): at multiples of PL_ROW_SLACK, behind which products may write. */
static pl_head_part part_of(const pl_head_run *run, int64_t r0, int64_t rows, int64_t i, int64_t n) {
    pl_head *h = run->h;
    int64_t from = pl_cut(units_of(rows), i, n) * PL_ROW_SLACK, to = pl_cut(units_of(rows), i + 1, n) * PL_ROW_SLACK;
    return (pl_head_part){.r0 = r0 + from,
                          .rows = PL_MIN(to, rows) - from,
                          .z_row = from,
                          .back = r0 < run->back,
                          .stat = h->stat,
                          .scale = h->scale,
                          .sum = h->dh};
}

/* May a lane keep the rows of h that it rounded for the logits before? */
static bool keeps_rows(const pl_head_run *run) { return !run->back || lanes_of_back(run->h) > 0; }

static int run_part(const pl_head_run *run, pl_head_part *part, const pl_head_tile *tiles, int n, pl_error *err) {
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        /* one product of all parts' rows follows where dw is wanted; otherwise a part may be a tile ahead of others */
        part->z = run->h->z + part->z_row * (run->dw ? tiles[i].n : run->h->tile);
        part->same = i > 0 && part->lane > 0 && keeps_rows(run);
        rc = run->step(run, part, &tiles[i], err);
    }
    return rc;
}

/* The part's share, by its rows, of the weights of a tile from id v0 on. */
static void ask_ahead(pl_head_part *part, const pl_head_run *run, int64_t v0) {
    const pl_head *h = run->h;
    int64_t bytes = run->w->head.cols * (int64_t)pl_dtype_bytes(run->w->head.type);
    int64_t lines = PL_MIN(h->tile, h->arch->V - v0) * bytes / LINE, from = pl_cut(lines, part->r0, run->rows);
    part->ahead = (const char *)pl_head_weights(run->w, v0) + from * LINE;
    part->ahead_lines = pl_cut(lines, part->r0 + part->rows, run->rows) - from;
}

/* A block of rows with a tile of one lane's share of the vocabulary. */
static int share_step(const pl_head_run *run, pl_head_part *part, const pl_head_tile *tile, int lane, pl_error *err) {
    pl_head *h = run->h;
    int64_t place = (lane - 1) * pl_rows_padded(pl_head_split_rows(h));
    part->z = h->z + lane * PL_MIN(pl_rows_padded(h->max_rows), PL_HEAD_ROWS) * h->tile;
    part->lane = lane + 1;
    if (lane > 0) {
        part->stat = h->split_stat + place;
        part->scale = h->split_scale + place;
        part->sum = h->split_sum ? h->split_sum + place * h->arch->C : NULL;
    }
    return run->step(run, part, tile, err);
}

static int64_t blocks_of(int64_t rows, int64_t most) { return (units_of(rows) * PL_ROW_SLACK + most - 1) / most; }

/* Rows with a product back and rows without do not mix: [from[0], from[1]) and [from[1], from[2]). */
static void ranges_of(int64_t from[3], const pl_head_run *run) {
    from[0] = 0, from[1] = run->back, from[2] = run->rows;
}

/* Block i of all rows. Their number. */
static int64_t share_part(pl_head_part *part, const pl_head_run *run, int64_t i) {
    int64_t from[3], first = 0;
    ranges_of(from, run);
    for (int range = 0; range < 2; range++) {
        int64_t rows = from[range + 1] - from[range], blocks = blocks_of(rows, PL_HEAD_ROWS);
        if (part && i >= first && i < first + blocks) *part = part_of(run, from[range], rows, i - first, blocks);
        first += blocks;
    }
    return first;
}

/* All rows through one lane's share of the vocabulary: down through the blocks with one tile, up with the next, so that
 * a block's rows, rounded for the logits, serve twice. */
static int run_share(const pl_head_run *run, int lane, int lanes, pl_error *err) {
    pl_head *h = run->h;
    int64_t all = (h->arch->V + h->tile - 1) / h->tile, end = pl_cut(all, lane + 1, lanes);
    int64_t begin = pl_cut(all, lane, lanes), blocks = share_part(NULL, run, 0);
    size_t bytes = tile_bytes(h, false, h->tile) + (h->training ? tile_bytes(h, true, h->tile) : 0);
    int rc = 0;
    for (int64_t t = begin; rc == 0 && t < end; t++) {
        packing k = {.room = h->packed ? h->packed + (size_t)lane * bytes : NULL};
        pl_head_tile tile = tile_at(run, &k, t * h->tile);
        tile.first = t == begin;
        if (k.n > 0) pl_gemm_pack(h->backend.gemm, k.out, k.call, k.n);
        for (int64_t i = 0; rc == 0 && i < blocks; i++) {
            pl_head_part part;
            share_part(&part, run, (t - begin) % 2 ? blocks - 1 - i : i);
            part.same = i == 0 && t > begin && keeps_rows(run);
            if (k.n > 0 && t + 1 < end) ask_ahead(&part, run, (t + 1) * h->tile);
            rc = share_step(run, &part, &tile, lane, err);
        }
    }
    return rc;
}

/* Rows [r0, r0 + rows) through n tiles, each lane its part of the rows; or, when n is 0, each its share of the
 * vocabulary. */
static int run_lanes(const pl_head_run *run, int lanes, int64_t r0, int64_t rows, const pl_head_tile *tiles, int n,
                     pl_error *err) {
    int rc = 0;
    /* a loop over lanes, not one lane a thread: OpenMP may give fewer threads than were asked for */
#pragma omp parallel for schedule(static, 1) num_threads(lanes) if (lanes > 1)
    for (int lane = 0; lane < lanes; lane++) {
        pl_error own;
        pl_head_part part = part_of(run, r0, rows, lane, lanes);
        part.lane = lane + 1;
        int bad = n == 0 ? run_share(run, lane, lanes, &own) : part.rows > 0 ? run_part(run, &part, tiles, n, &own) : 0;
#pragma omp critical(plumb_head)
        if (bad && !rc) {
            rc = bad;
            if (err) *err = own;
        }
    }
    return rc;
}

/* Rows [r0, r0 + rows), at most those of a round, through n tiles. */
static int run_round(const pl_head_run *run, int lanes, int64_t r0, int64_t rows, const pl_head_tile *tiles, int n,
                     pl_error *err) {
    int rc = 0;
    if (lanes > 0) {
        rc = run_lanes(run, lanes, r0, rows, tiles, n, err);
    } else {
        pl_head_part all = part_of(run, r0, rows, 0, 1);
        rc = run_part(run, &all, tiles, n, err);
    }
    return rc || !run->dw ? rc : add_outer(run, &tiles[0], r0, rows, err);
}

/* Rows [r0, end) through n tiles, in rounds. */
static int run_range(const pl_head_run *run, int lanes, int64_t r0, int64_t end, const pl_head_tile *tiles, int n,
                     pl_error *err) {
    int64_t units = units_of(end - r0), rounds = blocks_of(end - r0, pl_head_round_rows(lanes));
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < rounds; i++) {
        int64_t from = r0 + pl_cut(units, i, rounds) * PL_ROW_SLACK;
        int64_t to = PL_MIN(r0 + pl_cut(units, i + 1, rounds) * PL_ROW_SLACK, end);
        rc = run_round(run, lanes, from, to - from, tiles, n, err);
    }
    return rc;
}

int pl_head_tiles_run(const pl_head_run *run, pl_error *err) {
    pl_head *h = run->h;
    pl_head_tile tiles[PL_HEAD_MEET];
    int lanes = pl_head_lanes(h, run->rows), others = pl_head_split(h, run->rows), rc = 0, n;
    int64_t from[3];
    ranges_of(from, run);
    if (run->splits && (others > 0 || lanes == 1)) return run_lanes(run, others + 1, 0, run->rows, NULL, 0, err);
    for (int64_t v0 = 0; v0 < h->arch->V; v0 += n * h->tile) {
        n = next_tiles(tiles, run, v0, lanes > 0 && h->packed);
        for (int i = 0; i < 2; i++) PL_GO(rc, run_range(run, lanes, from[i], from[i + 1], tiles, n, err));
    }
out:
    return rc;
}
