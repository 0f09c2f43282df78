/* options.c: the option rows of the objectives' parameters, by training command. */
#include "loss/objective.h"
#include "plumb/train.h"

#define AT(field) .offset = offsetof(pl_loss_params, field)
#define BETA(TEXT, HELP)                                                                                               \
    {                                                                                                                  \
        .name = "beta", .type = PL_OPT_F64, AT(beta), .fallback = TEXT, .min = 1e-6, .max = 1e3, .group = "Objective", \
        .help = HELP                                                                                                   \
    }
#define SMOOTHING(HELP)                                                                                                \
    {                                                                                                                  \
        .name = "label_smoothing", .type = PL_OPT_F64, AT(label_smoothing), .fallback = "0", .min = 0, .max = 0.5,     \
        .flags = PL_OPT_OPEN_MAX, .help = HELP                                                                         \
    }

const pl_option pl_dpo_loss_options[] = {
    BETA("0.1", "pull towards the reference"),
    SMOOTHING("share of the pairs whose order is taken to be wrong (cdpo, robust, exo_pair, aot)"),
    {.name = "f_divergence_type",
     .type = PL_OPT_ENUM,
     AT(f_divergence_type),
     .choices = "reverse_kl|forward_kl|js_divergence|alpha_divergence",
     .fallback = "reverse_kl",
     .help = "what holds policy and reference together"},
    {.name = "f_alpha_divergence_coef",
     .type = PL_OPT_F64,
     AT(f_alpha_divergence_coef),
     .fallback = "0.5",
     .min = -10,
     .max = 10,
     .help = "alpha of alpha_divergence"},
    {.name = "ld_alpha",
     .type = PL_OPT_F64,
     AT(ld_alpha),
     .min = 0,
     .max = 1,
     .help = "weight of the tokens beyond the shorter answer's length (LD-DPO; default: 1)"},
    {.name = "use_weighting",
     .type = PL_OPT_BOOL,
     AT(use_weighting),
     .fallback = "false",
     .help = "weight pairs by how probable the policy finds them (WPO)"},
    {.name = "discopop_tau",
     .type = PL_OPT_F64,
     AT(discopop_tau),
     .fallback = "0.05",
     .min = 1e-6,
     .max = 1e3,
     .help = "temperature of discopop"},
    {.name = "ipo_reduce",
     .type = PL_OPT_ENUM,
     AT(ipo_reduce),
     .choices = "mean|sum",
     .fallback = "mean",
     .help = "IPO on log-ratios per token, as TRL, or summed, as the paper"},
    {.name = "rpo_alpha",
     .type = PL_OPT_F64,
     AT(rpo_alpha),
     .min = 0,
     .max = 1e3,
     .help = "adds this times the chosen answer's NLL (default: none)"},
    {0}};

const pl_option pl_kto_loss_options[] = {BETA("0.1", "pull towards the reference"),
                                         {.name = "desirable_weight",
                                          .type = PL_OPT_F64,
                                          AT(desirable_weight),
                                          .fallback = "1.0",
                                          .min = 0,
                                          .max = 1e3,
                                          .help = "weight of desirable rows"},
                                         {.name = "undesirable_weight",
                                          .type = PL_OPT_F64,
                                          AT(undesirable_weight),
                                          .fallback = "1.0",
                                          .min = 0,
                                          .max = 1e3,
                                          .help = "weight of undesirable rows"},
                                         {0}};

const pl_option pl_orpo_loss_options[] = {BETA("0.1", "weight of the odds ratio (the paper's lambda)"),
                                          {.name = "orpo_nll",
                                           .type = PL_OPT_ENUM,
                                           AT(orpo_nll),
                                           .choices = "prompt|completion",
                                           .fallback = "prompt",
                                           .help = "likelihood of prompt and chosen answer, as TRL, or of the answer"},
                                          {0}};

const pl_option pl_cpo_loss_options[] = {{.name = "beta",
                                          .type = PL_OPT_F64,
                                          AT(beta),
                                          .min = 1e-6,
                                          .max = 1e3,
                                          .group = "Objective",
                                          .help = "scale of the rewards (default: 0.1; simpo and alphapo: 2)"},
                                         SMOOTHING("share of the pairs whose order is taken to be wrong"),
                                         {.name = "cpo_alpha",
                                          .type = PL_OPT_F64,
                                          AT(cpo_alpha),
                                          .min = 0,
                                          .max = 1e3,
                                          .help = "weight of the chosen answer's NLL (default: 1; simpo: 0)"},
                                         {.name = "simpo_gamma",
                                          .type = PL_OPT_F64,
                                          AT(simpo_gamma),
                                          .fallback = "0.5",
                                          .min = 0,
                                          .max = 1e3,
                                          .help = "target margin of simpo and alphapo"},
                                         {.name = "alpha",
                                          .type = PL_OPT_F64,
                                          AT(alpha),
                                          .fallback = "0",
                                          .min = -10,
                                          .max = 10,
                                          .help = "exponent of AlphaPO's reward; 0: the log-prob"},
                                         {0}};

const pl_option pl_beta_options[] = {BETA("0.1", "scale of the rewards"), {0}};

const pl_option pl_sft_loss_options[] = {{0}};

const pl_option pl_bco_loss_options[] = {BETA("0.1", "pull towards the reference"), {0}};

const pl_option pl_reward_loss_options[] = {{.name = "center_rewards_coefficient",
                                             .type = PL_OPT_F64,
                                             AT(center_rewards_coefficient),
                                             .min = 0,
                                             .max = 1e3,
                                             .group = "Objective",
                                             .help = "pulls the rewards' sum to 0 (0.01 is usual; default: none)"},
                                            {0}};

const pl_option pl_verifier_loss_options[] = {{0}};
