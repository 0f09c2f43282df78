"""Checks a model that plumb wrote by loading it with transformers (and PEFT) and recomputing what `plumb logps --tokens` printed.

  python tests/reference/check_export.py --model DIR [--adapter DIR] [--base DIR] --data FILE (--logps FILE | --plumb PROGRAM)

For every pair the log-probs of the printed ids are recomputed in float32; prints the largest difference per token and per answer
and exits with 1 if one is above --tol (NaN counts as above), an answer is missing, or the ids do not decode to the text. With
--base also compares the tensors of --model and --base: names, shapes, dtypes, and how much changed.
Pinned: torch 2.13.0, transformers 5.23.0, peft 0.21.2 (see common.py).
"""

import argparse
import json
import subprocess
from pathlib import Path

from common import token_logps

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="model directory (with --adapter: the base)")
    p.add_argument("--adapter", help="PEFT adapter directory on top of --model")
    p.add_argument("--base", help="model that training started from, to compare tensors with")
    p.add_argument("--data", help="the pairs given to plumb; needed with --plumb and to check the text")
    p.add_argument("--logps", help="what plumb logps --tokens printed")
    p.add_argument("--plumb", help="the plumb program, to run logps with bf16 off")
    p.add_argument("--rows", type=int, default=0, help="only the first rows (0: all)")
    p.add_argument("--tol", type=float, default=1e-4)
    return p.parse_args()


def plumb_lines(args):
    if args.logps:
        return Path(args.logps).read_text().splitlines()
    command = [args.plumb, "logps", "--model", args.model, "--data", args.data, "--tokens", "--bf16", "false"]
    if args.adapter:
        command += ["--adapter", args.adapter]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def load(args):
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter)
    return model.eval()


def answer_error(model, prompt, answer):
    """(largest |difference| of a token's log-prob, |difference| of the sum) of one answer."""
    ids, first = torch.tensor(prompt + answer["ids"]), len(prompt) == 0
    with torch.no_grad():
        want = token_logps(model(ids[None], use_cache=False).logits[0], ids)[max(len(prompt) - 1, 0):].double()
    got = torch.tensor(answer["logps"], dtype=torch.float64)
    if first and len(got) == len(want) + 1:
        got = got[1:]  # nothing predicts the first token of a row without a prompt
    if len(got) != len(want) or answer["tokens"] != len(answer["ids"]):
        return float("nan"), float("nan")
    if len(want) == 0:
        return 0.0, abs(answer["logp"])
    return (got - want).abs().max().item(), abs(answer["logp"] - want.sum().item())


def compare_tensors(model, base):
    def tensors(path):
        out = {}
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, "pt") as f:
                out |= {k: f.get_tensor(k) for k in f.keys()}
        return out

    a, b = tensors(model), tensors(base)
    bad = sorted(set(a) ^ set(b))
    bad += [k for k in a.keys() & b.keys() if a[k].shape != b[k].shape]
    types = sorted({f"{b[k].dtype} -> {a[k].dtype}" for k in a.keys() & b.keys() if a[k].dtype != b[k].dtype})
    same = sum(torch.equal(a[k], b[k]) for k in a.keys() & b.keys() if a[k].shape == b[k].shape)
    finite = all(torch.isfinite(t).all() for t in a.values())
    print(f"tensors: {len(a)}, unchanged {same}, dtype changes {types or 'none'}, all finite: {finite}, differing: {bad or 'none'}")
    return not bad and finite


def check_text(tokenizer, row, line):
    """Prompt ids + answer ids decode to the row's text, with or without the EOS."""
    for key in ("chosen", "rejected"):
        text = tokenizer.decode(line["prompt_ids"] + line[key]["ids"], skip_special_tokens=False)
        want = row.get("prompt", "") + row[key]
        if not (text.removesuffix(tokenizer.eos_token or "").endswith(want) or text.endswith(want)):
            print(f"row {line['row']} {key}: decodes to {text!r}, want {want!r}")
            return False
    return True


def main():
    args = arguments()
    model, lines = load(args), [json.loads(x) for x in plumb_lines(args)]
    lines = lines[: args.rows or None]
    good, token, total, answers = bool(lines), 0.0, 0.0, 0
    for line in lines:
        for key in ("chosen", "rejected"):
            per_token, per_sum = answer_error(model, line["prompt_ids"], line[key])
            if not per_token <= args.tol:
                good = False
                print(f"row {line['row']} {key}: differs by {per_token}")
            token, total, answers = max(token, per_token), max(total, per_sum), answers + 1
    print(f"{answers} answers: max |difference| {token:.2e} per token, {total:.2e} per answer (tolerance {args.tol:g} per token)")
    if args.base:
        good &= compare_tensors(args.model, args.base)
    if args.data and args.data.endswith(".jsonl"):
        rows = [json.loads(x) for x in Path(args.data).read_text().splitlines() if x.strip()]
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        good &= all([check_text(tokenizer, rows[line["row"]], line) for line in lines if "prompt" in rows[line["row"]]])
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
