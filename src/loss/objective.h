/* loss/objective.h: the objective as a pure function (DESIGN 2.3). It knows no model, no batch layout and no device,
 * and never divides by a batch size: it returns sums, and the caller divides by the step's number of units (DECISIONS
 * 1, 5).
 *
 * One objective is one file with one pl_objective row, listed in objective.c. The row drives loss_type, its parameters,
 * its metrics. */
#ifndef PL_OBJECTIVE_H
#define PL_OBJECTIVE_H

#include "base/base.h"
#include "plumb/loss.h"

/* What a row of data is to the objective. PAIRED: sequences 2i (chosen) and 2i+1 (rejected) belong together. */
typedef enum pl_loss_rows { PL_LOSS_PAIRED, PL_LOSS_SINGLE } pl_loss_rows;
/* What the loss is the mean of: pairs (rows), or scored tokens. */
typedef enum pl_loss_unit { PL_UNIT_ROW, PL_UNIT_TOKEN } pl_loss_unit;
/* Does the loss of one row depend on others? On those of its group (per_device_train_batch_size rows), or of the whole
 * step? */
typedef enum pl_coupling { PL_COUPLED_NONE, PL_COUPLED_GROUP, PL_COUPLED_STEP } pl_coupling;

/* n sequences, nats. reference is NULL for objectives without one. Token i of sequence s is token_logp[first[s] + i].
 */
typedef struct pl_loss_in {
    int64_t n;
    const double *policy, *reference; /* [n] sums over completion tokens */
    const int64_t *length;            /* [n] completion tokens after truncation */
    const int64_t *first;             /* [n+1] scored tokens */
    const double *token_logp;         /* [first[n]] */
} pl_loss_in;

typedef struct pl_metric {
    double sum, weight; /* the value is sum / weight */
} pl_metric;

/* Everything is overwritten but the metrics, which are added to. */
typedef struct pl_loss_out {
    double loss;        /* sum over units */
    double *d_sequence; /* [n] dloss/dpolicy; of per-sequence objectives */
    double *d_token;    /* [first[n]] dloss/dtoken_logp; of per-token objectives (NULL for the others) */
    pl_metric *metrics; /* [row->nmetrics] */
} pl_loss_out;

typedef struct pl_objective {
    const char *name;  /* value of loss_type: "sigmoid" */
    const char *paper; /* "arXiv:2305.18290 eq. 7" */
    pl_loss_rows rows;
    pl_loss_unit unit;
    pl_coupling coupling;
    bool reference;             /* needs reference log-probs */
    bool per_token;             /* fills d_token, else d_sequence */
    const char *const *metrics; /* TRL's names */
    int64_t nmetrics;
    const char *const *params; /* names of the pl_loss_params fields it reads, NULL-terminated */
    /* Pure, O(n). PL_E_NUMERIC when a value is not finite (the text names the sequence). */
    int (*run)(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err);
} pl_objective;

extern const pl_objective pl_objective_dpo_sigmoid, pl_objective_sft_nll;

/* All rows, NULL-terminated; by name and kind of rows (NULL when there is none). */
extern const pl_objective *const pl_objectives[];
const pl_objective *pl_objective_find(const char *name, pl_loss_rows rows);

/* log(sigmoid(x)) without overflow; sigmoid. */
static inline double pl_log_sigmoid(double x) {
    return x < 0 ? x - __builtin_log1p(__builtin_exp(x)) : -__builtin_log1p(__builtin_exp(-x));
}
static inline double pl_sigmoid(double x) {
    return x < 0 ? __builtin_exp(x) / (1 + __builtin_exp(x)) : 1 / (1 + __builtin_exp(-x));
}

#endif
