/* libraries.c: what the libraries under plumb say of themselves at run time. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <json-c/json_c_version.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>
#ifdef PLUMB_DNNL
#include <dnnl.h>
#endif

#include "model/machine.h"

static void add(char *out, size_t size, const char *name, const char *version) {
    size_t at = strlen(out);
    snprintf(out + at, size - at, "%s%s %.*s", at ? ", " : "", name, (int)strcspn(version, " "), version);
}

static void add_numbers(char *out, size_t size, const char *name, int major, int minor, int patch) {
    char version[40];
    snprintf(version, sizeof version, "%d.%d.%d", major, minor, patch);
    add(out, size, name, version);
}

void pl_machine_libraries(char *out, size_t size) {
    out[0] = 0;
#ifdef PLUMB_DNNL
    const dnnl_version_t *v = dnnl_version();
    add_numbers(out, size, "oneDNN", v->major, v->minor, v->patch);
#endif
    char pcre2[64] = "?";
    int needed = pcre2_config(PCRE2_CONFIG_VERSION, NULL); /* code units, the end included */
    if (needed > 0 && (size_t)needed <= sizeof pcre2) pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    unsigned xxhash = XXH_versionNumber();
    add(out, size, "json-c", json_c_version());
    add(out, size, "PCRE2", pcre2);
    add(out, size, "utf8proc", utf8proc_version());
    add(out, size, "libyaml", yaml_get_version_string());
    add(out, size, "zlib", zlibVersion());
    add_numbers(out, size, "xxHash", (int)(xxhash / 10000), (int)(xxhash / 100 % 100), (int)(xxhash % 100));
}
