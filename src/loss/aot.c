/* aot.c: Alignment via Optimal Transport, arXiv:2406.05882: the distributions of a group (per_device_train_batch_size
 * rows) are compared, not its pairs, by matching the k-th smallest of one side with the k-th smallest of the other:
 *   aot           d_k = sort(lp_c - lp_r)_k - sort(rp_c - rp_r)_k
 *   aot_unpaired  d_k = sort(a_c)_k - sort(a_r)_k
 *   loss_k = -(1 - e) log sigmoid(beta d_k) - e log sigmoid(-beta d_k), e = label_smoothing.
 * Code and paper agree; equal values are taken in the rows' order. */
#include "loss/pairs.h"

static const char *const params[] = {"beta", "label_smoothing", "ld_alpha", NULL};

typedef double value_fn(const pl_loss_in *in, int64_t pair);

static double policy_margin(const pl_loss_in *in, int64_t i) { return in->policy[2 * i] - in->policy[2 * i + 1]; }
static double reference_margin(const pl_loss_in *in, int64_t i) {
    return in->reference ? in->reference[2 * i] - in->reference[2 * i + 1] : 0;
}
static double ratio(const pl_loss_in *in, int64_t s) { return in->policy[s] - (in->reference ? in->reference[s] : 0); }
static double chosen_ratio(const pl_loss_in *in, int64_t i) { return ratio(in, 2 * i); }
static double rejected_ratio(const pl_loss_in *in, int64_t i) { return ratio(in, 2 * i + 1); }

static bool before(const pl_loss_in *in, value_fn *value, int64_t a, int64_t b) {
    double x = value(in, a), y = value(in, b);
    return x < y || (x == y && a < b);
}

static void sift(int64_t *order, int64_t root, int64_t n, const pl_loss_in *in, value_fn *value) {
    for (int64_t child = 2 * root + 1; child < n; root = child, child = 2 * root + 1) {
        if (child + 1 < n && before(in, value, order[child], order[child + 1])) child++;
        if (before(in, value, order[child], order[root])) return;
        int64_t swap = order[root];
        order[root] = order[child];
        order[child] = swap;
    }
}

/* order[k] = the pair with the k-th smallest value: a heap sort, which allocates nothing. */
static void sort_pairs(int64_t *order, int64_t pairs, const pl_loss_in *in, value_fn *value) {
    for (int64_t i = 0; i < pairs; i++) order[i] = i;
    for (int64_t root = pairs / 2 - 1; root >= 0; root--) sift(order, root, pairs, in, value);
    for (int64_t end = pairs - 1; end > 0; end--) {
        int64_t swap = order[0];
        order[0] = order[end];
        order[end] = swap;
        sift(order, 0, end, in, value);
    }
}

static int run(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, value_fn *above, value_fn *below,
               bool paired, pl_error *err) {
    int64_t pairs = in->n / 2, *high = out->order, *low = out->order + pairs;
    double e = p->label_smoothing;
    sort_pairs(high, pairs, in, above);
    sort_pairs(low, pairs, in, below);
    for (int64_t k = 0; k < pairs; k++) {
        double z = p->beta * (above(in, high[k]) - below(in, low[k]));
        double slope = p->beta * (e * pl_sigmoid(z) - (1 - e) * pl_sigmoid(-z));
        if (!isfinite(z))
            return PL_FAIL(err, PL_E_NUMERIC, "the loss of pairs %" PRId64 " and %" PRId64 " is not finite", high[k],
                           low[k]);
        out->loss += -(1 - e) * pl_log_sigmoid(z) - e * pl_log_sigmoid(-z);
        out->d_sequence[2 * high[k]] += slope;
        out->d_sequence[2 * (paired ? high[k] : low[k]) + 1] -= slope;
    }
    return 0;
}

static int run_paired(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return run(out, in, p, policy_margin, reference_margin, true, err);
}
static int run_unpaired(pl_loss_out *out, const pl_loss_in *in, const pl_loss_params *p, pl_error *err) {
    return run(out, in, p, chosen_ratio, rejected_ratio, false, err);
}

const pl_objective pl_objective_dpo_aot = PL_DPO_ROW("aot", "arXiv:2406.05882 section 3", run_paired, .params = params,
                                                     .coupling = PL_COUPLED_GROUP, .sorts = true);
const pl_objective pl_objective_dpo_aot_unpaired =
    PL_DPO_ROW("aot_unpaired", "arXiv:2406.05882 section 3", run_unpaired, .params = params,
               .coupling = PL_COUPLED_GROUP, .sorts = true);
