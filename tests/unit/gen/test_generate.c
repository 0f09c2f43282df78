/* Generation against transformers' greedy ids, text and log-probs; batches against single sequences; ends, limits,
 * order, errors, failing allocations. */
/* ctest-label: threads */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gen/generator.h"
#include "unit/alloc_hook.h"
#include "unit/gen/fixture.h"

#define MAX_PROMPTS 16
#define MAX_PROMPT 64
/* With bf16 operands both sides round the same inputs, so that most log-probs agree as in f32; but a sum near a
 * rounding boundary may fall on either side, which moves one operand by 2^-8 of itself, and what follows from it. */
#define BF16_TOLERANCE 3e-2

static collector one, two;

typedef struct prompt_list {
    int32_t ids[MAX_PROMPTS][MAX_PROMPT];
    pl_prompt items[MAX_PROMPTS];
    int64_t n;
} prompt_list;

static void add_prompt(prompt_list *l, const pl_json *ids) {
    assert_true(l->n < MAX_PROMPTS);
    int64_t n = read_ids(l->ids[l->n], MAX_PROMPT, ids);
    l->items[l->n] = (pl_prompt){.ids = l->ids[l->n], .n = n, .row = 100 + l->n};
    l->n++;
}

static pl_generate_options options_of(const char *model) {
    pl_generate_options o;
    pl_generate_options_init(&o);
    o.model_name_or_path = golden(model);
    o.max_new_tokens = 24;
    o.ignore_eos = true;
    o.bf16 = 0;
    return o;
}

static void generate(collector *c, pl_machine *m, const pl_generate_options *o, const pl_prompt *prompts, int64_t n) {
    pl_generator *g = NULL;
    pl_generate_hooks hooks = hooks_of(c);
    c->samples = o->num_return_sequences;
    MUST(pl_generator_open(&g, m, o, err));
    MUST(pl_generate(g, prompts, n, &hooks, NULL, err));
    pl_generator_free(g);
    assert_int_equal(c->n, n * o->num_return_sequences);
}

static double worst_logp;                   /* of the cases checked so far */
static int64_t tokens_checked, tokens_near; /* near: as close as in f32 */

static void check_case(const kept *k, const pl_json *want, const char *model, double tolerance) {
    const pl_json *ids = pl_json_get(want, "ids"), *logps = pl_json_get(want, "logps");
    assert_int_equal(k->tokens, pl_json_len(ids));
    for (int64_t i = 0; i < k->tokens; i++) {
        if (k->ids[i] != pl_json_int(pl_json_at(ids, i))) fail_msg("%s: token %d", model, (int)i);
        double apart = fabs((double)k->logps[i] - pl_json_double(pl_json_at(logps, i)));
        if (!(apart <= tolerance)) fail_msg("%s: log-prob of token %d is off by %g", model, (int)i, apart);
        if (apart > worst_logp) worst_logp = apart;
        tokens_checked++;
        tokens_near += apart <= 2e-5;
    }
    assert_int_equal(k->finish, PL_FINISH_LENGTH);
}

/* All prompts of a model in batches of `width`, then against the golden ids and log-probs. */
static void check_model(pl_machine *m, const pl_json *entry, int64_t width) {
    const char *model = pl_json_string(pl_json_get(entry, "model"), NULL);
    const char *adapter = pl_json_string(pl_json_get(entry, "adapter"), NULL);
    bool bf16 = pl_json_bool(pl_json_get(entry, "bf16"));
    const pl_json *cases = pl_json_get(entry, "cases");
    prompt_list list = {.n = 0};
    pl_generate_options o = options_of(model);
    o.batch_size = width;
    o.bf16 = bf16;
    if (adapter) o.adapter = golden(adapter);
    for (int64_t i = 0; i < pl_json_len(cases); i++) add_prompt(&list, pl_json_get(pl_json_at(cases, i), "prompt_ids"));
    generate(&one, m, &o, list.items, list.n);
    for (int64_t i = 0; i < list.n; i++) {
        assert_int_equal(one.items[i].prompt, i);
        assert_int_equal(one.items[i].row, 100 + i);
        check_case(&one.items[i], pl_json_at(cases, i), model, bf16 ? BF16_TOLERANCE : adapter ? 1e-4 : 2e-5);
    }
}

static void test_greedy_goldens(void **state) {
    (void)state;
    pl_json *root = golden_json("generate/greedy.json");
    const pl_json *models = pl_json_get(root, "models");
    pl_machine *generic = machine_of("generic", 1);
    assert_true(pl_json_len(models) >= 15);
    for (int64_t i = 0; i < pl_json_len(models); i++) {
        check_model(machine, pl_json_at(models, i), 16);
        check_model(machine, pl_json_at(models, i), 2);
        check_model(generic, pl_json_at(models, i), 1);
    }
    pl_machine_free(generic);
    pl_json_free(root);
}

