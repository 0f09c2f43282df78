/* data/mismatch.c: which row's completion stands in for another one's, to estimate how far policy and reference are
 * apart (KTO). */
#include <string.h>

#include "base/rng.h"
#include "data/dataset.h"

/* Mixed into the seed, so that the pairing is not the order of the rows. */
#define PAIRING_SEED 0x6b746f
#define LOOK_BACK ((int64_t)64) /* rows that are looked at for another prompt */

/* Two answers for each row, the second one still empty; trees then are at most this long. */
static int make_room(pl_dataset *d, int64_t max_length, pl_error *err) {
    pl_span *answers = NULL;
    int64_t longest = 0;
    int rc;
    PL_GO(rc, PL_NEW(&d->mixed, d->n, err));
    PL_GO(rc, PL_NEW(&answers, 2 * d->n, err));
    for (int64_t r = 0; r < d->n; r++) {
        answers[2 * r] = d->answers[d->rows[r].first_answer];
        longest = PL_MAX(longest, answers[2 * r].count);
        d->rows[r].first_answer = 2 * r;
        d->rows[r].answers = 2;
    }
    for (int64_t r = 0; r < d->n; r++) {
        int64_t prompt = d->rows[r].prompt.count, room = max_length > 0 ? max_length - prompt : longest;
        d->longest_tree = PL_MAX(d->longest_tree, prompt + answers[2 * r].count + PL_MIN(longest, room));
    }
    pl_free(d->answers);
    d->answers = answers;
out:
    return rc;
}

static bool same_prompt(const pl_dataset *d, int64_t a, int64_t b) {
    pl_span p = d->rows[a].prompt, q = d->rows[b].prompt;
    return p.count == q.count &&
           (p.count == 0 || memcmp(d->ids + p.first, d->ids + q.first, (size_t)p.count * sizeof *d->ids) == 0);
}

static void give(pl_dataset *d, int64_t row, int64_t other, int64_t max_length) {
    pl_span s = d->answers[2 * other];
    int64_t room = max_length > 0 ? max_length - d->rows[row].prompt.count : s.count;
    s.count = PL_MIN(s.count, room);
    d->answers[2 * row + 1] = s;
}

/* TRL's rotation: in each run of `batch` rows, the completion of the row before, the first one that of the last. */
static void rotate(pl_dataset *d, const pl_mismatch *m) {
    for (int64_t first = 0; first < d->n; first += m->batch) {
        int64_t n = PL_MIN(m->batch, d->n - first);
        for (int64_t i = 0; i < n; i++) give(d, first + i, first + (i + n - 1) % n, m->max_length);
    }
}

/* The row before it in a random order, or the nearest one before with another prompt. */
static void shuffle(pl_dataset *d, const pl_mismatch *m) {
    for (int64_t i = 0; i < d->n; i++) {
        int64_t row = d->mixed[i], back = 1;
        while (back < PL_MIN(d->n - 1, LOOK_BACK) && same_prompt(d, row, d->mixed[(i + d->n - back) % d->n])) back++;
        give(d, row, d->mixed[(i + d->n - back) % d->n], m->max_length);
    }
}

int pl_dataset_mismatch(pl_dataset *d, const pl_mismatch *m, int64_t epoch, pl_error *err) {
    int rc = 0;
    if (d->n < 2) return PL_FAIL(err, PL_E_RANGE, "mismatched answers need two rows, there is one");
    if (!d->mixed) rc = make_room(d, m->max_length, err);
    if (rc) return rc;
    if (m->pairing == PL_PAIRING_BATCH) {
        rotate(d, m);
        return 0;
    }
    uint64_t seed = pl_rng_mix(m->seed, PAIRING_SEED) & 0xffffffff;
    rc = pl_torch_randperm(d->mixed, d->n, seed + (m->pairing == PL_PAIRING_FIXED ? 0 : (uint64_t)epoch), err);
    if (rc == 0) shuffle(d, m);
    return rc;
}

int pl_mismatch_key(pl_hash *out, const pl_hash *key, const pl_mismatch *m, int64_t epoch, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc) return rc;
    pl_hasher_add_text(h, key->hex);
    pl_hasher_add_int(h, (int64_t)m->pairing);
    pl_hasher_add_int(h, (int64_t)m->seed);
    pl_hasher_add_int(h, m->batch);
    pl_hasher_add_int(h, m->max_length);
    pl_hasher_add_int(h, m->pairing == PL_PAIRING_RANDOM ? epoch : 0);
    *out = pl_hasher_digest(h);
    pl_hasher_free(h);
    return 0;
}
