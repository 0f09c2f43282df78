/* checkpoint.c: saves and restores a run. */
#include "train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "export/hfdir.h"
#include "plumb/log.h"

#define STATE_FORMAT 2
#define TEMP_SUFFIX ".tmp"

/* --- names
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

static int step_path(char **out, const pl_saver *s, int64_t step, pl_error *err) {
    return pl_asprintf(out, err, "%s/%s-%s_step%" PRId64, s->out_dir, s->run_name, s->command, step);
}

static int final_path(char **out, const pl_saver *s, pl_error *err) {
    return pl_asprintf(out, err, "%s/%s-%s_final", s->out_dir, s->run_name, s->command);
}

/* The step of "<run_name>-<command>_step<N>", -1 for any other name. */
static int64_t step_of_name(const pl_saver *s, const char *name) {
    char prefix[600];
    int n = snprintf(prefix, sizeof prefix, "%s-%s_step", s->run_name, s->command);
    if (n < 0 || (size_t)n >= sizeof prefix || strncmp(name, prefix, (size_t)n) != 0) return -1;
    char *end;
    long long step = strtoll(name + n, &end, 10);
    return name[n] >= '0' && name[n] <= '9' && *end == 0 ? step : -1;
}

/* --- parts
 * -----------------------------------------------------------------------------------------------------------------------------------
 */

static pl_tensor tensor_of(const pl_param *p, const char *name, const real *data) {
    pl_tensor t = {.name = name,
                   .dtype = PL_REAL,
                   .ndim = p->ndim,
                   .dims = {p->rows, p->cols},
                   .data = data,
                   .bytes = (size_t)p->n * sizeof(real)};
    return t;
}

static int write_adapter(const pl_saver *s, const pl_trainable *t, const char *dir, pl_error *err) {
    char *sub = NULL, *path = NULL;
    pl_tensor *list = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&sub, dir, "adapter", err));
    PL_GO(rc, pl_dir_make(sub, err));
    PL_GO(rc, PL_NEW(&list, t->n, err));
    for (int64_t i = 0; i < t->n; i++) list[i] = tensor_of(&t->params[i], t->params[i].name, t->params[i].value);
    PL_GO(rc, pl_path_join(&path, sub, PL_PEFT_WEIGHTS, err));
    PL_GO(rc, pl_tensors_write(path, list, t->n, NULL, 0, NULL, NULL, err));
    PL_GO(rc, pl_peft_config_save(s->peft, sub, s->model->dir, err));
    PL_GO(rc, pl_dir_sync(sub, err));
out:
    pl_free(list);
    pl_free(path);
    pl_free(sub);
    return rc;
}

/* Produces parameters in the output dtype: masters rounded once, or stored weights with the adapter merged in fp32 and
 * rounded once. */
typedef struct exporter {
    const pl_saver *s;
    const pl_trainable *t;
    pl_dtype dtype;
    real *rows; /* a chunk of rows */
    int64_t room;
} exporter;

static const pl_lora_module no_module;

static int fill_merged(exporter *x, int64_t index, int64_t first, int64_t count, void *bytes) {
    const pl_param_spec *spec = &x->s->model->params[index];
    const pl_tensor *stored = x->s->model->tensors[index];
    if (spec->role == PL_ROLE_SCORE && x->t->lora.score) {
        x->s->ops->from_real(bytes, x->dtype, x->t->lora.score + first, count);
        return 0;
    }
    const pl_lora_module *mod =
        spec->role == PL_ROLE_LIN_WEIGHT ? pl_lora_at(&x->t->lora, spec->layer, spec->lin) : &no_module;
    pl_mat mat = {.data = stored->data, .type = stored->dtype, .rows = spec->rows, .cols = spec->cols};
    size_t out_bytes = pl_dtype_bytes(x->dtype);
    for (int64_t row = first / spec->cols, rows = count / spec->cols; rows > 0;) {
        int64_t n = PL_MAX(1, PL_MIN(rows, x->room / spec->cols));
        pl_lora_merge(x->rows, &mat, mod, row, n, x->s->ops);
        x->s->ops->from_real(bytes, x->dtype, x->rows, n * spec->cols);
        bytes = (char *)bytes + (size_t)(n * spec->cols) * out_bytes;
        row += n;
        rows -= n;
    }
    return 0;
}

static int fill(void *user, int64_t index, int64_t first, int64_t count, void *bytes, pl_error *err) {
    PL_UNUSED(err);
    exporter *x = user;
    if (x->t->is_lora) return fill_merged(x, index, first, count, bytes);
    x->s->ops->from_real(bytes, x->dtype, x->t->params[index].value + first, count);
    return 0;
}