/* Adapters whose B is not zero, and bf16 operands, also with an adapter. */
static void test_adapters_and_bf16(void **state) {
    (void)state;
    pl_json *root = golden_json("generate/adapters.json");
    const pl_json *models = pl_json_get(root, "models");
    pl_machine *generic = machine_of("generic", 1);
    int64_t adapters = 0, rounded = 0, near = 0, all = 0;
    for (int64_t i = 0; i < pl_json_len(models); i++) {
        const pl_json *entry = pl_json_at(models, i);
        bool bf16 = pl_json_bool(pl_json_get(entry, "bf16"));
        adapters += pl_json_get(entry, "adapter") != NULL;
        rounded += bf16;
        worst_logp = 0;
        tokens_checked = tokens_near = 0;
        check_model(machine, entry, 16);
        check_model(machine, entry, 1);
        check_model(generic, entry, 2);
        if (!bf16) continue;
        print_message("bf16 model %d: %d of %d log-probs as in f32, largest difference %.2g\n", (int)i,
                      (int)tokens_near, (int)tokens_checked, worst_logp);
        near += tokens_near;
        all += tokens_checked;
    }
    assert_true(adapters == 8 && rounded == 7);
    assert_true(near * 10 >= all * 8);
    pl_machine_free(generic);
    pl_json_free(root);
}

static void test_text(void **state) {
    (void)state;
    pl_json *root = golden_json("generate/text.json");
    const pl_json *rows = pl_json_get(root, "rows");
    for (int64_t i = 0; i < pl_json_len(rows); i++) {
        const pl_json *row = pl_json_at(rows, i);
        size_t n, want_n;
        const char *text = pl_json_string(pl_json_get(row, "prompt"), &n);
        const char *want = pl_json_string(pl_json_get(row, "completion"), &want_n);
        pl_prompt p = {.text = text, .len = n};
        pl_generate_options o = options_of(pl_json_string(pl_json_get(row, "model"), NULL));
        generate(&one, machine, &o, &p, 1);
        assert_int_equal(one.items[0].tokens, pl_json_len(pl_json_get(row, "ids")));
        assert_int_equal(one.items[0].text_len, want_n);
        assert_memory_equal(one.items[0].text, want, want_n);
        assert_string_equal(one.pieces[0], one.items[0].text);
        assert_int_equal(one.items[0].prompt_tokens, pl_json_len(pl_json_get(row, "prompt_ids")));
    }
    pl_json_free(root);
}

static void make_prompts(prompt_list *l, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int64_t len = 1 + (i * 7) % 23;
        for (int64_t t = 0; t < len; t++) l->ids[i][t] = (int32_t)(3 + (i * 31 + t * 17) % 300);
        l->items[i] = (pl_prompt){.ids = l->ids[i], .n = len, .row = i};
    }
    l->n = n;
}

static void same_results(const collector *a, const collector *b) {
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) {
        const kept *x = &a->items[i], *y = &b->items[i];
        assert_int_equal(x->prompt, y->prompt);
        assert_int_equal(x->sample, y->sample);
        assert_int_equal(x->finish, y->finish);
        assert_int_equal(x->tokens, y->tokens);
        assert_memory_equal(x->ids, y->ids, (size_t)x->tokens * sizeof *x->ids);
        assert_string_equal(x->text, y->text);
        for (int64_t t = 0; t < x->tokens; t++)
            if (!(fabs((double)x->logps[t] - (double)y->logps[t]) <= 2e-5))
                fail_msg("sequence %d, token %d", (int)i, (int)t);
    }
}

/* What is drawn depends on seed, prompt, sample and position, not on who shares a batch. */
static void test_batched_is_single(void **state) {
    (void)state;
    prompt_list list;
    make_prompts(&list, 11);
    pl_generate_options o = options_of("trl/llama");
    o.temperature = 1.2;
    o.top_k = 40;
    o.num_return_sequences = 3;
    o.ignore_eos = false;
    o.batch_size = 1;
    generate(&one, machine, &o, list.items, list.n);
    for (int64_t width = 2; width <= 64; width = width * 2 + 1) {
        o.batch_size = width;
        generate(&two, machine, &o, list.items, list.n);
        same_results(&one, &two);
    }
    assert_memory_not_equal(one.items[0].ids, one.items[1].ids, sizeof(int32_t) * 12); /* samples differ */
    o.seed = 43;
    generate(&two, machine, &o, list.items, list.n);
    int64_t same = 0;
    for (int64_t i = 0; i < one.n; i++) same += memcmp(one.items[i].ids, two.items[i].ids, sizeof(int32_t) * 8) == 0;
    assert_true(same < 4);
}

