/* Log-probs and evaluation: TRL's numbers of the first step, references, cuts, row numbers, JSON, errors. */
/* ctest-label: threads */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "plumb/score.h"
#include "unit/alloc_hook.h"
#include "unit/shared.h"

#define NEAR(x, y, tol)                                                                                                \
    if (!(fabs((x) - (y)) <= (tol))) fail_msg("%s = %.17g, want %.17g", #x, (double)(x), (double)(y))
#define MAX_ROWS 32

static pl_score_options options_of(const char *model, const char *data) {
    return (pl_score_options){.model_name_or_path = golden(model),
                              .dataset_name = data,
                              .max_length = PL_OPT_NO_I64,
                              .max_prompt_length = PL_OPT_NO_I64,
                              .max_rows = PL_OPT_NO_I64,
                              .micro_batch_tokens = 4096};
}

typedef struct got {
    int64_t n, row[MAX_ROWS], prompt[MAX_ROWS], tokens[MAX_ROWS][2];
    double logp[MAX_ROWS][2];
} got;

static int collect(void *user, const pl_score_row *row, pl_error *err) {
    got *g = user;
    (void)err;
    assert_true(g->n < MAX_ROWS);
    const pl_score_answer *answers[2] = {&row->chosen, &row->rejected};
    g->row[g->n] = row->row;
    g->prompt[g->n] = row->prompt_tokens;
    for (int a = 0; a < 2; a++) {
        double sum = 0;
        for (int64_t i = 0; i < answers[a]->tokens; i++) sum += (double)answers[a]->logps[i];
        NEAR(sum, answers[a]->logp, 1e-12 * fabs(sum));
        g->logp[g->n][a] = answers[a]->logp;
        g->tokens[g->n][a] = answers[a]->tokens;
    }
    g->n++;
    return 0;
}

static void score(got *g, const pl_score_options *o) {
    pl_scorer *s = NULL;
    g->n = 0;
    MUST(pl_scorer_open(&s, machine, o, NULL, err));
    MUST(pl_scorer_logps(s, collect, g, NULL, err));
    assert_int_equal(pl_scorer_rows(s), g->n);
    pl_scorer_free(s);
}

typedef struct seen {
    int64_t done, total, calls;
} seen;

/* Progress goes up, and every row counts once, however many passes there are. */
static void watch(void *user, int64_t done, int64_t total) {
    seen *w = user;
    assert_true(done >= w->done && done <= total);
    assert_true(w->calls == 0 || total == w->total);
    *w = (seen){done, total, w->calls + 1};
}

static pl_eval_result evaluate(const pl_score_options *o, const pl_eval_options *e) {
    pl_scorer *s = NULL;
    pl_eval_result r;
    seen w = {0};
    pl_score_hooks hooks = {.user = &w, .progress = watch};
    MUST(pl_scorer_open(&s, machine, o, e, err));
    MUST(pl_scorer_eval(s, &r, &hooks, err));
    assert_int_equal(w.total, r.rows);
    assert_int_equal(w.done, r.rows);
    pl_scorer_free(s);
    return r;
}

/* Line `line` (0-based) of a JSON lines file; owned. */
static pl_json *json_line(const char *path, int line) {
    char *text = NULL;
    size_t n = 0;
    pl_json *json = NULL;
    MUST(pl_file_read(&text, &n, path, 1 << 22, err));
    char *at = text;
    for (int i = 0; i < line; i++) at = strchr(at, '\n') + 1;
    MUST(pl_json_parse(&json, at, strcspn(at, "\n"), path, err));
    pl_free(text);
    return json;
}

/* The mean log-probs that TRL logs for its first batch are those of the initial model: f32 sums of about -100. */
static void check_first_step(const char *model, const char *run) {
    char path[128];
    got g;
    pl_score_options o = options_of(model, golden("trl/pairs/train.jsonl"));
    score(&g, &o);
    assert_int_equal(g.n, 14);
    snprintf(path, sizeof path, "trl/runs/%s/order.jsonl", run);
    pl_json *order = json_line(golden(path), 0);
    snprintf(path, sizeof path, "trl/runs/%s/log.jsonl", run);
    pl_json *log = json_line(golden(path), 0);
    const pl_json *batch = pl_json_at(order, 0);
    double mean[2] = {0, 0}, n = (double)pl_json_len(batch);
    assert_int_equal(pl_json_len(batch), 4);
    for (int64_t i = 0; i < 4; i++)
        for (int a = 0; a < 2; a++) mean[a] += g.logp[pl_json_int(pl_json_at(batch, i))][a] / n;
    double chosen = pl_json_double(pl_json_get(log, "logps/chosen"));
    double rejected = pl_json_double(pl_json_get(log, "logps/rejected"));
    NEAR(mean[0], chosen, 1e-6 * fabs(chosen));
    NEAR(mean[1], rejected, 1e-6 * fabs(rejected));
    pl_json_free(order);
    pl_json_free(log);
}

static void test_trl(void **state) {
    (void)state;
    check_first_step("trl/llama", "dpo_full");
    check_first_step("trl/qwen2", "dpo_qwen2");
}

static void test_cuts(void **state) {
    (void)state;
    got whole, single;
    pl_score_options o = options_of("trl/llama", golden("trl/pairs/train.jsonl"));
    score(&whole, &o);
    o.micro_batch_tokens = 1;
    score(&single, &o);
    assert_int_equal(whole.n, single.n);
    for (int64_t i = 0; i < whole.n; i++)
        for (int a = 0; a < 2; a++) {
            assert_int_equal(whole.tokens[i][a], single.tokens[i][a]);
            NEAR(whole.logp[i][a], single.logp[i][a], 2e-6 * (double)whole.tokens[i][a]);
        }
}

/* The model against itself, and against an adapter whose B is zero: no reward, and a tie is not right. */
static void test_same_reference(void **state) {
    (void)state;
    pl_score_options o = options_of("trl/llama", golden("trl/pairs/test.jsonl"));
    pl_eval_options e = {.ref_model = golden("trl/llama"), .loss = {.beta = 0.1}};
    for (int i = 0; i < 2; i++) {
        pl_eval_result r = evaluate(&o, &e);
        assert_true(r.has_reference && r.rows == 8);
        NEAR(r.loss.mean, log(2), 1e-12);
        NEAR(r.loss.se, 0, 1e-12);
        NEAR(r.rewards_accuracies.mean, 0, 0);
        NEAR(r.rewards_margins.mean, 0, 0);
        assert_non_null(strstr(r.reference, i ? "adapter off" : "the model in"));
        o.adapter = golden("trl/runs/dpo_lora/adapter_init");
        e.ref_model = NULL;
    }
}

static void test_rewards(void **state) {
    (void)state;
    const char *data = golden("trl/pairs/train.jsonl");
    pl_score_options o = options_of("trl/llama", data), q = options_of("trl/qwen2", data);
    pl_eval_options e = {.ref_model = golden("trl/qwen2"), .loss = {.beta = 0.3}};
    got p, r;
    score(&p, &o);
    score(&r, &q);
    pl_eval_result got_ = evaluate(&o, &e);
    double loss = 0, chosen = 0, margin = 0, squares = 0, right = 0, ahead = 0, n = (double)p.n;
    for (int64_t i = 0; i < p.n; i++) {
        double c = 0.3 * (p.logp[i][0] - r.logp[i][0]), d = 0.3 * (p.logp[i][1] - r.logp[i][1]);
        loss += log1p(exp(d - c)) / n;
        chosen += c / n;
        margin += (c - d) / n;
        squares += (c - d) * (c - d);
        right += (c > d) / n;
        ahead += (p.logp[i][0] > p.logp[i][1]) / n;
    }
    NEAR(got_.loss.mean, loss, 1e-9);
    NEAR(got_.rewards_chosen.mean, chosen, 1e-9);
    NEAR(got_.rewards_margins.mean, margin, 1e-9);
    NEAR(got_.rewards_margins.se, sqrt((squares - n * margin * margin) / (n - 1) / n), 1e-9);
    NEAR(got_.rewards_accuracies.mean, right, 1e-12);
    NEAR(got_.logps_accuracies.mean, ahead, 1e-12);
    e = (pl_eval_options){.loss = {.beta = 0.3}};
    pl_eval_result none = evaluate(&o, &e);
    assert_false(none.has_reference);
    NEAR(none.logps_accuracies.mean, ahead, 1e-12);
}

/* --- row numbers, JSON, errors */

static void write_rows(char *dir, char path[64], const char *text) {
    assert_non_null(mkdtemp(dir));
    snprintf(path, 64, "%s/test.jsonl", dir);
    MUST(pl_file_write(path, text, strlen(text), err));
}

static const char three_rows[] = "{\"prompt\": \"a b\", \"chosen\": \" c\", \"rejected\": \" d\"}\n\n"
                                 "{\"prompt\": \"a b\", \"chosen\": \" \", \"rejected\": \" d\"}\n"
                                 "{\"prompt\": \"e\", \"chosen\": \" f g\", \"rejected\": \" h\"}\n";

static void test_rows(void **state) {
    (void)state;
    char dir[] = "/tmp/plumb-eval-XXXXXX", path[64];
    got g;
    write_rows(dir, path, three_rows);
    pl_score_options o = options_of("trl/llama", dir); /* a directory: its test split */
    o.drop_empty = true;
    score(&g, &o);
    assert_int_equal(g.n, 2);
    assert_int_equal(g.row[0], 0);
    assert_int_equal(g.row[1], 2);
    o.drop_empty = false;
    o.dataset_name = path;
    score(&g, &o);
    assert_int_equal(g.n, 3);
    o.max_rows = 1;
    score(&g, &o);
    assert_int_equal(g.n, 1);
    MUST(pl_dir_remove(dir, err));
}

static char *printed(const pl_score_row *row, bool tokens) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(pl_score_row_print(f, row, tokens, err));
    fclose(f);
    return text;
}

