/* config.c: config.json and generation_config.json into the architecture record. Keys of transformers 4 and 5. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "model/family.h"
#include "tensor/dtype.h"

#define MAX_CONFIG_BYTES ((size_t)4 << 20)
#define MAX_TOKEN_ID ((int64_t)INT32_MAX)

typedef struct size_key {
    const char *key;
    size_t offset; /* in pl_arch */
    int64_t most;
} size_key;

/* The bounds keep every product below 2^62 and are far beyond any model. */
static const size_key sizes[] = {
    {"vocab_size", offsetof(pl_arch, V), (int64_t)1 << 24},
    {"hidden_size", offsetof(pl_arch, C), (int64_t)1 << 18},
    {"intermediate_size", offsetof(pl_arch, F), (int64_t)1 << 20},
    {"num_hidden_layers", offsetof(pl_arch, L), 4096},
    {"num_attention_heads", offsetof(pl_arch, H), 4096},
};

static int in_range(int64_t v, int64_t most, const char *key, const char *what, pl_error *err) {
    if (v >= 1 && v <= most) return 0;
    return PL_FAIL(err, PL_E_RANGE, "%s: %s is %" PRId64 ", want 1 to %" PRId64, what, key, v, most);
}

static int parse_sizes(pl_arch *a, const pl_family *f, const pl_json *config, const char *what, pl_error *err) {
    int rc;
    for (int64_t i = 0; i < PL_LEN(sizes); i++) {
        int64_t *v = (int64_t *)(void *)((char *)a + sizes[i].offset);
        PL_GO(rc, pl_json_member_int(config, sizes[i].key, true, v, what, err));
        PL_GO(rc, in_range(*v, sizes[i].most, sizes[i].key, what, err));
    }
    a->KV = f->kv_heads && !pl_json_has(config, "num_key_value_heads") ? f->kv_heads : a->H;
    PL_GO(rc, pl_json_member_int(config, "num_key_value_heads", false, &a->KV, what, err));
    PL_GO(rc, in_range(a->KV, a->H, "num_key_value_heads", what, err));
    if (a->H % a->KV)
        return PL_FAIL(err, PL_E_RANGE,
                       "%s: num_attention_heads %" PRId64 " is no multiple of num_key_value_heads %" PRId64, what, a->H,
                       a->KV);
    if (!pl_json_get(config, "head_dim") && a->C % a->H)
        return PL_FAIL(err, PL_E_RANGE, "%s: hidden_size %" PRId64 " is no multiple of num_attention_heads %" PRId64,
                       what, a->C, a->H);
    a->D = a->C / a->H;
    PL_GO(rc, pl_json_member_int(config, "head_dim", false, &a->D, what, err));
    PL_GO(rc, in_range(a->D, 4096, "head_dim", what, err));
    if (a->D % 2)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: head_dim %" PRId64 " is odd, RoPE needs pairs", what, a->D);
    a->max_position = f->max_position;
    PL_GO(rc, pl_json_member_int(config, "max_position_embeddings", false, &a->max_position, what, err));
    rc = in_range(a->max_position, INT32_MAX, "max_position_embeddings", what, err);
out:
    return rc;
}

static int parse_numbers(pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    int rc;
    a->eps = 1e-6;
    a->initializer_range = 0.02;
    PL_GO(rc, pl_json_member_double(config, "rms_norm_eps", false, &a->eps, what, err));
    if (!(a->eps >= 0 && a->eps < 1)) return PL_FAIL(err, PL_E_RANGE, "%s: rms_norm_eps is %g", what, a->eps);
    PL_GO(rc, pl_json_member_double(config, "initializer_range", false, &a->initializer_range, what, err));
    if (!(a->initializer_range >= 0 && a->initializer_range <= 1))
        return PL_FAIL(err, PL_E_RANGE, "%s: initializer_range is %g, want 0 to 1", what, a->initializer_range);
    rc = pl_json_member_bool(config, "tie_word_embeddings", false, &a->tied, what, err);
out:
    return rc;
}

static int parse_dtype(pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    const char *s = NULL;
    size_t n = 0;
    int rc = pl_json_member_string(config, "dtype", false, &s, &n, what, err);
    if (rc == 0 && !s) rc = pl_json_member_string(config, "torch_dtype", false, &s, &n, what, err);
    if (rc) return rc;
    a->dtype = PL_F32;
    if (!s || strcmp(s, "auto") == 0) return 0;
    if (!pl_dtype_from_torch(&a->dtype, s, n) || a->dtype == PL_F64)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: dtype %.60s is not supported (float32, bfloat16 or float16)", what,
                       s);
    a->has_dtype = true;
    return 0;
}

/* Everything that would change the numbers and that plumb does not compute. */
static int refuse(const pl_json *config, const char *what, pl_error *err) {
    const char *act = "silu";
    double dropout = 0;
    int rc;
    PL_GO(rc, pl_json_member_string(config, "hidden_act", false, &act, NULL, what, err));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: hidden_act %.60s is not supported (want silu)", what, act);
    if (pl_json_get(config, "quantization_config"))
        return PL_FAIL(err, PL_E_UNSUPPORTED,
                       "%s: quantization_config: quantised weights are not supported; use the unquantised model", what);
    PL_GO(rc, pl_json_member_double(config, "attention_dropout", false, &dropout, what, err));
    if (dropout != 0)
        rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: attention_dropout %g is not supported; set it to 0.0 in the file",
                     what, dropout);
