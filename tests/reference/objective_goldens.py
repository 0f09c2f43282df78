"""Writes tests/golden/loss/{dpo,dpo_extreme,orpo,cpo,kto,reward,sft,...}.json: every offline objective of TRL 1.16 on small inputs in float64.

  python tests/reference/objective_goldens.py [dpo orpo cpo kto reward sft]

Loss, gradients and metrics come out of TRL's own code (objective_stubs.py says how); the extreme rows are exact (objective_exact.py).
Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0, mpmath 1.3.0 (see common.py).
"""

import json
import random
import sys

from common import GOLDEN, check_versions

import objective_exact as exact
import objective_stubs as stubs

LENGTHS = ((1, 9), (4, 2), (3, 3), (9, 1), (5, 7), (2, 2))
DIVERGING = ("sigmoid", "hinge", "ipo", "exo_pair", "robust", "discopop", "sigmoid_norm")
DIVERGENCES = (dict(f_divergence_type="forward_kl"), dict(f_divergence_type="js_divergence"),
               *(dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=c) for c in (0.5, 0.25, 2.0, 1.0)))
RAW = ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "aot", "aot_unpaired")
SMOOTHED = {"exo_pair": (0.001, 0.1), "robust": (0.1, 0.3), "aot": (0.1,), "aot_unpaired": (0.1,)}


def tokens(rng, n, spread, prompt):
    """One answer: log-probs of policy and reference and what the head says of each token."""
    logps = [round(-rng.choice((0.05, 0.8, 2.0, 5.0)) * rng.uniform(0.2, 1.2), 3) for _ in range(n)]
    return dict(prompt_tokens=prompt, logps=logps, ref_logps=[round(min(x + rng.gauss(0, spread), -0.001), 3) for x in logps],
                entropy=[round(rng.uniform(0.1, 3.0), 3) for _ in range(n)], mean_logits=[round(rng.gauss(0, 1), 3) for _ in range(n)],
                log_sum_sq_probs=[round(-rng.uniform(0.05, 3.0), 3) for _ in range(n)], is_top1=[rng.random() < 0.5 for _ in range(n)])


def small_pairs():
    rng = random.Random(5)
    out = []
    for c, r in LENGTHS:
        prompt = rng.randint(1, 5)
        out.append(dict(chosen=tokens(rng, c, 1.5, prompt), rejected=tokens(rng, r, 1.5, prompt)))
    out[-1]["rejected"] = dict(out[-1]["chosen"])  # identical answers
    return out


def spread_out(logp, ref, n, log_sum_sq=0.0):
    return dict(prompt_tokens=2, logps=[logp / n] * n, ref_logps=[ref / n] * n, entropy=[1.0] * n, mean_logits=[0.5] * n,
                log_sum_sq_probs=[log_sum_sq] * n, is_top1=[True] * n)


def sample(log_sum_sq):
    """Three pairs of which common values of the losses are known (checked below)."""
    rows = ((-12.0, -13.0, 6, -15.0, -13.25, 5), (-20.5, -19.0, 10, -18.0, -18.5, 9), (-7.25, -8.0, 4, -9.5, -8.5, 8))
    return [dict(chosen=spread_out(a, b, n, log_sum_sq), rejected=spread_out(c, d, m, log_sum_sq)) for a, b, n, c, d, m in rows]


