/* init.c: a model directory with random weights. */
#include "plumb/init.h"

#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "export/hfdir.h"
#include "kernels/ops.h"
#include "plumb/tokenizer.h"
#include "tensor/dtype.h"

#define AT(field) .offset = offsetof(pl_init_options, field)
#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define CHUNK 4096 /* elements that are drawn at a time */

const pl_option pl_init_option_rows[] = {
    {.name = "config",
     .type = PL_OPT_STR,
     AT(config),
     .flags = PL_OPT_REQUIRED,
     .group = "Model",
     .metavar = "FILE|DIR",
     .help = "config.json, or a directory with one (and a tokenizer, which is copied)"},
    {.name = "tokenizer",
     .type = PL_OPT_STR,
     AT(tokenizer),
     .metavar = "DIR",
     .help = "directory to copy the tokenizer from (default: that of config)"},
    {.name = "output_dir",
     .type = PL_OPT_STR,
     AT(output_dir),
     .flags = PL_OPT_REQUIRED,
     .metavar = "DIR",
     .help = "where the model is written"},
    {.name = "out", .type = PL_OPT_ALIAS, .target = "output_dir"},
    {.name = "overwrite_output_dir",
     .type = PL_OPT_BOOL,
     AT(overwrite_output_dir),
     .fallback = "false",
     .help = "write into a directory that is not empty"},
    {.name = "seed",
     .type = PL_OPT_I64,
     AT(seed),
     .fallback = "42",
     .min = 0,
     .max = 4294967295.0,
     .help = "of the weights"},
    {.name = "dtype",
     .type = PL_OPT_ENUM,
     AT(dtype),
     .choices = "float32|float16|bfloat16|auto",
     .fallback = "auto",
     .help = "type of the weights; auto: as config.json says"},
    {0}};

/* --- where things come from */

typedef struct source {
    char *config;     /* path of the file, owned */
    char *dir;        /* of the other files; NULL: config is a file of another name */
    char *generation; /* dir/generation_config.json, owned; NULL: none */
    pl_arch arch;
} source;

static void source_release(source *s) {
    pl_free(s->config);
    pl_free(s->dir);
    pl_free(s->generation);
}

static int find_config(source *s, const char *config, pl_error *err) {
    if (pl_dir_exists(config)) {
        int rc = pl_strdup(&s->dir, config, err);
        return rc ? rc : pl_path_join(&s->config, config, "config.json", err);
    }
    const char *base = pl_path_base(config);
    size_t n = (size_t)(base - config);
    int rc = pl_strdup(&s->config, config, err);
    if (rc || strcmp(base, "config.json") != 0) return rc;
    return n ? pl_strndup(&s->dir, config, n, err) : pl_strdup(&s->dir, ".", err);
}

static int source_open(source *s, const char *config, pl_error *err) {
    pl_json *json = NULL, *generation = NULL;
    int rc;
    PL_GO(rc, find_config(s, config, err));
    PL_GO(rc, pl_json_load(&json, s->config, MAX_CONFIG_BYTES, err));
    if (s->dir) PL_GO(rc, pl_path_join(&s->generation, s->dir, "generation_config.json", err));
    if (s->generation && pl_file_exists(s->generation))
        PL_GO(rc, pl_json_load(&generation, s->generation, MAX_CONFIG_BYTES, err));
    PL_GO(rc, pl_arch_parse(&s->arch, json, generation, s->config, err));
out:
    pl_json_free(json);
    pl_json_free(generation);
    return rc;
}

/* --- weights */

typedef struct maker {
    const pl_param_spec *params;
    pl_dtype dtype;
    double std;
    uint64_t seed;
    pl_ops ops;
} maker;

static uint64_t key_of(uint64_t seed, const char *name) {
    uint64_t key = seed;
    for (const char *c = name; *c; c++) key = pl_rng_mix(key, (unsigned char)*c);
    return key;
}

static void constant(float *x, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++) x[i] = value;
}

static int fill(void *user, int64_t index, int64_t first, int64_t count, void *bytes, pl_error *err) {
    const maker *m = user;
    const pl_param_spec *p = &m->params[index];
    uint64_t key = key_of(m->seed, p->name);
    float x[CHUNK];
    PL_UNUSED(err);
    for (int64_t done = 0; done < count; done += CHUNK) {
        int64_t n = PL_MIN(CHUNK, count - done);
        if (p->ndim == 2)
            pl_rng_normal(x, n, (float)m->std, key, (uint64_t)(first + done));
        else
            constant(x, n, p->role == PL_ROLE_LIN_BIAS ? 0.0f : 1.0f);
        m->ops.from_real((char *)bytes + (size_t)done * pl_dtype_bytes(m->dtype), m->dtype, x, n);
    }
    return 0;
}

