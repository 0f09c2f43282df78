/* targets.c: the modules of an architecture, for LoRA configurations. */
#include "model/targets.h"

#include <stdio.h>
#include <string.h>

static void add(pl_module *list, int64_t *n, pl_module_kind kind, const char *path) {
    pl_module *m = &list[(*n)++];
    m->kind = kind;
    snprintf(m->path, sizeof m->path, "%s", path);
}

/* One block: itself, self_attn with its projections, mlp with its own, the norms. */
static void add_layer(pl_module *list, int64_t *n, int64_t layer) {
    static const char *const behind[] = {"mlp.act_fn", "input_layernorm", "post_attention_layernorm"};
    char path[64];
    snprintf(path, sizeof path, "model.layers.%" PRId64, layer);
    add(list, n, PL_MODULE_OTHER, path);
    for (int lin = 0; lin < PL_LIN_COUNT; lin++) {
        const char *parent = lin == PL_LIN_Q ? "self_attn" : lin == PL_LIN_GATE ? "mlp" : NULL;
        if (parent) {
            snprintf(path, sizeof path, "model.layers.%" PRId64 ".%s", layer, parent);
            add(list, n, PL_MODULE_OTHER, path);
        }
        snprintf(path, sizeof path, "model.layers.%" PRId64 ".%s", layer, pl_lin_path((pl_lin)lin));
        add(list, n, PL_MODULE_LINEAR, path);
    }
    for (int64_t i = 0; i < PL_LEN(behind); i++) {
        snprintf(path, sizeof path, "model.layers.%" PRId64 ".%s", layer, behind[i]);
        add(list, n, PL_MODULE_OTHER, path);
    }
}

int pl_arch_modules(pl_module **out, int64_t *n, const pl_arch *a, pl_error *err) {
    pl_module *list = NULL;
    int64_t count = 0;
    int rc = PL_NEW(&list, 6 + a->L * (PL_LIN_COUNT + 6), err);
    if (rc) return rc;
    add(list, &count, PL_MODULE_OTHER, "model");
    add(list, &count, PL_MODULE_EMBED, "model.embed_tokens");
    add(list, &count, PL_MODULE_OTHER, "model.layers");
    for (int64_t i = 0; i < a->L; i++) add_layer(list, &count, i);
    add(list, &count, PL_MODULE_OTHER, "model.norm");
    add(list, &count, PL_MODULE_OTHER, "model.rotary_emb");
    add(list, &count, PL_MODULE_HEAD, a->head == PL_ARCH_LM ? "lm_head" : "score");
    *out = list;
    *n = count;
    return 0;
}

int pl_arch_match(pl_peft_site **out, const pl_arch *a, const pl_peft_config *c, pl_error *err) {
    int rc;
    pl_module *modules = NULL;
    pl_peft_site *all = NULL, *sites = NULL;
    int64_t n, linear = 0;
    PL_GO(rc, pl_arch_modules(&modules, &n, a, err));
    PL_GO(rc, PL_NEW(&all, n, err));
    PL_GO(rc, PL_NEW(&sites, a->L * PL_LIN_COUNT, err));
    PL_GO(rc, pl_peft_match(all, c, modules, n, err));
    for (int64_t i = 0; i < n; i++) /* modules come layer by layer, in the order of pl_lin */
        if (modules[i].kind == PL_MODULE_LINEAR) sites[linear++] = all[i];
    *out = sites;
    sites = NULL;
out:
    pl_free(modules);
    pl_free(all);
    pl_free(sites);
    return rc;
}

int pl_arch_name_targets(pl_peft_config *c, const pl_arch *a, pl_error *err) {
    pl_module *modules = NULL;
    int64_t n;
    int rc = pl_arch_modules(&modules, &n, a, err);
    if (rc == 0) rc = pl_peft_config_name_targets(c, modules, n, err);
    pl_free(modules);
    return rc;
}
