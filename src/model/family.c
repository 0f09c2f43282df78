/* family.c: the families that plumb knows, one row each. */
#include "model/family.h"

#include <string.h>

static const pl_family *const families[] = {&pl_family_llama, &pl_family_qwen2};
#define KNOWN "llama, qwen2"

static bool is_one_of(const pl_family *f, const char *arch) {
    return strcmp(arch, f->architecture) == 0 || strcmp(arch, f->classifier) == 0;
}

int pl_family_find(const pl_family **out, bool *classifier, const pl_json *config, const char *what, pl_error *err) {
    const char *type = NULL;
    int rc = pl_json_member_string(config, "model_type", false, &type, NULL, what, err);
    if (rc) return rc;
    const char *arch = pl_json_string(pl_json_at(pl_json_get(config, "architectures"), 0), NULL);
    for (int64_t i = 0; i < PL_LEN(families); i++) {
        const pl_family *f = families[i];
        if (type ? strcmp(type, f->model_type) != 0 : !arch || !is_one_of(f, arch)) continue;
        if (arch && !is_one_of(f, arch))
            return PL_FAIL(err, PL_E_UNSUPPORTED,
                           "%s: architectures says %.100s, want the causal language model %s, or the reward model %s",
                           what, arch, f->architecture, f->classifier);
        *classifier = arch && strcmp(arch, f->classifier) == 0;
        *out = f;
        return 0;
    }
    if (!type && !arch) return PL_FAIL(err, PL_E_FORMAT, "%s: no model_type and no architectures", what);
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: %s %.100s is not supported (known: " KNOWN ")", what,
                   type ? "model_type" : "architecture", type ? type : arch);
}

const char *pl_arch_classifier(const pl_arch *a) {
    for (int64_t i = 0; i < PL_LEN(families); i++)
        if (strcmp(families[i]->model_type, a->family) == 0) return families[i]->classifier;
    return NULL;
}