static int write_model(const pl_saver *s, const pl_trainable *t, const char *dir, pl_dtype dtype, pl_error *err) {
    exporter x = {.s = s, .t = t, .dtype = dtype};
    int rc;
    for (int64_t i = 0; i < s->model->nparams; i++) x.room = PL_MAX(x.room, s->model->params[i].cols);
    x.room = PL_MAX(x.room, 1 << 18);
    PL_GO(rc, PL_NEW(&x.rows, x.room, err));
    PL_GO(rc, s->classifier ? pl_hfdir_copy_classifier(s->model->dir, dir, dtype, s->classifier, err)
                            : pl_hfdir_copy(s->model->dir, dir, dtype, err));
    PL_GO(rc, pl_hfdir_write_weights(dir, s->model->params, s->model->nparams, dtype, fill, &x, err));
out:
    pl_free(x.rows);
    return rc;
}

static int write_optimizer(const pl_trainable *t, const pl_optimizer *o, const char *dir, pl_error *err) {
    char *path = NULL;
    pl_tensor *list = NULL;
    char(*names)[128] = NULL;
    int64_t at = 0;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, "optimizer.safetensors", err));
    PL_GO(rc, PL_NEW(&list, 2 * t->n, err));
    PL_GO(rc, PL_NEW(&names, 2 * t->n, err));
    for (int64_t i = 0; i < t->n; i++) {
        snprintf(names[2 * i], sizeof *names, "m.%s", t->params[i].name);
        snprintf(names[2 * i + 1], sizeof *names, "v.%s", t->params[i].name);
        list[2 * i] = tensor_of(&t->params[i], names[2 * i], o->m + at);
        list[2 * i + 1] = tensor_of(&t->params[i], names[2 * i + 1], o->v + at);
        at += t->params[i].n;
    }
    PL_GO(rc, pl_tensors_write(path, list, 2 * t->n, NULL, 0, NULL, NULL, err));
out:
    pl_free(names);
    pl_free(list);
    pl_free(path);
    return rc;
}

#define MOVING_FILE "reference.safetensors"

static int write_moving(const pl_trainable *t, const char *dir, pl_error *err) {
    char *path = NULL;
    pl_tensor *list = NULL;
    int rc;
    if (!t) return 0;
    PL_GO(rc, pl_path_join(&path, dir, MOVING_FILE, err));
    PL_GO(rc, PL_NEW(&list, t->n, err));
    for (int64_t i = 0; i < t->n; i++) list[i] = tensor_of(&t->params[i], t->params[i].name, t->params[i].value);
    PL_GO(rc, pl_tensors_write(path, list, t->n, NULL, 0, NULL, NULL, err));
out:
    pl_free(list);
    pl_free(path);
    return rc;
}

static int write_state(const pl_saver *s, const pl_state *st, const pl_optimizer *o, const char *dir, pl_error *err) {
    pl_buf b = {0};
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, dir, "state.json", err));
    PL_GO(rc,
          pl_buf_printf(&b, err,
                        "{\"format\": %d, \"command\": \"%s\", \"step\": %" PRId64 ", \"optimizer_steps\": %" PRId64
                        ", \"num_tokens\": %" PRId64 ", \"metrics_bytes\": %" PRId64 ", \"best_step\": %" PRId64
                        ", \"best_value\": ",
                        STATE_FORMAT, s->command, st->step, o->t, st->num_tokens, st->metrics_bytes, st->best_step));
    PL_GO(rc, pl_buf_json_double(&b, st->best_value, err));
    for (int i = 0; i < PL_LOSS_STATE; i++) {
        PL_GO(rc, pl_buf_puts(&b, i ? ", " : ", \"loss_state\": [", err));
        PL_GO(rc, pl_buf_json_double(&b, st->loss[i], err));
    }
    PL_GO(rc, pl_buf_printf(
                  &b, err,
                  "],\n \"model\": \"%s\", \"data\": \"%s\", \"reference\": \"%s\", \"bf16\": %s, \"level\": \"%s\""
                  ", \"gemm\": \"%s\", \"threads\": %" PRId64 ",\n \"config\": ",
                  st->model.hex, st->data.hex, st->reference.hex, st->bf16 ? "true" : "false", st->level, st->gemm,
                  st->threads));
    PL_GO(rc, pl_config_write_fixed(&b, s->command, s->config, err));
    PL_GO(rc, pl_buf_puts(&b, "}\n", err));
    PL_GO(rc, pl_file_write(path, b.data, b.len, err));
out:
    pl_buf_release(&b);
    pl_free(path);
    return rc;
}

