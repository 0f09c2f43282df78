/* fuzz_adapter.c: any bytes as adapter_config.json. What is taken must print, parse again, and match modules or say why
 * not. */
#include <string.h>

#include "adapt/peft.h"
#include "base/utf8.h"
#include "fuzz.h"

static const pl_module modules[] = {
    {"model", PL_MODULE_OTHER},
    {"model.embed_tokens", PL_MODULE_EMBED},
    {"model.layers.0.self_attn.q_proj", PL_MODULE_LINEAR},
    {"model.layers.0.self_attn.v_proj", PL_MODULE_LINEAR},
    {"model.layers.1.mlp.up_proj", PL_MODULE_LINEAR},
    {"model.norm", PL_MODULE_OTHER},
    {"lm_head", PL_MODULE_HEAD},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err = {0};
    pl_peft_config c = {0}, again = {0};
    pl_peft_site sites[PL_LEN(modules)];
    char *text = NULL;
    int rc = pl_peft_config_parse(&c, (const char *)data, size, "input", &err);
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0]);
        FUZZ_CHECK(pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
        return 0;
    }
    FUZZ_CHECK(c.r >= 1 && c.dropout >= 0 && c.dropout < 1 && c.source);
    FUZZ_CHECK(pl_peft_config_text(&text, &c, NULL, NULL) == 0);
    FUZZ_CHECK(pl_peft_config_parse(&again, text, strlen(text), "again", &err) == 0);
    FUZZ_CHECK(again.r == c.r && again.target.n == c.target.n && again.all_linear == c.all_linear);
    if (pl_peft_match(sites, &c, modules, PL_LEN(modules), &err) == 0)
        for (int64_t i = 0; i < PL_LEN(modules); i++) FUZZ_CHECK(!sites[i].on || modules[i].kind == PL_MODULE_LINEAR);
    pl_free(text);
    pl_peft_config_release(&again);
    pl_peft_config_release(&c);
    return 0;
}