/* More prompt tokens than a step takes go in chunks: 16 prompts of 60 tokens in steps of 512; on two threads. */
static void test_chunks(void **state) {
    (void)state;
    prompt_list list = {.n = MAX_PROMPTS};
    for (int64_t i = 0; i < MAX_PROMPTS; i++) {
        for (int64_t t = 0; t < 60; t++) list.ids[i][t] = (int32_t)(3 + (i * 13 + t * 29 + t * t) % 300);
        list.items[i] = (pl_prompt){.ids = list.ids[i], .n = 60};
    }
    pl_generate_options o = options_of("trl/qwen2");
    o.max_new_tokens = 9;
    o.batch_size = 1;
    generate(&one, machine, &o, list.items, list.n);
    o.batch_size = 16;
    pl_machine *other = machine_of(NULL, 2);
    generate(&two, other, &o, list.items, list.n);
    pl_machine_free(other);
    same_results(&one, &two);
}

/* --- ends */

static void write_text(const char *dir, const char *name, const char *text) {
    char *path = NULL;
    MUST(pl_path_join(&path, dir, name, err));
    MUST(pl_file_write(path, text, strlen(text), err));
    pl_free(path);
}

static void copy_file(const char *from_dir, const char *dir, const char *name) {
    char *from = NULL, *to = NULL;
    MUST(pl_path_join(&from, from_dir, name, err));
    MUST(pl_path_join(&to, dir, name, err));
    MUST(pl_file_copy(from, to, err));
    pl_free(from);
    pl_free(to);
}

