/* unichar.c: character classes, normal forms and lower case on top of utf8proc. */
#include "text/unichar.h"

#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"

static bool in(uint32_t c, uint32_t lo, uint32_t hi) { return c >= lo && c <= hi; }

bool pl_char_is_space(uint32_t c) {
    if (c < 0x80) return c == ' ' || in(c, 9, 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || in(c, 0x2000, 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c) { return utf8proc_category((utf8proc_int32_t)c); }

/* Letters that Unicode files under symbols: Other_Alphabetic outside the marks. */
static bool is_enclosed_letter(uint32_t c) {
    return in(c, 0x24B6, 0x24E9) || in(c, 0x1F130, 0x1F149) || in(c, 0x1F150, 0x1F169) || in(c, 0x1F170, 0x1F189);
}

bool pl_char_is_word(uint32_t c) {
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200C || c == 0x200D || is_enclosed_letter(c);
    }
}

bool pl_char_is_numeric(uint32_t c) {
    if (c < 0x80) return in(c, '0', '9');
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool pl_char_is_punct(uint32_t c) {
    if (c < 0x80) return in(c, '!', '/') || in(c, ':', '@') || in(c, '[', '`') || in(c, '{', '~');
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool pl_char_is_mark(uint32_t c) {
    if (c < 0x300) return false;
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

uint32_t pl_char_at(const char *s, size_t n, size_t *len) {
    unsigned char b = (unsigned char)s[0];
    uint32_t c = b;
    *len = 1;
    if (b < 0x80) return c;
    *len = pl_utf8_decode(s, n, &c);
    if (*len == 0) *len = 1, c = 0xFFFD; /* cannot happen: the text was checked */
    return c;
}

uint32_t pl_char_before(const char *s, size_t n, size_t *len) {
    size_t k = 1;
    while (k < n && k < 4 && ((unsigned char)s[n - k] & 0xC0) == 0x80) k++;
    return pl_char_at(s + n - k, k, len);
}

/* Every byte below limit: nothing that the form could change. */
static bool all_below(const char *s, size_t n, unsigned char limit) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= limit) return false;
    return true;
}

static int class_of(int32_t c) { return utf8proc_get_property(c)->combining_class; }

/* Canonical order of one run of combining characters: stable by class. Counting, so that a long run is no trap. */
static void order_run(int32_t *run, int64_t n, int32_t *spare) {
    int64_t count[257] = {0};
    for (int64_t i = 0; i < n; i++) count[class_of(run[i]) + 1]++;
    for (int i = 0; i < 256; i++) count[i + 1] += count[i];
    memcpy(spare, run, (size_t)n * sizeof *run);
    for (int64_t i = 0; i < n; i++) run[count[class_of(spare[i])]++] = spare[i];
}

static void order_marks(int32_t *c, int64_t n, int32_t *spare) {
    for (int64_t i = 0; i < n;) {
        int64_t from = i;
        bool sorted = true;
        for (; i < n && class_of(c[i]) != 0; i++)
            if (i > from && class_of(c[i]) < class_of(c[i - 1])) sorted = false;
        if (!sorted) order_run(c + from, i - from, spare);
        i += i == from;
    }
}

/* Code points of s, decomposed, into c[room). */
static int64_t decompose(int32_t *c, int64_t room, const char *s, size_t n, int options) {
    int64_t k = 0;
    for (size_t i = 0, len; i < n; i += len) {
        int last = 0;
        utf8proc_int32_t point = (utf8proc_int32_t)pl_char_at(s + i, n - i, &len);
        utf8proc_ssize_t got =
            utf8proc_decompose_char(point, c ? c + k : NULL, c ? room - k : 0, (utf8proc_option_t)options, &last);
        if (got < 0) return -1;
        k += got;
    }
    return k;
}

static int add_points(pl_buf *out, const int32_t *c, int64_t n, pl_error *err) {
    for (int64_t i = 0; i < n; i++) {
        char bytes[4];
        size_t len = pl_utf8_encode(bytes, (uint32_t)c[i]);
        int rc = pl_buf_add(out, bytes, len, err);
        if (rc) return rc;
    }
    return 0;
}

int pl_text_normalize(pl_buf *out, const char *s, size_t n, pl_norm_form form, pl_error *err) {
    /* below U+0300 everything is in NFC; ASCII is in every form */
    if (all_below(s, n, form == PL_NFC ? 0xCC : 0x80)) return pl_buf_add(out, s, n, err);
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (form >= PL_NFKC ? UTF8PROC_COMPAT : 0), rc;
    int32_t *c = NULL, *spare = NULL;
    int64_t k = decompose(NULL, 0, s, n, options);
    if (k < 0) return PL_FAIL(err, PL_E_INTERNAL, "a text could not be decomposed");
    PL_GO(rc, PL_NEW(&c, k, err));
    PL_GO(rc, PL_NEW(&spare, k, err));
    k = decompose(c, k, s, n, options);
    order_marks(c, k, spare);
    if (form == PL_NFC || form == PL_NFKC)
        k = utf8proc_normalize_utf32(c, k, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (k < 0) {
        rc = PL_FAIL(err, PL_E_INTERNAL, "a text could not be composed");
        goto out;
    }
    rc = add_points(out, c, k, err);
out:
    pl_free(c);
    pl_free(spare);
    return rc;
}

int pl_text_lower(pl_buf *out, const char *s, size_t n, pl_error *err) {
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = pl_char_at(s + i, n - i, &len);
        char bytes[8];
        size_t k;
        if (c == 0x130) { /* the one character whose lower case is two */
            k = 3;
            memcpy(bytes, "i\xCC\x87", 3);
        } else {
            k = pl_utf8_encode(bytes, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        }
        int rc = pl_buf_add(out, bytes, k, err);
        if (rc) return rc;
    }
    return 0;
}
