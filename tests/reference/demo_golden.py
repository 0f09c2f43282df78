"""Writes tests/golden/demo/log.jsonl: the first steps of the bundled demo (demo/dpo.yaml on demo/model) as TRL computes them.

  python tests/reference/demo_golden.py

Float32, CPU, eager attention, one thread; the file's schedule planned for max_steps 12. Pinned: torch 2.13.0,
transformers 5.23.0, trl 1.16.0 (see common.py).
"""

import os
import shutil
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="trl-oracle-")
os.environ["HF_HOME"] = SCRATCH

from common import GOLDEN, check_versions, fresh_dir  # noqa: E402
from trl_runs import write_log  # noqa: E402

import torch  # noqa: E402
import yaml  # noqa: E402
from datasets import load_dataset  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

ROOT = GOLDEN.parent.parent
STEPS = 12


def main():
    check_versions("torch", "transformers", "trl")
    torch.manual_seed(0)
    with open(ROOT / "demo/dpo.yaml") as f:
        options = yaml.safe_load(f)
    model, data = (str(ROOT / options.pop(k)) for k in ("model_name_or_path", "dataset_name"))
    options |= dict(output_dir=SCRATCH + "/out", max_steps=STEPS, logging_steps=1, bf16=False, use_cpu=True,
                    gradient_checkpointing=False, report_to="none", disable_tqdm=True,
                    model_init_kwargs=dict(dtype="float32", attn_implementation="eager"))
    rows = load_dataset("json", data_files=data, split="train")
    trainer = DPOTrainer(model=model, args=DPOConfig(**options), train_dataset=rows)
    trainer.train()
    history = trainer.state.log_history
    write_log(fresh_dir(GOLDEN / "demo") / "log.jsonl", history)
    print(f"loss {history[0]['loss']:.6f} -> {history[STEPS - 1]['loss']:.6f}")
    shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