/* --- saving
 * -------------------------------------------------------------------------------------------------------------------------------
 */

/* Removes the oldest step checkpoints beyond the limit, never the best. */
static int prune(const pl_saver *s, const pl_state *st, pl_error *err) {
    char **names = NULL;
    int64_t n = 0;
    if (s->keep <= 0) return 0;
    int rc = pl_dir_list(&names, &n, s->out_dir, err);
    for (;;) {
        int64_t count = 0, oldest = INT64_MAX;
        for (int64_t i = 0; rc == 0 && i < n; i++) {
            int64_t step = names[i] ? step_of_name(s, names[i]) : -1;
            if (step < 0) continue;
            count++;
            if (step != st->best_step && step != st->step) oldest = PL_MIN(oldest, step);
        }
        if (rc || count <= s->keep || oldest == INT64_MAX) break;
        char *path = NULL;
        rc = step_path(&path, s, oldest, err);
        if (rc == 0) rc = pl_dir_remove(path, err);
        pl_free(path);
        for (int64_t i = 0; i < n; i++)
            if (names[i] && step_of_name(s, names[i]) == oldest) names[i][0] = 0;
    }
    pl_names_free(names, n);
    return rc;
}

/* Makes an empty temporary directory for `path`. */
static int begin_dir(char **temp, const char *path, pl_error *err) {
    int rc = pl_asprintf(temp, err, "%s%s", path, TEMP_SUFFIX);
    if (rc == 0) rc = pl_dir_remove(*temp, err);
    return rc ? rc : pl_dir_make(*temp, err);
}

/* What could not be finished gives its space back: the disk may be full. */
static void drop_dir(const char *temp) {
    pl_error ignored;
    if (temp) pl_dir_remove(temp, &ignored);
}

int pl_checkpoint_save(const pl_saver *s, const pl_state *st, const pl_trainable *t, const pl_optimizer *o,
                       pl_error *err) {
    char *path = NULL, *temp = NULL;
    int rc;
    PL_GO(rc, step_path(&path, s, st->step, err));
    PL_GO(rc, begin_dir(&temp, path, err));
    if (t->is_lora)
        PL_GO(rc, write_adapter(s, t, temp, err));
    else
        PL_GO(rc, write_model(s, t, temp, PL_REAL, err));
    PL_GO(rc, write_optimizer(t, o, temp, err));
    PL_GO(rc, write_moving(s->moving, temp, err));
    PL_GO(rc, write_state(s, st, o, temp, err));
    PL_GO(rc, pl_dir_sync(temp, err));
    PL_GO(rc, pl_rename_synced(temp, path, err));
    PL_GO(rc, prune(s, st, err));
out:
    if (rc) drop_dir(temp);
    pl_free(temp);
    pl_free(path);
    return rc ? pl_error_context(err, rc, "checkpoint of step %" PRId64, st->step) : 0;
}

/* A merge into a rounded base loses changes that are smaller than half a unit of the last place: say how many
 * (DECISIONS 14). */
static void log_lost(const pl_saver *s, const pl_trainable *t, real *base, real *merged, void *rounded, int64_t room) {
    int64_t lost = 0, changed = 0;
    for (int64_t i = 0; i < s->model->nparams; i++) {
        const pl_param_spec *spec = &s->model->params[i];
        if (spec->role != PL_ROLE_LIN_WEIGHT || !pl_lora_at(&t->lora, spec->layer, spec->lin)->a) continue;
        pl_mat mat = {.data = s->model->tensors[i]->data,
                      .type = s->model->tensors[i]->dtype,
                      .rows = spec->rows,
                      .cols = spec->cols};
        for (int64_t row = 0, n; row < spec->rows; row += n) {
            n = PL_MAX(1, PL_MIN(spec->rows - row, room / spec->cols));
            pl_lora_merge(base, &mat, &no_module, row, n, s->ops);
            pl_lora_merge(merged, &mat, pl_lora_at(&t->lora, spec->layer, spec->lin), row, n, s->ops);
            for (int64_t j = 0; j < n * spec->cols; j++) changed += merged[j] != base[j];
            s->ops->from_real(rounded, s->dtype, merged, n * spec->cols);
            for (int64_t j = 0; j < n * spec->cols; j++) lost -= merged[j] != base[j];
            s->ops->to_real(merged, rounded, s->dtype, n * spec->cols);
            for (int64_t j = 0; j < n * spec->cols; j++) lost += merged[j] != base[j];
        }
    }
    if (lost < 0)
        pl_log(PL_LOG_INFO,
               "merged into %s: %" PRId64 " of %" PRId64 " changed weights round back to the base's value; the "
               "adapter in adapter/ is exact",
               pl_dtype_name(s->dtype), -lost, changed);
}