/* The ids of config.json, of generation_config.json and of the tokenizer all end a sequence. */
static void test_every_eos(void **state) {
    (void)state;
    char dir[] = "/tmp/plumb-gen-XXXXXX", generation[128];
    assert_non_null(mkdtemp(dir));
    prompt_list list;
    make_prompts(&list, 2);
    pl_generate_options o = options_of("trl/llama");
    generate(&one, machine, &o, list.items + 1, 1);
    for (int64_t at = 3; at <= 9; at += 6) {
        int64_t first = 0; /* where that id comes first */
        while (one.items[0].ids[first] != one.items[0].ids[at]) first++;
        const char *from = golden("trl/llama");
        const char *files[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
        for (int64_t i = 0; i < PL_LEN(files); i++) copy_file(from, dir, files[i]);
        snprintf(generation, sizeof generation, "{\"eos_token_id\": [0, 5, %d]}", one.items[0].ids[at]);
        write_text(dir, "generation_config.json", generation);
        pl_generate_options p = options_of("trl/llama");
        p.model_name_or_path = dir;
        p.ignore_eos = false;
        generate(&two, machine, &p, list.items + 1, 1);
        assert_int_equal(two.items[0].finish, PL_FINISH_STOP);
        assert_int_equal(two.items[0].tokens, first + 1);
        assert_int_equal(two.items[0].ids[first], one.items[0].ids[at]);
        assert_true(strlen(two.items[0].text) < strlen(one.items[0].text));
        p.ignore_eos = true;
        generate(&two, machine, &p, list.items + 1, 1);
        assert_int_equal(two.items[0].tokens, 24);
    }
    MUST(pl_dir_remove(dir, err));
}

static int stop_at_third(void *user) { return ++*(int *)user >= 3; }

static void test_stop(void **state) {
    (void)state;
    prompt_list list;
    make_prompts(&list, 5);
    pl_generate_options o = options_of("trl/llama");
    pl_generator *g = NULL;
    int steps = 0;
    pl_error e;
    pl_generate_hooks hooks = {.user = &steps, .stop = stop_at_third};
    MUST(pl_generator_open(&g, machine, &o, err));
    assert_int_equal(pl_generate(g, list.items, list.n, &hooks, NULL, &e), PL_E_INTERRUPTED);
    assert_int_equal(steps, 3);
    MUST(pl_generate(g, list.items, 0, &hooks, NULL, err)); /* no prompts: nothing to do */
    pl_generate_stats stats;
    hooks.stop = NULL;
    MUST(pl_generate(g, list.items, list.n, &hooks, &stats, err));
    assert_int_equal(stats.new_tokens, 5 * 24);
    assert_string_equal(pl_generator_describe(g), "greedy");
    pl_generator_free(g);
}

/* --- options and errors */

static int open_code(const pl_generate_options *o, const char *part) {
    pl_generator *g = NULL;
    pl_error e;
    int rc = pl_generator_open(&g, machine, o, &e);
    if (rc == 0) pl_generator_free(g);
    if (rc && !strstr(e.text, part)) fail_msg("\"%s\" does not say \"%s\"", e.text, part);
    return rc;
}

static void test_options(void **state) {
    (void)state;
    pl_generate_options o = options_of("trl/llama");
    pl_sampling s;
    MUST(pl_sampling_of(&s, &o, err));
    assert_true(s.greedy);
    o.top_p = 0.9;
    MUST(pl_sampling_of(&s, &o, err));
    assert_true(!s.greedy && s.temperature == 1 && s.top_k == 0 && s.top_p == 0.9 && s.min_p == 0);
    o.temperature = 0;
    assert_int_equal(open_code(&o, "top_p"), PL_E_OPTION);
    o.top_p = NAN;
    MUST(pl_sampling_of(&s, &o, err));
    assert_true(s.greedy);
    o.num_return_sequences = 2;
    assert_int_equal(open_code(&o, "num_return_sequences"), PL_E_OPTION);
    o.temperature = -1;
    assert_int_equal(open_code(&o, "temperature"), PL_E_OPTION);
    o = options_of("no such model");
    assert_int_equal(open_code(&o, "no such model"), PL_E_IO);
}

static int generate_code(const char *model, const pl_prompt *p, int64_t max_new, int64_t max_prompt, const char *part) {
    pl_generate_options o = options_of(model);
    pl_generator *g = NULL;
    pl_error e;
    o.max_new_tokens = max_new;
    o.max_prompt_length = max_prompt;
    MUST(pl_generator_open(&g, machine, &o, err));
    int rc = pl_generate(g, p, 1, NULL, NULL, &e);
    if (rc && !strstr(e.text, part)) fail_msg("\"%s\" does not say \"%s\"", e.text, part);
    pl_generator_free(g);
    return rc;
}

static void test_errors(void **state) {
    (void)state;
    int32_t ids[128], bad[2] = {5, 320};
    for (int i = 0; i < 128; i++) ids[i] = 3 + i;
    pl_prompt p = {.ids = ids, .n = 100}, empty = {.text = "", .len = 0}, wrong = {.ids = bad, .n = 2};
    pl_prompt text = {.text = "hello", .len = 5}, latin = {.text = "\xe9", .len = 1}, full = {.ids = ids, .n = 128};
    int64_t none = PL_OPT_NO_I64;
    assert_int_equal(generate_code("trl/llama", &p, 28, none, ""), 0);
    assert_int_equal(generate_code("trl/llama", &p, 29, none, "128 positions"), PL_E_RANGE);
    assert_int_equal(generate_code("trl/llama", &p, 29, 99, ""), 0);
    assert_int_equal(generate_code("trl/llama", &p, none, none, ""), 0);
    assert_int_equal(generate_code("trl/llama", &full, none, none, "128 positions"), PL_E_RANGE);
    assert_int_equal(generate_code("trl/llama", &empty, 4, none, "no tokens"), PL_E_RANGE);
    assert_int_equal(generate_code("trl/llama", &wrong, 4, none, "320"), PL_E_MISMATCH);
    assert_int_equal(generate_code("trl/llama", &latin, 4, none, "prompt 0"), PL_E_FORMAT);
    assert_int_equal(generate_code("models/llama_bias", &text, 4, none, "tokenizer.json"), PL_E_UNSUPPORTED);
}

/* Each allocation fails in turn; nothing stays behind. */
static void test_failing_allocations(void **state) {
    (void)state;
    prompt_list list;
    make_prompts(&list, 2);
    pl_prompt texts[2] = {{.text = "Name a colour.", .len = 14}, list.items[1]};
    pl_generate_options o = options_of("trl/llama");
    o.max_new_tokens = 3;
    o.temperature = 1;
    o.batch_size = 2;
    pl_generate_hooks hooks = {0};
    generate(&one, machine, &o, texts, 2); /* matrix products are prepared: their memory stays */
    int64_t live = pl_test_live_bytes();
    int rc = PL_E_NOMEM;
    int64_t k = 0;
    for (; rc != 0; k += k < 40 ? 1 : 7) {
        pl_generator *g = NULL;
        pl_error e;
        pl_test_fail_alloc_at(k);
        rc = pl_generator_open(&g, machine, &o, &e);
        if (rc == 0) rc = pl_generate(g, texts, 2, &hooks, NULL, &e);
        pl_test_fail_alloc_at(-1);
        pl_generator_free(g);
        if (rc != 0) assert_int_equal(rc, PL_E_NOMEM);
        assert_int_equal(pl_test_live_bytes(), live);
    }
    assert_true(k > 20);
}

/* --- files of prompts, and lines of completions */

static void test_prompts(void **state) {
    (void)state;
    char dir[] = "/tmp/plumb-gen-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    write_text(
        dir, "test.jsonl",
        "{\"prompt\": \"one\", \"answer\": 1}\n\n{\"prompt\": \"\"}\n{\"prompt\": \"tw\\u0000o\\n\", \"chosen\": "
        "\"a\", "
        "\"rejected\": \"b\"}\n{\"chosen\": \"\\n\\nHuman: hi\\n\\nAssistant: yes\", \"rejected\": \"\\n\\nHuman: "
        "hi\\n\\nAssistant: no\"}\n");
    pl_prompts *p = NULL;
    MUST(pl_prompts_load(&p, dir, "test", 0, err));
    assert_int_equal(p->n, 4);
    assert_int_equal(p->items[0].len, 3);
    assert_memory_equal(p->items[0].text, "one", 3);
    assert_non_null(p->items[1].text);
    assert_int_equal(p->items[1].len, 0);
    assert_int_equal(p->items[2].len, 5);
    assert_memory_equal(p->items[2].text, "tw\0o\n", 5);
    assert_int_equal(p->items[2].row, 2);
    assert_int_equal(p->items[3].len, strlen("\n\nHuman: hi\n\nAssistant:"));
    assert_memory_equal(p->items[3].text, "\n\nHuman: hi\n\nAssistant:", p->items[3].len);
    pl_prompts_free(p);
    p = NULL;
    snprintf(path, sizeof path, "%s/test.jsonl", dir);
    MUST(pl_prompts_load(&p, path, NULL, 2, err));
    assert_int_equal(p->n, 2);
    pl_prompts_free(p);
    p = NULL;
    pl_error e;
    write_text(dir, "bad.jsonl", "{\"prompt\": \"one\"}\n{\"text\": \"two\"}\n");
    snprintf(path, sizeof path, "%s/bad.jsonl", dir);
    assert_int_equal(pl_prompts_load(&p, path, NULL, 0, &e), PL_E_FORMAT);
    assert_non_null(strstr(e.text, "bad.jsonl:2"));
    write_text(dir, "bad.jsonl", "\n");
    assert_int_equal(pl_prompts_load(&p, path, NULL, 0, &e), PL_E_RANGE);
    assert_null(p);
    MUST(pl_dir_remove(dir, err));
}

