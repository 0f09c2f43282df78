"""Compares plumb's metrics.jsonl with TRL's log of the same YAML, key by key.

  cd tests/golden/trl && plumb dpo --config runs/dpo_full/config.yaml --out /tmp/run && \
  python ../../reference/compare_log.py /tmp/run/metrics.jsonl runs/dpo_full/log.jsonl [key ...]

Prints the largest difference of every key of TRL's log (grad_norm relative) and exits with 1 if a line or a key is missing, loss
differs by more than 1e-5, grad_norm by more than 1e-4 relative, learning_rate, epoch, num_tokens or an accuracy by more than
1e-6, another key by more than 2e-4 absolute and 1e-5 relative (sums of hundreds of f32 numbers). Keys named at the end are left
out: entropy, mean_token_accuracy and logits/* where TRL averages micro-batches. No package needed.
"""

import json
import sys

TIGHT = ("learning_rate", "epoch", "num_tokens", "accuracy", "accuracies")


def lines(path):
    rows = [json.loads(x) for x in open(path)]
    return {(r["step"], "eval_loss" in r): r for r in rows}


def limit(key, want):
    key = key.removeprefix("eval_")
    if key == "loss":
        return 1e-5
    if key == "grad_norm":
        return 1e-4 * abs(want)
    return 1e-6 if key.endswith(TIGHT) else 2e-4 + 1e-5 * abs(want)


def main():
    got, want, skip = lines(sys.argv[1]), lines(sys.argv[2]), set(sys.argv[3:])
    worst, bad = {}, sorted(set(want) ^ set(got))
    if bad:
        print("lines on one side only (step, evaluation):", bad)
    for at, row in want.items():
        for key, value in row.items():
            if key in skip or at not in got:
                continue
            have = got[at].get(key)
            error = abs(have - value) if isinstance(have, (int, float)) else float("inf")
            if not error <= limit(key, value):
                bad.append((at[0], key, have, value))
            shown = error / abs(value) if key == "grad_norm" and value else error
            if not shown <= worst.get(key, (-1.0, 0))[0]:
                worst[key] = (shown, at[0])
    for key, (error, step) in worst.items():
        print(f"{key:28} {error:.2e} at step {step}")
    for step, key, have, value in [b for b in bad if len(b) == 4][:8]:
        print(f"step {step} {key}: {have}, TRL has {value}")
    print("FAILED" if bad else "ok")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
