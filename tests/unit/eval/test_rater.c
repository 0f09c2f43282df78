/* test_rater.c: pl_rater through its public header: scores do not depend on what is scored together, pairs, lists and
 * single answers agree, and every failing allocation is clean. */
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

#include "model/machine.h"
#include "plumb/reward.h"
#include "unit/alloc_hook.h"
#include "unit/shared.h"

#define MODEL PLUMB_TEST_DIR "/golden/trl/reward"
#define ROWS "rater_rows.jsonl"

static pl_rate_options options_for(const char *rows) {
    MUST(pl_file_write(ROWS, rows, strlen(rows), err));
    return (pl_rate_options){.data = {.model_name_or_path = MODEL,
                                      .dataset_name = ROWS,
                                      .max_length = PL_OPT_NO_I64,
                                      .max_prompt_length = PL_OPT_NO_I64,
                                      .max_rows = PL_OPT_NO_I64,
                                      .micro_batch_tokens = 4096}};
}

/* What pl_rater_print prints; owned: free. */
static char *rate(const pl_rate_options *o, pl_rate_result *result) {
    pl_rater *r = NULL;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(pl_rater_open(&r, machine, o, err));
    MUST(pl_rater_run(r, NULL, err));
    MUST(pl_rater_print(r, f, err));
    MUST(pl_rater_result(r, result, err));
    pl_rater_free(r);
    fclose(f);
    return text;
}

static double number(const char *text, const char *key, int64_t at) {
    pl_json *row = NULL;
    MUST(pl_json_parse(&row, text, strcspn(text, "\n"), "line", err));
    const pl_json *v = pl_json_get(row, key);
    double x = at < 0 ? pl_json_double(v) : pl_json_double(pl_json_at((pl_json *)(uintptr_t)v, at));
    pl_json_free(row);
    return x;
}

/* f32, and rows of other lengths beside them: 1e-5. */
#define NEAR(a, b) assert_true(fabs((a) - (b)) <= 1e-5)

static void forms_agree(void **state) {
    (void)state;
    pl_rate_result pairs, list, one, alone;
    pl_rate_options o =
        options_for("{\"prompt\":\"Q: What is 1 + 2?\\nA:\",\"chosen\":\" 3.\",\"rejected\":\" It may be 3.\"}\n");
    char *a = rate(&o, &pairs);
    o = options_for("{\"prompt\":\"Q: What is 1 + 2?\\nA:\",\"completions\":[\" 3.\",\" It may be "
                    "3.\",\"\"],\"labels\":[1,0,0]}\n");
    char *b = rate(&o, &list);
    o = options_for(
        "{\"prompt\":\"Say hello, please.\\n\",\"completion\":\"Hello, hello, hello, and once more hello!\"}\n"
        "{\"prompt\":\"Q: What is 1 + 2?\\nA:\",\"completion\":\" It may be 3.\"}\n");
    char *c = rate(&o, &one);
    o.data.micro_batch_tokens = 1;
    char *d = rate(&o, &alone);
    double chosen = number(a, "chosen_score", -1), rejected = number(a, "rejected_score", -1);
    assert_true(fabs(chosen - rejected) > 1e-3);
    NEAR(number(b, "scores", 0), chosen);
    NEAR(number(b, "scores", 1), rejected);
    NEAR(number(strchr(c, '\n') + 1, "score", -1), rejected);
    NEAR(number(strchr(d, '\n') + 1, "score", -1), rejected);
    assert_true(pairs.has_quality && pairs.quality.pairs && pairs.quality.n == 1);
    assert_true(pairs.quality.accuracy == (chosen > rejected));
    assert_true(list.has_quality && !list.quality.pairs && list.quality.n == 3 && list.quality.positive == 1);
    assert_true(!one.has_quality && one.answers == 2 && one.unscored == 0 && !one.has_best);
    free(a);
    free(b);
    free(c);
    free(d);
}

/* Tokens that go through attention, counted in place of the machine's own. */
static pl_ops real_ops;
static int64_t tokens_run;

static void count_attn(real *o, real *lse, const real *q, const real *k, const real *v, const pl_attn *a) {
    tokens_run += a->T;
    real_ops.attn(o, lse, q, k, v, a);
}

/* A prompt is run once for all its answers that fit into a micro-batch, wherever in the file they are; scores are those
 * of answers that are run alone. */
