"""Writes tests/golden/trl/runs/<run>/: 50 optimizer steps of TRL's trainers for the other objectives, every number logged.

  python tests/reference/objective_runs.py [run ...]

The formats, models and rows are those of trl_runs.py and objective_setup.py. The bco runs want TRL 1.13.0 (see bco_goldens.py) and are made only
when they are named. ORPO, CPO and BCO are given the tokenizer with the end token as padding, which TRL's other trainers do by themselves.
Float32, CPU, eager attention, one thread. Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0, peft 0.21.2 (see common.py).
"""

import json
import os
import shutil
import sys

from trl_runs import COMMON, DPO, LORA, ROOT, SCRATCH, steps_of, weight_sums, write_log, write_yaml

from common import WANT, check_versions, fresh_dir, tidy_adapter, write_json

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config

FOLDER = ROOT / "runs"
PAIRS = dict(model_name_or_path="llama", dataset_name="pairs", **COMMON, per_device_train_batch_size=4)
ROWS = {**PAIRS, "dataset_name": "unpaired"}
del ROWS["train_sampling_strategy"]  # sequential in KTO and BCO
HEAD = {**PAIRS, "model_name_or_path": "reward"}
EVAL = dict(eval_strategy="steps", eval_steps=10, per_device_eval_batch_size=8)
RUNS = {
    "dpo_ipo": {**DPO, "loss_type": "ipo", "beta": 0.3, "learning_rate": 1.0e-3},
    "dpo_hinge": {**DPO, "loss_type": "hinge", "learning_rate": 2.0e-4},
    "dpo_robust": {**DPO, "loss_type": "robust", "label_smoothing": 0.1},
    "dpo_apo_zero": {**DPO, "loss_type": "apo_zero", "beta": 0.3, "learning_rate": 5.0e-4},
    "dpo_mpo": {**DPO, "loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "learning_rate": 5.0e-3},
    "dpo_ld": {**DPO, "ld_alpha": 0.3},
    "dpo_js": {**DPO, "f_divergence_type": "js_divergence", "beta": 0.3, "learning_rate": 1.5e-4},
    "dpo_alpha": {**DPO, "model_name_or_path": "qwen2", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7,
                  "learning_rate": 1.0e-4},
    "dpo_norm": {**DPO, "loss_type": "sigmoid_norm", "beta": 2.0, "learning_rate": 1.0e-3},
    "dpo_aot": {**DPO, "loss_type": "aot", "label_smoothing": 0.05},
    "dpo_wpo": {**DPO, "use_weighting": True, "learning_rate": 1.0e-3},
    "dpo_sppo": {**DPO, "loss_type": "sppo_hard", "beta": 0.3, "learning_rate": 4.0e-5},
    "dpo_sync": {**DPO, "sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 4, "beta": 0.3,
                 "learning_rate": 5.0e-4},
    "dpo_exo": {**DPO, **LORA, "loss_type": "exo_pair", "label_smoothing": 0.01, "learning_rate": 2.0e-3, "lora_dropout": 0.0},
    "kto_full": {**ROWS, "beta": 0.1, "learning_rate": 5.0e-4},
    "kto_weights": {**ROWS, "model_name_or_path": "qwen2", "beta": 0.2, "desirable_weight": 1.2, "undesirable_weight": 0.8,
                    "learning_rate": 5.0e-4, **EVAL},
    "kto_apo": {**ROWS, "loss_type": "apo_zero_unpaired", "beta": 0.1, "learning_rate": 5.0e-4, "train_sampling_strategy": "random"},
    "kto_lora": {**ROWS, **LORA, "beta": 0.1, "learning_rate": 5.0e-3, "lora_dropout": 0.0},
    "reward_full": {**HEAD, "learning_rate": 1.0e-3},
    "reward_margin": {**HEAD, "dataset_name": "margins", "center_rewards_coefficient": 0.01, "learning_rate": 1.0e-3, **EVAL},
    "reward_lora": {**HEAD, **LORA, "lora_task_type": "SEQ_CLS", "lora_target_modules": ["q_proj", "v_proj", "down_proj"],
                    "learning_rate": 5.0e-3, "lora_dropout": 0.0},
    "orpo_full": {**PAIRS, "beta": 0.2, "learning_rate": 5.0e-3},
    "orpo_eval": {**PAIRS, "model_name_or_path": "qwen2", "beta": 0.1, "learning_rate": 3.0e-3, "lr_scheduler_type": "cosine", **EVAL},
    "cpo_full": {**PAIRS, "beta": 0.03, "cpo_alpha": 0.5, "learning_rate": 3.0e-3},
    "cpo_smooth": {**PAIRS, "model_name_or_path": "qwen2", "loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.1,
                   "label_smoothing": 0.05, "learning_rate": 1.0e-3, **EVAL},
    "cpo_ipo": {**PAIRS, "loss_type": "ipo", "beta": 0.3, "cpo_alpha": 0.0, "learning_rate": 1.0e-3},
    "cpo_simpo": {**PAIRS, "loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "learning_rate": 1.0e-3},
    "cpo_alphapo": {**PAIRS, **LORA, "loss_type": "alphapo", "alpha": 0.15, "beta": 2.0, "simpo_gamma": 0.5, "learning_rate": 2.0e-3, "lora_dropout": 0.0},
}
OLDER = {"bco_full": {**ROWS, "beta": 0.1, "learning_rate": 5.0e-4, "max_length": 96}}


def classes(kind):
    if kind == "dpo":
        from trl import DPOConfig as config, DPOTrainer as trainer
    elif kind == "kto":
        from trl import KTOConfig as config, KTOTrainer as trainer
    elif kind == "reward":
        from trl import RewardConfig as config, RewardTrainer as trainer
    elif kind == "orpo":
        from trl.experimental.orpo import ORPOConfig as config, ORPOTrainer as trainer
    elif kind == "cpo":
        from trl.experimental.cpo import CPOConfig as config, CPOTrainer as trainer
    else:
        from trl.experimental.bco import BCOConfig as config, BCOTrainer as trainer
    return config, trainer


KEYS = {"dpo": ("prompt_ids", "chosen_ids", "rejected_ids"), "kto": ("prompt_ids", "completion_ids", "KL_completion_ids"),
        "reward": ("chosen_ids", "rejected_ids"), "orpo": ("chosen_input_ids", "rejected_input_ids"),
        "cpo": ("chosen_input_ids", "rejected_input_ids"), "bco": ("completion_input_ids",)}


def make_trainer(kind, script, args, model):
    """As trl/scripts/dpo.py, kto.py and reward.py do; the experimental trainers have no script."""
    config, trainer = classes(kind)
    old, more = kind in ("orpo", "cpo", "bco"), {}
    args.model_init_kwargs = dict(dtype=model.dtype, attn_implementation=model.attn_implementation)
    args.disable_tqdm = True
    data, name = load_dataset(script.dataset_name), model.model_name_or_path
    if old:
        more["processing_class"] = AutoTokenizer.from_pretrained(name)
        more["processing_class"].pad_token = more["processing_class"].eos_token
    if kind == "bco":  # its constructor wants models, not names
        from transformers import AutoModelForCausalLM

        args.model_init_kwargs = None
        name, more["ref_model"] = (AutoModelForCausalLM.from_pretrained(name, dtype=model.dtype, attn_implementation="eager") for _ in range(2))
    return trainer(model=name, args=args, train_dataset=data["train"], eval_dataset=data["test"] if args.eval_strategy != "no" else None,
                   peft_config=get_peft_config(model), **more)


def watch_order(trainer, kind):
    """The training rows of every micro-batch, in the order in which the collator sees them."""
    def identity(row):
        return tuple(tuple(row[k]) for k in KEYS[kind] if k in row)

    rows, batches, collate = {identity(row): i for i, row in enumerate(trainer.train_dataset)}, [], trainer.data_collator
    assert len(rows) == len(trainer.train_dataset), "equal rows cannot be told apart"

    def recording(examples):
        found = [rows.get(identity(e)) for e in examples]
        if None not in found:
            batches.append(found)
        return collate(examples)

    trainer.data_collator = recording
    return batches


def check_ids(kind, dataset, name):
    """The old-style tokenization gives the same ids as today's on these rows."""
    if kind in ("orpo", "cpo"):
        for row, line in zip(dataset, open(ROOT / "tokens" / f"{name}_train.jsonl"), strict=True):
            want = json.loads(line)
            for k in ("chosen", "rejected"):
                assert row[f"{k}_input_ids"] == want["prompt_ids"] + want[f"{k}_ids"]
                assert row[f"{k}_labels"] == [-100] * len(want["prompt_ids"]) + want[f"{k}_ids"]
    elif kind == "bco":
        for row, line in zip(dataset, open(ROOT / "tokens" / f"{name}_train.jsonl"), strict=True):
            want = json.loads(line)
            assert row["completion_input_ids"] == want["prompt_ids"] + want["completion_ids"]
            assert row["completion_labels"] == [-100] * len(want["prompt_ids"]) + want["completion_ids"]


def write_tokens(kind, trainer, script):
    names = {"kto": ("prompt_ids", "completion_ids", "label"), "reward": ("chosen_ids", "rejected_ids", "margin")}
    if kind not in names or script.dataset_name == "pairs":
        return
    for split, data in (("train", trainer.train_dataset), ("test", trainer.eval_dataset)):
        if data is not None:
            with open(ROOT / "tokens" / f"{script.dataset_name}_{split}.jsonl", "w") as out:
                out.writelines(json.dumps({k: row[k] for k in names[kind]}) + "\n" for row in data)


def run(name):
    kind, options = name.split("_")[0], (RUNS | OLDER)[name]
    if kind == "bco":
        WANT["trl"] = "1.13.0"
    check_versions("torch", "transformers", "trl", "peft")
    path = fresh_dir(FOLDER / name)
    write_yaml(path / "config.yaml", name, options)
    types = (ScriptArguments, classes(kind)[0], ModelConfig, DatasetMixtureConfig)
    script, args, model, _ = TrlParser(types).parse_args_and_config(args=["--config", str(path / "config.yaml")], fail_with_unknown_args=True)
    trainer = make_trainer(kind, script, args, model)
    if model.use_peft:
        trainer.model.save_pretrained(path / "adapter_init")
        tidy_adapter(path / "adapter_init")
        for file in (path / "adapter_init").iterdir():
            file.chmod(0o644)
    write_tokens(kind, trainer, script)
    check_ids(kind, trainer.train_dataset, script.dataset_name)
    batches = watch_order(trainer, kind)
    trainer.train()
    history = trainer.state.log_history
    write_log(path / "log.jsonl", history)
    order = steps_of(batches, args.max_steps, args.gradient_accumulation_steps, len(trainer.train_dataset), args.per_device_train_batch_size)
    losses = [h["loss"] for h in history if "loss" in h]
    write_json(path / "final.json", {"train_loss": history[-1]["train_loss"], "weights": weight_sums(trainer.model)})
    (path / "order.jsonl").write_text("".join(json.dumps(step) + "\n" for step in order))
    assert len(order) == args.max_steps
    extra = {k: round(history[0][k], 3) for k in ("kl", "nll_loss", "delta", "margin") if k in history[0]}
    print(f"{name}: loss {losses[0]:.6f} -> {losses[-4]:.6f} {losses[-1]:.6f}, grad_norm {history[0]['grad_norm']:.3f} -> "
          f"{[h for h in history if 'loss' in h][-1]['grad_norm']:.3f} {extra}", flush=True)
    shutil.rmtree(ROOT / "out", ignore_errors=True)


def main():
    os.chdir(ROOT)
    try:
        for name in sys.argv[1:] or RUNS:
            run(name)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
