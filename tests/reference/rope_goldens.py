"""Writes tests/golden/rope.json: inverse frequencies of transformers for every RoPE rule, as the bits of float32.

  python tests/reference/rope_goldens.py

Pinned: torch 2.13.0, transformers 5.23.0 (see common.py).
"""

import json

from common import GOLDEN, check_versions

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SHAPES = [(64, 2048), (128, 8192), (10, 128), (6, 17)]
RULES = {
    "default": {},
    "linear": {"factor": 4.0},
    "linear2.5": {"factor": 2.5},
    "dynamic": {"factor": 3.0},
    "dynamic1.7": {"factor": 1.7},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "llama3small": {"factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 3.7, "original_max_position_embeddings": 61},
}


def main():
    check_versions("torch", "transformers")
    cases = []
    for head, longest in SHAPES:
        for name, extra in RULES.items():
            for theta in (10000.0, 500000.0):
                kind = name.rstrip("small0123456789.") if not name.startswith("llama3") else "llama3"
                parameters = {"rope_type": kind, "rope_theta": theta, **extra}
                config = {"model_type": "llama", "vocab_size": 32, "hidden_size": 2 * head, "intermediate_size": 8,
                          "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": longest,
                          "rope_parameters": parameters}
                lengths = (0, longest, longest + 1, 2 * longest + 3) if kind == "dynamic" else (0,)
                for length in lengths:
                    keep = {k: v for k, v in config.items() if k != "model_type"}
                    rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(keep))))
                    if length:
                        rope(torch.zeros(1), torch.arange(length)[None])
                    bits = rope.inv_freq.float().view(torch.int32).tolist()
                    assert rope.attention_scaling == 1.0 and len(bits) == head // 2
                    cases.append({"config": config, "length": length, "inv_freq_bits": bits})
    path = GOLDEN / "rope.json"
    path.write_text("[" + ",\n ".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]\n")
    print(len(cases), "cases", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
