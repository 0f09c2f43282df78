/* run_data.c: the rows of a run: loaded, cut, packed, with what the objective needs beside them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "data/cache.h"
#include "plumb/log.h"
#include "train/run_open.h"

/* Positions that the model has. */
static int64_t positions(const pl_arch *a) {
    double factor = a->rope.kind == PL_ROPE_DYNAMIC ? a->rope.factor : 1;
    return (int64_t)((double)a->max_position * factor);
}

int pl_run_check_length(const pl_run *r, pl_error *err) {
    int64_t limit = positions(&r->model.arch);
    if (pl_run_has(r->c->max_length) && r->c->max_length > limit && r->options &&
        pl_options_origin(r->options, "max_length") != PL_ORIGIN_DEFAULT)
        return PL_FAIL(err, PL_E_RANGE, "%s: max_length %" PRId64 " is beyond the model's %" PRId64 " positions",
                       pl_options_where(r->options, "max_length"), r->c->max_length, limit);
    return 0;
}

/* A default that is longer than the model's positions is cut to them, and said. */
static int64_t length_limit(const pl_run *r) {
    int64_t limit = positions(&r->model.arch);
    if (pl_run_has(r->c->max_length) && r->c->max_length <= limit) return r->c->max_length;
    pl_log(PL_LOG_INFO, "max_length: %" PRId64 ", the model's positions", limit);
    return limit;
}

static int load_rows(pl_dataset **out, pl_run *r, const char *name, const char *split, const pl_data_options *o,
                     pl_error *err) {
    const pl_data_cache cache = {r->cache_dir, r->c->overwrite_cache};
    char *path = NULL;
    bool made = false;
    int rc = pl_dataset_resolve(&path, name, split, err);
    if (rc == 0 && strcmp(r->command, "verifier") == 0) rc = pl_run_gsm8k(out, r, out == &r->eval, &made, path, o, err);
    if (rc == 0 && !made) rc = pl_dataset_open(out, path, o, r->tokenizer, r->model.arch.V, &cache, err);
    if (rc == 0) pl_dataset_log(*out, path);
    pl_free(path);
    return rc;
}

bool pl_run_scores_prompt(const pl_run *r) {
    if (r->batcher.mix.term[0]->score_prompt) return r->batcher.params.orpo_nll == PL_NLL_PROMPT;
    return r->train->kind == PL_DATA_COMPLETION && r->c->completion_only_loss == 0;
}

static bool packs_eval(const pl_config *c) { return c->eval_packing < 0 ? c->packing : c->eval_packing != 0; }

/* Documents take the place of rows, those of evaluation too: what is evaluated is cut as what is trained on, while bins
 * matter to steps alone. */
static int pack(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    pl_pack_strategy strategy = (pl_pack_strategy)c->packing_strategy;
    pl_bins held = {0};
    int rc = 0;
    if (c->packing) {
        PL_GO(rc, pl_dataset_pack(&r->train, &r->bins, strategy, r->max_length, pl_run_scores_prompt(r), err));
        pl_bins_log(&r->bins, c->dataset_name, strategy);
    }
    if (r->eval && packs_eval(c)) {
        PL_GO(rc, pl_dataset_pack(&r->eval, &held, strategy, r->max_length, pl_run_scores_prompt(r), err));
        pl_bins_log(&held, "evaluation", strategy);
    }
out:
    pl_bins_release(&held);
    return rc;
}

int pl_run_load_data(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    const pl_objective *objective = r->batcher.mix.term[0];
    r->max_length = length_limit(r);
    pl_data_options o = {.preference = objective->rows == PL_LOSS_PAIRED,
                         .labelled = objective->rows == PL_LOSS_LABELLED,
                         .margin = objective->head == PL_HEAD_SCORE,
                         .drop_long = objective->head == PL_HEAD_SCORE,
                         .seam = (pl_seam)c->seam,
                         .max_length = c->packing ? 0 : r->max_length,
                         .max_prompt_length = pl_run_has(c->max_prompt_length) ? c->max_prompt_length : 0,
                         .drop_empty = c->drop_empty,
                         .completion_only_loss = c->completion_only_loss != 0,
                         .text_field = c->dataset_text_field};
    pl_data_options held = o;
    held.max_length = packs_eval(c) ? 0 : r->max_length;
    int rc;
    PL_GO(rc, load_rows(&r->train, r, c->dataset_name, c->dataset_train_split, &o, err));
    if (c->eval_data)
        PL_GO(rc, load_rows(&r->eval, r, c->eval_data, c->dataset_test_split, &held, err));
    else if (c->eval_split > 0)
        PL_GO(rc, pl_dataset_split(r->train, &r->eval, c->eval_split, (uint64_t)c->seed, err));
    else if (c->eval_strategy != PL_WHEN_NO) {
        if (!pl_dir_exists(c->dataset_name)) {
            rc = PL_FAIL(err, PL_E_OPTION, "eval_strategy needs rows to evaluate on: give eval_data or eval_split");
            goto out;
        }
        PL_GO(rc, load_rows(&r->eval, r, c->dataset_name, c->dataset_test_split, &held, err));
    }
    if (r->train->n == 0) rc = PL_FAIL(err, PL_E_RANGE, "%s: no rows are left to train on", c->dataset_name);
    if (rc == 0 && r->eval && r->eval->n == 0) rc = PL_FAIL(err, PL_E_RANGE, "no rows are left to evaluate on");
    if (rc == 0) rc = pack(r, err);
out:
    return rc;
}

