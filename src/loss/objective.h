/* loss/objective.h: the objective as a pure function (DESIGN 2.3). It knows no model, no batch layout and no device,
 * and never divides by a batch size: it returns sums, and the caller divides by the step's number of units (DECISIONS
 * 1, 5).
 *
 * One objective is one file with one pl_objective row, listed in objective.c. The row drives loss_type, its parameters,
 * its metrics. */
#ifndef PL_OBJECTIVE_H
#define PL_OBJECTIVE_H

#include <math.h>

#include "base/base.h"
#include "plumb/loss.h"

/* What a row of data is to the objective. PAIRED: sequences 2i (chosen) and 2i+1 (rejected) belong together. LABELLED:
 * one answer with a label; with `mismatched`, sequence 2i+1 is the same prompt with another row's answer. */
typedef enum pl_loss_rows { PL_LOSS_PAIRED, PL_LOSS_SINGLE, PL_LOSS_LABELLED } pl_loss_rows;
/* Does the loss of one row depend on others? On those of its group (per_device_train_batch_size rows), or of the whole
 * step? */
typedef enum pl_coupling { PL_COUPLED_NONE, PL_COUPLED_GROUP, PL_COUPLED_STEP } pl_coupling;
/* What the model says about a sequence: log-probs of its tokens, or one number for its last token. */
typedef enum pl_head_kind { PL_HEAD_TOKENS, PL_HEAD_SCORE } pl_head_kind;

/* n sequences in nats; those of a whole group or step where the objective is coupled. Row i has the sequences
 * [i * per_row, (i + 1) * per_row). Token i of sequence s is token_logp[first[s] + i]; the first prompt[s] of them
 * belong to the prompt. */
typedef struct pl_loss_in {
    int64_t n, per_row;
    const double *policy, *reference; /* [n] sums over completion tokens; reference NULL: there is none */
    const int64_t *length;            /* [n] completion tokens after truncation */
    const int64_t *first;             /* [n+1] scored tokens */
    const int64_t *prompt;            /* [n] how many of them are the prompt's */
    const double *token_logp;         /* [first[n]] */
    const double *token_sum_p2;       /* [first[n]] log of the sum of the squared probabilities of the vocabulary */
    const bool *label;                /* [n / per_row] LABELLED: desirable */
    const double *margin;             /* [n / per_row] PAIRED: of the data, 0 without */
    const double *score;              /* [n] PL_HEAD_SCORE */
    const double *state;              /* [PL_LOSS_STATE] */
} pl_loss_in;

typedef struct pl_metric {
    double sum, weight; /* the value is sum / weight */
} pl_metric;

/* loss and d_sequence, d_score are sums over rows, and the caller divides them by the rows of the step; token_loss and
 * d_token are sums over tokens, and the caller divides them by the step's scored tokens of answers 0. All are added to.
 */
typedef struct pl_loss_out {
    double loss, token_loss;
    double *d_sequence; /* [n] dloss/dpolicy */
    double *d_score;    /* [n] dloss/dscore */
    double *d_token;    /* [first[n]] dtoken_loss/dtoken_logp */
    int64_t *order;     /* [n] scratch of objectives that sort */
    pl_metric *metrics; /* [row->nmetrics] */
} pl_loss_out;

typedef struct pl_objective {
    const char *command; /* "dpo" */
    const char *name;    /* value of its loss_type: "sigmoid" */
    const char *paper;   /* "arXiv:2305.18290 eq. 7" */
    pl_loss_rows rows;
    pl_coupling coupling;
    pl_head_kind head;
    bool reference;             /* needs reference log-probs */
    bool tokens;                /* has a part that is a mean over tokens: fills token_loss and d_token */
    bool score_prompt;          /* ... which counts the prompt's tokens too */
    bool mismatched;            /* LABELLED: needs the mismatched answers */
    bool divergence;            /* takes a divergence other than reverse_kl */
    bool sorts;                 /* its value depends on the order of rows in the file through a sort over its group */
    const char *const *metrics; /* TRL's names */
    int64_t nmetrics;
    const char *const *params; /* names of the pl_loss_params fields it reads, NULL-terminated */
    /* Pure, O(n) (n log n where it sorts). PL_E_NUMERIC when a value is not finite (the text names the sequence). */
    int (*run)(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err);
    /* Adds to metrics[nmetrics]; of several objectives that are mixed only the first one's is called. */
    void (*measure)(pl_metric *metrics, const pl_loss_in *in, const pl_loss_params *p);
    /* Before run, in training: updates state[PL_LOSS_STATE], which checkpoints keep. NULL: it has none. */
    void (*learn)(double *state, const pl_loss_in *in, const pl_loss_params *p);
    /* Metrics that follow from the sums of others, once they are complete. NULL: none. */
    void (*derive)(pl_metric *metrics);
} pl_objective;

#define PL_LOSS_STATE 4

/* All rows, NULL-terminated; by command and name (NULL when there is none). */
extern const pl_objective *const pl_objectives[];
const pl_objective *pl_objective_find(const char *command, const char *name);
/* Does the objective read the parameter? */
bool pl_objective_reads(const pl_objective *o, const char *param);

/* Objectives with weights: MPO. What they share (rows, head) is that of all of them. */
#define PL_MIX_MAX 8
typedef struct pl_mix {
    int64_t n;
    const pl_objective *term[PL_MIX_MAX];
    double weight[PL_MIX_MAX];
} pl_mix;
/* Do the terms fit together, and does each take the parameters that are not at their defaults? PL_E_OPTION by name. */
int pl_mix_check(const pl_mix *mix, const pl_loss_params *p, pl_error *err);
/* Does a term read the parameter? */
bool pl_mix_reads(const pl_mix *mix, const char *param);
pl_coupling pl_mix_coupling(const pl_mix *mix);
/* Weighted sum of the terms into *out (loss, token_loss and the arrays are overwritten, the metrics added to). scratch
 * is as large as out's arrays; it is used when there is more than one term or a weight other than 1. */
typedef struct pl_loss_scratch {
    double *d_sequence, *d_score, *d_token;
} pl_loss_scratch;
int pl_mix_run(pl_loss_out *out, const pl_loss_in *in, const pl_mix *mix, const pl_loss_params *p,
               const pl_loss_scratch *scratch, pl_error *err);

/* For objectives with a likelihood term: adds weight times the negative log-probs of answer 0 of each row (scope:
 * PL_NLL_*) to token_loss and d_token; and to a metric. PL_E_NUMERIC. */
int pl_nll_add(pl_loss_out *out, const pl_loss_in *in, double weight, int scope, pl_error *err);
void pl_nll_measure(pl_metric *m, const pl_loss_in *in, int scope);

/* Metrics. */
static inline void pl_metric_add(pl_metric *m, double value) {
    m->sum += value;
    m->weight += 1;
}
static inline void pl_metric_min(pl_metric *m, double value) {
    if (m->weight == 0 || value < m->sum) *m = (pl_metric){value, 1};
}
static inline void pl_metric_max(pl_metric *m, double value) {
    if (m->weight == 0 || value > m->sum) *m = (pl_metric){value, 1};
}

/* log(sigmoid(x)) without overflow; sigmoid; log(1 + exp(x)). */
static inline double pl_log_sigmoid(double x) { return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x)); }
static inline double pl_sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

/* a * b where a = 0 wins: a loss that has gone flat, times a score whose slope has overflown (forward_kl,
 * AlphaPO). */
static inline double pl_flat_times(double a, double b) { return a == 0 ? 0 : a * b; }

#endif
