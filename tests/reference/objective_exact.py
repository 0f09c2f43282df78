"""The objectives at extreme log-ratios, in 60-digit arithmetic rounded once; where TRL's double arithmetic overflows it says so.

The formulas are typed again here (from TRL 1.16's code), because float64 cannot check itself: 1 - sigmoid(40), 0 * inf and
inf - inf are wrong there. Every row is also put through TRL's own function, alone, and `trl_wrong` lists the rows where that is
not within 1e-14 + 1e-9 relative of the exact loss. alpha_divergence keeps TRL's clamp of the exponent at 80, as part of its definition.
Pinned: mpmath 1.3.0, torch 2.13.0, trl 1.16.0.
"""

import math

import mpmath
from mpmath import mpf

import objective_stubs as stubs

import torch

mpmath.mp.dps = 60
SIZES = (1e-9, -1e-9, 40.0, -40.0, 800.0, -800.0, 1e4, -1e4)
RATIOS = [(0.0, 0.0)] + [r for a in SIZES for r in ((a, 0.0), (0.0, a), (a, -a), (a, a))]
AVERAGES = (-1e-12, -1e-6, -0.5, -math.log(2), -2.0, -40.0, -800.0, -1e4)


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def ls(x):
    return -mpmath.log1p(mpmath.exp(-x))


def score(a, p):
    kind, coef = p["f_divergence_type"], mpf(p["f_alpha_divergence_coef"])
    if kind == "forward_kl":
        return -mpmath.expm1(-a)
    if kind == "js_divergence":
        return mpmath.log(2) + ls(a)
    if kind == "alpha_divergence" and abs(coef - 1) >= 1e-6:
        return mpmath.expm1(min((coef - 1) * a, mpf(80))) / (coef - 1)
    return a


def pair(a_c, a_r, n_c, n_r, p):
    """Loss of one pair, of the first of its loss types."""
    kind, b, e = p["loss_type"][0], mpf(p["beta"]), mpf(p["label_smoothing"])
    s_c, s_r = score(a_c, p), score(a_r, p)
    z = b * (s_c - s_r)
    if kind == "sigmoid":
        return -ls(z)
    if kind == "hinge":
        return max(1 - z, mpf(0))
    if kind == "ipo":
        return (s_c / n_c - s_r / n_r - 1 / (2 * b)) ** 2
    if kind == "sigmoid_norm":
        return -ls(b * (s_c / n_c - s_r / n_r))
    if kind == "exo_pair":
        return sigmoid(z) * (ls(z) - mpmath.log1p(-e)) + sigmoid(-z) * (ls(-z) - mpmath.log(e))
    if kind == "nca_pair":
        return -ls(b * a_c) - (ls(-b * a_c) + ls(-b * a_r)) / 2
    if kind == "robust":
        return (-(1 - e) * ls(z) + e * ls(-z)) / (1 - 2 * e)
    if kind == "bco_pair":
        return -ls(b * a_c) - ls(-b * a_r)
    if kind == "sppo_hard":
        return (a_c - 1 / (2 * b)) ** 2 + (a_r + 1 / (2 * b)) ** 2
    if kind in ("aot", "aot_unpaired"):  # of a single pair
        return -(1 - e) * ls(b * (a_c - a_r)) - e * ls(-b * (a_c - a_r))
    if kind == "apo_zero":
        return sigmoid(-b * a_c) + sigmoid(b * a_r)
    if kind == "apo_down":
        return sigmoid(b * a_c) + sigmoid(-b * (a_c - a_r))
    if kind == "discopop":
        tau = mpf(p["discopop_tau"])
        return -sigmoid(-z / tau) * ls(z) + sigmoid(z / tau) * mpmath.exp(-z)
    raise ValueError(kind)


def rounded(x):
    """A double, or None where the exact number has none."""
    try:
        x = float(x)
    except OverflowError:
        return None
    return x if math.isfinite(x) else None


def wrong(exact, trl):
    return exact is None or not abs(trl - exact) <= 1e-14 + 1e-9 * abs(exact)


def numbers(f, x, y):
    """f and its two derivatives."""
    return [rounded(f(x, y)), rounded(mpmath.diff(lambda t: f(t, y), x)), rounded(mpmath.diff(lambda t: f(x, t), y))]


def answer(logp, ref, n):
    """n tokens whose log-probs sum exactly to logp and ref."""
    return dict(logps=[logp] + [0.0] * (n - 1), ref_logps=[ref] + [0.0] * (n - 1), prompt_tokens=2, entropy=[0.0] * n,
                mean_logits=[0.0] * n, log_sum_sq_probs=[0.0] * n, is_top1=[False] * n)


def sums(a):
    """Policy and reference sums with log-ratio a, neither above -12."""
    logp = -12.0 + min(a, 0.0)
    return logp, -12.0 if a < 0 else logp - a


def table(cases, lists):
    return [dict(params=p) | {k: [row[i] for row in rows] for i, k in enumerate(lists)} | dict(trl_wrong=bad) for p, rows, bad in cases]


