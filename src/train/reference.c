/* reference.c: the reference in words, its cache file, and the pass that fills it.
 *
 * Cache file: "PLUMBREF" | u64 count | count doubles | 32 hex digits of their hash. Its name is the hash of everything
 * that determines the numbers (DECISIONS 8), so a hit needs no further comparison; a damaged file is computed anew. */
#include "train/reference.h"

#include <stdio.h>
#include <string.h>

#include "base/cache.h"
#include "base/file.h"

#define MAGIC "PLUMBREF"
#define HEAD_BYTES 16
#define HASH_BYTES 32

void pl_reference_release(pl_reference *r) {
    if (!r) return;
    pl_free(r->frozen.modules);
    pl_trainable_release(&r->moving);
    pl_model_close(&r->model);
    *r = (pl_reference){0};
}

void pl_reference_sentence(char *out, size_t size, const pl_reference *r, const pl_config *c) {
    const char *how = c->precompute_ref_log_probs ? "its log-probs are computed once, before training"
                                                  : "its log-probs are computed in every step";
    const char *base = c->model_name_or_path;
    switch (r->kind) {
    case PL_REF_NONE: snprintf(out, size, "reference = none: log-probs stand in for log-ratios"); break;
    case PL_REF_BASE: snprintf(out, size, "reference = the initial model %s; %s", base, how); break;
    case PL_REF_ADAPTER_OFF:
        snprintf(out, size, "reference = the base model %s, with the adapter off; %s", base, how);
        break;
    case PL_REF_ADAPTER:
        snprintf(out, size, "reference = the base model %s with the starting adapter %s, frozen; %s", base, c->adapter,
                 how);
        break;
    case PL_REF_GIVEN:
        snprintf(out, size, "reference = the base model %s with the adapter %s; %s", base, c->ref_adapter, how);
        break;
    case PL_REF_MOVING:
        snprintf(out, size,
                 "reference = a copy of the initial policy, moved by %g of the way to the policy after every %" PRId64
                 " steps; %s",
                 c->ref_model_mixup_alpha, c->ref_model_sync_steps, how);
        break;
    case PL_REF_CURRENT:
        snprintf(out, size,
                 "reference = the policy of the same step: all log-ratios are 0, only their gradient is not");
        break;
    case PL_REF_MODEL: snprintf(out, size, "reference = the model in %s; %s", c->ref_model, how); break;
    }
}

int pl_reference_key(pl_hash *out, const pl_reference *r, const pl_hash *model_hash, const char *adapter_dir,
                     const pl_machine *machine, bool bf16, int64_t budget_tok, double ld_discount, pl_error *err) {
    pl_machine_report report;
    pl_hasher *h = NULL;
    char *path = NULL;
    pl_hash adapter = {{0}};
    int rc;
    pl_machine_describe(machine, &report);
    PL_GO(rc, pl_hasher_new(&h, err));
    if (r->kind == PL_REF_ADAPTER || r->kind == PL_REF_GIVEN) {
        PL_GO(rc, pl_path_join(&path, adapter_dir, PL_PEFT_WEIGHTS, err));
        PL_GO(rc, pl_hash_file(&adapter, path, err));
    }
    pl_hasher_add_text(h, report.version);
    pl_hasher_add_text(h, model_hash->hex);
    pl_hasher_add_text(h, adapter.hex);
    pl_hasher_add_text(h, report.level);
    pl_hasher_add_text(h, report.gemm);
    pl_hasher_add_int(h, report.threads);
    pl_hasher_add_int(h, bf16);
    pl_hasher_add_int(h, budget_tok);
    pl_hasher_add(h, &ld_discount, sizeof ld_discount);
    *out = pl_hasher_digest(h);
out:
    pl_free(path);
    pl_hasher_free(h);
    return rc;
}

static int cache_path(char **out, const char *dir, const pl_hash *key, const pl_dataset *d, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = pl_hasher_new(&h, err);
    if (rc) return rc;
    pl_hasher_add_text(h, key->hex);
    pl_hasher_add_text(h, d->hash.hex);
    pl_hash name = pl_hasher_digest(h);
    pl_hasher_free(h);
    return pl_asprintf(out, err, "%s/reference-%s.bin", dir, name.hex);
}

static int64_t answers_of(const pl_dataset *d) {
    return d->n ? d->rows[d->n - 1].first_answer + d->rows[d->n - 1].answers : 0;
}

/* Reads a complete, undamaged cache file; anything else is a miss. */
static bool read_cache(double *out, int64_t n, const char *path) {
    pl_map m = {0};
    pl_error ignored;
    if (!pl_file_exists(path) || pl_map_open(&m, path, &ignored)) return false;
    size_t bytes = (size_t)n * sizeof *out;
    uint64_t count = 0;
    bool good = m.len == HEAD_BYTES + bytes + HASH_BYTES && memcmp(m.data, MAGIC, 8) == 0;
    if (good) memcpy(&count, m.data + 8, 8);
    good = good && count == (uint64_t)n;
    if (good) {
        pl_hash hash = pl_hash_bytes(m.data + HEAD_BYTES, bytes);
        good = memcmp(hash.hex, m.data + HEAD_BYTES + bytes, HASH_BYTES) == 0;
    }
    if (good) memcpy(out, m.data + HEAD_BYTES, bytes);
    pl_map_close(&m);
    return good;
}

static int write_cache(const char *path, const double *scores, int64_t n, pl_error *err) {
    pl_out o = {0};
    uint64_t count = (uint64_t)n;
    pl_hash hash = pl_hash_bytes(scores, (size_t)n * sizeof *scores);
    int rc;
    PL_GO(rc, pl_out_open(&o, path, err));
    PL_GO(rc, pl_out_write(&o, MAGIC, 8, err));
    PL_GO(rc, pl_out_write(&o, &count, 8, err));
    PL_GO(rc, pl_out_write(&o, scores, (size_t)n * sizeof *scores, err));
    PL_GO(rc, pl_out_write(&o, hash.hex, HASH_BYTES, err));
    PL_GO(rc, pl_out_commit(&o, err));
out:
    pl_out_release(&o);
    return rc;
}

static int compute(double *scores, pl_reference *r, const pl_dataset *d, pl_progress *progress, void *user,
                   pl_error *err) {
    int64_t *rows = NULL;
    int rc = PL_NEW(&rows, d->n, err);
    if (rc) return rc;
    for (int64_t i = 0; i < d->n; i++) rows[i] = i;
    rc = pl_worker_score(r->worker, r->weights, r->lora, d, rows, d->n, false, scores, progress, user, err);
    pl_free(rows);
    return rc ? pl_error_context(err, rc, "reference pass") : 0;
}

int pl_reference_scores(double **out, bool *hit, pl_reference *r, const pl_dataset *d, const char *cache_dir,
                        const pl_hash *key, pl_progress *progress, void *user, pl_error *err) {
    char *path = NULL;
    double *scores = NULL;
    int64_t n = answers_of(d);
    int rc;
    PL_GO(rc, PL_NEW(&scores, n, err));
    PL_GO(rc, pl_dir_make(cache_dir, err));
    PL_GO(rc, cache_path(&path, cache_dir, key, d, err));
    *hit = !r->fresh && read_cache(scores, n, path);
    if (*hit)
        pl_cache_used(path);
    else {
        PL_GO(rc, compute(scores, r, d, progress, user, err));
        PL_GO(rc, write_cache(path, scores, n, err));
        pl_cache_prune(cache_dir);
    }
    *out = scores;
    scores = NULL;
out:
    pl_free(scores);
    pl_free(path);
    return rc;
}
