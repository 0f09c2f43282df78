/* fixture_objectives.c: see fixture_objectives.h. */
#include "unit/loss/fixture_objectives.h"

#include <stdio.h>
#include <string.h>

pl_json *group_json(const char *file) {
    char path[512];
    pl_json *root = NULL;
    pl_error err;
    snprintf(path, sizeof path, "%s/golden/loss/%s", PLUMB_TEST_DIR, file);
    if (pl_json_load(&root, path, (size_t)8 << 20, &err)) fail_msg("%s", err.text);
    return root;
}

static void number(double *out, const pl_json *o, const char *key) {
    if (pl_json_has(o, key)) *out = pl_json_double(pl_json_get(o, key));
}

static void add_term(pl_mix *mix, const char *command, const char *name) {
    const pl_objective *o = pl_objective_find(command, name);
    if (!o) fail_msg("no objective %s of %s", name, command);
    mix->term[mix->n] = o;
    mix->weight[mix->n++] = 1;
}

static void read_terms(pl_mix *mix, const char *command, const char *fallback, const pl_json *params) {
    const pl_json *types = pl_json_get(params, "loss_type"), *weights = pl_json_get(params, "loss_weights");
    size_t n;
    *mix = (pl_mix){0};
    if (pl_json_kind_of(types) != PL_J_ARRAY) {
        add_term(mix, command, types ? pl_json_string(types, &n) : fallback);
        return;
    }
    for (int64_t i = 0; i < pl_json_len(types); i++) {
        add_term(mix, command, pl_json_string(pl_json_at(types, i), &n));
        if (pl_json_len(weights) > i) mix->weight[i] = pl_json_double(pl_json_at(weights, i));
    }
}

static void read_divergence(pl_loss_params *p, const pl_json *params) {
    static const char *const names[] = {"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"};
    size_t n;
    const char *name = pl_json_string(pl_json_get(params, "f_divergence_type"), &n);
    for (int i = 0; name && i < 4; i++)
        if (strcmp(name, names[i]) == 0) p->f_divergence_type = i;
}

void group_params(pl_loss_params *p, pl_mix *mix, bool *no_reference, const char *command, const pl_json *params) {
    *p = (pl_loss_params){.beta = 0.1,
                          .f_alpha_divergence_coef = 0.5,
                          .ld_alpha = 1,
                          .discopop_tau = 0.05,
                          .desirable_weight = 1,
                          .undesirable_weight = 1,
                          .cpo_alpha = 1,
                          .simpo_gamma = 0.5,
                          .center_rewards_coefficient = NAN};
    number(&p->beta, params, "beta");
    number(&p->label_smoothing, params, "label_smoothing");
    number(&p->f_alpha_divergence_coef, params, "f_alpha_divergence_coef");
    number(&p->ld_alpha, params, "ld_alpha");
    number(&p->discopop_tau, params, "discopop_tau");
    number(&p->desirable_weight, params, "desirable_weight");
    number(&p->undesirable_weight, params, "undesirable_weight");
    number(&p->cpo_alpha, params, "cpo_alpha");
    number(&p->simpo_gamma, params, "simpo_gamma");
    number(&p->alpha, params, "alpha");
    p->use_weighting = pl_json_has(params, "use_weighting") && pl_json_bool(pl_json_get(params, "use_weighting"));
    *no_reference = pl_json_has(params, "reference_free") && pl_json_bool(pl_json_get(params, "reference_free"));
    read_divergence(p, params);
    bool single = strcmp(command, "dpo") != 0 && strcmp(command, "cpo") != 0 && strcmp(command, "sft") != 0;
    read_terms(mix, command, single ? command : strcmp(command, "sft") == 0 ? "nll" : "sigmoid", params);
}

static double at(const pl_json *answer, const char *key, int64_t i) {
    const pl_json *list = pl_json_get(answer, key);
    return pl_json_len(list) > i ? pl_json_double(pl_json_at(list, i)) : 0;
}

void group_add(group *g, const pl_json *answer) {
    int64_t s = g->n++, t = g->first[s];
    int64_t prompt = pl_json_len(pl_json_get(answer, "prompt_logps")), n = pl_json_len(pl_json_get(answer, "logps"));
    assert_true(g->n <= MAX_SEQUENCES && t + prompt + n <= MAX_TOKENS);
    for (int64_t i = 0; i < prompt; i++, t++) {
        g->token[t] = at(answer, "prompt_logps", i);
        g->weight[t] = 0;
    }
    for (int64_t i = 0; i < n; i++, t++) {
        g->token[t] = at(answer, "logps", i);
        g->reference_token[t] = at(answer, "ref_logps", i);
        g->sum_p2[t] = at(answer, "log_sum_sq_probs", i);
        g->weight[t] = 1;
    }
    g->prompt[s] = prompt;
    g->length[s] = n;
    g->first[s + 1] = t;
}

static void sum_tokens(group *g) {
    for (int64_t s = 0; s < g->n; s++) {
        g->policy[s] = g->reference[s] = 0;
        for (int64_t t = g->first[s]; t < g->first[s + 1]; t++) {
            g->policy[s] += g->weight[t] * g->token[t];
            g->reference[s] += g->weight[t] * g->reference_token[t];
        }
    }
}

int group_run(group *g, double gradient[MAX_TOKENS], const pl_mix *mix, const pl_loss_params *p, bool learn,
              pl_error *err) {
    double dseq[MAX_SEQUENCES], dtok[MAX_TOKENS];
    int64_t order[MAX_SEQUENCES];
    pl_loss_scratch scratch = {.d_sequence = dseq, .d_token = dtok};
    pl_loss_out out = {.d_sequence = g->d_sequence, .d_token = g->d_token, .metrics = g->metrics, .order = order};
    sum_tokens(g);
    pl_loss_in in = {.n = g->n,
                     .per_row = g->per_row,
                     .policy = g->policy,
                     .reference = g->no_reference ? NULL : g->reference,
                     .length = g->length,
                     .first = g->first,
                     .prompt = g->prompt,
                     .token_logp = g->token,
                     .token_sum_p2 = g->sum_p2,
                     .label = g->label,
                     .state = g->state};
    if (learn && mix->term[0]->learn) mix->term[0]->learn(g->state, &in, p);
    int rc = pl_mix_run(&out, &in, mix, p, &scratch, err);
    if (rc) return rc;
    double rows = (double)g->rows, tokens = 0;
    for (int64_t s = 0; s < g->n; s += g->per_row) tokens += (double)(g->first[s + 1] - g->first[s]);
    g->loss = out.loss / rows + out.token_loss / tokens;
    for (int64_t s = 0; gradient && s < g->n; s++)
        for (int64_t t = g->first[s]; t < g->first[s + 1]; t++)
            gradient[t] = g->weight[t] * g->d_sequence[s] / rows + g->d_token[t] / tokens;
    return 0;
}
