"""tests/golden/trl/logps/<model>_<data>.jsonl: what `plumb logps --tokens` must print for rows of tests/golden/trl.

Ids from TRL's own tokenization (tokens/*.jsonl, of trl_runs.py), log-probs of every answer token from transformers in f32 (eager, the row
alone, nothing padded), and their sum from a float64 copy of the model.
"""

import json

import torch
from common import GOLDEN, check_versions, patch_float64, token_logps
from transformers import AutoModelForCausalLM

check_versions("torch", "transformers", "trl", "peft")
ROOT = GOLDEN / "trl"
RUNS = [("llama", "pairs_train"), ("llama", "pairs_test"), ("qwen2", "pairs_train"), ("llama", "seam_joint")]


def load(name, dtype):
    return AutoModelForCausalLM.from_pretrained(ROOT / name, dtype=dtype, attn_implementation="eager").eval()


def score(model, prompt, answer):
    ids = torch.tensor(prompt + answer)
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    return token_logps(logits, ids)[len(prompt) - 1:]


def main():
    (ROOT / "logps").mkdir(exist_ok=True)
    models = {m: (load(m, torch.float32), None) for m, _ in RUNS}
    singles = {}
    for m, d in RUNS:
        rows = [json.loads(line) for line in open(ROOT / "tokens" / f"{d}.jsonl")]
        singles[m, d] = [(r, {a: score(models[m][0], r["prompt_ids"], r[f"{a}_ids"]) for a in ("chosen", "rejected")})
                         for r in rows]
    patch_float64()
    doubles = {m: load(m, torch.float64) for m in models}
    for (m, d), rows in singles.items():
        with open(ROOT / "logps" / f"{m}_{d}.jsonl", "w") as out:
            for i, (row, logps) in enumerate(rows):
                line = {"row": i, "prompt_ids": row["prompt_ids"]}
                for answer in ("chosen", "rejected"):
                    exact = score(doubles[m], row["prompt_ids"], row[f"{answer}_ids"])
                    noise = (exact - logps[answer].double()).abs().max().item()
                    assert noise < 1e-5, noise
                    line[answer] = {"ids": row[f"{answer}_ids"], "logps": [float(f"{x:.9g}") for x in logps[answer].tolist()],
                                    "logp": exact.sum().item()}
                out.write(json.dumps(line, separators=(",", ":")) + "\n")


main()
