/* peft_config.c: adapter_config.json, read and written. Matching is in peft_match.c. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "adapt/json_text.h"
#include "adapt/peft.h"
#include "base/buf.h"
#include "base/file.h"
#include "plumb/log.h"

#define MAX_BYTES ((size_t)4 << 20)
#define MAX_RANK 32768

void pl_peft_config_init(pl_peft_config *c) { *c = (pl_peft_config){.r = 8, .alpha = 8}; }

static void names_release(pl_peft_names *names) {
    for (int64_t i = 0; i < names->n; i++) pl_free(names->names[i]);
    pl_free(names->names);
    *names = (pl_peft_names){0};
}

static void patterns_release(pl_peft_pattern *p, int64_t n) {
    for (int64_t i = 0; i < n; i++) pl_free(p[i].key);
    pl_free(p);
}

void pl_peft_config_release(pl_peft_config *c) {
    names_release(&c->target);
    names_release(&c->exclude);
    patterns_release(c->ranks, c->nranks);
    patterns_release(c->alphas, c->nalphas);
    pl_free(c->layers);
    pl_free(c->base_model);
    pl_json_free(c->source);
    *c = (pl_peft_config){0};
}

/* ---- the target
 * ------------------------------------------------------------------------------------------------------------ */

static bool is_all_linear(const char *s) { return strcasecmp(s, "all-linear") == 0; }

static int names_copy(pl_peft_names *out, const char *const *names, int64_t n, bool regex, pl_error *err) {
    pl_peft_names list = {.regex = regex};
    int rc;
    PL_GO(rc, PL_NEW(&list.names, PL_MAX(n, 1), err));
    for (int64_t i = 0; i < n; i++) {
        PL_GO(rc, pl_strdup(&list.names[i], names[i], err));
        list.n++;
    }
    names_release(out);
    *out = list;
    list = (pl_peft_names){0};
out:
    names_release(&list);
    return rc;
}

int pl_peft_config_target(pl_peft_config *c, const char *const *names, int64_t n, pl_error *err) {
    if (n < 1) return PL_FAIL(err, PL_E_OPTION, "target_modules is empty");
    for (int64_t i = 0; i < n; i++)
        if (!names[i][0]) return PL_FAIL(err, PL_E_OPTION, "target_modules: an empty name");
    if (n == 1 && is_all_linear(names[0])) {
        names_release(&c->target);
        c->all_linear = true;
        return 0;
    }
    /* PEFT takes any single string for a regex; a plain name would match nothing there, so here it is a name */
    bool regex = n == 1 && strpbrk(names[0], "*+?()[]{}|^$\\");
    int rc = names_copy(&c->target, names, n, regex, err);
    if (rc == 0) c->all_linear = false;
    return rc;
}

/* ---- reading
 * --------------------------------------------------------------------------------------------------------------- */

static bool plain_string(const pl_json *v) {
    size_t n = 0;
    const char *s = pl_json_string(v, &n);
    return s && n && strlen(s) == n;
}

/* A list of names, or one regex; an empty list counts as absent, but not for the target. */
static int parse_names(pl_peft_names *out, const pl_json *config, const char *key, const char *what, pl_error *err) {
    const pl_json *v = pl_json_get(config, key);
    int64_t n = pl_json_len(v);
    if (!v) return 0;
    if (plain_string(v)) return names_copy(out, (const char *const[]){pl_json_string(v, NULL)}, 1, true, err);
    bool ok = pl_json_kind_of(v) == PL_J_ARRAY && (n > 0 || strcmp(key, "target_modules") != 0);
    for (int64_t i = 0; i < n && ok; i++) ok = plain_string(pl_json_at(v, i));
    if (!ok) return PL_FAIL(err, PL_E_FORMAT, "%s: %s: want a list of module names or a regex", what, key);
    if (n == 0) return 0;
    const char **list = NULL;
    int rc = PL_NEW(&list, n, err);
    if (rc) return rc;
    for (int64_t i = 0; i < n; i++) list[i] = pl_json_string(pl_json_at(v, i), NULL);
    rc = names_copy(out, list, n, false, err);
    pl_free(list);
    return rc;
}

