"""Writes tests/golden/loss/dpo_old.json: what TRL's DPO loss had before 1.x: kto_pair, cDPO, IPO over sums, reference_free.

  python tests/reference/dpo_old_goldens.py PATH     (PATH: trl/trainer/dpo_trainer.py of TRL 0.8.6, from its wheel)

That TRL does not import beside today's transformers, so its dpo_loss alone is taken out of the file and run, unchanged, in float64.
kto_pair: 2 losses per pair, and its two KL terms have a gradient; the loss is the mean over both halves. cDPO is `sigmoid` with
label_smoothing; ipo here is the paper's, over sums of log-probs (TRL 0.8.6 itself passes averages to it, which is TRL 1.16's ipo).
Pinned: torch 2.13.0, trl 0.8.6 (the file only).
"""

import ast
import sys
import textwrap
import types
from pathlib import Path

from common import check_versions

import objective_stubs as stubs
from objective_goldens import sample, scaled, small_pairs, write

import torch


def old_loss(path):
    text = Path(path).read_text()
    found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == "dpo_loss"]
    assert len(found) == 1 and "kto_pair" in text
    space = {"torch": torch, "F": torch.nn.functional, "Tuple": tuple}
    exec(textwrap.dedent("\n".join(text.splitlines()[found[0].lineno - 1:found[0].end_lineno])), space)
    return space["dpo_loss"]


def run(loss, pairs, params):
    p = dict(loss_type="sigmoid", beta=0.1, label_smoothing=0.0, reference_free=False) | params
    answers = [x[k] for k in ("chosen", "rejected") for x in pairs]
    logps = [stubs.leaf(a) for a in answers]
    me = types.SimpleNamespace(accelerator=stubs.Accelerator(), **p)
    n = len(pairs)
    policy = torch.stack([x.sum() for x in logps])
    ref = torch.tensor([sum(a["ref_logps"]) for a in answers], dtype=stubs.WIDE)
    losses, chosen, rejected = loss(me, policy[:n], policy[n:], ref[:n], ref[n:])
    losses.mean().backward()
    grads = [x.grad.tolist() for x in logps]
    metrics = {"rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean(), "rewards/margins": (chosen - rejected).mean(),
               "rewards/accuracies": (chosen > rejected).double().mean(), "logps/chosen": policy[:n].mean(), "logps/rejected": policy[n:].mean()}
    return losses, {"chosen": grads[:n], "rejected": grads[n:]}, {k: v.item() for k, v in metrics.items()}


def main():
    check_versions("torch")
    loss = old_loss(sys.argv[1])
    inputs, cases = {"sample": sample(0.0), "small": small_pairs(), "single": small_pairs()[:1], "same": small_pairs()[-1:]}, []
    for params in (dict(label_smoothing=0.1), dict(label_smoothing=0.3, beta=0.5), dict(loss_type="ipo"), dict(loss_type="ipo", beta=0.5),
                   dict(reference_free=True), dict(reference_free=True, label_smoothing=0.1), dict(loss_type="hinge", reference_free=True),
                   dict(loss_type="kto_pair"), dict(loss_type="kto_pair", beta=0.5)):
        for name, pairs in inputs.items():
            losses, grads, metrics = run(loss, pairs, params)
            n, mean = len(pairs), losses.mean().item()
            paired = params.get("loss_type") == "kto_pair"
            out = dict(input=name, params=params, loss=mean, units=n, loss_sum=mean * n)
            cases.append(out | ({} if paired else dict(losses=losses.tolist())) | dict(d_logps=scaled(grads, n), metrics=metrics))
    plain = stubs.dpo(inputs["sample"])[0]
    assert abs(run(loss, inputs["sample"], {})[0].mean().item() - plain) < 1e-14
    write("dpo_old", {"inputs": inputs, "cases": cases})


if __name__ == "__main__":
    main()
