/* alloc_hook.h: the counting, failing allocator of the test build (src/base/alloc.c with PL_ALLOC_HOOK). */
#ifndef PL_ALLOC_HOOK_H
#define PL_ALLOC_HOOK_H
#include <stdint.h>
void pl_test_fail_alloc_at(
    int64_t k); /* the k-th allocation from now (0 = next) fails; -1: none; resets the call count */
int64_t pl_test_live_bytes(void);
int64_t pl_test_alloc_calls(void);
#endif