out:
    return rc;
}

static int token_id(int64_t *out, const pl_json *v, const char *key, const char *what, pl_error *err) {
    int64_t id = pl_json_int(v);
    if (pl_json_kind_of(v) != PL_J_INT || id > MAX_TOKEN_ID)
        return PL_FAIL(err, PL_E_FORMAT, "%s: %s: want a token id", what, key);
    *out = id < 0 ? -1 : id; /* some files say -1 for none */
    return 0;
}

static int add_eos(pl_arch *a, const pl_json *v, const char *what, pl_error *err) {
    int64_t id;
    int rc = token_id(&id, v, "eos_token_id", what, err);
    if (rc || id < 0) return rc;
    for (int i = 0; i < a->neos; i++)
        if (a->eos[i] == id) return 0;
    if (a->neos == PL_MAX_EOS) return PL_FAIL(err, PL_E_RANGE, "%s: more than %d different eos ids", what, PL_MAX_EOS);
    a->eos[a->neos++] = id;
    return 0;
}

/* Adds what one of the two files says; a single id or a list. */
static int parse_tokens(pl_arch *a, const pl_json *o, const char *what, pl_error *err) {
    int rc = 0;
    const pl_json *bos = pl_json_get(o, "bos_token_id"), *pad = pl_json_get(o, "pad_token_id");
    const pl_json *eos = pl_json_get(o, "eos_token_id");
    if (bos && a->bos < 0) PL_GO(rc, token_id(&a->bos, bos, "bos_token_id", what, err));
    if (pad && a->pad < 0) PL_GO(rc, token_id(&a->pad, pad, "pad_token_id", what, err));
    if (eos && pl_json_kind_of(eos) == PL_J_ARRAY) {
        for (int64_t i = 0; i < pl_json_len(eos); i++) PL_GO(rc, add_eos(a, pl_json_at(eos, i), what, err));
    } else if (eos) {
        rc = add_eos(a, eos, what, err);
    }
out:
    return rc;
}

/* A score is one number: transformers takes two labels where the file names none. */
static int check_labels(const pl_json *config, const pl_family *f, const char *what, pl_error *err) {
    const pl_json *names = pl_json_get(config, "id2label");
    int64_t labels = names ? pl_json_len(names) : 2;
    int rc = names ? 0 : pl_json_member_int(config, "num_labels", false, &labels, what, err);
    if (rc || labels == 1) return rc;
    return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: %s with %" PRId64 " labels: a reward model has one (id2label)", what,
                   f->classifier, labels);
}

int pl_arch_parse(pl_arch *out, const pl_json *config, const pl_json *generation, const char *what, pl_error *err) {
    int rc;
    const pl_family *f = NULL;
    bool classifier = false;
    pl_arch a = {.bos = -1, .pad = -1};
    if (pl_json_kind_of(config) != PL_J_OBJECT) return PL_FAIL(err, PL_E_FORMAT, "%s: want a JSON object", what);
    PL_GO(rc, pl_family_find(&f, &classifier, config, what, err));
    a.family = f->model_type;
    PL_GO(rc, parse_sizes(&a, f, config, what, err));
    PL_GO(rc, parse_numbers(&a, config, what, err));
    PL_GO(rc, refuse(config, what, err));
    if (classifier) {
        PL_GO(rc, check_labels(config, f, what, err));
        a.head = PL_ARCH_SCORE;
        a.tied = false; /* there is nothing to tie */
    }
    PL_GO(rc, f->fill(&a, config, what, err));
    PL_GO(rc, pl_rope_parse(&a, config, what, err));
    PL_GO(rc, parse_dtype(&a, config, what, err));
    if (!pl_json_has(config, "bos_token_id")) a.bos = f->bos;
    if (!pl_json_has(config, "eos_token_id") && f->eos >= 0) a.eos[a.neos++] = f->eos;
    PL_GO(rc, parse_tokens(&a, config, what, err));
    if (generation) PL_GO(rc, parse_tokens(&a, generation, "generation_config.json", err));
    *out = a;
out:
    return rc;
}

int pl_arch_load(pl_arch *out, const char *dir, pl_error *err) {
    int rc;
    char *path = NULL, *generation_path = NULL;
    pl_json *config = NULL, *generation = NULL;
    PL_GO(rc, pl_path_join(&path, dir, "config.json", err));
    PL_GO(rc, pl_path_join(&generation_path, dir, "generation_config.json", err));
    if (!pl_dir_exists(dir)) PL_GO(rc, pl_dir_missing(dir, err));
    if (!pl_file_exists(path))
        PL_GO(rc, PL_FAIL(err, PL_E_IO, "%s: no config.json: not a Hugging Face model directory", dir));
    PL_GO(rc, pl_json_load(&config, path, MAX_CONFIG_BYTES, err));
    if (pl_file_exists(generation_path)) PL_GO(rc, pl_json_load(&generation, generation_path, MAX_CONFIG_BYTES, err));
    rc = pl_arch_parse(out, config, generation, path, err);
out:
    pl_json_free(config);
    pl_json_free(generation);
    pl_free(path);
    pl_free(generation_path);
    return rc;
}
