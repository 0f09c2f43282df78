/* Random numbers and hashes: published test vectors, PyTorch's permutations, independence of cutting. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "unit/alloc_hook.h"

static void wants_block(pl_rng_block b, uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3) {
    assert_true(b.v[0] == v0 && b.v[1] == v1 && b.v[2] == v2 && b.v[3] == v3);
}

/* philox4x32 10 of Random123's kat_vectors: counter words 0..3, key words 0..1 */
static void philox_known(void **state) {
    PL_UNUSED(state);
    wants_block(pl_philox(0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
    wants_block(pl_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
    wants_block(pl_philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88), 0xd16cfe09, 0x94fdcceb,
                0x5001e420, 0x24126ea1);
}

static void fills_are_positional(void **state) {
    PL_UNUSED(state);
    enum { N = 1003 };
    float whole[N], cut[N], other[N];
    for (int kind = 0; kind < 2; kind++) {
        for (int part = 1; part < 30; part += 7) {
            if (kind)
                pl_rng_normal(whole, N, 0.5f, 99, 5);
            else
                pl_rng_uniform(whole, N, -1, 3, 99, 5);
            for (int i = 0; i < N; i += part) {
                int n = PL_MIN(part, N - i);
                if (kind)
                    pl_rng_normal(cut + i, n, 0.5f, 99, 5 + (uint64_t)i);
                else
                    pl_rng_uniform(cut + i, n, -1, 3, 99, 5 + (uint64_t)i);
            }
            assert_memory_equal(whole, cut, sizeof whole);
        }
        if (kind)
            pl_rng_normal(other, N, 0.5f, 100, 5);
        else
            pl_rng_uniform(other, N, -1, 3, 100, 5);
        int same = 0;
        for (int i = 0; i < N; i++) same += whole[i] == other[i];
        assert_true(same < 5);
    }
}

/* Moments of n draws; each bound is six standard errors of its estimate. */
static void moments(void **state) {
    PL_UNUSED(state);
    enum { N = 200000 };
    float *x = NULL;
    assert_int_equal(PL_NEW(&x, N, NULL), 0);
    pl_rng_normal(x, N, 2, pl_rng_mix(1, 2), 0);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double z = (double)x[i] / 2;
        m1 += z / N;
        m2 += z * z / N;
        m3 += z * z * z / N;
        m4 += z * z * z * z / N;
    }
    double s = 6 / sqrt(N);
    assert_true(fabs(m1) <= s);
    assert_true(fabs(m2 - 1) <= s * sqrt(2));
    assert_true(fabs(m3) <= s * sqrt(15));
    assert_true(fabs(m4 - 3) <= s * sqrt(96));
    pl_rng_uniform(x, N, -1, 3, 4, 0);
    m1 = m2 = 0;
    for (int i = 0; i < N; i++) {
        assert_true(x[i] >= -1 && x[i] < 3);
        m1 += (double)x[i] / N;
        m2 += ((double)x[i] - 1) * ((double)x[i] - 1) / N;
    }
    assert_true(fabs(m1 - 1) <= s * sqrt(16.0 / 12));
    assert_true(fabs(m2 - 16.0 / 12) <= s * 1.2);
    pl_free(x);
    m1 = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double u = pl_rng_unit64(3, i);
        assert_true(u >= 0 && u < 1 && u == pl_rng_unit64(3, i));
        m1 += u / 10000;
    }
    assert_true(fabs(m1 - 0.5) <= 6 * sqrt(1.0 / 12 / 10000));
    assert_true(pl_rng_unit(0) == 0 && pl_rng_unit(UINT32_MAX) < 1);
}

static void mix(void **state) {
    PL_UNUSED(state);
    assert_true(pl_rng_mix(1, 2) != pl_rng_mix(2, 1));
    assert_true(pl_rng_mix(0, 0) != 0);
    int changed = 0;
    for (int bit = 0; bit < 64; bit++)
        changed += __builtin_popcountll(pl_rng_mix(5, 0) ^ pl_rng_mix(5, (uint64_t)1 << bit));
    assert_true(changed > 64 * 28 && changed < 64 * 36);
}