# name of input, parameters, mean loss to nine digits
KNOWN = [("sample", dict(loss_type=[k]) | p, v) for k, p, v in (
    ("sigmoid", {}, 0.657559989), ("hinge", {}, 0.916666667), ("ipo", {}, 23.056914223), ("exo_pair", dict(label_smoothing=1e-3), 2.624255127),
    ("nca_pair", {}, 1.368739714), ("robust", dict(label_smoothing=0.1), 0.647143323), ("bco_pair", {}, 1.348010196),
    ("sppo_hard", {}, 44.375), ("aot", {}, 0.657405720), ("aot", dict(label_smoothing=0.1), 0.665739053),
    ("aot_unpaired", {}, 0.652885127), ("aot_unpaired", dict(label_smoothing=0.1), 0.661218461), ("apo_zero", {}, 0.979196321),
    ("apo_down", {}, 0.981388628), ("discopop", {}, 0.799082620), ("sigmoid_norm", {}, 0.682923170), ("sft", {}, 1.9875),
    ("sigmoid", DIVERGENCES[0], 0.650785011), ("sigmoid", DIVERGENCES[1], 0.673593102), ("sigmoid", DIVERGENCES[2], 0.655800990),
    ("hinge", DIVERGENCES[0], 0.874750663), ("hinge", DIVERGENCES[1], 0.956799438), ("ipo", DIVERGENCES[0], 22.092896274),
    ("ipo", DIVERGENCES[1], 23.925679716), ("ipo", DIVERGENCES[2], 22.761986132), ("sigmoid_norm", DIVERGENCES[2], 0.681141035),
    ("sigmoid_norm", DIVERGENCES[0], 0.676874580), ("sigmoid_norm", DIVERGENCES[1], 0.687608713),
    ("discopop", DIVERGENCES[0], 0.761940596), ("discopop", DIVERGENCES[1], 0.834963666),
    ("sigmoid", dict(use_weighting=True), 0.016018879))]
KNOWN += [("sample_half", dict(loss_type=["sigmoid"], use_weighting=True), 0.043543827),
          ("sample", dict(loss_type=["sigmoid", "bco_pair"], loss_weights=[0.8, 0.2]), 0.795650031),
          ("sample", dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]), 2.783150031)]


def dpo_settings():
    """Every parameter that changes the form of a loss, at least once with every loss that reads it."""
    for kind in (*DIVERGING, *RAW, "sft"):
        base = dict(loss_type=[kind])
        smooth = [dict(label_smoothing=e) for e in SMOOTHED.get(kind, ())]
        needed = smooth[:1] if kind == "exo_pair" else [{}]
        yield from (base | p for p in ([] if kind == "exo_pair" else [{}]) + smooth)
        yield base | dict(beta=0.5) | needed[0]
        yield from (base | needed[0] | d for d in DIVERGENCES if kind in (*DIVERGING, "sft"))
        yield base | needed[0] | dict(ld_alpha=0.3)
        if kind not in ("aot", "aot_unpaired"):
            yield base | needed[0] | dict(use_weighting=True)
    yield dict(loss_type=["sigmoid"], label_smoothing=0.1)  # TRL ignores it
    yield from (dict(loss_type=[k], ld_alpha=a) for k in ("sigmoid", "ipo") for a in (0.0, 1.0))
    yield dict(loss_type=["discopop"], discopop_tau=0.5)
    yield from (dict(loss_type=[k], label_smoothing=0.3, beta=0.5) | d for k in ("exo_pair", "robust") for d in DIVERGENCES[:3])
    yield dict(loss_type=["sigmoid"], use_weighting=True, ld_alpha=0.3)
    yield dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    yield dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], ld_alpha=0.3)
    yield dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])  # what rpo_alpha 0.5 was
    yield dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5], f_divergence_type="js_divergence")
    yield dict(loss_type=["ipo", "apo_zero"])
    yield dict(loss_type=["hinge", "ipo", "sigmoid_norm"], loss_weights=[0.5, 0.01, 2.0], f_divergence_type="forward_kl")
    yield dict(loss_type=["aot", "sft", "sigmoid"], loss_weights=[1.0, 0.25, 0.5])
    yield dict(loss_type=["sigmoid", "bco_pair"], loss_weights=[0.8, 0.2], use_weighting=True)


def write(name, value):
    """One line per input, row and case, so that the file stays small and its changes can be read."""
    parts = []
    for key, part in value.items():
        items = part.items() if isinstance(part, dict) else ((None, x) for x in part)
        lines = [("" if k is None else json.dumps(k) + ": ") + json.dumps(v) for k, v in items]
        left, right = "{}" if isinstance(part, dict) else "[]"
        parts.append(f'"{key}": {left}\n ' + ",\n ".join(lines) + f"\n{right}")
    path = GOLDEN / "loss" / f"{name}.json"
    path.write_text("{" + ",\n".join(parts) + "}\n")
    print(f"{name}: {len(value['cases'])} cases, {path.stat().st_size} bytes")


def scaled(grads, n):
    return {k: scaled(v, n) for k, v in grads.items()} if isinstance(grads, dict) else [[g * n for g in row] for row in grads]


