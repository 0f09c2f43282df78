/* compare_tensors.c: compares safetensors files of F32 tensors. Exits with 0, 1 (differ), 2 (cannot compare). NaN
 * differs.
 *
 *   compare_tensors TOLERANCE A B             the same names, and every tensor of B is within TOLERANCE of A's,
 * relative to the norm of A's compare_tensors TOLERANCE sums JSON FILE  sum and norm of every tensor are those of a
 * golden final.json, as far as an error of TOLERANCE times the norm allows: it moves the norm by that, and the sum of n
 *                                             numbers by sqrt(n) times that */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tensor/safetensors.h"

static double distance(const pl_tensor *a, const pl_tensor *b) {
    const float *x = a->data, *y = b->data;
    double norm = 0, diff = 0;
    if (a->dtype != PL_F32 || b->dtype != PL_F32 || a->bytes != b->bytes) return (double)NAN;
    for (size_t i = 0; i < a->bytes / sizeof *x; i++) {
        norm += (double)x[i] * x[i];
        diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    }
    return norm > 0 ? sqrt(diff / norm) : diff;
}

static int compare_files(double tolerance, const char *first, const char *second) {
    pl_error err;
    pl_tensors *a = NULL, *b = NULL;
    if (pl_tensors_open_file(&a, first, &err) || pl_tensors_open_file(&b, second, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    bool bad = pl_tensors_count(a) != pl_tensors_count(b) || pl_tensors_count(a) == 0;
    double worst = 0;
    for (int64_t i = 0; i < pl_tensors_count(a); i++) {
        const pl_tensor *x = pl_tensors_at(a, i), *y = pl_tensors_find(b, x->name);
        double d = y ? distance(x, y) : (double)NAN;
        if (!(d <= tolerance)) {
            printf("%s: relative distance %.3g\n", x->name, d);
            bad = true;
        }
        if (!(d <= worst)) worst = d;
    }
    printf("largest relative distance of a tensor: %.3g\n", worst);
    pl_tensors_close(a);
    pl_tensors_close(b);
    return bad;
}

/* PEFT's name in memory, with the adapter's own name in it, as it is in a file. */
static void name_in_file(char *out, size_t size, const char *name) {
    static const char *const parts[] = {".modules_to_save.default.", ".default."};
    snprintf(out, size, "%s", name);
    for (int i = 0; i < 2; i++) {
        const char *middle = strstr(name, parts[i]);
        if (!middle) continue;
        snprintf(out, size, "%.*s%s", (int)(middle - name), name, middle + strlen(parts[i]) - 1);
        return;
    }
}

/* How far sum and norm are off, in units of what a relative error of 1 of the tensor could do. */
static double sums_distance(const pl_tensor *t, const pl_json *want) {
    const float *x = t && t->dtype == PL_F32 ? t->data : NULL;
    double sum = 0, square = 0, n = x ? (double)t->bytes / sizeof *x : 0;
    double want_sum = pl_json_double(pl_json_get(want, "sum")), norm = pl_json_double(pl_json_get(want, "norm"));
    if (!x || !(norm > 0)) return (double)NAN;
    for (size_t i = 0; i < t->bytes / sizeof *x; i++) {
        sum += x[i];
        square += (double)x[i] * x[i];
    }
    return fmax(fabs(sum - want_sum) / (sqrt(n) * norm), fabs(sqrt(square) - norm) / norm);
}

static int compare_sums(double tolerance, const char *golden, const char *file) {
    pl_error err;
    pl_json *root = NULL;
    pl_tensors *t = NULL;
    if (pl_json_load(&root, golden, 1 << 20, &err) || pl_tensors_open_file(&t, file, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    const pl_json *weights = pl_json_get(root, "weights");
    bool bad = pl_json_len(weights) != pl_tensors_count(t) || pl_tensors_count(t) == 0;
    if (bad) printf("%lld tensors, want %lld\n", (long long)pl_tensors_count(t), (long long)pl_json_len(weights));
    double worst = 0;
    for (pl_json_iter it = pl_json_first(weights); it.key; it = pl_json_next(it)) {
        char name[300];
        name_in_file(name, sizeof name, it.key);
        double d = sums_distance(pl_tensors_find(t, name), it.value);
        if (!(d <= tolerance)) {
            printf("%s: sum or norm off by %.3g\n", name, d);
            bad = true;
        }
        if (!(d <= worst)) worst = d;
    }
    printf("largest relative distance of a sum or norm: %.3g\n", worst);
    pl_tensors_close(t);
    pl_json_free(root);
    return bad;
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[2], "sums") == 0) return compare_sums(atof(argv[1]), argv[3], argv[4]);
    if (argc == 4) return compare_files(atof(argv[1]), argv[2], argv[3]);
    fprintf(stderr, "usage: compare_tensors TOLERANCE A B | TOLERANCE sums JSON FILE\n");
    return 2;
}
