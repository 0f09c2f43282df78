"""Writes tests/golden/trl/runs/sft_pack*/ and sft_dft*/: 50 steps of TRL 1.16's SFTTrainer with packing or the dft loss.

  python tests/reference/sft_runs.py [run ...]

As trl_runs.py, whose rows, models and files these are; the rows of tests/golden/trl/tokens are those before packing.
Packed runs take a batch of bins. `wrapped` is not among them: TRL lets documents of a bin see each other there.
Float32, CPU, eager attention, one thread. Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0, peft 0.21.2 (see common.py).
"""

import json
import os
import shutil
import sys

from trl_runs import LORA, ROOT, SCRATCH, SFT, make_trainer, parse, weight_sums, write_log, write_yaml

from common import check_versions, fresh_dir, tidy_adapter, write_json

PACKED = {**SFT, "packing": True, "per_device_train_batch_size": 2}
RUNS = {
    "sft_pack": {**PACKED, "packing_strategy": "bfd", "max_length": 64},
    # documents that lose their end, and some that lose all they would be trained on; evaluation packed too
    "sft_pack_cut": {**PACKED, "max_length": 26, "eval_strategy": "steps", "eval_steps": 10, "per_device_eval_batch_size": 8},
    "sft_pack_split": {**PACKED, "packing_strategy": "bfd_split", "dataset_name": "texts", "model_name_or_path": "qwen2",
                       "max_length": 30, "per_device_train_batch_size": 4, "weight_decay": 0.01},
    "sft_pack_lora_accum": {**PACKED, **LORA, "packing_strategy": "bfd_split", "max_length": 33, "lora_dropout": 0.0,
                      "completion_only_loss": False, "learning_rate": 3.0e-3, "per_device_train_batch_size": 1,
                      "gradient_accumulation_steps": 3},
    "sft_pack_train": {**PACKED, "max_length": 26, "packing_strategy": "bfd_split", "eval_packing": False,
                       "eval_strategy": "steps", "eval_steps": 25, "per_device_eval_batch_size": 8},
    "sft_dft": {**SFT, "loss_type": "dft", "learning_rate": 2.0e-3},
    "sft_dft_pack": {**PACKED, "loss_type": "dft", "dataset_name": "texts", "max_length": 64, "learning_rate": 2.0e-3},
}


def run(name):
    path = fresh_dir(ROOT / "runs" / name)
    write_yaml(path / "config.yaml", name, RUNS[name])
    script, args, model, _ = parse("sft", path / "config.yaml")
    trainer = make_trainer("sft", script, args, model)
    if model.use_peft:
        trainer.model.save_pretrained(path / "adapter_init")
        tidy_adapter(path / "adapter_init")
        for file in (path / "adapter_init").iterdir():
            file.chmod(0o644)
    trainer.train()
    history = trainer.state.log_history
    write_log(path / "log.jsonl", history)
    first, last = history[0], [h for h in history if "loss" in h][-1]
    write_json(path / "final.json", {"train_loss": history[-1]["train_loss"], "weights": weight_sums(trainer.model)})
    rows = trainer.train_dataset
    bins = [row.get("seq_lengths") for row in rows] if args.packing else len(rows)
    masked = sum(all(label == -100 for label in row["labels"][1:]) for row in rows)
    print(f"{name}: bins {json.dumps(bins)}, {masked} of them masked; loss {first['loss']:.6f} -> {last['loss']:.6f}, "
          f"grad_norm {first['grad_norm']:.3f} -> {last['grad_norm']:.3f}", flush=True)
    shutil.rmtree(ROOT / "out", ignore_errors=True)


def main():
    check_versions("torch", "transformers", "trl", "peft")
    os.chdir(ROOT)
    try:
        for name in sys.argv[1:] or RUNS:
            run(name)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
