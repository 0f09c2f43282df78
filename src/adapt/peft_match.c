/* peft_match.c: which modules an adapter configuration means, by PEFT's rules (tuners_utils.check_target_module_exists
 * and utils.other.get_pattern_key of PEFT 0.21). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "adapt/peft.h"
#include "base/buf.h"

#define MATCH_LIMIT 1000000 /* steps: a regex from a stranger's file must not hang */

typedef struct regex {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *context;
    const char *text; /* for messages */
} regex;

static void regex_release(regex *r) {
    pcre2_code_free(r->code);
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
}

static int regex_compile(regex *out, const char *pattern, const char *shown, pl_error *err) {
    int code;
    PCRE2_SIZE at;
    regex r = {.text = shown};
    r.code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                           PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &code, &at, NULL);
    if (!r.code) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return PL_FAIL(err, PL_E_OPTION, "target_modules: regex %.200s: %s", shown, why);
    }
    r.data = pcre2_match_data_create(1, NULL);
    r.context = pcre2_match_context_create(NULL);
    if (!r.data || !r.context) {
        regex_release(&r);
        return PL_FAIL(err, PL_E_NOMEM, "out of memory in a regex");
    }
    pcre2_set_match_limit(r.context, MATCH_LIMIT);
    pcre2_set_depth_limit(r.context, 10000);
    *out = r;
    return 0;
}

static int regex_match(const regex *r, const char *s, bool *hit, pl_error *err) {
    int rc = pcre2_match(r->code, (PCRE2_SPTR)s, strlen(s), 0, 0, r->data, r->context);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
        return PL_FAIL(err, PL_E_OPTION, "target_modules: regex %.200s takes too many steps on %s", r->text, s);
    *hit = rc >= 0;
    return 0;
}

/* The whole path, or the end of it behind a dot. */
static bool is_name(const char *path, const char *name) {
    size_t n = strlen(path), k = strlen(name);
    if (n < k || strcmp(path + n - k, name) != 0) return false;
    return n == k || path[n - k - 1] == '.';
}

