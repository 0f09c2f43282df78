/* kernels/cpu.c: which instruction sets this machine and its operating system offer. */
#include <string.h>

#include "kernels/ops.h"

#if defined(PLUMB_X86)
#include <cpuid.h>

static bool has_f16c(void) { /* older compilers do not know this name in __builtin_cpu_supports */
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}

/* The built-in also asks whether the operating system saves the wide registers. */
pl_cpu_level pl_cpu_detect(void) {
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())) return PL_CPU_GENERIC;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
        return PL_CPU_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? PL_CPU_AVX512_BF16 : PL_CPU_AVX512;
}
#else
pl_cpu_level pl_cpu_detect(void) { return PL_CPU_GENERIC; }
#endif

static const char *const level_names[PL_CPU_LEVELS] = {"generic", "avx2", "avx512", "avx512bf16"};

const char *pl_cpu_level_name(pl_cpu_level level) {
    return level >= 0 && level < PL_CPU_LEVELS ? level_names[level] : "unknown";
}

int pl_cpu_level_parse(pl_cpu_level *out, const char *name, pl_error *err) {
    for (int i = 0; i < PL_CPU_LEVELS; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out = (pl_cpu_level)i;
            return 0;
        }
    }
    return PL_FAIL(err, PL_E_OPTION, "unknown CPU level \"%s\": one of generic, avx2, avx512, avx512bf16", name);
}