static int write_weights(const char *dir, const pl_arch *a, const pl_init_options *o, pl_dtype dtype,
                         pl_init_report *report, pl_error *err) {
    maker m = {.dtype = dtype, .std = a->initializer_range, .seed = (uint64_t)o->seed};
    pl_param_spec *params = NULL;
    int64_t n = 0;
    int rc;
    pl_ops_init(&m.ops, PL_CPU_GENERIC);
    PL_GO(rc, pl_arch_params(&params, &n, a, err));
    m.params = params;
    PL_GO(rc, pl_arch_elements(&report->parameters, a, err));
    PL_GO(rc, pl_hfdir_write_weights(dir, params, n, dtype, fill, &m, err));
    report->tensors = n;
    report->bytes = report->parameters * (int64_t)pl_dtype_bytes(dtype);
out:
    pl_free(params);
    return rc;
}

/* --- the directory */

static int make_output(const pl_init_options *o, pl_error *err) {
    char **names = NULL;
    int64_t n = 0;
    int rc = pl_dir_make(o->output_dir, err);
    if (rc == 0) rc = pl_dir_list(&names, &n, o->output_dir, err);
    pl_names_free(names, n);
    if (rc == 0 && n > 0 && !o->overwrite_output_dir)
        return PL_FAIL(err, PL_E_OPTION, "%s is not empty (--overwrite_output_dir writes into it)", o->output_dir);
    return rc;
}

static int write_configs(const source *s, const char *dir, pl_dtype dtype, pl_error *err) {
    char *text = NULL, *out = NULL, *path = NULL, *generation = NULL;
    size_t n = 0, out_n = 0;
    int rc;
    PL_GO(rc, pl_file_read(&text, &n, s->config, MAX_CONFIG_BYTES, err));
    PL_GO(rc, pl_hfdir_config_text(&out, &out_n, text, n, dtype, err));
    PL_GO(rc, pl_path_join(&path, dir, "config.json", err));
    PL_GO(rc, pl_file_write(path, out, out_n, err));
    PL_GO(rc, pl_path_join(&generation, dir, "generation_config.json", err));
    if (s->generation && pl_file_exists(s->generation)) PL_GO(rc, pl_file_copy(s->generation, generation, err));
out:
    pl_free(text);
    pl_free(out);
    pl_free(path);
    pl_free(generation);
    return rc;
}

/* The tokenizer's ids must be ids of the model. */
static int write_tokenizer(const char *from, const pl_init_options *o, const pl_arch *a, pl_error *err) {
    char *path = NULL;
    pl_tokenizer *t = NULL;
    int rc;
    PL_GO(rc, pl_path_join(&path, from, "tokenizer.json", err));
    if (!pl_file_exists(path)) {
        rc = o->tokenizer ? PL_FAIL(err, PL_E_IO, "%s: there is no tokenizer.json", from) : 0;
        goto out;
    }
    PL_GO(rc, pl_tokenizer_open(&t, from, err));
    if (pl_tokenizer_vocab_size(t) > a->V)
        PL_GO(rc, PL_FAIL(err, PL_E_MISMATCH, "%s has %" PRId64 " tokens, config.json a vocab_size of %" PRId64, path,
                          pl_tokenizer_vocab_size(t), a->V));
    PL_GO(rc, pl_hfdir_copy_tokenizer(from, o->output_dir, err));
out:
    pl_tokenizer_free(t);
    pl_free(path);
    return rc;
}

static pl_dtype dtype_of(const pl_init_options *o, const pl_arch *a) {
    static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16};
    return o->dtype >= 0 && o->dtype < PL_LEN(types) ? types[o->dtype] : a->has_dtype ? a->dtype : PL_F32;
}

int pl_init_model(const pl_init_options *o, pl_init_report *out, pl_error *err) {
    source s = {0};
    pl_init_report report = {0};
    int rc;
    if (!o->config || !o->output_dir)
        return PL_FAIL(err, PL_E_OPTION, "%s is missing", o->config ? "output_dir" : "config");
    PL_GO(rc, source_open(&s, o->config, err));
    pl_dtype dtype = dtype_of(o, &s.arch);
    const char *tokenizer = o->tokenizer ? o->tokenizer : s.dir;
    PL_GO(rc, make_output(o, err));
    if (tokenizer) PL_GO(rc, write_tokenizer(tokenizer, o, &s.arch, err));
    PL_GO(rc, write_configs(&s, o->output_dir, dtype, err));
    PL_GO(rc, write_weights(o->output_dir, &s.arch, o, dtype, &report, err));
    report.dtype = pl_dtype_torch_name(dtype);
    if (out) *out = report;
out:
    source_release(&s);
    return rc;
}