static void test_json(void **state) {
    (void)state;
    int32_t prompt[] = {4, 5}, ids[] = {6, 0};
    float logps[] = {-0.5f, -0.1f};
    pl_score_answer a = {.tokens = 2, .logp = -12.3, .n = 2, .ids = ids, .logps = logps};
    pl_score_answer b = {.tokens = 1, .logp = -1, .n = 1, .ids = ids, .logps = logps};
    pl_score_row row = {.row = 0, .prompt_tokens = 2, .prompt_ids = prompt, .chosen = a, .rejected = b};
    char *plain = printed(&row, false), *full = printed(&row, true);
    assert_string_equal(plain, "{\"row\":0,\"prompt_tokens\":2,\"chosen\":{\"tokens\":2,\"logp\":-12.3},"
                               "\"rejected\":{\"tokens\":1,\"logp\":-1.0}}\n");
    pl_json *json = NULL;
    MUST(pl_json_parse(&json, full, strlen(full), "line", err));
    const pl_json *chosen = pl_json_get(json, "chosen"), *list = pl_json_get(chosen, "logps");
    assert_int_equal(pl_json_int(pl_json_at(pl_json_get(json, "prompt_ids"), 1)), 5);
    assert_int_equal(pl_json_int(pl_json_at(pl_json_get(chosen, "ids"), 0)), 6);
    assert_int_equal(pl_json_len(list), 2);
    assert_true(pl_json_double(pl_json_at(list, 1)) == (double)-0.1f);
    pl_json_free(json);
    free(plain);
    free(full);
}

