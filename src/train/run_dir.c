/* run_dir.c: the run directory: made, refused when it holds something else, locked while in use. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/options.h"
#include "train/run.h"

#define LOCK_NAME ".lock"

static int lock_dir(pl_run *r, pl_error *err) {
    char *path = NULL;
    int rc = pl_path_join(&path, r->c->output_dir, LOCK_NAME, err);
    if (rc) return rc;
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (r->lock < 0)
        rc = PL_FAIL(err, PL_E_IO, "%s: %s", path, strerror(errno));
    else if (flock(r->lock, LOCK_EX | LOCK_NB) != 0)
        rc = PL_FAIL(err, PL_E_STATE, "%s is in use by another run", r->c->output_dir);
    pl_free(path);
    return rc;
}

/* Does the directory hold anything but our lock? Empties it when asked to. */
static int check_empty(const pl_run *r, bool resume, pl_error *err) {
    char **names = NULL;
    int64_t n = 0;
    int rc = pl_dir_list(&names, &n, r->c->output_dir, err);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        if (strcmp(names[i], LOCK_NAME) == 0 || resume) continue;
        if (!r->c->overwrite_output_dir) {
            rc = PL_FAIL(err, PL_E_STATE,
                         "%s is not empty (%s): continue with --resume, delete it with "
                         "--overwrite_output_dir, or choose another --out",
                         r->c->output_dir, names[i]);
            break;
        }
        char *path = NULL;
        rc = pl_path_join(&path, r->c->output_dir, names[i], err);
        if (rc == 0) rc = pl_dir_remove(path, err);
        pl_free(path);
    }
    pl_names_free(names, n);
    return rc;
}

static int name_run(pl_run *r, pl_error *err) {
    const char *from = r->c->run_name ? r->c->run_name : r->c->output_dir;
    size_t n = strlen(from);
    while (n > 1 && from[n - 1] == '/') n--;
    size_t start = n;
    while (!r->c->run_name && start > 0 && from[start - 1] != '/') start--;
    if (r->c->run_name) start = 0;
    if (memchr(from + start, '/', n - start) || n == start)
        return PL_FAIL(err, PL_E_OPTION, "run_name \"%s\" cannot be part of a file name", from);
    return pl_strndup(&r->run_name, from + start, n - start, err);
}

int pl_run_open_dir(pl_run *r, pl_error *err) {
    bool resume = r->c->resume || r->c->resume_from_checkpoint;
    int rc;
    PL_GO(rc, name_run(r, err));
    PL_GO(rc, pl_dir_make(r->c->output_dir, err));
    PL_GO(rc, lock_dir(r, err));
    PL_GO(rc, check_empty(r, resume, err));
out:
    return rc;
}

int pl_run_write_config(const pl_run *r, pl_error *err) {
    pl_buf b = {0};
    char *path = NULL;
    int rc = 0;
    if (!r->options) return 0;
    PL_GO(rc, pl_options_write_yaml(&b, r->options, err));
    PL_GO(rc, pl_path_join(&path, r->c->output_dir, "config.yaml", err));
    PL_GO(rc, pl_file_write(path, b.data, b.len, err));
out:
    pl_free(path);
    pl_buf_release(&b);
    return rc;
}

int pl_run_compare_config(const pl_run *r, pl_error *err) {
    pl_config then;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_json *fixed = NULL;
    pl_buf b = {0};
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, r->c->output_dir, "config.yaml", err));
    if (!pl_file_exists(path)) goto out; /* a run of the library without options leaves none */
    PL_GO(rc, pl_options_new(&o, pl_train_command(r->command), pl_train_bases(bases, &then), NULL, err));
    PL_GO(rc, pl_options_load_yaml(o, path, err));
    PL_GO(rc, pl_config_write_fixed(&b, r->command, &then, err));
    PL_GO(rc, pl_json_parse(&fixed, b.data, b.len, path, err));
    PL_GO(rc, pl_config_compare(fixed, r->command, r->c, err));
out:
    pl_json_free(fixed);
    pl_buf_release(&b);
    pl_options_free(o);
    pl_free(path);
    return rc;
}