def case(name, params, result, units, losses):
    """d_logps is of the sum over units, loss is TRL's mean over the micro-batch."""
    mean, grads, metrics = result
    out = dict(input=name, params=params, loss=mean, units=units, loss_sum=mean * units)
    return out | (dict(losses=losses) if losses else {}) | dict(d_logps=scaled(grads, units), metrics=metrics)


def dpo():
    inputs = {"sample": sample(0.0), "sample_half": sample(-0.5), "small": small_pairs()}
    inputs |= {"single": small_pairs()[:1], "same": small_pairs()[-1:]}
    losses_of, cases = {out: stubs.patched_dpo_loss(out) for out in (False, True)}, []

    def add(name, params):
        pairs = inputs[name]
        fails = params.get("use_weighting", False) and bool({"hinge", "sft"} & set(params["loss_type"]))
        loss = losses_of[fails]
        if fails:  # make sure that it does
            try:
                stubs.dpo(pairs, losses_of[False], **params)
                raise SystemExit(f"{params} does not fail")
            except RuntimeError:
                pass
        coupled = {"aot", "aot_unpaired", "sft"} & set(params["loss_type"])
        losses = None if coupled else [stubs.dpo([x], loss, **params)[0] for x in pairs]
        cases.append(case(name, params, stubs.dpo(pairs, loss, **params), len(pairs), losses) | (dict(trl_fails=True) if fails else {}))
        assert coupled or abs(sum(losses) - cases[-1]["loss_sum"]) < 1e-9 * (1 + sum(map(abs, losses)))

    for name, params, want in KNOWN:
        add(name, params)
        assert abs(cases[-1]["loss"] - want) < 6e-10, (name, params, cases[-1]["loss"], want)
    rewards = [cases[0]["metrics"][f"rewards/{k}"] for k in ("chosen", "rejected", "margins", "accuracies")]
    assert all(abs(a - b) < 1e-6 for a, b in zip(rewards, (0.008333333, -0.075, 0.083333333, 0.666666667)))
    for params in dpo_settings():
        add("small", params)
    for kind in (*DIVERGING, *RAW, "sft"):
        for name in ("single", "same"):
            add(name, dict(loss_type=[kind]) | (dict(label_smoothing=0.001) if kind == "exo_pair" else {}))
    write("dpo", {"inputs": inputs, "cases": cases})
    plain = [p for p in dpo_settings() if len(p["loss_type"]) == 1 and p["loss_type"] != ["sft"] and not {"ld_alpha", "use_weighting"} & set(p)]
    write("dpo_extreme", exact.dpo(plain))


def preference_pairs():
    """Pairs with log-probs of the prompt's tokens (the first has none), for the objectives without a reference."""
    out, rng = small_pairs(), random.Random(6)
    for pair in out:
        prompt = [round(-rng.uniform(0.1, 4.0), 3) for _ in range(pair["chosen"]["prompt_tokens"] - 1)]
        for side in pair.values():
            side["prompt_logps"] = prompt
    return out


def averages():
    """Averages (-.8, -1.2) and (-1.5, -.9); NLL over prompt and answer 1.1."""
    rows = ((-0.8, -1.5, -1.4), (-1.2, -0.9, -1.0))
    return [dict(chosen=spread_out(c, 0.0, 1) | dict(prompt_logps=[p]), rejected=spread_out(r, 0.0, 1) | dict(prompt_logps=[p]))
            for c, r, p in rows]


def unreferenced_inputs():
    inputs = {"averages": averages(), "small": preference_pairs()}
    inputs |= {"single": inputs["small"][:1], "same": inputs["small"][-1:]}
    bare = [{k: dict(a, prompt_tokens=1, prompt_logps=[]) for k, a in pair.items()} for pair in inputs["small"]]
    return inputs | {"bare": bare}  # prompts of one token: the NLL is over the answer only


def orpo():
    inputs, cases = unreferenced_inputs(), []
    for name, beta in (("averages", 0.1), ("small", 0.1), ("small", 1.0), ("single", 0.1), ("same", 0.1), ("bare", 0.1)):
        cases.append(case(name, dict(beta=beta), stubs.orpo(inputs[name], beta), len(inputs[name]), None))
    assert abs(cases[0]["loss"] - 1.162653373) < 6e-10
    write("orpo", {"inputs": inputs, "cases": cases})
    write("orpo_extreme", exact.orpo([dict(beta=0.1), dict(beta=1.0)]))


