/* plumb/loss.h: parameters of the objectives, under TRL's names. Their option rows are in plumb/train.h. */
#ifndef PLUMB_LOSS_H
#define PLUMB_LOSS_H

#include "plumb/options.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum { PL_DIV_REVERSE_KL, PL_DIV_FORWARD_KL, PL_DIV_JS, PL_DIV_ALPHA };
enum { PL_IPO_MEAN, PL_IPO_SUM };
enum { PL_NLL_PROMPT, PL_NLL_COMPLETION };

/* Parameters of all objectives; an objective's row says which of them it reads. */
typedef struct pl_loss_params {
    double beta;            /* pull towards the reference, > 0 */
    double label_smoothing; /* share of labels taken to be wrong, [0, 0.5) */
    int f_divergence_type;  /* PL_DIV_*: what a log-ratio counts as */
    double f_alpha_divergence_coef;
    double ld_alpha;    /* weight of tokens beyond the shorter answer's length; NaN: 1 */
    bool use_weighting; /* WPO: pairs count by how probable the policy finds them */
    double discopop_tau;
    int ipo_reduce;                              /* PL_IPO_*: log-ratios per token (TRL) or summed (the paper) */
    double rpo_alpha;                            /* weight of an SFT term on the chosen answer; NaN: none */
    double desirable_weight, undesirable_weight; /* KTO */
    double cpo_alpha;                            /* CPO: weight of the chosen answer's NLL */
    double simpo_gamma;                          /* SimPO: target margin */
    double alpha;                                /* AlphaPO: exponent of the reward; 0: the log-prob itself */
    int orpo_nll;                                /* PL_NLL_*: tokens of ORPO's NLL */
    double center_rewards_coefficient;           /* reward model; NaN: none */
} pl_loss_params;

/* beta alone, bound to a pl_loss_params: for programs that report rewards. */
extern const pl_option pl_beta_options[];

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
