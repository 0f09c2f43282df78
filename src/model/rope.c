/* rope.c: rotary position embeddings: reading the rule from config.json, and its inverse frequencies.
 *
 * The frequencies are computed in float32 in the order of transformers (modeling_rope_utils.py), because angles of
 * thousands of radians magnify the last bit. a / tensor is torch's reciprocal(tensor) * a. */
#include <math.h>
#include <string.h>

#include "model/family.h"
#include "plumb/log.h"

static const struct {
    const char *name;
    pl_rope_kind kind;
} kinds[] = {
    {"default", PL_ROPE_DEFAULT}, {"linear", PL_ROPE_LINEAR}, {"dynamic", PL_ROPE_DYNAMIC}, {"llama3", PL_ROPE_LLAMA3}};

static int parse_kind(pl_rope *r, const pl_json *dict, const char *what, pl_error *err) {
    const char *name = NULL;
    int rc = pl_json_member_string(dict, "rope_type", false, &name, NULL, what, err);
    if (rc == 0 && !name) rc = pl_json_member_string(dict, "type", false, &name, NULL, what, err);
    if (rc || !name) return rc;
    for (int64_t i = 0; i < PL_LEN(kinds); i++) {
        if (strcmp(name, kinds[i].name) != 0) continue;
        r->kind = kinds[i].kind;
        return 0;
    }
    return PL_FAIL(err, PL_E_UNSUPPORTED,
                   "%s: rope_type %.60s is not supported (known: default, linear, dynamic, llama3)", what, name);
}

static int factor(const pl_json *dict, const char *key, double least, double *out, const char *what, pl_error *err) {
    int rc = pl_json_member_double(dict, key, true, out, what, err);
    if (rc == 0 && !(*out >= least && isfinite(*out)))
        rc = PL_FAIL(err, PL_E_RANGE, "%s: RoPE's %s is %g, want at least %g", what, key, *out, least);
    return rc;
}

static int parse_scaling(pl_arch *a, const pl_json *config, const pl_json *dict, const char *what, pl_error *err) {
    pl_rope *r = &a->rope;
    int rc = 0;
    if (r->kind == PL_ROPE_DEFAULT) return 0;
    PL_GO(rc, factor(dict, "factor", 1, &r->factor, what, err));
    if (r->kind == PL_ROPE_DYNAMIC && a->D <= 2)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: dynamic RoPE needs a head_dim above 2", what);
    if (r->kind != PL_ROPE_LLAMA3) return 0;
    PL_GO(rc, factor(dict, "low_freq_factor", 1e-6, &r->low_freq_factor, what, err));
    PL_GO(rc, factor(dict, "high_freq_factor", 1e-6, &r->high_freq_factor, what, err));
    if (!(r->high_freq_factor > r->low_freq_factor))
        return PL_FAIL(err, PL_E_RANGE, "%s: RoPE's high_freq_factor must be above low_freq_factor", what);
    r->original_max_position = a->max_position;
    PL_GO(rc,
          pl_json_member_int(dict, "original_max_position_embeddings", false, &r->original_max_position, what, err));
    PL_GO(rc,
          pl_json_member_int(config, "original_max_position_embeddings", false, &r->original_max_position, what, err));
    if (r->original_max_position < 1)
        rc = PL_FAIL(err, PL_E_RANGE, "%s: original_max_position_embeddings is %" PRId64, what,
                     r->original_max_position);
out:
    return rc;
}

/* Rules that transformers would not apply to these families, or that plumb has not. */
static int refuse_others(const pl_json *config, const pl_json *dict, const char *what, pl_error *err) {
    double partial = 1;
    int rc = pl_json_member_double(config, "partial_rotary_factor", false, &partial, what, err);
    if (rc == 0) rc = pl_json_member_double(dict, "partial_rotary_factor", false, &partial, what, err);
    if (rc) return rc;
    if (partial != 1)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", what, partial);
    for (pl_json_iter it = pl_json_first(dict); it.key; it = pl_json_next(it))
        if (pl_json_kind_of(it.value) == PL_J_OBJECT)
            return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: RoPE parameters per layer type (%.60s) are not supported", what,
                           it.key);
    return 0;
}

int pl_rope_parse(pl_arch *a, const pl_json *config, const char *what, pl_error *err) {
    int rc;
    /* rope_scaling wins over rope_parameters when both are there, as in transformers */
    const pl_json *dict = pl_json_get(config, "rope_scaling");
    if (!dict || pl_json_len(dict) == 0) dict = pl_json_get(config, "rope_parameters");
    if (dict && pl_json_kind_of(dict) != PL_J_OBJECT)
        return PL_FAIL(err, PL_E_FORMAT, "%s: rope_scaling or rope_parameters: want an object", what);
    a->rope =
        (pl_rope){.kind = PL_ROPE_DEFAULT, .theta = 10000, .factor = 1, .low_freq_factor = 1, .high_freq_factor = 4};
    PL_GO(rc, pl_json_member_double(config, "rope_theta", false, &a->rope.theta, what, err));
    PL_GO(rc, pl_json_member_double(dict, "rope_theta", false, &a->rope.theta, what, err));
    if (!(a->rope.theta > 0 && isfinite((float)a->rope.theta)))
        return PL_FAIL(err, PL_E_RANGE, "%s: rope_theta is %g, want above 0", what, a->rope.theta);
    PL_GO(rc, refuse_others(config, dict, what, err));
    PL_GO(rc, parse_kind(&a->rope, dict, what, err));
    rc = parse_scaling(a, config, dict, what, err);
out:
    return rc;
}

/* The base of the dynamic rule; float arithmetic because transformers has the length in a tensor there. */
static float dynamic_base(const pl_arch *a, int64_t length) {
    float f = (float)a->rope.factor, n = (float)length;
    if (length <= a->max_position) {
        double d = a->rope.factor, one = d * (double)a->max_position / (double)a->max_position - (d - 1);
        return (float)(a->rope.theta * pow(one, (double)a->D / (double)(a->D - 2)));
    }
    float stretched = f * n / (float)a->max_position - (float)(a->rope.factor - 1);
    return (float)a->rope.theta * (float)pow((double)stretched, (double)(float)((double)a->D / (double)(a->D - 2)));
}

static float llama3(const pl_rope *r, float inv) {
    float original = (float)r->original_max_position, low = (float)r->low_freq_factor;
    float low_wave = (float)((double)r->original_max_position / r->low_freq_factor);
    float high_wave = (float)((double)r->original_max_position / r->high_freq_factor);
    float wave = (1.0f / inv) * (float)(2 * 3.14159265358979323846);
    if (wave > low_wave) return inv / (float)r->factor;
    if (wave < high_wave) return inv;
    float smooth = ((1.0f / wave) * original - low) / (float)(r->high_freq_factor - r->low_freq_factor);
    return (1.0f - smooth) * inv / (float)r->factor + smooth * inv;
}

void pl_rope_frequencies(float *inv, const pl_arch *a, int64_t length) {
    float base = a->rope.kind == PL_ROPE_DYNAMIC ? dynamic_base(a, length) : (float)a->rope.theta;
    for (int64_t i = 0; i < a->D / 2; i++) {
        float exponent = (float)(2 * i) / (float)a->D;
        inv[i] = 1.0f / (float)pow((double)base, (double)exponent); /* powf, rounded once */
        if (a->rope.kind == PL_ROPE_LINEAR) inv[i] /= (float)a->rope.factor;
        if (a->rope.kind == PL_ROPE_LLAMA3) inv[i] = llama3(&a->rope, inv[i]);
    }
}