static void prompts_are_shared(void **state) {
    (void)state;
    enum { LAYERS = 2 };
    pl_rate_result r;
    pl_rate_options o = options_for(
        "{\"prompt\":\"User: Name the colour of the river.\\n\",\"completions\":[\" It is white.\",\" Blue.\",\" "
        "x\"]}\n"
        "{\"prompt\":\"Say hello, please.\\n\",\"completions\":[\"Hello!\",\"Hello, hello, hello!\"]}\n"
        "{\"prompt\":\"User: Name the colour of the river.\\n\",\"completions\":[\"\",\" It is white.\"]}\n");
    static const int64_t answers[] = {3, 2, 2};
    real_ops = machine->ops;
    machine->ops.attn = count_attn;
    tokens_run = 0;
    char *shared = rate(&o, &r);
    int64_t least = tokens_run / LAYERS;
    tokens_run = 0;
    o.data.micro_batch_tokens = 1;
    char *alone = rate(&o, &r);
    int64_t most = tokens_run / LAYERS;
    tokens_run = 0;
    o.data.micro_batch_tokens = 25; /* some of them */
    char *some = rate(&o, &r);
    machine->ops = real_ops;
    print_message("%d tokens shared, %d alone, %d in part\n", (int)least, (int)most, (int)(tokens_run / LAYERS));
    assert_true(least < tokens_run / LAYERS && tokens_run / LAYERS < most);
    const char *a = shared, *b = alone, *c = some;
    for (int64_t row = 0; row < 3; row++) {
        for (int64_t i = 0; i < answers[row]; i++) {
            NEAR(number(a, "scores", i), number(b, "scores", i));
            NEAR(number(c, "scores", i), number(b, "scores", i));
        }
        a = strchr(a, '\n') + 1, b = strchr(b, '\n') + 1, c = strchr(c, '\n') + 1;
    }
    assert_true(fabs(number(alone, "scores", 0) - number(alone, "scores", 1)) > 1e-3);
    free(shared);
    free(alone);
    free(some);
}

static void best_of(void **state) {
    (void)state;
    pl_rate_result r;
    pl_rate_options o = options_for("{\"prompt\":\"P\",\"completions\":[\" x\",\" y\"],\"labels\":[true,false]}\n"
                                    "{\"prompt\":\"Q\",\"completions\":[\" x\"],\"labels\":[true]}\n"
                                    "{\"prompt\":\"P\",\"completions\":[\" z\",\" x\"],\"labels\":[false,true]}\n");
    char *all = rate(&o, &r);
    double x = number(all, "scores", 0), y = number(all, "scores", 1),
           z = number(strchr(strchr(all, '\n') + 1, '\n') + 1, "scores", 0);
    o.best_of = true;
    char *best = rate(&o, &r);
    double most = fmax(x, fmax(y, z));
    NEAR(number(best, "score", -1), most);
    NEAR(number(best, "answers", -1), 4);
    assert_true(r.has_best && r.best.prompts == 2 && r.best.labelled == 2);
    assert_true(r.best.random == 0.75 && r.best.any == 1);
    assert_true(r.best.best == (most == x ? 1 : 0.5)); /* equal scores: the first, which is row 0's */
    assert_int_equal(strchr(best, '\n')[1], '{');
    free(all);
    free(best);
}

static void states(void **state) {
    (void)state;
    pl_rater *r = NULL;
    pl_rate_result result;
    pl_error e;
    pl_rate_options o = options_for("{\"prompt\":\"P\",\"completion\":\" x\"}\n");
    MUST(pl_rater_open(&r, machine, &o, err));
    assert_int_equal(pl_rater_result(r, &result, &e), PL_E_STATE);
    assert_int_equal(pl_rater_print(r, stdout, &e), PL_E_STATE);
    pl_rater_free(r);
    pl_rater_free(NULL);
    o.data.model_name_or_path = NULL;
    assert_int_equal(pl_rater_open(&r, machine, &o, &e), PL_E_OPTION);
}

static void memory(void **state) {
    (void)state;
    pl_rate_options o = options_for("{\"prompt\":\"P\",\"completions\":[\" x\",\" y\"],\"labels\":[true,false]}\n");
    pl_rate_result r;
    o.best_of = true;
    free(rate(&o, &r));
    int64_t live = pl_test_live_bytes(), k = 0;
    for (int rc = PL_E_NOMEM; rc != 0; k += k < 20 ? 1 : 41) {
        pl_rater *rater = NULL;
        pl_error err;
        pl_test_fail_alloc_at(k);
        rc = pl_rater_open(&rater, machine, &o, &err);
        if (rc == 0) rc = pl_rater_run(rater, NULL, &err);
        if (rc == 0) rc = pl_rater_result(rater, &r, &err);
        pl_test_fail_alloc_at(-1);
        pl_rater_free(rater);
        if (rc != 0) assert_int_equal(rc, PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), live);
    }
    assert_true(k > 20);
    unlink(ROWS);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms_agree), cmocka_unit_test(prompts_are_shared),
                                       cmocka_unit_test(best_of), cmocka_unit_test(states), cmocka_unit_test(memory)};
    return cmocka_run_group_tests(tests, machine_setup_1, machine_teardown);
}