def cpo():
    inputs, cases = unreferenced_inputs(), []

    def add(name, want=None, **params):
        result, alone = stubs.cpo(inputs[name], **params), params.get("cpo_alpha") == 0 or params.get("loss_type") == "alphapo"
        losses = [stubs.cpo([x], **params)[0] for x in inputs[name]] if alone else None
        cases.append(case(name, params, result, len(inputs[name]), losses))
        assert want is None or abs(result[0] - want) < 6e-10, (params, result[0])

    add("averages", 0.864244600, loss_type="simpo", cpo_alpha=0.0, beta=2.0)
    add("averages", 0.961970018, loss_type="simpo", cpo_alpha=0.0)
    add("averages", 23.29, loss_type="ipo", cpo_alpha=0.0)
    add("averages", 0.876118433, loss_type="alphapo", alpha=0.25, beta=2.0)
    for kind in ("sigmoid", "hinge", "ipo", "simpo"):
        for more in ({}, dict(cpo_alpha=0.0), dict(beta=0.5, cpo_alpha=0.3), dict(label_smoothing=0.1, cpo_alpha=0.0),
                     dict(alpha=0.25, cpo_alpha=0.0), dict(alpha=-0.1)):
            add("small", loss_type=kind, **more)
        add("single", loss_type=kind)
        add("same", loss_type=kind)
    for more in (dict(beta=2.0), dict(beta=2.5, simpo_gamma=1.4), dict(beta=2.5, simpo_gamma=0.0), dict(beta=2.0, label_smoothing=0.2)):
        add("small", loss_type="simpo", cpo_alpha=0.0, **more)
    add("small", loss_type="alphapo", alpha=0.25, beta=2.5, simpo_gamma=0.3)
    add("small", loss_type="alphapo", alpha=-0.25, beta=2.5, simpo_gamma=0.3)
    write("cpo", {"inputs": inputs, "cases": cases})
    write("cpo_extreme", exact.cpo([*(dict(loss_type=k) for k in ("sigmoid", "hinge", "ipo", "simpo")), dict(label_smoothing=0.1),
                                    dict(loss_type="simpo", beta=2.5, simpo_gamma=1.4, label_smoothing=0.1),
                                    dict(loss_type="simpo", beta=2.0, alpha=0.25), dict(loss_type="simpo", beta=2.0, alpha=-0.25)]))


def kto_rows(rng, labels, kl):
    return [tokens(rng, rng.randint(1, 9), 1.5, rng.randint(1, 5)) | dict(label=x, kl=dict(logp=a, ref_logp=b)) for x, (a, b) in zip(labels, kl)]


def kto():
    rng, rows = random.Random(8), ((-10.0, -11.0), (-14.0, -13.0), (-9.0, -9.5), (-22.0, -20.0))
    kl = ((-30.0, -31.5), (-28.0, -28.2), (-33.0, -32.0), (-25.0, -25.1))
    inputs = {"sample": [spread_out(*r, 4) | dict(label=i % 2 == 0, kl=dict(logp=k[0], ref_logp=k[1])) for i, (r, k) in enumerate(zip(rows, kl))]}
    higher, lower = [(-20.25 - i, -21.5 - 1.1 * i) for i in range(7)], [(-21.5 - 1.1 * i, -20.25 - i) for i in range(7)]
    inputs["mixed"] = kto_rows(rng, (True, False, False, True, False, True, False), higher)
    inputs["negative_kl"] = kto_rows(rng, (True, False, False, True), lower)
    inputs["desirable"] = kto_rows(rng, (True, True, True), higher)
    inputs["undesirable"] = kto_rows(rng, (False, False), higher)
    inputs["single"] = kto_rows(rng, (False,), higher)
    cases = []

    def add(name, want=None, **params):
        result = stubs.kto(inputs[name], **params)
        losses = [stubs.kto([x], **params)[0] for x in inputs[name]] if params.get("loss_type") else None
        cases.append(case(name, params, result, len(inputs[name]), losses))
        assert want is None or abs(result[0] - want) < 6e-10, (params, result[0])

    add("sample", 0.471941984)
    assert abs(cases[0]["metrics"]["kl"] - 0.2) < 1e-12 and abs(cases[0]["metrics"]["rewards/margins"] - 0.225) < 1e-12
    add("sample", 0.552174160, desirable_weight=1.33)
    add("sample", 0.471927558, loss_type="apo_zero_unpaired")
    for name in inputs:
        for more in ({}, dict(beta=0.5), dict(desirable_weight=1.33, undesirable_weight=0.7)):
            add(name, **more)
            add(name, loss_type="apo_zero_unpaired", **more)
    write("kto", {"inputs": inputs, "cases": cases})
    write("kto_extreme", exact.kto([{}, dict(beta=0.5, desirable_weight=1.33), dict(loss_type="apo_zero_unpaired", undesirable_weight=0.7)]))


