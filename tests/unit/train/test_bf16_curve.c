/* The loss curve of 200 steps in bf16 beside that of the same steps in f32: DPO, DPO with LoRA and SFT of tiny models,
 * at rates where the loss falls to a hundredth. The bounds follow from the 8 bits of bf16: docs/numerics.md, "bf16
 * beside f32 along a run". They must find a rounding that is wrong: tests/CMakeLists.txt puts functions of this
 * file between the model and its products, which truncate operands, or round them to fewer bits, where a test asks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "kernels/gemm.h"
#include "model/machine.h"
#include "plumb/train.h"

#define GOLDEN PLUMB_TEST_DIR "/golden/trl/"
#define STEPS 200

/* Sanitizers make the reference kernels very slow and no number different. So a build with them trains only what
 * something is asked of; and at the generic level, where a run takes ten times as long as at the others, only DPO with
 * right rounding. The build without them does everything at every level. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static bool too_slow(void) {
    const char *level = getenv("PLUMB_CPU");
    return SANITIZED && level && strcmp(level, "generic") == 0;
}

/* --- products with rounding that is wrong ---------------------------------------------------------------------------
 */
typedef enum fault { RIGHT, TRUNCATED, SEVEN_BITS, SIX_BITS } fault;
static fault planted;

static real spoiled(real x) {
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (planted == TRUNCATED) u &= 0xffff0000u;
    if (planted == SEVEN_BITS) u = (u + 0xffffu + ((u >> 17) & 1)) & 0xfffe0000u;
    if (planted == SIX_BITS) u = (u + 0x1ffffu + ((u >> 18) & 1)) & 0xfffc0000u;
    memcpy(&f, &u, sizeof f);
    return f;
}

static real *spoiled_copy(const real *x, int64_t rows, int64_t slack, int64_t ld) {
    real *y = calloc((size_t)(slack * ld + 1), sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < rows * ld; i++) y[i] = spoiled(x[i]);
    return y;
}

int __real_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err);
int __wrap_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err);
int __wrap_pl_gemm_run(pl_gemm *g, const pl_gemm_call *c, pl_error *err) {
    pl_gemm_call call = *c;
    if (planted == RIGHT || !c->bf16) return __real_pl_gemm_run(g, c, err);
    int64_t a = c->kind == PL_GEMM_DW ? c->k : c->m, b = c->kind == PL_GEMM_Y ? c->n : c->k;
    real *wrong_a = spoiled_copy(c->a, a, pl_rows_padded(a), c->lda), *wrong_b = NULL;
    call.a = wrong_a;
    call.same_a = false;
    if (c->b_type == PL_F32 && !c->b_packed) call.b = wrong_b = spoiled_copy(c->b, b, pl_rows_padded(b), c->ldb);
    int rc = __real_pl_gemm_run(g, &call, err);
    free(wrong_a), free(wrong_b);
    return rc;
}

int __real_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err);
int __wrap_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err);
int __wrap_pl_gemm_run_all(pl_gemm *g, const pl_gemm_call *calls, int n, pl_error *err) {
    int rc = 0;
    if (planted == RIGHT) return __real_pl_gemm_run_all(g, calls, n, err);
    for (int i = 0; rc == 0 && i < n; i++) rc = __wrap_pl_gemm_run(g, &calls[i], err);
    return rc;
}

/* --- curves ---------------------------------------------------------------------------------------------------------
 */
typedef struct curve {
    double loss[STEPS];
    int64_t n;
} curve;

static void on_event(void *user, const pl_train_event *e) {
    curve *c = user;
    if (e->kind == PL_TRAIN_STEP && c->n < STEPS) c->loss[c->n++] = e->values[0].value;
}