static int report_lost(const pl_saver *s, const pl_trainable *t, pl_error *err) {
    real *base = NULL, *merged = NULL;
    void *rounded = NULL;
    int64_t room = 1 << 18;
    int rc = 0;
    if (!t->is_lora || s->dtype == PL_REAL) return 0;
    for (int64_t i = 0; i < s->model->nparams; i++) room = PL_MAX(room, s->model->params[i].cols);
    PL_GO(rc, PL_NEW(&base, room, err));
    PL_GO(rc, PL_NEW(&merged, room, err));
    PL_GO(rc, pl_alloc(&rounded, (size_t)room * sizeof(real), err));
    log_lost(s, t, base, merged, rounded, room);
out:
    pl_free(rounded);
    pl_free(merged);
    pl_free(base);
    return rc;
}

int pl_final_save(const pl_saver *s, const pl_trainable *t, char **out, pl_error *err) {
    char *path = NULL, *temp = NULL;
    int rc;
    PL_GO(rc, final_path(&path, s, err));
    PL_GO(rc, begin_dir(&temp, path, err));
    PL_GO(rc, write_model(s, t, temp, s->dtype, err));
    if (t->is_lora) PL_GO(rc, write_adapter(s, t, temp, err));
    PL_GO(rc, report_lost(s, t, err));
    PL_GO(rc, pl_dir_sync(temp, err));
    PL_GO(rc, pl_rename_synced(temp, path, err));
    *out = path;
    path = NULL;
out:
    if (rc) drop_dir(temp);
    pl_free(temp);
    pl_free(path);
    return rc ? pl_error_context(err, rc, "final model") : 0;
}

int pl_final_find(const pl_saver *s, char **path, pl_error *err) {
    char *final = NULL;
    int rc = final_path(&final, s, err);
    if (rc) return rc;
    bool there = pl_dir_exists(final);
    if (!there) pl_free(final);
    *path = there ? final : NULL;
    return 0;
}

/* --- loading
 * ------------------------------------------------------------------------------------------------------------------------------
 */

int pl_checkpoint_find(const pl_saver *s, char **path, pl_error *err) {
    char **names = NULL;
    int64_t n = 0, best = -1;
    *path = NULL;
    int rc = pl_dir_list(&names, &n, s->out_dir, err);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        size_t len = strlen(names[i]), cut = strlen(TEMP_SUFFIX);
        if (len > cut && strcmp(names[i] + len - cut, TEMP_SUFFIX) == 0) {
            char *left = NULL;
            rc = pl_path_join(&left, s->out_dir, names[i], err);
            if (rc == 0) rc = pl_dir_remove(left, err);
            pl_free(left);
            continue;
        }
        best = PL_MAX(best, step_of_name(s, names[i]));
    }
    pl_names_free(names, n);
    return rc || best < 0 ? rc : step_path(path, s, best, err);
}

/* Copies the tensor `name` of exactly the parameter's shape into out. */
static int read_tensor(const pl_tensors *f, const char *name, const pl_param *p, real *out, pl_error *err) {
    const pl_tensor *t = NULL;
    int64_t dims[2] = {p->rows, p->cols};
    int rc = pl_tensors_need(&t, f, name, p->ndim, dims, err);
    if (rc) return rc;
    if (t->dtype != PL_REAL)
        return PL_FAIL(err, PL_E_FORMAT, "%s is %s, want %s", name, pl_dtype_name(t->dtype), pl_dtype_name(PL_REAL));
    memcpy(out, t->data, (size_t)p->n * sizeof(real));
    return 0;
}

static int load_tensors(const char *path, const char *name, pl_trainable *t, pl_error *err) {
    char *file = NULL;
    pl_tensors *f = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&file, path, name, err));
    PL_GO(rc, pl_tensors_open_file(&f, file, err));
    for (int64_t i = 0; i < t->n; i++)
        PL_GO(rc, read_tensor(f, t->params[i].name, &t->params[i], t->params[i].value, err));
out:
    pl_tensors_close(f);
    pl_free(file);
    return rc;
}

static int load_weights(const char *path, pl_trainable *t, pl_error *err) {
    return load_tensors(path, t->is_lora ? "adapter/" PL_PEFT_WEIGHTS : "model.safetensors", t, err);
}

