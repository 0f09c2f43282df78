/* objective.c: the table of objectives, and their weighted sums. */
#include "loss/objective.h"

#include <string.h>

extern const pl_objective pl_objective_dpo_sigmoid, pl_objective_dpo_cdpo, pl_objective_dpo_hinge, pl_objective_dpo_ipo,
    pl_objective_dpo_sigmoid_norm, pl_objective_dpo_exo_pair, pl_objective_dpo_nca_pair, pl_objective_dpo_robust,
    pl_objective_dpo_bco_pair, pl_objective_dpo_sppo_hard, pl_objective_dpo_aot, pl_objective_dpo_aot_unpaired,
    pl_objective_dpo_apo_zero, pl_objective_dpo_apo_down, pl_objective_dpo_discopop, pl_objective_dpo_kto_pair,
    pl_objective_dpo_sft, pl_objective_kto, pl_objective_apo_zero_unpaired, pl_objective_orpo, pl_objective_cpo_sigmoid,
    pl_objective_cpo_hinge, pl_objective_cpo_ipo, pl_objective_cpo_simpo, pl_objective_cpo_alphapo, pl_objective_bco,
    pl_objective_reward, pl_objective_verifier, pl_objective_sft_nll, pl_objective_sft_dft;

const pl_objective *const pl_objectives[] = {&pl_objective_dpo_sigmoid,
                                             &pl_objective_dpo_cdpo,
                                             &pl_objective_dpo_hinge,
                                             &pl_objective_dpo_ipo,
                                             &pl_objective_dpo_sigmoid_norm,
                                             &pl_objective_dpo_exo_pair,
                                             &pl_objective_dpo_nca_pair,
                                             &pl_objective_dpo_robust,
                                             &pl_objective_dpo_bco_pair,
                                             &pl_objective_dpo_sppo_hard,
                                             &pl_objective_dpo_aot,
                                             &pl_objective_dpo_aot_unpaired,
                                             &pl_objective_dpo_apo_zero,
                                             &pl_objective_dpo_apo_down,
                                             &pl_objective_dpo_discopop,
                                             &pl_objective_dpo_kto_pair,
                                             &pl_objective_dpo_sft,
                                             &pl_objective_kto,
                                             &pl_objective_apo_zero_unpaired,
                                             &pl_objective_orpo,
                                             &pl_objective_cpo_sigmoid,
                                             &pl_objective_cpo_hinge,
                                             &pl_objective_cpo_ipo,
                                             &pl_objective_cpo_simpo,
                                             &pl_objective_cpo_alphapo,
                                             &pl_objective_bco,
                                             &pl_objective_reward,
                                             &pl_objective_verifier,
                                             &pl_objective_sft_nll,
                                             &pl_objective_sft_dft,
                                             NULL};

const pl_objective *pl_objective_find(const char *command, const char *name) {
    for (int i = 0; pl_objectives[i]; i++)
        if (strcmp(pl_objectives[i]->command, command) == 0 && strcmp(pl_objectives[i]->name, name) == 0)
            return pl_objectives[i];
    return NULL;
}

bool pl_objective_reads(const pl_objective *o, const char *param) {
    for (const char *const *name = o->params; *name; name++)
        if (strcmp(*name, param) == 0) return true;
    return false;
}

/* --- the likelihood of answers 0, which several objectives have a term of --- */

/* Tokens of answer 0 of row i: from its prompt's first scored token, or behind the prompt. */
static int64_t nll_first(const pl_loss_in *in, int64_t s, int scope) {
    return in->first[s] + (scope == PL_NLL_PROMPT ? 0 : in->prompt[s]);
}

int pl_nll_add(pl_loss_out *out, const pl_loss_in *in, double weight, int scope, pl_error *err) {
    for (int64_t s = 0; s < in->n; s += in->per_row)
        for (int64_t t = nll_first(in, s, scope); t < in->first[s + 1]; t++) {
            if (!isfinite(in->token_logp[t]))
                return PL_FAIL(err, PL_E_NUMERIC, "a log-prob of row %" PRId64 " is not finite", s / in->per_row);
            out->token_loss -= weight * in->token_logp[t];
            out->d_token[t] -= weight;
        }
    return 0;
}