static curve train(const char *command, const char *run, bool bf16, fault f) {
    char dir[] = "/tmp/plumb-curve-XXXXXX", config[200], out[64], steps[16];
    pl_error err = {0};
    pl_config c;
    void *bases[PL_TRAIN_TABLES];
    pl_options *o = NULL;
    pl_machine *m = NULL;
    curve result = {.n = 0};
    pl_machine_options mo = {.cpu = getenv("PLUMB_CPU"), .threads = 1};
    pl_train_hooks hooks = {.user = &result, .event = on_event};
    assert_non_null(mkdtemp(dir));
    snprintf(config, sizeof config, "runs/%s/config.yaml", run);
    snprintf(out, sizeof out, "%s/run", dir);
    snprintf(steps, sizeof steps, "%d", STEPS);
    const char *args[] = {"--output_dir", out,   "--bf16",          bf16 ? "true" : "false",
                          "--max_steps",  steps, "--save_strategy", "no",
                          "--run_name",   "r"};
    planted = f;
    assert_int_equal(pl_machine_new(&m, &mo, &err), 0);
    assert_int_equal(pl_options_new(&o, pl_train_command(command), pl_train_bases(bases, &c), NULL, &err), 0);
    int rc = pl_options_load_yaml(o, config, &err);
    if (rc == 0) rc = pl_options_parse_args(o, PL_LEN(args), args, &err);
    if (rc == 0) rc = pl_options_finish(o, &err);
    if (rc == 0) rc = pl_train(m, command, &c, o, &hooks, &err);
    planted = RIGHT;
    if (rc) fail_msg("%s %s: %s", command, run, err.text);
    pl_options_free(o);
    pl_machine_free(m);
    assert_int_equal(pl_dir_remove(dir, &err), 0);
    assert_int_equal(result.n, STEPS);
    return result;
}

/* --- bounds ---------------------------------------------------------------------------------------------------------
 */

/* Each as a part of its bound. */
typedef struct distance {
    double worst, rms, mean;
} distance;

/* rho of docs/numerics.md for L layers. */
static double relative_error(int layers) {
    double operand = 0.4247 * 0x1p-8, product = sqrt(2) * operand;
    return product * sqrt(2 * (3 * layers + 1));
}

static distance compare(const curve *want, const curve *got, int layers) {
    double rho = relative_error(layers), sum = 0, squares = 0, losses = 0, worst = 0;
    for (int64_t i = 0; i < STEPS; i++) {
        double d = got->loss[i] - want->loss[i];
        worst = fmax(worst, fabs(d)); /* a NaN shows in the sums */
        sum += d, squares += d * d, losses += want->loss[i] * want->loss[i];
    }
    return (distance){worst / (rho * want->loss[0]), sqrt(squares / losses) / rho,
                      fabs(sum) / (2 * rho * sqrt(losses))};
}

static bool within(const distance *d) { return d->worst <= 1 && d->rms <= 1 && d->mean <= 1; }

static distance show(const char *run, const char *what, const curve *want, const curve *got) {
    distance d = compare(want, got, 2);
    print_message("%s, %s: worst %.2f, rms %.2f, mean %.2f of their bounds\n", run, what, d.worst, d.rms, d.mean);
    return d;
}

/* What is asked of wrong rounding stands well clear of its bound on every level; the rest is printed. */
static void check(const char *command, const char *run, bool faults_show) {
    curve f32 = train(command, run, false, RIGHT), bf16 = train(command, run, true, RIGHT);
    distance d = show(run, "bf16", &f32, &bf16);
    assert_true(f32.loss[STEPS - 1] <= 0.02 * f32.loss[0]);
    assert_true(within(&d));
    assert_true(d.worst >= 0.01); /* it is bf16 */
    static const char *const names[] = {"", "truncated", "seven bits", "six bits"};
    for (int f = TRUNCATED; f <= SIX_BITS; f++) {
        bool asked = faults_show && f != SEVEN_BITS;
        if ((SANITIZED && !asked) || too_slow()) continue;
        curve wrong = train(command, run, true, (fault)f);
        d = show(run, names[f], &f32, &wrong);
        if (asked) assert_false(within(&d));
    }
}

static void dpo_full(void **state) {
    (void)state;
    check("dpo", "dpo_full", true);
}

static void dpo_lora(void **state) {
    (void)state;
    if (too_slow()) skip();
    check("dpo", "dpo_lora", false);
}

static void sft_full(void **state) {
    (void)state;
    if (too_slow()) skip();
    check("sft", "sft_full", false);
}

static void nan_shows(void **state) {
    (void)state;
    curve a = {.n = STEPS}, b;
    for (int i = 0; i < STEPS; i++) a.loss[i] = 1;
    b = a;
    distance d = compare(&a, &b, 2);
    assert_true(within(&d));
    b.loss[7] = NAN;
    d = compare(&a, &b, 2);
    assert_false(within(&d));
}

int main(void) {
    if (chdir(GOLDEN)) return printf("no %s\n", GOLDEN), 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(dpo_full), cmocka_unit_test(dpo_lora),
                                       cmocka_unit_test(sft_full), cmocka_unit_test(nan_shows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
