/* config_check.c: contradictions within a configuration, and differences between two. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "data/pack.h"
#include "train/config.h"

static bool was_set(const pl_options *o, const char *name) {
    return o && pl_options_origin(o, name) != PL_ORIGIN_DEFAULT;
}

static int check_packing(const pl_config *c, const pl_options *o, pl_error *err) {
    bool evaluated = c->eval_packing < 0 ? c->packing : c->eval_packing;
    if ((c->packing || evaluated) && c->max_length == PL_OPT_NO_I64)
        return PL_FAIL(err, PL_E_OPTION, "packing fills bins of max_length tokens: max_length cannot be none");
    if (!c->packing && !evaluated && c->packing_strategy != PL_PACK_BFD)
        return PL_FAIL(err, PL_E_OPTION, "%s: packing_strategy has no effect without packing: true",
                       pl_options_where(o, "packing_strategy"));
    if (c->packing != evaluated && c->eval_split > 0)
        return PL_FAIL(err, PL_E_OPTION,
                       "rows that eval_split holds out are packed as the others: give eval_data, or no eval_packing");
    return 0;
}

/* The reference is one thing, and what is said about it must be about that. */
static int check_reference(const pl_config *c, const pl_options *o, pl_error *err) {
    const struct {
        const char *name;
        bool on;
    } ways[] = {{"ref_model", c->ref_model != NULL},
                {"ref_adapter", c->ref_adapter != NULL},
                {"sync_ref_model", c->sync_ref_model},
                {"reference_free", c->reference_free},
                {"reference", c->reference != PL_REFERENCE_INITIAL}};
    const char *first = NULL;
    for (int64_t i = 0; i < PL_LEN(ways); i++) {
        if (ways[i].on && first)
            return PL_FAIL(err, PL_E_OPTION, "%s and %s both say what the reference is: keep one", first, ways[i].name);
        if (ways[i].on) first = ways[i].name;
    }
    bool none = c->reference != PL_REFERENCE_INITIAL || c->reference_free;
    if (c->precompute_ref_log_probs && (none || c->sync_ref_model))
        return PL_FAIL(err, PL_E_OPTION,
                       "precompute_ref_log_probs needs a reference that is there and stays as it is, not %s%s", first,
                       strcmp(first, "reference") == 0 ? " none or current" : "");
    static const char *const sync[] = {"ref_model_mixup_alpha", "ref_model_sync_steps"};
    for (int64_t i = 0; i < PL_LEN(sync) && !c->sync_ref_model; i++)
        if (was_set(o, sync[i]) && (c->ref_model_mixup_alpha != 0.6 || c->ref_model_sync_steps != 512))
            return PL_FAIL(err, PL_E_OPTION, "%s: %s has no effect without sync_ref_model: true",
                           pl_options_where(o, sync[i]), sync[i]);
    return 0;
}

