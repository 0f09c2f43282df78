/* fixture.c: writes the models and rows that the benchmarks run on. */
#include "fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "plumb/init.h"

static const bench_shape shapes[] = {
    {"smollm2-135m", "llama", 576, 1536, 30, 9, 3, 49152, 1, 100000},
    {"qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 151936, 1, 1000000},
    {"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 128256, 1, 500000},
    {"smollm2-2l", "llama", 576, 1536, 2, 9, 3, 8192, 1, 100000},
    {"tiny", "llama", 64, 128, 2, 4, 2, 512, 1, 10000},
    {0},
};

const bench_shape *bench_shape_find(const char *name) {
    for (const bench_shape *s = shapes; s->name; s++)
        if (strcmp(s->name, name) == 0) return s;
    return NULL;
}

double bench_linear_elements(const bench_shape *s) {
    double D = (double)s->C / (double)s->H, C = (double)s->C, kv = D * (double)s->KV;
    return (double)s->L * (2 * C * C + 2 * C * kv + 3 * C * (double)s->F);
}

/* --- model --- */
static void write_config(FILE *f, const bench_shape *s, const char *dtype) {
    int llama = strcmp(s->model_type, "llama") == 0;
    fprintf(f,
            "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,"
            "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"vocab_size\":%d,"
            "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,\"rope_theta\":%g,\"hidden_act\":\"silu\","
            "\"tie_word_embeddings\":%s,\"initializer_range\":0.02,\"eos_token_id\":0,\"torch_dtype\":\"%s\"}\n",
            llama ? "LlamaForCausalLM" : "Qwen2ForCausalLM", s->model_type, (int)s->C, (int)s->F, (int)s->L, (int)s->H,
            (int)s->KV, (int)s->V, s->theta, s->tied ? "true" : "false", dtype);
}

/* The byte-level alphabet: printable bytes stand for themselves, the others for code points from 256 on. */
static void write_byte(FILE *f, int byte, int *next) {
    int code = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173) ? byte : (*next)++;
    fprintf(f, ",\"\\u%04x\":%d", (unsigned)code, byte + 1);
}

static void write_tokenizer(FILE *f) {
    int next = 256;
    fprintf(f, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":0,\"content\":"
               "\"<|end|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":"
               "true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
               "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
               "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
               "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{\"<|end|>\":0");
    for (int byte = 0; byte < 256; byte++) write_byte(f, byte, &next);
    fprintf(f, "},\"merges\":[]}}\n");
}

static int write_file(const char *dir, const char *name, const bench_shape *s, const char *dtype, pl_error *err) {
    char *path = NULL;
    int rc = pl_path_join(&path, dir, name, err);
    if (rc) return rc;
    FILE *f = fopen(path, "w");
    if (!f) rc = PL_FAIL(err, PL_E_IO, "cannot write %s", path);
    if (f && strcmp(name, "config.json") == 0) write_config(f, s, dtype);
    if (f && strcmp(name, "tokenizer.json") == 0) write_tokenizer(f);
    if (f && strcmp(name, "tokenizer_config.json") == 0)
        fprintf(f, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"eos_token\":\"<|end|>\",\"pad_token\":"
                   "\"<|end|>\",\"clean_up_tokenization_spaces\":false}\n");
    if (f && fclose(f)) rc = PL_FAIL(err, PL_E_IO, "cannot write %s", path);
    pl_free(path);
    return rc;
}

int bench_model_make(char **dir, const char *root, const bench_shape *s, const char *dtype, pl_error *err) {
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json"};
    char *model = NULL, *seed = NULL, *weights = NULL;
    int rc;
    PL_GO(rc, pl_asprintf(&model, err, "%s/%s-%s", root, s->name, dtype));
    PL_GO(rc, pl_asprintf(&seed, err, "%s/%s-%s.init", root, s->name, dtype));
    PL_GO(rc, pl_path_join(&weights, model, "model.safetensors", err));
    if (!pl_file_exists(weights)) {
        PL_GO(rc, pl_dir_make(seed, err));
        for (int i = 0; i < PL_LEN(names); i++) PL_GO(rc, write_file(seed, names[i], s, dtype, err));
        pl_init_options o = {
            .config = seed, .output_dir = model, .overwrite_output_dir = true, .seed = 1, .dtype = 3 /* as config */};
        PL_GO(rc, pl_init_model(&o, NULL, err));
    }
    *dir = model;
    model = NULL;
out:
    pl_free(model);
    pl_free(seed);
    pl_free(weights);
    return rc;
}

/* --- rows --- */
static int lengths_hh(bench_lengths *out, int64_t n, pl_error *err) {
    enum { ROWS = 2312 };
    FILE *f = fopen(PLUMB_BENCH_DIR "/hh_lengths.txt", "r");
    if (!f) return PL_FAIL(err, PL_E_IO, "cannot read " PLUMB_BENCH_DIR "/hh_lengths.txt");
    int64_t taken = 0;
    for (int64_t i = 0; i < ROWS && taken < n; i++) {
        long p, c, r;
        if (fscanf(f, "%ld %ld %ld", &p, &c, &r) != 3) break;
        if (i >= taken * ROWS / n) out[taken++] = (bench_lengths){p, c, r};
    }
    fclose(f);
    return taken == n ? 0 : PL_FAIL(err, PL_E_FORMAT, "hh_lengths.txt has fewer rows than wanted");
}

/* Standard normal i of the fixed seed; odd ones mirror the one before. */
static double normal(int64_t i) {
    float z;
    pl_rng_normal(&z, 1, 1.0f, 409, (uint64_t)(i / 2));
    return i % 2 ? -(double)z : (double)z;
}

static bench_lengths shared_prefix_row(int64_t i) {
    double both = 409 * exp(0.6 * normal(i)), answer = both / 1.42, tilt = exp(0.2 * normal(1000000 + 2 * i));
    return (bench_lengths){llround(both - answer), llround(answer * tilt), llround(answer / tilt)};
}

int bench_lengths_make(bench_lengths **out, char set, int64_t n, pl_error *err) {
    bench_lengths *rows = NULL;
    int rc = PL_NEW(&rows, n, err);
    if (rc) return rc;
    if (set == 'A') rc = lengths_hh(rows, n, err);
    for (int64_t i = 0; i < n && set != 'A'; i++)
        rows[i] = set == 'B'   ? (bench_lengths){512, 512, 512}
                  : set == 'C' ? shared_prefix_row(i)
                               : (bench_lengths){20 + i % 3, 10, 9 + i % 2};
    if (rc == 0)
        *out = rows;
    else
        pl_free(rows);
    return rc;
}

static void write_text(FILE *f, const char *key, uint64_t *at, int64_t n) {
    const uint64_t seed = 7;
    fprintf(f, "\"%s\":\"", key);
    for (int64_t i = 0; i < n; i++) fputc("abcdefghijklmnopqrstuvwxyzABCDEF"[pl_rng_mix(seed, (*at)++) & 31], f);
    fputc('"', f);
}

int bench_data_write(const char *path, bench_rows kind, const bench_lengths *rows, int64_t n, pl_error *err) {
    FILE *f = fopen(path, "w");
    if (!f) return PL_FAIL(err, PL_E_IO, "cannot write %s", path);
    uint64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t chosen = PL_MAX(rows[i].chosen - 1, 0); /* EOS is added */
        fputc('{', f);
        if (kind == ROWS_TEXT) write_text(f, "text", &at, rows[i].prompt + chosen);
        if (kind != ROWS_TEXT) write_text(f, "prompt", &at, rows[i].prompt), fputc(',', f);
        if (kind == ROWS_COMPLETIONS) write_text(f, "completion", &at, chosen);
        if (kind == ROWS_PAIRS) {
            write_text(f, "chosen", &at, chosen), fputc(',', f);
            write_text(f, "rejected", &at, PL_MAX(rows[i].rejected - 1, 0));
        }
        fputs("}\n", f);
    }
    return fclose(f) ? PL_FAIL(err, PL_E_IO, "cannot write %s", path) : 0;
}
