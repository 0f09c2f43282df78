/* hash.c: XXH3 128-bit hashes as hex texts. */
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY /* the state is a member of ours, not a third-party allocation */
#include <xxhash.h>

#define CHUNK ((size_t)1 << 18)

struct pl_hasher {
    XXH3_state_t state; /* wants 64-byte alignment, which pl_alloc gives */
};

static pl_hash to_hex(XXH128_hash_t h) {
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    pl_hash out;
    for (int i = 0; i < 16; i++) {
        out.hex[2 * i] = digits[c.digest[i] >> 4];
        out.hex[2 * i + 1] = digits[c.digest[i] & 15];
    }
    out.hex[32] = 0;
    return out;
}

int pl_hasher_new(pl_hasher **out, pl_error *err) {
    pl_hasher *h = NULL;
    int rc = PL_NEW(&h, 1, err);
    if (rc) return rc;
    XXH3_128bits_reset(&h->state);
    *out = h;
    return 0;
}

void pl_hasher_add(pl_hasher *h, const void *bytes, size_t n) {
    if (n) XXH3_128bits_update(&h->state, bytes, n);
}

void pl_hasher_add_int(pl_hasher *h, int64_t v) {
    unsigned char le[8]; /* little-endian whatever the machine, so that a cache may move */
    for (int i = 0; i < 8; i++) le[i] = (unsigned char)((uint64_t)v >> (8 * i) & 0xFF);
    pl_hasher_add(h, le, sizeof le);
}

void pl_hasher_add_text(pl_hasher *h, const char *s) {
    size_t n = strlen(s);
    pl_hasher_add_int(h, (int64_t)n);
    pl_hasher_add(h, s, n);
}

pl_hash pl_hasher_digest(const pl_hasher *h) { return to_hex(XXH3_128bits_digest(&h->state)); }

void pl_hasher_free(pl_hasher *h) { pl_free(h); }

pl_hash pl_hash_bytes(const void *bytes, size_t n) { return to_hex(XXH3_128bits(n ? bytes : "", n)); }

static int hash_descriptor(pl_hasher *h, int fd, char *chunk, const char *path, pl_error *err) {
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK);
        if (n == 0) return 0;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
        pl_hasher_add(h, chunk, (size_t)n);
    }
}

int pl_hash_file(pl_hash *out, const char *path, pl_error *err) {
    int rc, fd = -1;
    pl_hasher *h = NULL;
    char *chunk = NULL;
    PL_GO(rc, pl_hasher_new(&h, err));
    PL_GO(rc, pl_alloc((void **)&chunk, CHUNK, err));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) PL_GO(rc, PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno)));
    PL_GO(rc, hash_descriptor(h, fd, chunk, path, err));
    *out = pl_hasher_digest(h);
out:
    if (fd >= 0) close(fd);
    pl_free(chunk);
    pl_hasher_free(h);
    return rc;
}