int pl_run_pair_epoch(pl_run *r, int64_t epoch, pl_error *err) {
    if (!r->mismatched || r->paired_epoch == epoch) return 0;
    int rc = pl_dataset_mismatch(r->train, &r->mismatch, epoch, err);
    if (rc == 0) r->paired_epoch = epoch;
    return rc;
}

static bool outside(double weight, double low, double high) {
    return !(weight >= round(low * 100) / 100 && weight <= round(high * 100) / 100);
}

/* KTO's advice (arXiv:2402.01306 section 4.2): all desirable rows together should weigh 1 to 4/3 of the others. */
static void check_balance(const pl_run *r) {
    const pl_loss_params *p = &r->batcher.params;
    double good = 0, bad = 0;
    for (int64_t i = 0; i < r->train->n; i++) *(r->train->rows[i].label ? &good : &bad) += 1;
    if (good == 0 || bad == 0) {
        pl_log(PL_LOG_WARN, "all %" PRId64 " rows have the label %s: there is nothing to tell apart", r->train->n,
               good == 0 ? "false" : "true");
        return;
    }
    if (!pl_mix_reads(&r->batcher.mix, "desirable_weight") || good == bad) return;
    double d = bad * p->undesirable_weight / good, u = good * p->desirable_weight / bad;
    if (outside(p->desirable_weight, d, d * 1.33) && outside(p->undesirable_weight, u / 1.33, u))
        pl_log(PL_LOG_WARN,
               "%g desirable and %g undesirable rows: use a desirable_weight from %.2f to %.2f, or an "
               "undesirable_weight from %.2f to %.2f (not both)",
               good, bad, d, d * 1.33, u / 1.33, u);
}

/* Rows that the objective couples, and the mismatched answers that it needs. */
int pl_run_open_units(pl_run *r, pl_error *err) {
    const pl_config *c = r->c;
    pl_batcher *b = &r->batcher;
    int64_t batch = c->per_device_train_batch_size;
    pl_coupling coupling = pl_mix_coupling(&b->mix);
    r->mismatched = b->mix.term[0]->mismatched;
    if (!r->mismatched && c->kl_pairing != PL_PAIRING_RANDOM)
        return PL_FAIL(err, PL_E_OPTION, "kl_pairing has no effect with loss_type %s, which has no KL term",
                       b->mix.term[0]->name);
    r->mismatch = (pl_mismatch){
        .pairing = (pl_pairing)c->kl_pairing, .seed = (uint64_t)c->seed, .batch = batch, .max_length = r->max_length};
    if (r->mismatched && r->mismatch.pairing == PL_PAIRING_BATCH) {
        if (c->train_sampling_strategy != PL_SAMPLE_SEQUENTIAL || batch < 2)
            return PL_FAIL(err, PL_E_OPTION,
                           "kl_pairing batch rotates the answers of rows that follow each other: it needs "
                           "train_sampling_strategy sequential and a per_device_train_batch_size above 1");
        coupling = PL_COUPLED_GROUP;
    }
    b->unit_rows = coupling == PL_COUPLED_GROUP  ? batch
                   : coupling == PL_COUPLED_STEP ? batch * c->gradient_accumulation_steps
                                                 : 0;
    b->eval_unit_rows = coupling == PL_COUPLED_GROUP ? c->per_device_eval_batch_size : b->unit_rows;
    b->score_prompt = pl_run_scores_prompt(r);
    if (b->mix.term[0]->rows == PL_LOSS_LABELLED) check_balance(r);
    r->paired_epoch = -1;
    if (r->mismatched && r->eval) {
        int rc = pl_dataset_mismatch(r->eval, &r->mismatch, 0, err);
        if (rc) return pl_error_context(err, rc, "evaluation rows");
    }
    return pl_run_pair_epoch(r, 0, err);
}