static void check_line(const pl_completion *c, bool ids, const char *want) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(pl_completion_print(f, c, ids, err));
    fclose(f);
    assert_string_equal(text, want);
    free(text);
}

static void test_line(void **state) {
    (void)state;
    int32_t ids[] = {7, 0}, prompt[] = {3};
    float logps[] = {-0.5f, -0.1f};
    pl_completion c = {.row = 4,
                       .sample = 1,
                       .ids = ids,
                       .tokens = 2,
                       .logps = logps,
                       .prompt_ids = prompt,
                       .prompt_tokens = 1,
                       .text = "a\"\n\xc3\xa9",
                       .text_len = 5,
                       .prompt_text = "p",
                       .prompt_len = 1,
                       .finish = PL_FINISH_STOP};
    check_line(&c, false,
               "{\"row\":4,\"sample\":1,\"prompt\":\"p\",\"completion\":\"a\\\"\\n\xc3\xa9\",\"tokens\":2,\"finish\":"
               "\"stop\"}\n");
    c.prompt_text = NULL;
    c.finish = PL_FINISH_LENGTH;
    check_line(&c, true,
               "{\"row\":4,\"sample\":1,\"completion\":\"a\\\"\\n\xc3\xa9\",\"tokens\":2,\"finish\":\"length\","
               "\"prompt_ids\":[3],"
               "\"ids\":[7,0],\"logps\":[-0.5,-0.10000000149011612]}\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_goldens), cmocka_unit_test(test_adapters_and_bf16),
        cmocka_unit_test(test_text),           cmocka_unit_test(test_batched_is_single),
        cmocka_unit_test(test_chunks),         cmocka_unit_test(test_every_eos),
        cmocka_unit_test(test_stop),           cmocka_unit_test(test_options),
        cmocka_unit_test(test_errors),         cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_prompts),        cmocka_unit_test(test_line)};
    return cmocka_run_group_tests(tests, machine_setup_1, machine_teardown);
}
