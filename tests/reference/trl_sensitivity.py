"""Measures what the committed TRL curves can and cannot see: rounding noise, and mistakes that a test must catch.

  python tests/reference/trl_sensitivity.py [run ...]

Prints, for each variant of a run, the largest |difference of loss| and relative difference of grad_norm from log.jsonl. Variants that only
change rounding (padding, SDPA attention, two threads) must stay below 1e-5 and 1e-4; the mistakes must not.
Pinned versions: see common.py.
"""

import json
import os
import shutil
import sys

import trl_runs
from trl_runs import ROOT, RUNS, SCRATCH, make_trainer, parse, write_yaml

import torch


def shift_boundary(trainer):
    """The first completion token counts as prompt."""
    def shift(row):
        if "labels" in row:
            first = next(i for i, x in enumerate(row["labels"]) if x != -100)
            return {"labels": [-100] * (first + 1) + row["labels"][first + 1:]}
        return {k: row[k][1:] for k in ("chosen_ids", "rejected_ids")}

    if "labels" in trainer.train_dataset.column_names:
        trainer.train_dataset = trainer.train_dataset.map(shift)
    else:
        collate = trainer.data_collator

        def shifted(examples):  # the prompt grows by one token that differs per answer, so mask in the batch
            batch = collate(examples)
            mask = batch["completion_mask"]
            first = mask.argmax(dim=1)
            mask[torch.arange(len(first)), first] = 0
            return batch

        trainer.data_collator = shifted


def drop_eos(trainer):
    keys = [k for k in ("chosen_ids", "rejected_ids", "input_ids", "labels") if k in trainer.train_dataset.column_names]
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {k: row[k][:-1] for k in keys})


ROUNDING = {
    "padded to 32": (dict(pad_to_multiple_of=32), None),
    "sdpa": (dict(attn_implementation="sdpa"), None),
    "two threads": ({}, lambda _: torch.set_num_threads(2)),
}
MISTAKES = {
    "adam_beta2 0.99": (dict(adam_beta2=0.99), None),
    "adam_epsilon 1e-6": (dict(adam_epsilon=1.0e-6), None),
    "constant schedule": (dict(lr_scheduler_type="constant"), None),
    "one more warm-up step": (dict(warmup_steps=7), None),
    "weight_decay 0.05": (dict(weight_decay=0.05), None),
    "no clipping": (dict(max_grad_norm=0.0), None),
    "seed 43": (dict(seed=43), None),
    "boundary + 1": ({}, shift_boundary),
    "no EOS": ({}, drop_eos),
}


def history(kind, options, hook):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = ROOT / "out" / "variant.yaml"
    path.parent.mkdir(exist_ok=True)
    write_yaml(path, "variant", options)
    script, args, model, _ = parse(kind, path)
    trainer = make_trainer(kind, script, args, model)
    if hook:
        hook(trainer)
    trainer.train()
    return [h for h in trainer.state.log_history if "loss" in h]


def distance(name, changes, hook):
    kind, options = RUNS[name]
    want = [json.loads(line) for line in open(ROOT / "runs" / name / "log.jsonl")]
    want = [h for h in want if "loss" in h]
    got = history(kind, {**options, **changes}, hook)
    loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(want, got))
    norm = max(abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"] for a, b in zip(want, got))
    return loss, norm


def main():
    os.chdir(ROOT)
    bad = 0
    for name in sys.argv[1:] or RUNS:
        for variants, want_equal in ((ROUNDING, True), (MISTAKES, False)):
            for what, (changes, hook) in variants.items():
                if hook is shift_boundary and name == "sft_text":
                    continue  # rows of text have no boundary
                loss, norm = distance(name, changes, hook)
                equal = loss <= 1e-5 and norm <= 1e-4
                bad += equal != want_equal
                print(f"{name:16} {what:22} loss {loss:.1e} grad_norm {norm:.1e}{'' if equal == want_equal else '  <--'}",
                      flush=True)
    shutil.rmtree(ROOT / "out", ignore_errors=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return bad


if __name__ == "__main__":
    sys.exit(main() > 0)
