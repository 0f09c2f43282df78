/* compare_tensors.c: compare_tensors TOLERANCE A B: two safetensors files of F32 tensors have the same names, and every
 * tensor of B is within TOLERANCE of A's, relative to the norm of A's. Exits with 0, 1 (differ), 2. NaN differs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

int main(int argc, char **argv) {
    pl_error err;
    pl_tensors *a = NULL, *b = NULL;
    if (argc != 4) return 2;
    if (pl_tensors_open_file(&a, argv[2], &err) || pl_tensors_open_file(&b, argv[3], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    bool bad = pl_tensors_count(a) != pl_tensors_count(b) || pl_tensors_count(a) == 0;
    double worst = 0;
    for (int64_t i = 0; i < pl_tensors_count(a); i++) {
        const pl_tensor *x = pl_tensors_at(a, i), *y = pl_tensors_find(b, x->name);
        double d = y ? distance(x, y) : (double)NAN;
        if (!(d <= atof(argv[1]))) {
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