def dpo(settings):
    rows = [(*sums(c), *sums(r), 3, 7) for c, r in RATIOS]
    loss, cases = stubs.patched_dpo_loss(), []
    for given in settings:
        p, out, bad = stubs.DPO | given, [], []
        for i, (lp_c, rp_c, lp_r, rp_r, n_c, n_r) in enumerate(rows):
            out.append(numbers(lambda x, y: pair(x, y, n_c, n_r, p), mpf(lp_c) - mpf(rp_c), mpf(lp_r) - mpf(rp_r)))
            trl = stubs.dpo([dict(chosen=answer(lp_c, rp_c, n_c), rejected=answer(lp_r, rp_r, n_r))], loss, **given)[0]
            if wrong(out[-1][0], trl):
                bad.append(i)
        cases.append((given, out, bad))
    keys = ("lp_c", "rp_c", "lp_r", "rp_r", "n_c", "n_r")
    return {"rows": [dict(zip(keys, r)) for r in rows], "cases": table(cases, ("losses", "grad_lp_c", "grad_lp_r"))}


def orpo(settings):
    """-beta * log sigmoid(log odds) of pairs of averaged log-probs; the NLL term is linear."""
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    rows, cases = [(c, r) for c in AVERAGES for r in AVERAGES], []
    for p in settings:
        beta = mpf(p["beta"])

        def odds(x):
            return x - mpmath.log(-mpmath.expm1(x))

        out = [numbers(lambda x, y: -beta * ls(odds(x) - odds(y)), mpf(c), mpf(r)) for c, r in rows]
        with stubs.wide():
            me = stubs.stand_in(ORPOTrainer, beta=p["beta"])
            trl = me.odds_ratio_loss(*torch.tensor(rows, dtype=stubs.WIDE).unbind(1))[0]
        cases.append((p, out, [i for i, t in enumerate(trl.tolist()) if wrong(out[i][0], -t)]))
    return {"rows": [dict(avg_c=c, avg_r=r) for c, r in rows], "cases": table(cases, ("losses", "grad_avg_c", "grad_avg_r"))}


def cpo_pair(x, y, p):
    b, e, alpha = mpf(p["beta"]), mpf(p["label_smoothing"]), mpf(p["alpha"])
    d = (-mpmath.expm1(-alpha * x) + mpmath.expm1(-alpha * y)) / alpha if alpha else x - y
    if p["loss_type"] == "hinge":
        return max(1 - b * d, mpf(0))
    if p["loss_type"] == "ipo":
        return (d - 1 / (2 * b)) ** 2
    if p["loss_type"] == "simpo":
        d -= mpf(p["simpo_gamma"]) / b
    return -(1 - e) * ls(b * d) - e * ls(-b * d)


def cpo(settings):
    """The preference term on sums (sigmoid, hinge) or averages (ipo, simpo), whatever they are."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    rows, cases = [(c, r) for c in (-1e-6, -0.5, -12.0, -40.0, -800.0, -1e4) for r in (-1e-6, -0.5, -12.0, -40.0, -800.0, -1e4)], []
    for given in settings:
        p = dict(loss_type="sigmoid", beta=0.1, label_smoothing=0.0, simpo_gamma=0.5, alpha=0.0) | given
        out = [numbers(lambda x, y: cpo_pair(x, y, p), mpf(c), mpf(r)) for c, r in rows]
        with stubs.wide():
            trl = stubs.stand_in(CPOTrainer, **p).cpo_loss(*torch.tensor(rows, dtype=stubs.WIDE).unbind(1))[0]
        cases.append((given, out, [i for i, t in enumerate(trl.tolist()) if wrong(out[i][0], t)]))
    return {"rows": [dict(logp_c=c, logp_r=r) for c, r in rows], "cases": table(cases, ("losses", "grad_logp_c", "grad_logp_r"))}


def kto(settings):
    """Single rows with a given kl. The last derivative is not used by KTO (kl has no gradient), so only that of logp is written."""
    rows = [(*sums(a), kl, label) for a in (0.0, *SIZES) for kl in (0.0, 0.7, 1e4) for label in (True, False)]
    cases = []
    for given in settings:
        p, out, bad = dict(loss_type="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0) | given, [], []
        for i, (logp, ref, kl, label) in enumerate(rows):
            shift = mpf(kl) if p["loss_type"] == "kto" else 0
            weight, sign = mpf(p["desirable_weight" if label else "undesirable_weight"]), 1 if label else -1
            f = lambda x: weight * sigmoid(-sign * mpf(p["beta"]) * (x - shift))
            a = mpf(logp) - mpf(ref)
            out.append([rounded(f(a)), rounded(mpmath.diff(f, a))])
            row = answer(logp, ref, 1) | dict(label=label, kl=dict(logp=kl - 2e4, ref_logp=-2e4))
            if wrong(out[-1][0], stubs.kto([row], **given)[0]):
                bad.append(i)
        cases.append((given, out, bad))
    keys = ("logp", "ref_logp", "kl", "label")
    return {"rows": [dict(zip(keys, r)) for r in rows], "cases": table(cases, ("losses", "grad_logp"))}


def reward(settings):
    rows, cases = [(c, r) for c in (0.0, *SIZES) for r in (0.0, 5.0, -1e4)], []
    for p in settings:
        margin, center = mpf(p.get("margin", 0)), mpf(p.get("center_rewards_coefficient", 0))
        out = [numbers(lambda x, y: -ls(x - y - margin) + center * (x + y) ** 2, mpf(c), mpf(r)) for c, r in rows]
        trl = [stubs.reward([c], [r], [p["margin"]] if "margin" in p else None, p.get("center_rewards_coefficient"))[0] for c, r in rows]
        cases.append((p, out, [i for i, t in enumerate(trl) if wrong(out[i][0], t)]))
    return {"rows": [dict(chosen=c, rejected=r) for c, r in rows], "cases": table(cases, ("losses", "grad_chosen", "grad_rejected"))}
