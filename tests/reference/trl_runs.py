"""Writes tests/golden/trl/runs/<run>/: 50 optimizer steps of TRL 1.16's DPOTrainer or SFTTrainer, every number logged.

  python tests/reference/trl_runs.py [run ...]

Each run is a YAML file that TRL's parser and plumb both read, with paths relative to tests/golden/trl (the working folder).
The learning rates are large enough that the loss falls below 0.3 (SFT: far below its start): at tiny rates a wrong
schedule or a wrong beta2 would not show.
Float32, CPU, eager attention, one thread. Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0, peft 0.21.2 (see common.py).
"""

import json
import os
import shutil
import sys
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="trl-oracle-")
os.environ["HF_HOME"] = SCRATCH  # a fresh dataset cache: TRL's reference cache would otherwise outlive a run

from common import GOLDEN, check_versions, fresh_dir, tidy_adapter, write_json  # noqa: E402

import torch  # noqa: E402
import yaml  # noqa: E402
from datasets import load_dataset  # noqa: E402
from trl import (DatasetMixtureConfig, DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer,  # noqa: E402
                 TrlParser, get_peft_config)

ROOT = GOLDEN / "trl"
COMMON = dict(dtype="float32", attn_implementation="eager", bf16=False, use_cpu=True, gradient_checkpointing=False,
              max_length=128, max_steps=50, logging_steps=1, save_strategy="no", report_to="none", seed=42,
              train_sampling_strategy="random")
DPO = dict(model_name_or_path="llama", dataset_name="pairs", **COMMON, beta=0.1, learning_rate=3.0e-4,
           per_device_train_batch_size=4)
SFT = dict(model_name_or_path="llama", dataset_name="completions", **COMMON, learning_rate=5.0e-3,
           per_device_train_batch_size=4)
