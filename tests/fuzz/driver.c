/* driver.c: runs a fuzz target without libFuzzer: every file of a corpus directory, then mutations of them.
 *   fuzz_x CORPUS_DIR [MUTATIONS]
 * The mutations are the same in every run. When one of them fails, the number of the input is printed;
 * PLUMB_FUZZ_ONLY=N runs that one alone and writes it to ./fuzz-input. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "fuzz.h"

#define MUTATIONS 4000
#define MAX_INPUT ((size_t)1 << 16)

typedef struct input {
    char *data;
    size_t len;
} input;

static volatile sig_atomic_t current; /* number of the input that runs, for the reports below */

static void report(void) {
    char text[64];
    int n = snprintf(text, sizeof text, "\nfuzz driver: failed in input %d\n", (int)current);
    if (write(2, text, (size_t)n) != n) _exit(1);
}

static void on_signal(int number) {
    report();
    signal(number, SIG_DFL);
    raise(number);
}

/* Present when a sanitizer is linked in. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static size_t below(uint64_t *state, size_t n) {
    *state = pl_rng_mix(*state, 1);
    return n ? (size_t)(*state % n) : 0;
}

static void insert(input *x, size_t at, const char *bytes, size_t n) {
    n = PL_MIN(n, MAX_INPUT - x->len);
    memmove(x->data + at + n, x->data + at, x->len - at);
    memmove(x->data + at, bytes, n);
    x->len += n;
}

/* One small change to x, which has room for MAX_INPUT bytes. */
static void mutate(input *x, const input *seeds, int64_t n, uint64_t *r) {
    static const char tokens[] = "{}[]\",:\\\n\r\t -+.0123456789eE\0\xFF\x80\xC3~#&*|>!%@";
    size_t at = below(r, x->len + 1), span = 1 + below(r, 1 + below(r, 32));
    const input *other = &seeds[below(r, (size_t)n)];
    size_t from = below(r, other->len + 1);
    char c = tokens[below(r, sizeof tokens - 1)];
    size_t some = 1 + below(r, 64); /* drawn once: PL_MIN evaluates its arguments twice */
    span = PL_MIN(span, x->len - at);
    switch (below(r, 8)) {
    case 0:
        if (at < x->len) x->data[at] = (char)(x->data[at] ^ (1 << below(r, 8)));
        break;
    case 1:
        if (at < x->len) x->data[at] = c;
        break;
    case 2:
        if (at < x->len) x->data[at] = (char)below(r, 256);
        break;
    case 3: insert(x, at, &c, 1); break;
    case 4:
        memmove(x->data + at, x->data + at + span, x->len - at - span);
        x->len -= span;
        break;
    case 5: insert(x, at, other->data + from, PL_MIN(other->len - from, some)); break;
    case 6:
        for (size_t k = 0; k < 8 && span == 0; k++) insert(x, at, &c, 1); /* runs of one byte, at the end */
        for (size_t k = 0; k < span; k++) x->data[at + k] = c;
        break;
    default:
        if (below(r, 4) == 0) x->len = at;
    }
}

static int load_corpus(input **out, int64_t *n, const char *dir, pl_error *err) {
    char **names = NULL, *path = NULL;
    int64_t count = 0, k = 0;
    input *seeds = NULL;
    int rc;
    PL_GO(rc, pl_dir_list(&names, &count, dir, err));
    PL_GO(rc, PL_NEW(&seeds, count + 1, err)); /* the last one is the empty input */
    for (; k < count; k++) {
        PL_GO(rc, pl_path_join(&path, dir, names[k], err));
        PL_GO(rc, pl_file_read(&seeds[k].data, &seeds[k].len, path, MAX_INPUT * 16, err));
        pl_free(path);
        path = NULL;
    }
    PL_GO(rc, pl_strdup(&seeds[k].data, "", err));
    *out = seeds;
    *n = count + 1;
out:
    pl_free(path);
    pl_names_free(names, count);
    return rc;
}

/* Each input lies in a block of exactly its size, so that ASan sees a read beyond it. */
static int run_one(const input *x, pl_error *err) {
    input exact = {.len = x->len};
    const char *only = getenv("PLUMB_FUZZ_ONLY");
    if (only && atoi(only) != (int)current) return 0;
    if (only && pl_file_write("fuzz-input", x->data, x->len, err)) return err->code;
    exact.data = malloc(x->len ? x->len : 1); /* not pl_alloc, which rounds sizes up */
    if (!exact.data) return PL_FAIL(err, PL_E_NOMEM, "no memory for an input");
    memcpy(exact.data, x->data, x->len);
    LLVMFuzzerTestOneInput((const uint8_t *)exact.data, exact.len);
    free(exact.data);
    return 0;
}

static int run_all(const char *dir, int mutations, pl_error *err) {
    input *seeds = NULL, x = {0};
    int64_t n = 0;
    int rc;
    PL_GO(rc, load_corpus(&seeds, &n, dir, err));
    PL_GO(rc, pl_alloc((void **)&x.data, MAX_INPUT, err));
    for (int64_t i = 0; i < n; i++) {
        current = (sig_atomic_t)i;
        PL_GO(rc, run_one(&seeds[i], err));
    }
    for (int i = 0; i < mutations; i++) {
        uint64_t r = pl_rng_mix(20261121, (uint64_t)i);
        const input *from = &seeds[below(&r, (size_t)n)];
        x.len = PL_MIN(from->len, MAX_INPUT);
        memcpy(x.data, from->data, x.len);
        for (size_t k = 1 + below(&r, 6); k > 0; k--) mutate(&x, seeds, n, &r);
        current = (sig_atomic_t)(n + i);
        PL_GO(rc, run_one(&x, err));
    }
    printf("%d inputs of the corpus and %d mutations\n", (int)n - 1, mutations);
    if (n < 2) rc = PL_FAIL(err, PL_E_IO, "%s: an empty corpus", dir);
out:
    for (int64_t i = 0; i < n; i++) pl_free(seeds[i].data);
    pl_free(seeds);
    pl_free(x.data);
    return rc;
}

int main(int argc, char **argv) {
    pl_error err;
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_DIR [MUTATIONS]\n", argv[0]);
        return 2;
    }
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(report);
    signal(SIGABRT, on_signal);
    signal(SIGFPE, on_signal);
    if (!__sanitizer_set_death_callback) signal(SIGSEGV, on_signal);
    if (run_all(argv[1], argc > 2 ? atoi(argv[2]) : MUTATIONS, &err) == 0) return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}