int pl_config_check(const pl_config *c, const pl_options *o, pl_error *err) {
    static const char *const lora[] = {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora"};
    for (int64_t i = 0; i < PL_LEN(lora); i++) {
        if (!was_set(o, lora[i])) continue;
        if (!c->adapter && !c->use_peft)
            return PL_FAIL(err, PL_E_OPTION, "%s: %s has no effect without use_peft: true",
                           pl_options_where(o, lora[i]), lora[i]);
    }
    if (c->eval_data && c->eval_split > 0)
        return PL_FAIL(err, PL_E_OPTION, "eval_data and eval_split are both set: keep one");
    if (c->resume && c->overwrite_output_dir)
        return PL_FAIL(err, PL_E_OPTION, "--resume needs what --overwrite_output_dir would delete: keep one");
    if (c->load_best_model_at_end && c->eval_strategy == PL_WHEN_NO)
        return PL_FAIL(err, PL_E_OPTION,
                       "load_best_model_at_end needs evaluations: set eval_strategy to steps or epoch");
    if (c->warmup_steps > 0 && c->warmup_ratio > 0)
        return PL_FAIL(err, PL_E_OPTION, "warmup_steps and warmup_ratio are both set: keep one");
    int rc = check_reference(c, o, err);
    return rc ? rc : check_packing(c, o, err);
}

/* May differ between a run and its continuation; content hashes stand for the paths. */
static bool is_free(const char *name) {
    static const char *const names[] = {"model_name_or_path",
                                        "adapter",
                                        "ref_model",
                                        "ref_adapter",
                                        "dataset_name",
                                        "eval_data",
                                        "dataset_train_split",
                                        "dataset_test_split",
                                        "output_dir",
                                        "run_name",
                                        "max_steps",
                                        "num_train_epochs",
                                        "logging_steps",
                                        "eval_packing",
                                        "eval_strategy",
                                        "eval_steps",
                                        "per_device_eval_batch_size",
                                        "eval_on_start",
                                        "save_strategy",
                                        "save_steps",
                                        "save_total_limit",
                                        "load_best_model_at_end",
                                        "metric_for_best_model",
                                        "greater_is_better",
                                        "gradient_checkpointing",
                                        "bf16"};
    for (int64_t i = 0; i < PL_LEN(names); i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static int value_text(char *out, size_t size, const pl_option *row, const void *field) {
    out[0] = 0;
    switch (row->type) {
    case PL_OPT_BOOL: snprintf(out, size, "%s", *(const bool *)field ? "true" : "false"); break;
    case PL_OPT_TRIBOOL: snprintf(out, size, "%d", *(const int *)field); break;
    case PL_OPT_I64: snprintf(out, size, "%" PRId64, *(const int64_t *)field); break;
    case PL_OPT_F64: pl_double_text(out, *(const double *)field); break;
    case PL_OPT_STR: snprintf(out, size, "%s", *(const char *const *)field ? *(const char *const *)field : ""); break;
    case PL_OPT_ENUM: {
        const char *text;
        size_t n;
        if (pl_choice_at(row->choices, *(const int *)field, &text, &n)) snprintf(out, size, "%.*s", (int)n, text);
        break;
    }
    case PL_OPT_STRLIST: {
        const pl_strlist *l = field;
        size_t at = 0;
        for (int64_t i = 0; i < l->n && at < size; i++)
            at += (size_t)snprintf(out + at, size - at, "%s%s", i ? " " : "", l->items[i]);
        break;
    }
    default: return -1;
    }
    return 0;
}

#define VALUE_BYTES 4096

/* Calls `each` for every option that must not change. */
typedef int fixed_fn(void *user, const char *name, const char *value, pl_error *err);
static int for_fixed(const char *command, const pl_config *c, fixed_fn *each, void *user, pl_error *err) {
    const pl_command *cmd = pl_train_command(command);
    const void *bases[PL_TRAIN_TABLES] = {c, c, c, &c->loss};
    char value[VALUE_BYTES];
    for (int i = 0; i < PL_TRAIN_TABLES; i++)
        for (const pl_option *row = cmd->tables[i]; row->name; row++) {
            if (row->flags & (PL_OPT_IDLE | PL_OPT_LATER | PL_OPT_NO_RECORD) || row->type == PL_OPT_ALIAS ||
                is_free(row->name))
                continue;
            if (value_text(value, sizeof value, row, (const char *)bases[i] + row->offset)) continue;
            int rc = each(user, row->name, value, err);
            if (rc) return rc;
        }
    return 0;
}

static int write_one(void *user, const char *name, const char *value, pl_error *err) {
    pl_buf *b = user;
    int rc = b->data[b->len - 1] == '{' ? 0 : pl_buf_puts(b, ", ", err);
    if (rc == 0) rc = pl_buf_json_string(b, name, strlen(name), err);
    if (rc == 0) rc = pl_buf_puts(b, ": ", err);
    return rc ? rc : pl_buf_json_string(b, value, strlen(value), err);
}

int pl_config_write_fixed(pl_buf *b, const char *command, const pl_config *c, pl_error *err) {
    int rc = pl_buf_puts(b, "{", err);
    if (rc == 0) rc = for_fixed(command, c, write_one, b, err);
    return rc ? rc : pl_buf_puts(b, "}", err);
}

typedef struct comparison {
    const pl_json *then;
    char text[900];
    size_t at;
} comparison;

static int compare_one(void *user, const char *name, const char *value, pl_error *err) {
    PL_UNUSED(err);
    comparison *d = user;
    size_t n = 0;
    const char *then = pl_json_string(pl_json_get(d->then, name), &n);
    if (then && strlen(value) == n && memcmp(then, value, n) == 0) return 0;
    if (d->at < sizeof d->text)
        d->at += (size_t)snprintf(d->text + d->at, sizeof d->text - d->at, "%s%s was %s, is %s", d->at ? "; " : "",
                                  name, then ? (*then ? then : "unset") : "not there", *value ? value : "unset");
    return 0;
}

int pl_config_compare(const pl_json *then, const char *command, const pl_config *c, pl_error *err) {
    comparison d = {.then = then};
    int rc = for_fixed(command, c, compare_one, &d, err);
    if (rc) return rc;
    return d.at ? PL_FAIL(err, PL_E_MISMATCH, "the configuration differs: %s", d.text) : 0;
}
