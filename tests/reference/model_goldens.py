"""Writes tests/golden/models/<name>/: tiny random Hugging Face models with the logits and log-probs of transformers.

  python tests/reference/model_goldens.py [name ...]

Every model has two layers and under 30 K parameters. The weights are far larger than a default initialisation, norm weights and
biases are random, so that logits spread to about 10 and no term of the forward pass can be left out unseen.
Rows are run one by one, each by a model that has seen no other row (dynamic RoPE keeps state between calls).
Pinned: torch 2.13.0, transformers 5.23.0 (see common.py).
"""

import json
import sys

from common import GOLDEN, check_versions, fresh_dir, patch_float64, token_logps, write_json

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

LENGTHS = (5, 17, 40)
SMALL = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=97, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             attention_dropout=0.0)
# head_dim 16 gives 8 frequencies: wave lengths 6.3, 20, 63, 199, ... fall into all three bands of the llama3 rule
ROPE = dict(SMALL, hidden_size=28, head_dim=16, intermediate_size=36, num_attention_heads=2, num_key_value_heads=1, vocab_size=96)


def llama(**kw):
    return LlamaConfig(**{**SMALL, "tie_word_embeddings": False, **kw})


def qwen2(**kw):
    return Qwen2Config(**{**SMALL, "rms_norm_eps": 1e-6, "use_sliding_window": False, **kw})


def rope(theta=10000.0, **kw):
    return {"rope_theta": theta, **kw}


MODELS = {
    "llama_mha_untied": (llama(num_key_value_heads=4, vocab_size=101), torch.float32),
    "llama_gqa_tied": (llama(tie_word_embeddings=True), torch.float32),
    "llama_bias": (llama(attention_bias=True, mlp_bias=True), torch.float32),
    "llama_headdim": (llama(head_dim=10, num_attention_heads=3, num_key_value_heads=1), torch.float32),
    "llama_rope_llama3": (
        llama(**ROPE, rope_parameters=rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64)), torch.float32),
    "llama_rope_linear": (llama(**ROPE, rope_parameters=rope(rope_type="linear", factor=4.0)), torch.float32),
    "llama_rope_dynamic": (
        llama(**{**ROPE, "max_position_embeddings": 17}, rope_parameters=rope(rope_type="dynamic", factor=3.0)),
        torch.float32),
    "qwen2_tied": (qwen2(tie_word_embeddings=True, rope_parameters=rope(1000000.0, rope_type="default")), torch.float32),
    "qwen2_untied": (qwen2(num_attention_heads=6, num_key_value_heads=3, vocab_size=99, tie_word_embeddings=False),
                     torch.float32),
    "llama_bf16": (llama(tie_word_embeddings=True, vocab_size=96), torch.bfloat16),
    "qwen2_f16": (qwen2(tie_word_embeddings=False, vocab_size=96), torch.float16),
    "llama_sharded": (llama(rope_parameters=rope(500000.0, rope_type="default")), torch.float32),
    "llama_keys_v5": (llama(tie_word_embeddings=True, rope_parameters=rope(50000.0, rope_type="linear", factor=2.0)), torch.float32),
}


def randomise(model, gen):
    """Large random weights; see the file head for why."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=gen, dtype=torch.float64)
            if name.endswith("norm.weight"):
                value = 1.0 + 0.4 * draw.clamp(-2, 2)
            elif name.endswith(".bias"):
                value = 0.3 * draw
            elif "embed_tokens" in name or "lm_head" in name:
                value = 0.45 * draw
            elif "q_proj" in name or "k_proj" in name:
                value = 0.3 * draw
            else:
                value = 0.2 * draw
            p.copy_(value.to(p.dtype))


def load(path, dtype):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def run(path, ids, dtype):
    """Logits [T, V] of one row by a freshly loaded model."""
    with torch.no_grad():
        return load(path, dtype)(ids[None], use_cache=False).logits[0]


def write_goldens(path, vocab, gen):
    tensors, spread, worst, worst_logp = {}, 0.0, 0.0, 0.0
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(0, vocab, (length,), generator=gen)
        f32, f64 = run(path, ids, torch.float32), run(path, ids, torch.float64)
        lp32, lp64 = token_logps(f32, ids), token_logps(f64, ids)
        tensors.update({f"ids.{i}": ids, f"logits.{i}": f32, f"logps.{i}": lp32, f"logps64.{i}": lp64})
        spread = max(spread, f64.abs().max().item())
        worst = max(worst, (f32 - f64).abs().max().item())
        worst_logp = max(worst_logp, (lp32 - lp64).abs().max().item())
    save_file(tensors, path / "goldens.safetensors")
    info = {"rows": len(LENGTHS), "lengths": list(LENGTHS), "max_abs_logit": spread,
            "max_abs_f32_minus_f64_logits": worst, "max_abs_f32_minus_f64_logps": worst_logp}
    write_json(path / "golden.json", info)
    return info


def well_conditioned(info):
    """The test's bar is 2e-5 per log-prob, so transformers' own float32 noise has to stay well below it."""
    return 6.0 < info["max_abs_logit"] < 13.0 and info["max_abs_f32_minus_f64_logps"] < 7e-6


def old_keys(config):
    """The same config.json as transformers 4 wrote it."""
    rope_parameters = config.pop("rope_parameters")
    config["rope_theta"] = rope_parameters.pop("rope_theta")
    kind = rope_parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope_parameters}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.36.0"
    config.pop("head_dim", None)
    return config


def make(name):
    config, dtype = MODELS[name]
    for seed in range(100):
        path = fresh_dir(GOLDEN / "models" / name)
        gen = torch.Generator().manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32)
        randomise(model, gen)
        model.to(dtype)
        model.config.dtype = dtype
        model.save_pretrained(path, max_shard_size="26KB" if name == "llama_sharded" else "50GB")
        info = write_goldens(path, config.vocab_size, gen)
        if well_conditioned(info):
            break
    for file in path.iterdir():
        file.chmod(0o644)
    print(name, "seed", seed, info)


def make_old_keys():
    """llama_keys_old: the weights of llama_keys_v5 beside a config.json with transformers 4's keys."""
    src, path = GOLDEN / "models" / "llama_keys_v5", fresh_dir(GOLDEN / "models" / "llama_keys_old")
    write_json(path / "config.json", old_keys(json.loads((src / "config.json").read_text())))
    for name in ("model.safetensors", "generation_config.json", "goldens.safetensors", "golden.json"):
        (path / name).write_bytes((src / name).read_bytes())
    want = load_file(src / "goldens.safetensors")
    got = run(path, want["ids.2"], torch.float32)
    assert torch.equal(got, want["logits.2"]), "old keys change the logits"
    print("llama_keys_old: same logits", AutoConfig.from_pretrained(path).rope_parameters)


def main():
    check_versions("torch", "transformers")
    patch_float64()
    names = sys.argv[1:] or list(MODELS)
    for name in names:
        make(name)
    if "llama_keys_v5" in names:
        make_old_keys()


if __name__ == "__main__":
    main()