LORA = dict(use_peft=True, lora_r=8, lora_alpha=16, lora_target_modules="all-linear")
RUNS = {
    "dpo_full": ("dpo", DPO),
    "dpo_qwen2": ("dpo", {**DPO, "model_name_or_path": "qwen2"}),
    "dpo_lora": ("dpo", {**DPO, **LORA, "learning_rate": 2.0e-3, "lora_dropout": 0.05}),
    "dpo_accum": ("dpo", {**DPO, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "dpo_cosine": ("dpo", {**DPO, "lr_scheduler_type": "cosine", "warmup_steps": 5, "weight_decay": 0.1, "adam_beta2": 0.95,
                           "learning_rate": 5.0e-4}),
    "dpo_precompute": ("dpo", {**DPO, "precompute_ref_log_probs": True, "lr_scheduler_type": "constant_with_warmup",
                               "warmup_steps": 3}),
    "dpo_eval": ("dpo", {**DPO, "warmup_steps": 4, "eval_strategy": "steps", "eval_steps": 10,
                         "per_device_eval_batch_size": 8, "max_grad_norm": 0.5, "seed": 7}),
    "dpo_lora_eval": ("dpo", {**DPO, **LORA, "model_name_or_path": "qwen2", "use_rslora": True, "learning_rate": 5.0e-3,
                              "lora_target_modules": ["q_proj", "v_proj", "down_proj"], "eval_strategy": "steps",
                              "eval_steps": 10, "per_device_eval_batch_size": 8, "weight_decay": 0.01}),
    "sft_full": ("sft", SFT),
    "sft_text": ("sft", {**SFT, "dataset_name": "texts", "model_name_or_path": "qwen2", "weight_decay": 0.01}),
    "sft_lora": ("sft", {**SFT, **LORA, "lora_dropout": 0.0, "learning_rate": 3.0e-3}),
    "sft_accum": ("sft", {**SFT, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "sft_eval": ("sft", {**SFT, "eval_strategy": "steps", "eval_steps": 10, "per_device_eval_batch_size": 8,
                         "lr_scheduler_type": "cosine", "warmup_steps": 0.1}),
}
TIMING = ("runtime", "per_second", "flos")


def write_yaml(path, name, options):
    lines = [f"# {name}: read by TRL's parser and by plumb; paths are relative to tests/golden/trl"]
    for key, value in {**options, "output_dir": f"out/{name}"}.items():
        if isinstance(value, float) and value < 0.01:
            mantissa, exponent = f"{value:e}".split("e")
            value = f"{float(mantissa)}e{int(exponent)}"  # YAML 1.1 takes 1e-3 for a string, 1.0e-3 for a number
        elif isinstance(value, bool):
            value = str(value).lower()
        elif value == "no":
            value = '"no"'  # bare, YAML 1.1 takes it for false
        lines.append(f"{key}: {value}")
    path.write_text("\n".join(lines) + "\n")


def parse(kind, path):
    types = (ScriptArguments, DPOConfig if kind == "dpo" else SFTConfig, ModelConfig, DatasetMixtureConfig)
    return TrlParser(types).parse_args_and_config(args=["--config", str(path)], fail_with_unknown_args=True)


def make_trainer(kind, script, args, model):
    """As trl/scripts/dpo.py and sft.py do."""
    args.model_init_kwargs = dict(dtype=model.dtype, attn_implementation=model.attn_implementation)
    args.disable_tqdm = True
    data = load_dataset(script.dataset_name)
    cls = DPOTrainer if kind == "dpo" else SFTTrainer
    return cls(model=model.model_name_or_path, args=args, train_dataset=data["train"],
               eval_dataset=data["test"] if args.eval_strategy != "no" else None, peft_config=get_peft_config(model))


KEYS = {"dpo": ("prompt_ids", "chosen_ids", "rejected_ids"), "sft": ("input_ids", "labels")}


def identity(row, kind):
    return tuple(tuple(row[k]) for k in KEYS[kind])


def watch_order(trainer, kind):
    """The training rows of every micro-batch, in the order in which the collator sees them."""
    rows = {identity(row, kind): i for i, row in enumerate(trainer.train_dataset)}
    assert len(rows) == len(trainer.train_dataset), "equal rows cannot be told apart"
    batches, collate = [], trainer.data_collator

    def recording(examples):
        found = [rows.get(identity(e, kind)) for e in examples]
        if None not in found:
            batches.append(found)
        return collate(examples)

    trainer.data_collator = recording
    return batches


def write_tokens(dataset, path, kind):
    with open(path, "w") as out:
        for row in dataset:
            out.write(json.dumps({k: list(row[k]) for k in KEYS[kind]}) + "\n")


def write_log(path, history):
    """One line per optimizer step and per evaluation, doubles in full; timing keys are left out."""
    with open(path, "w") as out:
        for entry in history:
            if "train_runtime" not in entry:
                line = {"step": entry["step"]} | {k: v for k, v in entry.items() if not k.endswith(TIMING)}
                out.write(json.dumps(line) + "\n")


def steps_of(batches, steps, accumulation, rows, batch):
    """Groups micro-batches into optimizer steps; the window restarts at the end of an epoch."""
    per_epoch, out = -(-rows // batch), []
    for start in range(0, len(batches), per_epoch):
        epoch = batches[start:start + per_epoch]
        out += [epoch[i:i + accumulation] for i in range(0, len(epoch), accumulation)]
    return out[:steps]


def weight_sums(model):
    """Per trained tensor: sum and L2 norm, in double."""
    trained = ((k.replace(".modules_to_save", ""), p.detach().double()) for k, p in model.named_parameters() if p.requires_grad)
    return {k: {"sum": p.sum().item(), "norm": p.norm().item()} for k, p in trained}


def run(name):
    kind, options = RUNS[name]
    path = fresh_dir(ROOT / "runs" / name)
    write_yaml(path / "config.yaml", name, options)
    script, args, model, _ = parse(kind, path / "config.yaml")
    trainer = make_trainer(kind, script, args, model)
    if model.use_peft:
        trainer.model.save_pretrained(path / "adapter_init")
        tidy_adapter(path / "adapter_init")
        for file in (path / "adapter_init").iterdir():
            file.chmod(0o644)
    (ROOT / "tokens").mkdir(exist_ok=True)
    write_tokens(trainer.train_dataset, ROOT / "tokens" / f"{script.dataset_name}_train.jsonl", kind)
    if trainer.eval_dataset is not None:
        write_tokens(trainer.eval_dataset, ROOT / "tokens" / f"{script.dataset_name}_test.jsonl", kind)
    batches = watch_order(trainer, kind)
    trainer.train()
    history = trainer.state.log_history
    write_log(path / "log.jsonl", history)
    order = steps_of(batches, args.max_steps, args.gradient_accumulation_steps, len(trainer.train_dataset),
                     args.per_device_train_batch_size)
    first, last = history[0], [h for h in history if "loss" in h][-1]
    write_json(path / "final.json", {"train_loss": history[-1]["train_loss"], "weights": weight_sums(trainer.model)})
    (path / "order.jsonl").write_text("".join(json.dumps(step) + "\n" for step in order))
    assert len(order) == args.max_steps
    print(f"{name}: loss {first['loss']:.6f} -> {last['loss']:.6f}, grad_norm {first['grad_norm']:.3f} -> "
          f"{last['grad_norm']:.3f}", flush=True)
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
