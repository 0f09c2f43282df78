"""Writes tests/golden/loss/dpo_sigmoid.json: TRL's sigmoid DPO loss, metrics and gradients on random and extreme log-probs.

  python tests/reference/loss_goldens.py

The formula is TRL 1.16's, loss = -logsigmoid(beta * ((lp_c - rp_c) - (lp_r - rp_r))), in float64 with PyTorch's autograd; each loss is
checked against 60-digit arithmetic. Pinned: torch 2.13.0, mpmath 1.3.0.
"""

import mpmath

from common import GOLDEN, check_versions, fresh_dir, write_json

import torch

EXTREME = (0.0, 1e-12, -1e-12, 1e-6, 30.0, -30.0, 100.0, -100.0, 350.0, -350.0, 369.0, -371.0, 1000.0, -1000.0)
SAMPLE = ((-12.0, -15.0, -13.0, -13.25), (-20.5, -18.0, -19.0, -18.5), (-7.25, -9.5, -8.0, -8.5))  # its mean loss is 0.657559989


def draw_rows():
    """64 rows (lp_c, lp_r, rp_c, rp_r): the sample, then given differences of log-ratios, then random ones of two sizes."""
    gen = torch.Generator().manual_seed(11)
    rows = [list(row) for row in SAMPLE]
    for delta in EXTREME:
        lp_r, rp_c, rp_r = (-torch.rand(3, generator=gen, dtype=torch.float64) * 60).tolist()
        rows.append([delta + rp_c - rp_r + lp_r, lp_r, rp_c, rp_r])
    while len(rows) < 64:
        spread = 5.0 if len(rows) % 2 else 60.0
        centre = -torch.rand(2, generator=gen, dtype=torch.float64) * 300
        noise = torch.randn(4, generator=gen, dtype=torch.float64) * spread
        rows.append([(centre[i % 2] + noise[i]).item() for i in range(4)])
    return rows


def exact_loss(row, beta):
    """log(1 + exp(-z)) in 60 digits, rounded once; z from the same doubles, without rounding."""
    with mpmath.workdps(60):
        lp_c, lp_r, rp_c, rp_r = (mpmath.mpf(x) for x in row)
        z = mpmath.mpf(beta) * ((lp_c - rp_c) - (lp_r - rp_r))
        return float(mpmath.log1p(mpmath.exp(-z)))


def table(rows, beta):
    x = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    lp_c, lp_r, rp_c, rp_r = x.unbind(1)
    chosen, rejected = lp_c - rp_c, lp_r - rp_r
    loss = -torch.nn.functional.logsigmoid(beta * (chosen - rejected))
    loss.sum().backward()
    for row, value in zip(rows, loss.tolist()):
        want = exact_loss(row, beta)
        assert abs(value - want) <= 1e-12 * want + 1e-15 + 1e-13 * beta * max(map(abs, row)) * want, (row, value, want)
    rc, rr = (beta * chosen).detach(), (beta * rejected).detach()
    keys = ("lp_c", "lp_r", "rp_c", "rp_r")
    out = [dict(zip(keys, row)) | {"loss": l, "reward_chosen": c, "reward_rejected": r, "grad_lp_c": g[0], "grad_lp_r": g[1]}
           for row, l, c, r, g in zip(rows, loss.tolist(), rc.tolist(), rr.tolist(), x.grad.tolist())]
    mean = {"loss": loss.mean().item(), "rewards/chosen": rc.mean().item(), "rewards/rejected": rr.mean().item(),
            "rewards/accuracies": (rc > rr).double().mean().item(), "rewards/margins": (rc - rr).mean().item(),
            "logps/chosen": lp_c.mean().item(), "logps/rejected": lp_r.mean().item()}
    return {"beta": beta, "rows": out, "mean": mean}


def main():
    check_versions("torch")
    path = fresh_dir(GOLDEN / "loss")
    rows = draw_rows()
    sample = table(rows[:3], 0.1)["mean"]["loss"]
    assert abs(sample - 0.657559989) < 1e-9, sample
    write_json(path / "dpo_sigmoid.json", {"cases": [table(rows, 0.1), table(rows, 2.5)]})
    print("mean losses", table(rows, 0.1)["mean"]["loss"], table(rows, 2.5)["mean"]["loss"])


if __name__ == "__main__":
    main()