static int parse_target(pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    int rc;
    PL_GO(rc, parse_names(&c->target, config, "target_modules", what, err));
    if (c->target.regex && is_all_linear(c->target.names[0])) {
        c->all_linear = true;
        names_release(&c->target);
    }
    rc = parse_names(&c->exclude, config, "exclude_modules", what, err);
out:
    return rc;
}

static int parse_layers(pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    const pl_json *v = pl_json_get(config, "layers_to_transform");
    bool list = pl_json_kind_of(v) == PL_J_ARRAY;
    int64_t n = list ? pl_json_len(v) : 1;
    if (!v || n == 0) return 0;
    if (c->target.regex)
        return PL_FAIL(err, PL_E_UNSUPPORTED,
                       "%s: layers_to_transform goes with a list of target_modules, not with a regex", what);
    int rc = PL_NEW(&c->layers, n, err);
    if (rc) return rc;
    c->nlayers = n;
    for (int64_t i = 0; i < n; i++) {
        const pl_json *item = list ? pl_json_at(v, i) : v;
        if (pl_json_kind_of(item) != PL_J_INT)
            return PL_FAIL(err, PL_E_FORMAT, "%s: layers_to_transform: want an integer or a list of integers", what);
        c->layers[i] = pl_json_int(item);
    }
    return 0;
}

static int parse_patterns(pl_peft_pattern **out, int64_t *n, const pl_json *config, const char *key, const char *what,
                          pl_error *err) {
    const pl_json *v = pl_json_get(config, key);
    bool ranks = strcmp(key, "rank_pattern") == 0;
    if (!v || pl_json_len(v) == 0) return 0;
    if (pl_json_kind_of(v) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "%s: %s: want an object", what, key);
    int rc = PL_NEW(out, pl_json_len(v), err);
    for (pl_json_iter it = pl_json_first(v); it.key && rc == 0; it = pl_json_next(it)) {
        pl_json_kind kind = pl_json_kind_of(it.value);
        double x = pl_json_double(it.value);
        bool ok = ranks ? kind == PL_J_INT && x >= 1 && x <= MAX_RANK
                        : (kind == PL_J_INT || kind == PL_J_DOUBLE) && isfinite(x);
        if (!ok)
            return PL_FAIL(err, PL_E_RANGE, "%s: %s: %.100s: want a %s", what, key, it.key, ranks ? "rank" : "number");
        rc = pl_strdup(&(*out)[*n].key, it.key, err);
        if (rc == 0) (*out)[(*n)++].value = x;
    }
    return rc;
}

/* Python's truth of a JSON value. */
static bool truthy(const pl_json *v) {
    size_t n = 0;
    switch (pl_json_kind_of(v)) {
    case PL_J_NULL: return false;
    case PL_J_BOOL: return pl_json_bool(v);
    case PL_J_INT:
    case PL_J_DOUBLE: return pl_json_double(v) != 0;
    case PL_J_STRING: pl_json_string(v, &n); return n > 0;
    case PL_J_ARRAY:
    case PL_J_OBJECT: return pl_json_len(v) > 0;
    }
    return true;
}

/* Keys that change the mathematics in a way that plumb does not have, whenever they are set at all. */
static const char *const refused[] = {"fan_in_fan_out",    "use_dora",
                                      "lora_bias",         "layers_pattern",
                                      "megatron_config",   "trainable_token_indices",
                                      "use_qalora",        "layer_replication",
                                      "target_parameters", "alora_invocation_tokens",
                                      "use_bdlora",        "arrow_config",
                                      "kasa_config",       "velora_config",
                                      "monteclora_config"};
