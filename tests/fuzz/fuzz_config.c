/* fuzz_config.c: any bytes as config.json. What is taken must give a list of parameters and finite RoPE frequencies. */
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "fuzz.h"
#include "model/arch.h"

static void check_arch(const pl_arch *a) {
    static float inv[2048];
    int64_t elements, n;
    pl_param_spec *p = NULL;
    FUZZ_CHECK(a->V >= 1 && a->C >= 1 && a->F >= 1 && a->L >= 1 && a->H >= 1 && a->KV >= 1 && a->H % a->KV == 0);
    FUZZ_CHECK(a->D >= 2 && a->D % 2 == 0 && a->D <= 4096 && a->neos >= 0 && a->neos <= PL_MAX_EOS);
    if (a->L > 16) return; /* long lists only take time */
    FUZZ_CHECK(pl_arch_params(&p, &n, a, NULL) == 0 && n == pl_arch_param_count(a));
    FUZZ_CHECK(pl_arch_elements(&elements, a, NULL) == 0 && elements > 0);
    pl_free(p);
    for (int64_t length = 0; length <= 1 << 20; length = length * 32 + 1) {
        pl_rope_frequencies(inv, a, length);
        for (int64_t i = 0; i < a->D / 2; i++) FUZZ_CHECK(!isnan(inv[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err = {0};
    pl_json *config = NULL;
    pl_arch a;
    if (pl_json_parse(&config, (const char *)data, size, "input", NULL)) return 0;
    /* the same text as generation_config.json too: both read the eos ids */
    int rc = pl_arch_parse(&a, config, config, "input", &err);
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0]);
        FUZZ_CHECK(pl_utf8_valid(err.text, strlen(err.text)) == strlen(err.text));
    } else {
        check_arch(&a);
    }
    pl_json_free(config);
    return 0;
}
