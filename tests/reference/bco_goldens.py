"""Writes tests/golden/loss/bco.json: TRL 1.13.0's BCO loss over several micro-batches, with its running delta.

  python tests/reference/bco_goldens.py      (in an environment of its own: requirements.txt with trl==1.13.0, joblib, scikit-learn)

BCO left TRL after 1.13.0. get_batch_loss_metrics is TRL's; its forward() is replaced by one that sums the given log-probs, so that no
logits are needed. What TRL's log() makes of the stored sums, counts and deltas is written anew in logged(). RunningMoments.update()
rounds means and variances to float32, which is switched off here (wide() in objective_stubs.py), so `delta` is the mean of all rewards
seen so far in double; TRL's own is within float32's rounding of it.
Pinned: torch 2.13.0, transformers 5.23.0, trl 1.13.0.
"""

import random

from common import WANT, check_versions

WANT["trl"] = "1.13.0"

import objective_exact as exact  # noqa: E402
import objective_stubs as stubs  # noqa: E402
from objective_goldens import scaled, spread_out, tokens, write  # noqa: E402

import torch  # noqa: E402
from mpmath import mpf  # noqa: E402
from trl.experimental.bco import bco_trainer  # noqa: E402

STATE = ("mean", "count")


def trainer(beta, state=None):
    running = bco_trainer.RunningMoments(stubs.Accelerator(), **(state or {}))
    return stubs.stand_in(bco_trainer.BCOTrainer, beta=beta, running=running, match_underlying_distribution=False,
                          _get_prompt_embeddings=lambda batch: (None, None))


def forward(logps):
    def run(self, model, batch):
        sums = torch.stack([x.sum() for x in logps])
        label = torch.tensor(batch["label"])
        return sums[label], sums[~label], torch.zeros(int(label.sum()), 1, 1), torch.zeros(int((~label).sum()), 1, 1)
    return run


def micro_batch(me, rows, train=True):
    """One micro-batch: mean loss, gradients, what TRL stores for its log line, and the state after it."""
    logps = [stubs.leaf(a) for a in rows]
    with stubs.wide():
        me.forward = forward(logps).__get__(me)
        batch = {"label": [a["label"] for a in rows],
                 "reference_logps": torch.tensor([sum(a["ref_logps"]) for a in rows], dtype=stubs.WIDE)}
        value, stored = me.get_batch_loss_metrics(None, batch, do_train=train)
        value.backward()
    return value.item(), [x.grad.tolist() for x in logps], stored, {k: float(getattr(me.running, k)) for k in STATE}


def logged(stored):
    """The log line over micro-batches: sums over counts, and delta's mean, as BCOTrainer.log has them."""
    out = {}
    for side in ("chosen", "rejected"):
        count = sum(s.get(f"count/{side}", 0) for s in stored)
        for key in ("rewards", "logps"):
            if count:
                out[f"{key}/{side}"] = sum(s.get(f"{key}/{side}_sum", 0) for s in stored) / count
    if "rewards/chosen" in out and "rewards/rejected" in out:
        out["rewards/margins"] = out["rewards/chosen"] - out["rewards/rejected"]
    return out | {"delta": sum(s["delta"] for s in stored) / len(stored)}


def inputs():
    rng = random.Random(10)
    rows = ((-10.0, -11.0), (-14.0, -13.0), (-9.0, -9.5), (-22.0, -20.0))
    made = {"sample": [spread_out(*r, 4) | dict(label=i % 2 == 0) for i, r in enumerate(rows)]}
    for name, labels in (("mixed", (True, False, False, True, True)), ("desirable", (True, True)), ("undesirable", (False, False, False)),
                         ("single", (True,))):
        made[name] = [tokens(rng, rng.randint(1, 9), 1.5, rng.randint(1, 5)) | dict(label=x) for x in labels]
    for group in made.values():
        for row in group:
            for key in ("entropy", "mean_logits", "log_sum_sq_probs", "is_top1"):
                del row[key]
    return made


def extreme(settings):
    rows, cases = [(*exact.sums(a), delta, label) for a in (0.0, *exact.SIZES) for delta in (0.0, -3.0, 900.0) for label in (True, False)], []
    for beta in settings:
        out, bad = [], []
        for i, (logp, ref, delta, label) in enumerate(rows):
            sign, a = 1 if label else -1, mpf(logp) - mpf(ref)
            f = lambda x: -exact.ls(sign * (mpf(beta) * x - mpf(delta)))
            out.append([exact.rounded(f(a)), exact.rounded(exact.mpmath.diff(f, a))])
            row = dict(logps=[logp], ref_logps=[ref], label=label)
            if exact.wrong(out[-1][0], micro_batch(trainer(beta, dict(mean=delta, count=1)), [row], train=False)[0]):
                bad.append(i)
        cases.append((dict(beta=beta), out, bad))
    keys = ("logp", "ref_logp", "delta", "label")
    return {"rows": [dict(zip(keys, r)) for r in rows], "cases": exact.table(cases, ("losses", "grad_logp"))}


def main():
    check_versions("torch", "transformers", "trl")
    made, cases = inputs(), []
    for beta, order in ((0.1, ("sample",)), (0.1, ("mixed", "undesirable", "single", "desirable", "sample")), (0.5, ("single", "mixed", "mixed"))):
        me, steps, stored = trainer(beta), [], []
        for name in order:
            mean, grads, kept, state = micro_batch(me, made[name])
            stored.append(kept)
            n = len(made[name])
            steps.append(dict(input=name, loss=mean, units=n, loss_sum=mean * n, d_logps=scaled(grads, n), metrics=logged([kept]), state=state))
        mean, _, kept, state = micro_batch(me, made["mixed"], train=False)
        assert state == steps[-1]["state"]
        frozen = dict(input="mixed", loss=mean, metrics=logged([kept]))
        cases.append(dict(params=dict(beta=beta), steps=steps, metrics=logged(stored), eval=frozen))
    assert abs(cases[0]["steps"][0]["loss"] - 0.638673057) < 6e-10 and abs(cases[0]["steps"][0]["state"]["mean"] + 0.0375) < 1e-12
    write("bco", {"inputs": made, "cases": cases})
    write("bco_extreme", extreme([0.1, 0.5]))


if __name__ == "__main__":
    main()
