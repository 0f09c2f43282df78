/* data/resolve.c: from `dataset_name` and a split to one file (DECISIONS 23). Looks at names only. */
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "data/dataset.h"

static const char *const split_names[] = {"train", "test", "validation"};

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool is_data_file(const char *name) {
    static const char *const ends[] = {".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson", ".ndjson.gz"};
    for (int64_t i = 0; i < PL_LEN(ends); i++)
        if (ends_with(name, ends[i])) return true;
    return false;
}

/* "train.jsonl", "train-00000-of-00001.jsonl", "train_prefs.jsonl": the split's name, then something that is no letter.
 */
static bool names_split(const char *name, const char *split) {
    size_t n = strlen(split);
    if (strncmp(name, split, n) != 0) return false;
    char c = name[n];
    return !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'));
}

typedef struct matches {
    int64_t n;         /* files of the split */
    const char *first; /* of them */
    int64_t files;     /* all data files, */
    const char *file;  /* the first of them, */
    int64_t named;     /* and how many of them name some split */
    const char *other; /* a file named for the split in a format that is not read */
} matches;

static matches match_names(char **names, int64_t n, const char *split) {
    matches m = {0};
    for (int64_t i = 0; i < n; i++) {
        bool mine = names_split(names[i], split);
        if (!is_data_file(names[i])) {
            if (mine) m.other = names[i];
            continue;
        }
        if (m.files++ == 0) m.file = names[i];
        bool named = mine;
        for (int64_t s = 0; s < PL_LEN(split_names); s++) named |= names_split(names[i], split_names[s]);
        m.named += named;
        if (mine && m.n++ == 0) m.first = names[i];
    }
    return m;
}

static int resolve_directory(char **out, const char *dir, const char *split, pl_error *err) {
    char **names = NULL;
    int64_t n = 0;
    int rc = pl_dir_list(&names, &n, dir, err);
    if (rc != 0) return rc;
    matches m = match_names(names, n, split);
    const char *chosen = m.n == 1 ? m.first : NULL;
    /* A directory with one file that names no split is all training data, as `datasets` has it. */
    if (m.n == 0 && m.named == 0 && m.files == 1 && strcmp(split, "train") == 0) chosen = m.file;
    if (chosen)
        rc = pl_path_join(out, dir, chosen, err);
    else if (m.n > 1)
        rc = PL_FAIL(err, PL_E_UNSUPPORTED,
                     "%s: %" PRId64 " files for the split \"%s\" (%s, ...): name one of them, or join them", dir, m.n,
                     split, m.first);
    else if (m.other)
        rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: %s is no JSON lines file (.jsonl or .json, plain or .gz)", dir,
                     m.other);
    else
        rc = PL_FAIL(err, PL_E_IO, "%s: no file for the split \"%s\" (%s*.jsonl, plain or .gz)", dir, split, split);
    pl_names_free(names, n);
    return rc;
}

int pl_dataset_resolve(char **out, const char *name, const char *split, pl_error *err) {
    if (pl_dir_exists(name)) return resolve_directory(out, name, split, err);
    if (pl_file_exists(name)) return pl_strdup(out, name, err);
    return PL_FAIL(err, PL_E_IO,
                   "%s: neither a file nor a directory here. plumb never downloads: get the dataset as JSON lines "
                   "(.jsonl, plain or "
                   ".gz) and give its path",
                   name);
}