/* Keys that plumb reads, and keys that mean nothing once an adapter exists. */
static const char *const known[] = {"peft_type",
                                    "task_type",
                                    "modules_to_save",
                                    "r",
                                    "lora_alpha",
                                    "lora_dropout",
                                    "target_modules",
                                    "exclude_modules",
                                    "bias",
                                    "use_rslora",
                                    "init_lora_weights",
                                    "layers_to_transform",
                                    "rank_pattern",
                                    "alpha_pattern",
                                    "base_model_name_or_path",
                                    "revision",
                                    "auto_mapping",
                                    "inference_mode",
                                    "peft_version",
                                    "megatron_core",
                                    "loftq_config",
                                    "eva_config",
                                    "corda_config",
                                    "lora_ga_config",
                                    "qalora_group_size",
                                    "ensure_weight_tying"};

static bool listed(const char *const *list, int64_t n, const char *key) {
    for (int64_t i = 0; i < n; i++)
        if (strcmp(list[i], key) == 0) return true;
    return false;
}

static int check_keys(const pl_json *config, const char *what, pl_error *err) {
    for (pl_json_iter it = pl_json_first(config); it.key; it = pl_json_next(it)) {
        if (!truthy(it.value)) continue;
        if (listed(refused, PL_LEN(refused), it.key))
            return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: %s is set, which plumb does not support", what, it.key);
        if (!listed(known, PL_LEN(known), it.key))
            pl_log(PL_LOG_WARN, "%s: %.100s is not a key that plumb knows; it is kept, and has no effect", what,
                   it.key);
    }
    return 0;
}

/* pissa, olora, loftq and their kin change the base weights when they start, so their adapters do not fit the plain
 * base. */
static int check_init(const pl_json *config, const char *what, pl_error *err) {
    static const char *const fine[] = {"gaussian", "eva", "orthogonal"};
    const pl_json *v = pl_json_get(config, "init_lora_weights");
    const char *s = pl_json_string(v, NULL);
    if (!v || pl_json_kind_of(v) == PL_J_BOOL || (s && listed(fine, PL_LEN(fine), s))) return 0;
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: init_lora_weights %.60s is not supported: it changes the base weights",
                   what, s ? s : "of this kind");
}

/* PEFT names both heads that its sequence classifiers may have; llama and qwen2 have the second. */
static int check_saved(const pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    const pl_json *v = pl_json_get(config, "modules_to_save");
    if (!truthy(v)) return 0;
    bool fine = c->score && pl_json_kind_of(v) == PL_J_ARRAY;
    for (int64_t i = 0; fine && i < pl_json_len(v); i++) {
        const char *name = pl_json_string(pl_json_at(v, i), NULL);
        fine = name && (strcmp(name, "score") == 0 || strcmp(name, "classifier") == 0);
    }
    if (fine) return 0;
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: modules_to_save is set, which plumb supports for a score head only",
                   what);
}