static void permutations_of_torch(void **state) {
    PL_UNUSED(state);
    pl_lines *l = NULL;
    pl_error e;
    const char *line;
    size_t len;
    int64_t p[2000];
    assert_int_equal(pl_lines_open(&l, PLUMB_TEST_DIR "/golden/base/randperm.txt", 100000, &e), 0);
    while (pl_lines_next(l, &line, &len, &e) == 0 && line) {
        char *s = NULL;
        int64_t n = strtoll(line, &s, 10);
        uint64_t seed = strtoull(s, &s, 10);
        assert_int_equal(pl_torch_randperm(p, n, seed, &e), 0);
        for (int64_t i = 0; i < n; i++)
            if (p[i] != strtoll(s, &s, 10))
                fail_msg("n %d, seed %llu: differs at %d", (int)n, (unsigned long long)seed, (int)i);
    }
    assert_int_equal(pl_lines_number(l), 9);
    pl_lines_free(l);
    assert_int_equal(pl_torch_randperm(p, -1, 1, &e), PL_E_RANGE);
    assert_int_equal(pl_torch_randperm(p, UINT32_MAX / 20, 1, &e), PL_E_RANGE);
}

static void hashes(void **state) {
    PL_UNUSED(state);
    pl_error e;
    /* XXH3_128bits of nothing, as in xxHash's own sanity tests */
    assert_string_equal(pl_hash_bytes(NULL, 0).hex, "99aa06d3014798d86001c324468d497f");
    char *data = NULL, path[64];
    assert_int_equal(PL_NEW(&data, 600000, &e), 0);
    for (int i = 0; i < 600000; i++) data[i] = (char)(i * 31 % 251);
    pl_hash whole = pl_hash_bytes(data, 600000), file;
    pl_hasher *h = NULL;
    assert_int_equal(pl_hasher_new(&h, &e), 0);
    for (size_t i = 0; i < 600000; i += 1000) pl_hasher_add(h, data + i, 1000);
    assert_string_equal(pl_hasher_digest(h).hex, whole.hex);
    assert_string_equal(pl_hasher_digest(h).hex, whole.hex); /* asking changes nothing */
    pl_hasher_free(h);
    snprintf(path, sizeof path, "/tmp/plumb-hash-%ld", (long)getpid());
    assert_int_equal(pl_file_write(path, data, 600000, &e), 0);
    assert_int_equal(pl_hash_file(&file, path, &e), 0);
    assert_string_equal(file.hex, whole.hex);
    unlink(path);
    assert_int_equal(pl_hash_file(&file, path, &e), PL_E_IO);
    data[599999]++;
    assert_string_not_equal(pl_hash_bytes(data, 600000).hex, whole.hex);
    pl_free(data);
    assert_int_equal(pl_test_live_bytes(), 0);
}

static pl_hash two_texts(const char *a, const char *b) {
    pl_hasher *h = NULL;
    assert_int_equal(pl_hasher_new(&h, NULL), 0);
    pl_hasher_add_text(h, a);
    pl_hasher_add_text(h, b);
    pl_hasher_add_int(h, -1);
    pl_hash d = pl_hasher_digest(h);
    pl_hasher_free(h);
    return d;
}

static void hashes_of_texts(void **state) {
    PL_UNUSED(state);
    assert_string_not_equal(two_texts("a", "bc").hex, two_texts("ab", "c").hex);
    assert_string_equal(two_texts("a", "bc").hex, two_texts("a", "bc").hex);
    pl_hasher_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known),
        cmocka_unit_test(fills_are_positional),
        cmocka_unit_test(moments),
        cmocka_unit_test(mix),
        cmocka_unit_test(permutations_of_torch),
        cmocka_unit_test(hashes),
        cmocka_unit_test(hashes_of_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
