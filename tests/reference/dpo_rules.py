"""Writes tests/golden/loss/dpo_rules.json: which combinations of settings TRL 1.16's DPOTrainer takes, refuses, or fails on in its first step.

  python tests/reference/dpo_rules.py

The trainer is built on the tiny llama of tests/golden/trl; combinations that it takes then do one training step.
Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0 (see common.py).
"""

import logging
import os
import shutil
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="trl-rules-")
os.environ["HF_HOME"] = SCRATCH

from common import GOLDEN, check_versions  # noqa: E402

from datasets import load_dataset  # noqa: E402
from objective_goldens import DIVERGENCES, DIVERGING, RAW, write  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

KINDS = (*DIVERGING, *RAW, "sft")


def settings():
    for kind in KINDS:
        smooth = dict(label_smoothing=0.001) if kind == "exo_pair" else {}
        yield from (dict(loss_type=[kind]) | smooth | d for d in ({}, *DIVERGENCES[:3], dict(use_weighting=True), dict(ld_alpha=0.5)))
    yield dict(loss_type=["exo_pair"])
    yield dict(loss_type=["exo_pair", "sigmoid"], loss_weights=[0.5, 0.5])
    yield dict(loss_type=["kto_pair"])
    yield from (dict(loss_type=["sigmoid"], label_smoothing=e) for e in (0.1, 0.6))
    yield from (dict(loss_type=["robust"], label_smoothing=e) for e in (0.5, 0.6, -0.1))
    yield dict(loss_type=["sigmoid", "bco_pair"], f_divergence_type="js_divergence")
    yield dict(loss_type=["sigmoid", "sft"], f_divergence_type="js_divergence")
    yield dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0])
    yield dict(loss_type=["sigmoid"], loss_weights=[2.0])
    yield dict(loss_type=["sigmoid", "sft"], use_weighting=True)
    yield dict(loss_type=["sigmoid", "aot"], use_weighting=True)
    yield dict(loss_type=["sigmoid", "sigmoid"], loss_weights=[-1.0, 2.0])
    yield from (dict(loss_type=["sigmoid"], ld_alpha=a) for a in (0.0, 1.0, 1.5, -0.5))
    yield from (dict(loss_type=["sigmoid"], beta=b) for b in (0.0, -0.1))


def outcome(params, rows):
    stage = "constructor"
    try:
        args = DPOConfig(output_dir=SCRATCH + "/out", bf16=False, use_cpu=True, gradient_checkpointing=False, max_steps=1, save_strategy="no",
                         report_to="none", disable_tqdm=True, per_device_train_batch_size=2, logging_steps=1, **params)
        trainer = DPOTrainer(model=str(GOLDEN / "trl/llama"), args=args, train_dataset=rows)
        stage = "first step"
        trainer.train()
        log = trainer.state.log_history[0]
        return dict(taken=True, finite=all(abs(log[k]) < float("inf") for k in ("loss", "grad_norm")))
    except Exception as error:
        return dict(taken=False, stage=stage, error=type(error).__name__)


def main():
    check_versions("torch", "transformers", "trl")
    logging.disable(logging.WARNING)
    rows = load_dataset("json", data_files=str(GOLDEN / "trl/pairs/train.jsonl"))["train"].select(range(2))
    try:
        cases = [dict(params=p) | outcome(p, rows) for p in settings()]
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    write("dpo_rules", {"cases": cases})
    for c in cases:
        if not c["taken"]:
            print(c)


if __name__ == "__main__":
    main()