static int check_words(pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    const char *type = NULL, *task = NULL, *bias = "none";
    int rc;
    PL_GO(rc, pl_json_member_string(config, "peft_type", true, &type, NULL, what, err));
    if (strcmp(type, "LORA") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: peft_type %.60s is not supported (want LORA)", what, type);
    PL_GO(rc, pl_json_member_string(config, "task_type", false, &task, NULL, what, err));
    c->score = task && strcmp(task, "SEQ_CLS") == 0;
    if (task && !c->score && strcmp(task, "CAUSAL_LM") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: task_type %.60s is not supported (want CAUSAL_LM or SEQ_CLS)", what,
                       task);
    PL_GO(rc, check_saved(c, config, what, err));
    PL_GO(rc, pl_json_member_string(config, "bias", false, &bias, NULL, what, err));
    if (strcmp(bias, "none") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: bias %.60s is not supported (want none)", what, bias);
    rc = check_init(config, what, err);
out:
    return rc;
}

static int parse_numbers(pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    int rc;
    PL_GO(rc, pl_json_member_int(config, "r", false, &c->r, what, err));
    if (c->r < 1 || c->r > MAX_RANK)
        return PL_FAIL(err, PL_E_RANGE, "%s: r is %" PRId64 ", want 1 to %d", what, c->r, MAX_RANK);
    PL_GO(rc, pl_json_member_double(config, "lora_alpha", false, &c->alpha, what, err));
    if (!isfinite(c->alpha)) return PL_FAIL(err, PL_E_RANGE, "%s: lora_alpha is not finite", what);
    PL_GO(rc, pl_json_member_double(config, "lora_dropout", false, &c->dropout, what, err));
    if (!(c->dropout >= 0 && c->dropout < 1))
        return PL_FAIL(err, PL_E_RANGE, "%s: lora_dropout is %g, want 0 to below 1", what, c->dropout);
    rc = pl_json_member_bool(config, "use_rslora", false, &c->rslora, what, err);
out:
    return rc;
}

static int parse_object(pl_peft_config *c, const pl_json *config, const char *what, pl_error *err) {
    const char *base = NULL;
    size_t n = 0;
    int rc;
    if (pl_json_kind_of(config) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "%s: want a JSON object", what);
    PL_GO(rc, check_words(c, config, what, err));
    PL_GO(rc, check_keys(config, what, err));
    PL_GO(rc, parse_numbers(c, config, what, err));
    PL_GO(rc, parse_target(c, config, what, err));
    PL_GO(rc, parse_layers(c, config, what, err));
    PL_GO(rc, parse_patterns(&c->ranks, &c->nranks, config, "rank_pattern", what, err));
    PL_GO(rc, parse_patterns(&c->alphas, &c->nalphas, config, "alpha_pattern", what, err));
    PL_GO(rc, pl_json_member_string(config, "base_model_name_or_path", false, &base, &n, what, err));
    if (base) rc = pl_strndup(&c->base_model, base, strnlen(base, n), err);
out:
    return rc;
}

int pl_peft_config_parse(pl_peft_config *out, const char *text, size_t n, const char *what, pl_error *err) {
    pl_peft_config c;
    int rc;
    pl_peft_config_init(&c);
    PL_GO(rc, pl_json_parse(&c.source, text, n, what, err));
    PL_GO(rc, parse_object(&c, c.source, what, err));
    *out = c;
    c = (pl_peft_config){0};
out:
    pl_peft_config_release(&c);
    return rc;
}

int pl_peft_config_load(pl_peft_config *out, const char *dir, pl_error *err) {
    char *path = NULL, *text = NULL;
    size_t n;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, PL_PEFT_CONFIG, err));
    if (!pl_dir_exists(dir)) PL_GO(rc, pl_dir_missing(dir, err));
    if (!pl_file_exists(path))
        PL_GO(rc, PL_FAIL(err, PL_E_IO, "%s: no adapter_config.json: not a PEFT adapter directory", dir));
    PL_GO(rc, pl_file_read(&text, &n, path, MAX_BYTES, err));
    rc = pl_peft_config_parse(out, text, n, path, err);
out:
    pl_free(text);
    pl_free(path);
    return rc;
}

/* ---- writing
 * --------------------------------------------------------------------------------------------------------------- */

/* A number as Python's int where it is one, as LoraConfig has it. */
static int add_number(pl_buf *b, double x, pl_error *err) {
    if (x == floor(x) && fabs(x) < 1e15) return pl_buf_printf(b, err, "%.0f", x);
    return pl_buf_json_double(b, x, err);
}

static int add_names(pl_buf *b, const pl_peft_names *names, pl_error *err) {
    int rc = 0;
    if (names->n == 0) return pl_buf_puts(b, "null", err);
    if (names->regex) return pl_json_text_string(b, names->names[0], strlen(names->names[0]), err);
    PL_GO(rc, pl_buf_puts(b, "[", err));
    for (int64_t i = 0; i < names->n; i++) {
        PL_GO(rc, pl_buf_printf(b, err, "%s\n    ", i ? "," : ""));
        PL_GO(rc, pl_json_text_string(b, names->names[i], strlen(names->names[i]), err));
    }
    rc = pl_buf_puts(b, "\n  ]", err);
out:
    return rc;
}

static int add_layers(pl_buf *b, const pl_peft_config *c, pl_error *err) {
    if (!c->layers) return pl_buf_puts(b, "null", err);
    int rc = pl_buf_puts(b, "[", err);
    for (int64_t i = 0; i < c->nlayers && rc == 0; i++)
        rc = pl_buf_printf(b, err, "%s\n    %" PRId64, i ? "," : "", c->layers[i]);
    return rc ? rc : pl_buf_puts(b, "\n  ]", err);
}

