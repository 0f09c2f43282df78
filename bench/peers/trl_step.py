"""Times optimizer steps of TRL's DPOTrainer on a model directory and a file of rows; bench/peers/run calls it.

  python bench/peers/trl_step.py --model DIR --data ROWS.jsonl [--micro N] [--accumulation N] [--bf16 true|false]
      [--cached true|false] [--threads N] [--learning_rate X] [--max_steps N] [--save_adapter DIR]

LoRA r = 16, alpha 32, all linear layers, no dropout, beta 0.1, no gradient checkpointing; the rows in the file's order
(sort them by length). bf16 is TRL's `bf16: true`: float32 weights under autocast. One line of JSON at the end:
  step_time       wall seconds of every optimizer step, from the end of the one before; the first is the warm-up
  first_step_end  seconds from the start of the process to the end of the first step
  setup           seconds of the trainer's construction: tokenization, and with --cached the reference's pass
  peak_bytes      VmHWM
  log             loss, grad_norm, logps/chosen, logps/rejected of every step
Written for torch 2.13, transformers 5.23, trl 1.16, peft 0.21 (tests/reference/requirements.txt); `versions` has what ran.
"""

import argparse
import json
import os
import sys
import tempfile
import time

SCRATCH = tempfile.TemporaryDirectory(prefix="trl-step-")  # fresh caches: no reference log-probs of an earlier run
os.environ["HF_HOME"] = SCRATCH.name
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TQDM_DISABLE",
             "TRL_EXPERIMENTAL_SILENCE"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

KEYS = ("loss", "grad_norm", "logps/chosen", "logps/rejected")


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--micro", type=int, default=4, help="per_device_train_batch_size")
    p.add_argument("--accumulation", type=int, default=1)
    p.add_argument("--bf16", choices=("true", "false"), default="false")
    p.add_argument("--cached", choices=("true", "false"), default="false")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--learning_rate", type=float, default=1e-6)
    p.add_argument("--max_steps", type=int, default=-1)
    p.add_argument("--save_adapter", help="write the adapter as it is before the first step")
    return p.parse_args()


def seconds_since_start():
    """Seconds since this process was started, imports included."""
    with open("/proc/self/stat") as f:
        ticks = int(f.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes():
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:"))


def make_trainer(a):
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(a.threads)
    args = DPOConfig(
        output_dir=os.path.join(SCRATCH.name, "out"), use_cpu=True, bf16=a.bf16 == "true", gradient_checkpointing=False,
        per_device_train_batch_size=a.micro, gradient_accumulation_steps=a.accumulation, num_train_epochs=1,
        max_steps=a.max_steps, learning_rate=a.learning_rate, beta=0.1, max_length=8192,
        precompute_ref_log_probs=a.cached == "true", train_sampling_strategy="sequential", logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, seed=42,
        model_init_kwargs={"dtype": "float32"})
    peft = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return DPOTrainer(model=a.model, args=args, train_dataset=load_dataset("json", data_files=a.data, split="train"),
                      peft_config=peft)


def watch(trainer):
    """Records when training begins and when each optimizer step ends."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        ends, first = [], None

        def on_train_begin(self, *_, **__):
            self.ends.append(time.monotonic())

        def on_step_end(self, *_, **__):
            self.ends.append(time.monotonic())
            if self.first is None:
                self.first = seconds_since_start()

    w = Watch()
    trainer.add_callback(w)
    return w


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")}


def main():
    a = arguments()
    began = time.monotonic()
    trainer = make_trainer(a)
    setup = time.monotonic() - began
    if a.save_adapter:
        trainer.model.save_pretrained(a.save_adapter)
    w = watch(trainer)
    trainer.train()
    log = [{k: float(entry[k]) for k in KEYS} for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"step_time": [b - a for a, b in zip(w.ends, w.ends[1:])], "first_step_end": w.first, "setup": setup,
                      "peak_bytes": peak_bytes(), "log": log, "versions": versions()}))


if __name__ == "__main__":
    sys.exit(main())
