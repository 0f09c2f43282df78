/* optimizer.c: see kernels/ref/optim.c for the update itself. */
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>

int pl_optimizer_take(pl_optimizer *o, const pl_config *c, const pl_trainable *t, pl_arena *arena, pl_error *err) {
    *o = (pl_optimizer){.beta1 = c->adam_beta1,
                        .beta2 = c->adam_beta2,
                        .eps = c->adam_epsilon,
                        .weight_decay = c->weight_decay,
                        .max_norm = isnan(c->max_grad_norm) ? 0 : c->max_grad_norm};
    int rc = PL_TAKE(arena, &o->m, t->elements, "optimizer", err);
    return rc ? rc : PL_TAKE(arena, &o->v, t->elements, "optimizer", err);
}

/* A number that is not finite spreads to everything behind it, so the last tensor that holds one had it first. */
static int fail_norm(const pl_trainable *t, const pl_ops *ops, pl_error *err) {
    char place[48] = "";
    int64_t i = t->n - 1;
    while (i > 0 && isfinite(ops->sum_squares(t->params[i].grad, t->params[i].n))) i--;
    if (t->params[i].layer >= 0) snprintf(place, sizeof place, "layer %" PRId64 ": ", t->params[i].layer);
    return PL_FAIL(err, PL_E_NUMERIC, "%sthe gradient of %s is not finite (the first one on the way back)", place,
                   t->params[i].name);
}

int pl_optimizer_norm(double *norm, const pl_trainable *t, const pl_ops *ops, pl_error *err) {
    double sum = 0;
    for (int64_t i = 0; i < t->n; i++) {
        double part = ops->sum_squares(t->params[i].grad, t->params[i].n);
        if (!isfinite(part)) return fail_norm(t, ops, err);
        sum += part;
    }
    *norm = sqrt(sum);
    return 0;
}

void pl_optimizer_step(pl_optimizer *o, pl_trainable *t, double norm, double rate, const pl_ops *ops) {
    o->t++;
    double clip = o->max_norm > 0 ? fmin(1.0, o->max_norm / (norm + 1e-6)) : 1.0;
    pl_adamw a = {.lr = rate,
                  .beta1 = o->beta1,
                  .beta2 = o->beta2,
                  .eps = o->eps,
                  .bias1 = 1 - pow(o->beta1, (double)o->t),
                  .bias2 = 1 - pow(o->beta2, (double)o->t),
                  .grad_scale = clip};
    int64_t at = 0;
    for (int64_t i = 0; i < t->n; i++) {
        a.weight_decay = t->params[i].decay ? o->weight_decay : 0;
        ops->adamw(t->params[i].value, t->params[i].grad, o->m + at, o->v + at, t->params[i].n, &a);
        at += t->params[i].n;
    }
}