static void test_eval_json(void **state) {
    (void)state;
    pl_eval_result r = {.rows = 1, .has_reference = true, .reference = "the \"base\"", .beta = 0.1};
    r.loss = (pl_mean){0.5, NAN};
    for (int i = 0; i < 2; i++) {
        char *text = NULL;
        size_t n = 0;
        pl_json *json = NULL;
        FILE *f = open_memstream(&text, &n);
        MUST(pl_eval_print_json(f, &r, err));
        fclose(f);
        MUST(pl_json_parse(&json, text, n, "result", err));
        assert_int_equal(pl_json_has(json, "rewards/accuracies"), i == 0);
        assert_int_equal(pl_json_has(json, "loss"), i == 0);
        assert_true(pl_json_has(json, "logps/accuracies"));
        const pl_json *se = pl_json_get(json, "stderr");
        assert_int_equal(pl_json_has(se, "loss") && !pl_json_get(se, "loss"), i == 0);
        pl_json_free(json);
        free(text);
        r.has_reference = false;
    }
}

static int code(const pl_score_options *o, const pl_eval_options *e, const char *part) {
    pl_scorer *s = NULL;
    pl_error err;
    int rc = pl_scorer_open(&s, machine, o, e, &err);
    pl_scorer_free(s);
    if (rc && !strstr(err.text, part)) fail_msg("\"%s\" does not say \"%s\"", err.text, part);
    return rc;
}