static int load_optimizer(const char *path, const pl_trainable *t, pl_optimizer *o, pl_error *err) {
    char *file = NULL, name[128];
    pl_tensors *f = NULL;
    int64_t at = 0;
    int rc;
    PL_GO(rc, pl_path_join(&file, path, "optimizer.safetensors", err));
    PL_GO(rc, pl_tensors_open_file(&f, file, err));
    for (int64_t i = 0; i < t->n; i++) {
        snprintf(name, sizeof name, "m.%s", t->params[i].name);
        PL_GO(rc, read_tensor(f, name, &t->params[i], o->m + at, err));
        snprintf(name, sizeof name, "v.%s", t->params[i].name);
        PL_GO(rc, read_tensor(f, name, &t->params[i], o->v + at, err));
        at += t->params[i].n;
    }
out:
    pl_tensors_close(f);
    pl_free(file);
    return rc;
}

static int same_hash(const pl_json *root, const char *key, const pl_hash *now, const char *what, pl_error *err) {
    size_t n = 0;
    const char *then = pl_json_string(pl_json_get(root, key), &n);
    if (then && strcmp(then, now->hex) == 0) return 0;
    return PL_FAIL(err, PL_E_MISMATCH, "%s (content %s) is not what the checkpoint was trained with (content %s)", what,
                   now->hex, then ? then : "unknown");
}

static void warn_bits(const pl_json *root, const pl_state *now) {
    size_t n;
    const char *level = pl_json_string(pl_json_get(root, "level"), &n),
               *gemm = pl_json_string(pl_json_get(root, "gemm"), &n);
    if (!level || !gemm || strcmp(level, now->level) || strcmp(gemm, now->gemm) ||
        pl_json_int(pl_json_get(root, "threads")) != now->threads)
        pl_log(PL_LOG_WARN,
               "the checkpoint was written with another instruction set, oneDNN version or number of threads: the "
               "continued run may differ in the last bits");
}

static int compare(const pl_saver *s, const pl_json *root, const pl_state *now, pl_error *err) {
    size_t n = 0;
    const char *command = pl_json_string(pl_json_get(root, "command"), &n);
    int rc;
    if (pl_json_int(pl_json_get(root, "format")) != STATE_FORMAT || !command || strcmp(command, s->command) != 0)
        return PL_FAIL(err, PL_E_MISMATCH, "it belongs to another command or version of plumb");
    PL_GO(rc, same_hash(root, "model", &now->model, "the model", err));
    if (pl_json_bool(pl_json_get(root, "bf16")) != now->bf16)
        return PL_FAIL(err, PL_E_MISMATCH, "the precision differs: bf16 was %s, is %s", now->bf16 ? "false" : "true",
                       now->bf16 ? "true" : "false");
    PL_GO(rc, pl_config_compare(pl_json_get(root, "config"), s->command, s->config, err));
    /* last: options that change these too name the difference better */
    PL_GO(rc, same_hash(root, "data", &now->data, "the training data (or their tokenization)", err));
    PL_GO(rc, same_hash(root, "reference", &now->reference, "the reference", err));
    warn_bits(root, now);
out:
    return rc;
}

int pl_checkpoint_load(const pl_saver *s, const char *path, pl_state *now, pl_trainable *t, pl_optimizer *o,
                       pl_error *err) {
    char *file = NULL;
    pl_json *root = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&file, path, "state.json", err));
    PL_GO(rc, pl_json_load(&root, file, (size_t)1 << 20, err));
    PL_GO(rc, compare(s, root, now, err));
    PL_GO(rc, load_weights(path, t, err));
    PL_GO(rc, load_optimizer(path, t, o, err));
    if (s->moving) PL_GO(rc, load_tensors(path, MOVING_FILE, s->moving, err));
    o->t = pl_json_int(pl_json_get(root, "optimizer_steps"));
    now->step = pl_json_int(pl_json_get(root, "step"));
    now->num_tokens = pl_json_int(pl_json_get(root, "num_tokens"));
    now->metrics_bytes = pl_json_int(pl_json_get(root, "metrics_bytes"));
    now->best_step = pl_json_int(pl_json_get(root, "best_step"));
    now->best_value = pl_json_double(pl_json_get(root, "best_value"));
    for (int i = 0; i < PL_LOSS_STATE; i++)
        now->loss[i] = pl_json_double(pl_json_at(pl_json_get(root, "loss_state"), i));
out:
    pl_json_free(root);
    pl_free(file);
    return rc ? pl_error_context(err, rc, "checkpoint %s", path) : 0;
}

int pl_checkpoint_load_weights(const pl_saver *s, int64_t step, pl_trainable *t, pl_error *err) {
    char *path = NULL;
    int rc = step_path(&path, s, step, err);
    if (rc == 0) rc = load_weights(path, t, err);
    pl_free(path);
    return rc;
}