static const char *last_part(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* ---- lists of names
 * -------------------------------------------------------------------------------------------------------- */

typedef struct matcher {
    const pl_peft_names *names;
    regex regex; /* when names->regex */
} matcher;

static int matcher_init(matcher *m, const pl_peft_names *names, pl_error *err) {
    *m = (matcher){.names = names};
    return names->regex ? regex_compile(&m->regex, names->names[0], names->names[0], err) : 0;
}

static int matches(const matcher *m, const char *path, bool *hit, pl_error *err) {
    *hit = false;
    if (m->names->regex) return regex_match(&m->regex, path, hit, err);
    for (int64_t i = 0; i < m->names->n && !*hit; i++) *hit = is_name(path, m->names->names[i]);
    return 0;
}

/* ---- layers_to_transform
 * --------------------------------------------------------------------------------------------------- */

/* The first part of the path that is a number, has two parts before it and one behind it: "model.layers.3.mlp" -> 3;
 * else -1. */
static int64_t layer_index(const char *path) {
    int part = 0;
    for (const char *s = path; s; part++) {
        const char *dot = strchr(s, '.');
        if (!dot) return -1;
        size_t digits = strspn(s, "0123456789");
        if (part >= 2 && digits && s + digits == dot) return digits < 10 ? strtoll(s, NULL, 10) : -1;
        s = dot + 1;
    }
    return -1;
}

static bool layer_wanted(const pl_peft_config *c, const char *path) {
    if (!c->layers) return true;
    int64_t layer = layer_index(path);
    for (int64_t i = 0; i < c->nlayers; i++)
        if (c->layers[i] == layer && layer >= 0) return true;
    return false;
}

/* ---- rank_pattern, alpha_pattern
 * ------------------------------------------------------------------------------------------- */

static int patterns_compile(regex **out, const pl_peft_pattern *p, int64_t n, pl_error *err) {
    char *text = NULL;
    regex *list = NULL;
    int64_t done = 0;
    int rc = 0;
    if (n == 0) return 0;
    PL_GO(rc, PL_NEW(&list, n, err));
    for (; done < n; done++) {
        PL_GO(rc, pl_asprintf(&text, err, "(.*\\.)?(%s)", p[done].key));
        PL_GO(rc, regex_compile(&list[done], text, p[done].key, err));
        pl_free(text);
        text = NULL;
    }
    *out = list;
    list = NULL;
out:
    pl_free(text);
    if (list)
        for (int64_t i = 0; i < done; i++) regex_release(&list[i]);
    pl_free(list);
    return rc;
}

static void patterns_release(regex *list, int64_t n) {
    for (int64_t i = 0; list && i < n; i++) regex_release(&list[i]);
    pl_free(list);
}

/* The value of the first pattern that matches, else *value stays. */
static int patterns_value(double *value, const regex *list, const pl_peft_pattern *p, int64_t n, const char *path,
                          pl_error *err) {
    for (int64_t i = 0; i < n; i++) {
        bool hit;
        int rc = regex_match(&list[i], path, &hit, err);
        if (rc) return rc;
        if (!hit) continue;
        *value = p[i].value;
        return 0;
    }
    return 0;
}

/* ---- matching
 * -------------------------------------------------------------------------------------------------------------- */

typedef struct match {
    const pl_peft_config *c;
    const pl_module *modules;
    int64_t n;
    matcher target, exclude;
    regex *ranks, *alphas;
} match;

static char *const default_names[] = {"q_proj", "v_proj"};
static const pl_peft_names default_target = {.n = 2, .names = (char **)(uintptr_t)default_names};

static int match_init(match *m, const pl_peft_config *c, const pl_module *modules, int64_t n, pl_error *err) {
    int rc;
    *m = (match){.c = c, .modules = modules, .n = n};
    PL_GO(rc, matcher_init(&m->target, c->target.n ? &c->target : &default_target, err));
    PL_GO(rc, matcher_init(&m->exclude, &c->exclude, err));
    PL_GO(rc, patterns_compile(&m->ranks, c->ranks, c->nranks, err));
    rc = patterns_compile(&m->alphas, c->alphas, c->nalphas, err);
out:
    return rc;
}

static void match_release(match *m) {
    regex_release(&m->target.regex);
    regex_release(&m->exclude.regex);
    patterns_release(m->ranks, m->c->nranks);
    patterns_release(m->alphas, m->c->nalphas);
}

static int wanted(const match *m, const pl_module *module, bool *on, pl_error *err) {
    bool excluded;
    int rc = matches(&m->exclude, module->path, &excluded, err);
    *on = false;
    if (rc || excluded) return rc;
    if (m->c->all_linear) {
        *on = module->kind == PL_MODULE_LINEAR;
        return 0;
    }
    rc = matches(&m->target, module->path, on, err);
    if (*on && !layer_wanted(m->c, module->path)) *on = false;
    return rc;
}

static int check_kind(const pl_module *module, pl_error *err) {
    switch (module->kind) {
    case PL_MODULE_LINEAR: return 0;
    case PL_MODULE_HEAD:
        return PL_FAIL(err, PL_E_UNSUPPORTED, "target_modules: %s: LoRA on the output head is not supported",
                       module->path);
    case PL_MODULE_EMBED:
        return PL_FAIL(err, PL_E_UNSUPPORTED, "target_modules: %s: LoRA on embeddings is not supported", module->path);
    case PL_MODULE_OTHER: break;
    }
    return PL_FAIL(err, PL_E_OPTION, "target_modules: %s is no linear layer", module->path);
}

static int fill_site(const match *m, pl_peft_site *site, const char *path, pl_error *err) {
    const pl_peft_config *c = m->c;
    double r = (double)c->r, alpha = c->alpha;
    int rc = patterns_value(&r, m->ranks, c->ranks, c->nranks, path, err);
    if (rc == 0) rc = patterns_value(&alpha, m->alphas, c->alphas, c->nalphas, path, err);
    if (rc) return rc;
    *site = (pl_peft_site){.on = true, .r = (int64_t)r, .alpha = alpha, .scale = alpha / (c->rslora ? sqrt(r) : r)};
    return 0;
}

/* "q_proj, k_proj, ...": the last parts of the linear modules, in order, each once. */
static int known_names(pl_buf *b, const pl_module *modules, int64_t n, pl_error *err) {
    int rc = 0;
    for (int64_t i = 0; i < n && rc == 0; i++) {
        if (modules[i].kind != PL_MODULE_LINEAR) continue;
        const char *name = last_part(modules[i].path);
        bool seen = false;
        for (int64_t k = 0; k < i && !seen; k++)
            seen = modules[k].kind == PL_MODULE_LINEAR && strcmp(last_part(modules[k].path), name) == 0;
        if (!seen) rc = pl_buf_printf(b, err, "%s%s", b->len ? ", " : "", name);
        if (b->len > 300) break;
    }
    return rc;
}

static int no_match(const match *m, const char *name, pl_error *err) {
    pl_buf known = {0};
    int rc = known_names(&known, m->modules, m->n, err);
    if (rc == 0)
        rc = name ? PL_FAIL(err, PL_E_OPTION, "target_modules: %.100s matches no module; the linear layers are %s",
                            name, known.data)
                  : PL_FAIL(err, PL_E_OPTION, "target_modules matches no module; the linear layers are %s", known.data);
    pl_buf_release(&known);
    return rc;
}

/* A listed name that names nothing is a typing error, which PEFT would pass over. */
static int check_names(const match *m, pl_error *err) {
    const pl_peft_names *t = &m->c->target;
    if (t->regex || m->c->all_linear) return 0;
    for (int64_t k = 0; k < t->n; k++) {
        bool hit = false;
        for (int64_t i = 0; i < m->n && !hit; i++) hit = is_name(m->modules[i].path, t->names[k]);
        if (!hit) return no_match(m, t->names[k], err);
    }
    return 0;
}

int pl_peft_match(pl_peft_site *sites, const pl_peft_config *c, const pl_module *modules, int64_t n, pl_error *err) {
    match m;
    int64_t hits = 0;
    int rc;
    PL_GO(rc, match_init(&m, c, modules, n, err));
    PL_GO(rc, check_names(&m, err));
    for (int64_t i = 0; i < n; i++) {
        bool on;
        sites[i] = (pl_peft_site){0};
        PL_GO(rc, wanted(&m, &modules[i], &on, err));
        if (!on) continue;
        PL_GO(rc, check_kind(&modules[i], err));
        PL_GO(rc, fill_site(&m, &sites[i], modules[i].path, err));
        hits++;
    }
    if (hits == 0) rc = no_match(&m, NULL, err);
out:
    match_release(&m);
    return rc;
}

static int by_string(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int pl_peft_config_name_targets(pl_peft_config *c, const pl_module *modules, int64_t n, pl_error *err) {
    pl_peft_names names = {0};
    int rc = 0;
    if (c->source || c->target.n) return 0;
    PL_GO(rc, PL_NEW(&names.names, PL_MAX(n, 2), err));
    for (int64_t i = 0; i < (c->all_linear ? n : 2); i++) {
        const char *name = c->all_linear ? last_part(modules[i].path) : default_names[i];
        bool seen = c->all_linear && modules[i].kind != PL_MODULE_LINEAR;
        for (int64_t k = 0; k < names.n && !seen; k++) seen = strcmp(names.names[k], name) == 0;
        if (seen) continue;
        PL_GO(rc, pl_strdup(&names.names[names.n], name, err));
        names.n++;
    }
    if (names.n == 0) PL_GO(rc, PL_FAIL(err, PL_E_OPTION, "target_modules: the model has no linear layer"));
    qsort(names.names, (size_t)names.n, sizeof *names.names, by_string);
    c->target = names;
    c->all_linear = false;
    names = (pl_peft_names){0};
out:
    for (int64_t i = 0; i < names.n; i++) pl_free(names.names[i]);
    pl_free(names.names);
    return rc;
}

void pl_peft_tensor_name(char out[112], const char *module, char which) {
    snprintf(out, 112, PL_PEFT_PREFIX "%.64s.lora_%c.weight", module, which);
}
