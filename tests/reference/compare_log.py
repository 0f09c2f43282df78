"""Compares plumb's metrics.jsonl with TRL's log of the same YAML, key by key.

  cd tests/golden/trl && plumb dpo --config runs/dpo_full/config.yaml --out /tmp/run && \
  python ../../reference/compare_log.py /tmp/run/metrics.jsonl runs/dpo_full/log.jsonl [key ...]

Prints the largest difference of every key of TRL's log (grad_norm relative) and exits with 1 if a line or a key is missing or a
difference is above its limit (LIMITS; NaN counts as above). Keys named at the end are left out: entropy,
mean_token_accuracy and logits/* where TRL averages micro-batches. No package needed.
"""

import json
import sys

# TRL's own rounding noise over 50 steps (trl_sensitivity.py's rounding variants): loss 1.0e-6, grad_norm 5e-6 relative, entropy
# 1.4e-6, rewards 2.4e-6, logits 3e-8, logps 2e-7 relative; accuracies, counts, epoch and learning rate do not move.
LIMITS = (("loss", 1e-5, 0), ("grad_norm", 0, 1e-4), ("learning_rate", 0, 1e-9), ("epoch", 1e-9, 0), ("num_tokens", 0, 0),
          ("accuracy", 1e-6, 0), ("accuracies", 1e-6, 0), ("logps/", 1e-5, 1e-6), ("logits/", 1e-6, 0), ("", 1e-5, 0))


def lines(path):
    rows = [json.loads(x) for x in open(path)]
    return {(r["step"], "eval_loss" in r): r for r in rows}


def limit(key, want):
    for part, absolute, relative in LIMITS:
        if part in key:
            return absolute + relative * abs(want)


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
