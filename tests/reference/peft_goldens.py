"""Writes tests/golden/peft.json: which modules PEFT wraps, and with which rank and scale, for many LoRA configurations; and the
adapter_config.json that it saves.

  python tests/reference/peft_goldens.py

Pinned: transformers 5.23.0, peft 0.21.2 (see common.py).
"""

import json
import tempfile
from pathlib import Path

from common import GOLDEN, check_versions

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

TINY = dict(vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=12, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=False)

CASES = [
    {},
    {"target_modules": "all-linear"},
    {"target_modules": "ALL-Linear", "exclude_modules": ["down_proj"]},
    {"target_modules": ["q_proj"]},
    {"target_modules": ["self_attn.q_proj", "model.layers.3.mlp.up_proj"]},
    {"target_modules": ["k_proj", "o_proj", "gate_proj"], "r": 4, "lora_alpha": 32, "use_rslora": True},
    {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": r"model\.layers\.(1|2|11)\.self_attn\.[qk]_proj"},
    {"target_modules": r"model\.layers\.\d\.mlp\.(?!down).*_proj"},
    {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 11]},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.[0-5]\..*"},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.1.self_attn.q_proj", "k_proj"]},
    {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"q_proj": 3, r"layers\.1\.self_attn\..*": 5},
     "alpha_pattern": {r"1\.self_attn\.k_proj": 7, "k_proj": 9}},
    {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"model.layers.0.self_attn.q_proj": 2, "proj": 6},
     "use_rslora": True, "lora_alpha": 10},
]
REFUSED = [
    {"target_modules": ["nothing"]},
    {"target_modules": "q_proj"},
    {"target_modules": r".*"},
    {"target_modules": ["mlp"]},
    {"target_modules": ["norm"]},
]


def sites(config):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY))
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    found = {}
    for name, module in wrapped.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            found[name] = [module.r["default"], module.lora_alpha["default"], module.scaling["default"]]
    return wrapped, found


def main():
    check_versions("transformers", "peft")
    cases = []
    for config in CASES:
        # saving sorts the keys, and the first pattern that matches counts: sort before PEFT looks at them
        config = {k: dict(sorted(v.items())) if k.endswith("_pattern") else v for k, v in config.items()}
        wrapped, found = sites(config)
        with tempfile.TemporaryDirectory() as d:
            wrapped.save_pretrained(d)
            saved = json.loads((Path(d) / "adapter_config.json").read_text())
            text = (Path(d) / "adapter_config.json").read_text()
        assert text == json.dumps(saved, indent=2, sort_keys=True)
        saved["target_modules"] = config.get("target_modules")
        cases.append({"config": saved, "sites": found})
    for config in REFUSED:
        try:
            sites(config)
        except ValueError:
            saved = {"peft_type": "LORA", **config}
            cases.append({"config": saved, "sites": None})
            continue
        raise SystemExit(f"PEFT takes {config}")
    path = GOLDEN / "peft.json"
    path.write_text("[" + ",\n ".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]\n")
    print(len(cases), "cases", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