void pl_nll_measure(pl_metric *m, const pl_loss_in *in, int scope) {
    for (int64_t s = 0; s < in->n; s += in->per_row)
        for (int64_t t = nll_first(in, s, scope); t < in->first[s + 1]; t++) pl_metric_add(m, -in->token_logp[t]);
}

/* --- several objectives --- */

static int check_term(const pl_mix *mix, const pl_objective *o, const pl_loss_params *p, pl_error *err) {
    const pl_objective *first = mix->term[0];
    if (o->rows != first->rows || o->head != first->head || strcmp(o->command, first->command) != 0)
        return PL_FAIL(err, PL_E_OPTION, "loss_type: %s and %s are about different rows", first->name, o->name);
    if (p->f_divergence_type != PL_DIV_REVERSE_KL && !o->divergence)
        return PL_FAIL(err, PL_E_OPTION,
                       "f_divergence_type: loss_type %s is defined on raw log-ratios and takes reverse_kl only",
                       o->name);
    if (p->use_weighting && !pl_objective_reads(o, "use_weighting"))
        return PL_FAIL(err, PL_E_OPTION, "use_weighting weights single pairs, which loss_type %s does not have",
                       o->name);
    if (strcmp(o->name, "exo_pair") == 0 && !(p->label_smoothing > 0))
        return PL_FAIL(err, PL_E_OPTION, "loss_type exo_pair needs label_smoothing > 0 (1e-3 is usual)");
    return 0;
}

int pl_mix_check(const pl_mix *mix, const pl_loss_params *p, pl_error *err) {
    for (int64_t i = 0; i < mix->n; i++) {
        int rc = check_term(mix, mix->term[i], p, err);
        if (rc) return rc;
        for (int64_t j = 0; j < i; j++)
            if (mix->term[i] == mix->term[j])
                return PL_FAIL(err, PL_E_OPTION, "loss_type has %s twice", mix->term[i]->name);
    }
    return 0;
}

bool pl_mix_reads(const pl_mix *mix, const char *param) {
    for (int64_t i = 0; i < mix->n; i++)
        if (pl_objective_reads(mix->term[i], param)) return true;
    return false;
}

pl_coupling pl_mix_coupling(const pl_mix *mix) {
    pl_coupling c = PL_COUPLED_NONE;
    for (int64_t i = 0; i < mix->n; i++) c = PL_MAX(c, mix->term[i]->coupling);
    return c;
}

static void clear(pl_loss_out *out, const pl_loss_in *in) {
    out->loss = out->token_loss = 0;
    for (int64_t s = 0; s < in->n; s++) out->d_sequence[s] = 0;
    for (int64_t s = 0; out->d_score && s < in->n; s++) out->d_score[s] = 0;
    for (int64_t t = 0; t < in->first[in->n]; t++) out->d_token[t] = 0;
}

static void add(pl_loss_out *out, const pl_loss_out *term, double w, const pl_loss_in *in) {
    out->loss += w * term->loss;
    out->token_loss += w * term->token_loss;
    for (int64_t s = 0; s < in->n; s++) out->d_sequence[s] += w * term->d_sequence[s];
    for (int64_t s = 0; out->d_score && s < in->n; s++) out->d_score[s] += w * term->d_score[s];
    for (int64_t t = 0; t < in->first[in->n]; t++) out->d_token[t] += w * term->d_token[t];
}

int pl_mix_run(pl_loss_out *out, const pl_loss_in *in, const pl_mix *mix, const pl_loss_params *p,
               const pl_loss_scratch *scratch, pl_error *err) {
    clear(out, in);
    bool alone = mix->n == 1 && mix->weight[0] == 1;
    for (int64_t i = 0; i < mix->n; i++) {
        pl_loss_out term = *out;
        if (!alone) {
            term.d_sequence = scratch->d_sequence;
            term.d_score = scratch->d_score;
            term.d_token = scratch->d_token;
            clear(&term, in);
        }
        int rc = mix->term[i]->run(alone ? out : &term, in, p, err);
        if (rc) return rc;
        if (!alone) add(out, &term, mix->weight[i], in);
    }
    if (mix->term[0]->measure) mix->term[0]->measure(out->metrics, in, p);
    return 0;
}