def reward():
    inputs = {"sample": dict(chosen=[1.2, -0.3], rejected=[0.4, 0.1], margin=[0.5, 0.0], tokens=40),
              "five": dict(chosen=[0.3, -2.5, 7.0, 0.0, 1.0], rejected=[0.9, -4.0, -3.5, 0.0, 0.999], margin=[1.0, 0.0, 3.0, 0.25, -0.5], tokens=77),
              "single": dict(chosen=[-0.75], rejected=[0.5], margin=[0.1], tokens=9)}
    cases = []

    def add(name, want=None, margin=False, center=None):
        given = inputs[name]
        result = stubs.reward(given["chosen"], given["rejected"], given["margin"] if margin else None, center, given["tokens"])
        n, params = len(given["chosen"]), dict(margin=margin, center_rewards_coefficient=center)
        losses = [stubs.reward([c], [r], [m] if margin else None, center)[0] for c, r, m in zip(given["chosen"], given["rejected"], given["margin"])]
        mean, grads, metrics = result
        cases.append(dict(input=name, params=params, loss=mean, units=n, loss_sum=mean * n, losses=losses,
                          d_rewards={k: [g * n for g in v] for k, v in grads.items()}, metrics=metrics))
        assert want is None or abs(mean - want) < 6e-10

    add("sample", 0.642057959)
    add("sample", 0.733685248, margin=True)
    add("sample", 0.655057959, center=0.01)
    for name in ("five", "single"):
        for margin in (False, True):
            for center in (None, 0.01, 0.5):
                add(name, margin=margin, center=center)
    write("reward", {"inputs": inputs, "cases": cases})
    write("reward_extreme", exact.reward([{}, dict(margin=1.5), dict(center_rewards_coefficient=0.01)]))


def sft():
    rng = random.Random(9)
    inputs = {"rows": [tokens(rng, n, 0.0, rng.randint(1, 5)) for n in (3, 9, 1, 6)], "single": [tokens(rng, 1, 0.0, 2)]}
    inputs["extreme"] = [tokens(rng, 6, 0.0, 2) | dict(logps=[-1e-12, -1e4, -745.0, -40.0, -1.0, -1e-6])]
    for rows in inputs.values():
        for row in rows:
            del row["ref_logps"], row["mean_logits"], row["log_sum_sq_probs"]
    cases = []
    for name, rows in inputs.items():
        for kind in ("nll", "dft"):
            filled = [row | dict(mean_logits=[0.0] * len(row["logps"]), log_sum_sq_probs=[0.0] * len(row["logps"])) for row in rows]
            mean, grads, metrics = stubs.sft(filled, kind)
            units = sum(len(row["logps"]) for row in rows)
            cases.append(case(name, dict(loss_type=kind), (mean, grads, metrics), units, None))
    window = stubs.sft([x | dict(mean_logits=x["logps"], log_sum_sq_probs=x["logps"]) for x in inputs["rows"]], "dft", 50)[0]
    assert abs(window * 50 - cases[1]["loss_sum"]) < 1e-12  # a longer window's tokens divide the same sum
    write("sft", {"inputs": inputs, "cases": cases})


def main():
    check_versions("torch", "transformers", "trl")
    (GOLDEN / "loss").mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or ("dpo", "orpo", "cpo", "kto", "reward", "sft"):
        {"dpo": dpo, "orpo": orpo, "cpo": cpo, "kto": kto, "reward": reward, "sft": sft}[name]()


if __name__ == "__main__":
    main()
