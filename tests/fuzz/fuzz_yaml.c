/* fuzz_yaml.c: any bytes as a configuration file. What parses is a list of distinct keys with lines inside the file. */
#include <string.h>

#include "base/yaml.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err = {0};
    pl_yaml y = {0};
    int rc = pl_yaml_parse(&y, (const char *)data, size, "input", &err);
    if (rc) {
        FUZZ_CHECK(rc == err.code && err.text[0] && y.entries == NULL && y.n == 0);
        return 0;
    }
    for (int64_t i = 0; i < y.n; i++) {
        const pl_yaml_entry *e = &y.entries[i];
        FUZZ_CHECK(e->key && e->line >= 1 && (size_t)e->line <= size + 1);
        FUZZ_CHECK(e->kind != PL_Y_SCALAR || e->n == 1);
        for (int64_t k = 0; k < e->n; k++) {
            bool value;
            FUZZ_CHECK(e->items[k].text && (e->kind == PL_Y_MAP) == (e->items[k].key != NULL));
            FUZZ_CHECK(!pl_yaml_is_null(&e->items[k]) || !pl_yaml_is_bool(&e->items[k], &value));
        }
        for (int64_t k = 0; k < i; k++) FUZZ_CHECK(strcmp(e->key, y.entries[k].key) != 0);
    }
    pl_yaml_release(&y);
    return 0;
}
