/* train/objective.c: from the configuration to what is minimised: objectives with their weights, parameters whose
 * defaults depend on the objective, and the refusal of a parameter that none of them reads. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "plumb/log.h"
#include "train/config.h"

static int parse_weight(double *out, const char *text, pl_error *err) {
    char *end = NULL;
    *out = strtod(text, &end);
    if (end == text || *end || !isfinite(*out))
        return PL_FAIL(err, PL_E_OPTION, "loss_weights: '%.40s' is no number", text);
    return 0;
}

static int add_term(pl_mix *mix, const char *command, const char *name, double weight, pl_error *err) {
    const pl_objective *o = pl_objective_find(command, name);
    if (!o) return PL_FAIL(err, PL_E_INTERNAL, "loss_type %s is in no row of loss/", name);
    if (mix->n == PL_MIX_MAX) return PL_FAIL(err, PL_E_OPTION, "loss_type: at most %d objectives", PL_MIX_MAX);
    mix->term[mix->n] = o;
    mix->weight[mix->n++] = weight;
    return 0;
}

static int add_terms(pl_mix *mix, const char *command, const pl_config *c, pl_error *err) {
    const pl_strlist *types = &c->loss_type, *weights = &c->loss_weights;
    int rc = 0;
    if (types->n == 0) return add_term(mix, command, command, 1, err); /* a command with one objective only */
    if (types->n > 1 && strcmp(command, "dpo") != 0)
        return PL_FAIL(err, PL_E_OPTION, "loss_type: plumb %s takes one objective", command);
    if (weights->n > 0 && weights->n != types->n)
        return PL_FAIL(err, PL_E_OPTION, "loss_weights has %" PRId64 " numbers for %" PRId64 " objectives", weights->n,
                       types->n);
    for (int64_t i = 0; rc == 0 && i < types->n; i++) {
        double weight = 1;
        if (weights->n > 0) rc = parse_weight(&weight, weights->items[i], err);
        if (rc == 0) rc = add_term(mix, command, types->items[i], weight, err);
    }
    return rc;
}

/* beta and cpo_alpha of plumb cpo: TRL's, or those of SimPO's paper where that is asked for. */
static void settle_simpo(const pl_mix *mix, pl_loss_params *p) {
    bool simpo = strcmp(mix->term[0]->name, "simpo") == 0, alphapo = strcmp(mix->term[0]->name, "alphapo") == 0;
    if (strcmp(mix->term[0]->command, "cpo") != 0) return;
    if (isnan(p->beta)) p->beta = simpo || alphapo ? 2.0 : 0.1;
    if (isnan(p->cpo_alpha)) p->cpo_alpha = simpo || alphapo ? 0 : 1.0;
    if (simpo && p->cpo_alpha != 0)
        pl_log(PL_LOG_WARN,
               "loss_type simpo with cpo_alpha %g is CPO-SimPO, not SimPO: SimPO has cpo_alpha 0 (plumb's default for "
               "it; TRL's is 1)",
               p->cpo_alpha);
    if (simpo && p->beta < 1)
        pl_log(PL_LOG_WARN,
               "loss_type simpo with beta %g: the paper has 2 to 2.5 on log-probs per token (plumb's default for it "
               "is 2; TRL's is 0.1)",
               p->beta);
}

static bool differs(const pl_option *row, const void *field) {
    const char *text = NULL;
    size_t n = 0;
    switch (row->type) {
    case PL_OPT_BOOL: return *(const bool *)field;
    case PL_OPT_F64: return row->fallback ? *(const double *)field != strtod(row->fallback, NULL) : true;
    case PL_OPT_ENUM:
        return !pl_choice_at(row->choices, *(const int *)field, &text, &n) || strlen(row->fallback) != n ||
               memcmp(text, row->fallback, n) != 0;
    default: return true;
    }
}

/* "cdpo, robust": who of the command reads the parameter. */
static void readers(char *out, size_t size, const char *command, const char *param) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; pl_objectives[i] && at < size; i++) {
        const pl_objective *o = pl_objectives[i];
        if (strcmp(o->command, command) == 0 && pl_objective_reads(o, param))
            at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", o->name);
    }
}

/* A parameter that was set to something and that nothing reads is a mistake, not a detail. */
static int check_read(const pl_mix *mix, const char *command, const pl_config *c, const pl_options *o, pl_error *err) {
    char names[400];
    const pl_option *rows = pl_train_command(command)->tables[3];
    for (; o && rows->name; rows++) {
        const void *field = (const char *)&c->loss + rows->offset;
        if (rows->type == PL_OPT_ALIAS || strcmp(rows->name, "rpo_alpha") == 0) continue;
        if (pl_options_origin(o, rows->name) == PL_ORIGIN_DEFAULT || !differs(rows, field)) continue;
        if (pl_mix_reads(mix, rows->name)) continue;
        readers(names, sizeof names, command, rows->name);
        return PL_FAIL(err, PL_E_OPTION, "%s: %s has no effect with loss_type %s; these read it: %s",
                       pl_options_where(o, rows->name), rows->name, mix->term[0]->name, names);
    }
    return 0;
}

int pl_config_objective(pl_mix *mix, pl_loss_params *params, const char *command, const pl_config *c,
                        const pl_options *o, pl_error *err) {
    int rc;
    *mix = (pl_mix){0};
    *params = c->loss;
    PL_GO(rc, add_terms(mix, command, c, err));
    PL_GO(rc, check_read(mix, command, c, o, err));
    if (strcmp(command, "dpo") == 0 && !isnan(params->rpo_alpha) && params->rpo_alpha > 0)
        PL_GO(rc, add_term(mix, command, "sft", params->rpo_alpha, err));
    settle_simpo(mix, params);
    PL_GO(rc, pl_mix_check(mix, params, err));
out:
    return rc;
}

static size_t add_value(char *out, size_t size, const pl_option *row, const pl_loss_params *p) {
    const void *field = (const char *)p + row->offset;
    const char *text = NULL;
    size_t n = 0;
    if (row->type == PL_OPT_F64 && !isnan(*(const double *)field))
        return (size_t)snprintf(out, size, ", %s %g", row->name, *(const double *)field);
    if (row->type == PL_OPT_BOOL && *(const bool *)field) return (size_t)snprintf(out, size, ", %s", row->name);
    if (row->type == PL_OPT_ENUM && pl_choice_at(row->choices, *(const int *)field, &text, &n))
        return (size_t)snprintf(out, size, ", %s %.*s", row->name, (int)n, text);
    return 0;
}

void pl_config_objective_sentence(char *out, size_t size, const pl_mix *mix, const pl_loss_params *p) {
    size_t at = (size_t)snprintf(out, size, "objective = ");
    for (int64_t i = 0; i < mix->n && at < size; i++) {
        if (mix->weight[i] != 1 || mix->n > 1)
            at += (size_t)snprintf(out + at, size - at, "%s%g x ", i ? " + " : "", mix->weight[i]);
        if (at < size) at += (size_t)snprintf(out + at, size - at, "%s (%s)", mix->term[i]->name, mix->term[i]->paper);
    }
    for (const pl_option *row = pl_train_command(mix->term[0]->command)->tables[3]; row->name && at < size; row++)
        if (pl_mix_reads(mix, row->name)) at += add_value(out + at, size - at, row, p);
}
