"""Measures what the curves of objective_runs.py can and cannot see: rounding noise, and wrong coefficients, which a test must catch.

  python tests/reference/objective_sensitivity.py [run ...]

Prints, for each run and variant, the largest |difference of loss| and relative difference of grad_norm from log.jsonl. SDPA attention and two
threads only change rounding and must stay below 1e-4 and 1e-3; every coefficient off by 1 % must not.
Pinned versions: see objective_runs.py.
"""

import json
import os
import shutil
import sys

from objective_runs import FOLDER, OLDER, ROOT, RUNS, SCRATCH, classes, make_trainer

from common import WANT, check_versions
from trl_runs import write_yaml

import torch
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

COEFFICIENTS = ("beta", "label_smoothing", "ld_alpha", "f_alpha_divergence_coef", "desirable_weight", "undesirable_weight",
                "center_rewards_coefficient", "cpo_alpha", "simpo_gamma", "alpha")
FLAWS = {"dpo_js": dict(f_divergence_type="reverse_kl"), "dpo_alpha": dict(f_divergence_type="reverse_kl"), "dpo_wpo": dict(use_weighting=False),
         "dpo_mpo": dict(loss_weights=[0.8, 0.2, 1.01]), "dpo_aot": dict(loss_type="sigmoid"), "dpo_robust": dict(loss_type="sigmoid")}


def history(kind, options):
    path = ROOT / "out" / "variant.yaml"
    path.parent.mkdir(exist_ok=True)
    write_yaml(path, "variant", options)
    types = (ScriptArguments, classes(kind)[0], ModelConfig, DatasetMixtureConfig)
    script, args, model, _ = TrlParser(types).parse_args_and_config(args=["--config", str(path)], fail_with_unknown_args=True)
    trainer = make_trainer(kind, script, args, model)
    trainer.train()
    return [h for h in trainer.state.log_history if "loss" in h]


def differences(name, options, threads=1):
    torch.set_num_threads(threads)
    got = history(name.split("_")[0], options)
    torch.set_num_threads(1)
    want = [x for x in map(json.loads, open(FOLDER / name / "log.jsonl")) if "loss" in x]
    loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(got, want, strict=True))
    norm = max(abs(a["grad_norm"] - b["grad_norm"]) / max(b["grad_norm"], 1e-12) for a, b in zip(got, want))
    return loss, norm


def main():
    bad = []
    os.chdir(ROOT)
    for name in sys.argv[1:] or RUNS:
        if name in OLDER:
            WANT["trl"] = "1.13.0"
        check_versions("torch", "transformers", "trl", "peft")
        options = (RUNS | OLDER)[name]
        off = {f"{k} + 1 %": {k: options[k] * 1.01} for k in COEFFICIENTS if options.get(k)} | {"flaw": FLAWS[name] for _ in [0] if name in FLAWS}
        for what, change, threads in (("sdpa", dict(attn_implementation="sdpa"), 1), ("two threads", {}, 2), *((k, v, 1) for k, v in off.items())):
            loss, norm = differences(name, options | change, threads)
            seen = not (loss <= 1e-4 and norm <= 1e-3)
            bad += [(name, what)] if seen != (what in off) else []
            print(f"= {name:14} {what:30} loss {loss:.1e} grad_norm {norm:.1e}", flush=True)
    print("FAILED" if bad else "ok", bad)
    shutil.rmtree(ROOT / "out", ignore_errors=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