static int add_patterns(pl_buf *b, const pl_peft_pattern *p, int64_t n, pl_error *err) {
    int rc = pl_buf_puts(b, "{", err);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        PL_GO(rc, pl_buf_printf(b, err, "%s\n    ", i ? "," : ""));
        PL_GO(rc, pl_json_text_string(b, p[i].key, strlen(p[i].key), err));
        PL_GO(rc, pl_buf_puts(b, ": ", err));
        PL_GO(rc, add_number(b, p[i].value, err));
    }
    if (rc == 0) rc = pl_buf_puts(b, n ? "\n  }" : "}", err);
out:
    return rc;
}

/* The core keys that every reader knows, in sorted order. */
static int add_new(pl_buf *b, const pl_peft_config *c, const char *base, pl_error *err) {
    int rc;
    PL_GO(rc, pl_buf_puts(b, "{\n  \"alpha_pattern\": ", err));
    PL_GO(rc, add_patterns(b, c->alphas, c->nalphas, err));
    PL_GO(rc, pl_buf_puts(b, ",\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ", err));
    PL_GO(rc, base ? pl_json_text_string(b, base, strlen(base), err) : pl_buf_puts(b, "null", err));
    PL_GO(rc, pl_buf_puts(b, ",\n  \"bias\": \"none\",\n  \"exclude_modules\": ", err));
    PL_GO(rc, add_names(b, &c->exclude, err));
    PL_GO(rc, pl_buf_puts(b,
                          ",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,"
                          "\n  \"layers_pattern\": null,\n  \"layers_to_transform\": ",
                          err));
    PL_GO(rc, add_layers(b, c, err));
    PL_GO(rc, pl_buf_puts(b, ",\n  \"lora_alpha\": ", err));
    PL_GO(rc, add_number(b, c->alpha, err));
    PL_GO(rc, pl_buf_puts(b, ",\n  \"lora_dropout\": ", err));
    PL_GO(rc, pl_buf_json_double(b, c->dropout, err));
    PL_GO(rc, pl_buf_printf(b, err,
                            ",\n  \"modules_to_save\": %s,\n  \"peft_type\": \"LORA\",\n  \"r\": %" PRId64
                            ",\n  \"rank_pattern\": ",
                            c->score ? "[\n    \"classifier\",\n    \"score\"\n  ]" : "null", c->r));
    PL_GO(rc, add_patterns(b, c->ranks, c->nranks, err));
    PL_GO(rc, pl_buf_puts(b, ",\n  \"revision\": null,\n  \"target_modules\": ", err));
    PL_GO(rc, c->all_linear ? pl_buf_puts(b, "\"all-linear\"", err) : add_names(b, &c->target, err));
    rc = pl_buf_printf(b, err, ",\n  \"task_type\": \"%s\",\n  \"use_dora\": false,\n  \"use_rslora\": %s\n}",
                       c->score ? "SEQ_CLS" : "CAUSAL_LM", c->rslora ? "true" : "false");
out:
    return rc;
}

int pl_peft_config_text(char **out, const pl_peft_config *c, const char *base_model, pl_error *err) {
    pl_buf b = {0};
    const char *base = base_model ? base_model : c->base_model;
    int rc = c->source ? pl_json_text_add(&b, c->source, 0, err) : add_new(&b, c, base, err);
    if (rc == 0) {
        *out = b.data;
        b = (pl_buf){0};
    }
    pl_buf_release(&b);
    return rc;
}

int pl_peft_config_save(const pl_peft_config *c, const char *dir, const char *base_model, pl_error *err) {
    char *path = NULL, *text = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, PL_PEFT_CONFIG, err));
    PL_GO(rc, pl_peft_config_text(&text, c, base_model, err));
    rc = pl_file_write(path, text, strlen(text), err);
out:
    pl_free(path);
    pl_free(text);
    return rc;
}