static int refuse(void *user) { return ++*(int *)user > 0; }

static void test_errors(void **state) {
    (void)state;
    char dir[] = "/tmp/plumb-eval-XXXXXX", path[64], text[1200] = "{\"prompt\": \"", *end = text + strlen(text);
    for (int i = 0; i < 300; i++) *end++ = "ax7 "[i % 4];
    strcpy(end, "\", \"chosen\": \" c\", \"rejected\": \" d\"}\n");
    strcat(text, three_rows);
    write_rows(dir, path, text);
    pl_score_options o = options_of("trl/llama", path);
    assert_int_equal(code(&o, NULL, "max_length"), PL_E_RANGE);
    o.max_length = 128;
    assert_int_equal(code(&o, NULL, ""), 0);
    pl_eval_options both = {.ref_model = golden("trl/llama"), .no_reference = true};
    assert_int_equal(code(&o, &both, "contradict"), PL_E_OPTION);
    pl_eval_options other = {.ref_model = golden("models/llama_bias")};
    assert_int_equal(code(&o, &other, "97 ids"), PL_E_MISMATCH);
    o.micro_batch_tokens = 0;
    assert_int_equal(code(&o, NULL, "micro_batch_tokens"), PL_E_OPTION);
    o.micro_batch_tokens = 8;
    pl_scorer *s = NULL;
    pl_error e;
    int polls = 0;
    got g = {0};
    pl_score_hooks hooks = {.user = &polls, .stop = refuse};
    MUST(pl_scorer_open(&s, machine, &o, NULL, err));
    assert_int_equal(pl_scorer_logps(s, collect, &g, &hooks, &e), PL_E_INTERRUPTED);
    assert_int_equal(polls, 1);
    pl_scorer_free(s);
    MUST(pl_dir_remove(dir, err));
}

static void test_failing_allocations(void **state) {
    (void)state;
    char dir[] = "/tmp/plumb-eval-XXXXXX", path[64];
    write_rows(dir, path, three_rows);
    pl_score_options o = options_of("trl/llama", path);
    pl_eval_options e = {.ref_model = golden("trl/qwen2"), .loss = {.beta = 0.1}};
    pl_eval_result r = evaluate(&o, &e);
    int64_t live = pl_test_live_bytes(), k = 0;
    int rc = PL_E_NOMEM;
    for (; rc != 0; k += k < 20 ? 1 : 41) {
        pl_scorer *s = NULL;
        pl_error err;
        pl_test_fail_alloc_at(k);
        rc = pl_scorer_open(&s, machine, &o, &e, &err);
        if (rc == 0) rc = pl_scorer_eval(s, &r, NULL, &err);
        pl_test_fail_alloc_at(-1);
        pl_scorer_free(s);
        if (rc != 0) assert_int_equal(rc, PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), live);
    }
    assert_true(k > 20);
    MUST(pl_dir_remove(dir, err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trl),       cmocka_unit_test(test_cuts),   cmocka_unit_test(test_same_reference),
        cmocka_unit_test(test_rewards),   cmocka_unit_test(test_rows),   cmocka_unit_test(test_json),
        cmocka_unit_test(test_eval_json), cmocka_unit_test(test_errors), cmocka_unit_test(test_failing_allocations)};
    return cmocka_run_group_tests(tests, machine_setup_2, machine_teardown);
}
