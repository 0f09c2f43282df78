"""Writes tests/golden/grads/<model>/ and tests/golden/adapters/<name>/: losses and gradients by PyTorch's autograd.

  python tests/reference/grad_goldens.py

DPO (sigmoid, beta 0.1, mean over two pairs, reference log-probs given) and SFT (mean over all completion tokens of two rows), every
sequence run on its own without padding, in float64 and in float32. The files hold the float64 gradient rounded to float32;
the JSON names the float32 one's distance. Then LoRA adapters at random non-zero A and B: logits, merged logits,
gradients of A and B. Needs the models of model_goldens.py.
Pinned: torch 2.13.0, transformers 5.23.0, peft 0.21.2 (see common.py).
"""

import copy

from common import GOLDEN, check_versions, fresh_dir, patch_float64, tidy_adapter, token_logps, write_json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

BETA = 0.1
GRAD_MODELS = ("llama_gqa_tied", "llama_bias", "qwen2_untied", "llama_rope_llama3")
ADAPTERS = {
    "lora_all": ("llama_gqa_tied", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "lora_rs": ("qwen2_untied", dict(r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True)),
    "lora_qv": ("llama_bias", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "lora_regex": ("qwen2_tied", dict(r=3, lora_alpha=6, target_modules=r".*layers\.1\.(mlp\.(up|down)_proj|self_attn\.k_proj)")),
}


def load(name, dtype=torch.float32):
    path = GOLDEN / "models" / name
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def completion_logps(model, prompt, answer):
    """Log-probs [len(answer)] of the answer's tokens after the prompt."""
    ids = torch.tensor(prompt + answer)
    logits = model(ids[None], use_cache=False).logits[0]
    return token_logps(logits, ids)[len(prompt) - 1:]


def dpo(model, batch):
    """Mean DPO loss, and the policy's summed log-probs per pair."""
    losses, sums = [], []
    for pair in batch["pairs"]:
        c = completion_logps(model, pair["prompt_ids"], pair["chosen_ids"]).sum()
        r = completion_logps(model, pair["prompt_ids"], pair["rejected_ids"]).sum()
        delta = (c - pair["ref_chosen_logp"]) - (r - pair["ref_rejected_logp"])
        losses.append(-torch.nn.functional.logsigmoid(batch["beta"] * delta))
        sums.append((c.item(), r.item()))
    return torch.stack(losses).mean(), sums


def sft(model, batch):
    """Mean negative log-prob over the completion tokens of all rows."""
    logps = [completion_logps(model, row["prompt_ids"], row["completion_ids"]) for row in batch["rows"]]
    return -torch.cat(logps).mean(), [x.sum().item() for x in logps]


def draw(gen, vocab, *lengths):
    return [torch.randint(3, vocab, (n,), generator=gen).tolist() for n in lengths]


def make_dpo_batch(gen, model64, vocab):
    """Pairs of unequal lengths; the references lie near the policy, so that the loss is not saturated."""
    pairs = []
    for lengths in ((7, 5, 9), (4, 11, 3)):
        prompt, chosen, rejected = draw(gen, vocab, *lengths)
        shift = torch.randn(2, generator=gen, dtype=torch.float64) * 6
        with torch.no_grad():
            c = completion_logps(model64, prompt, chosen).sum() + shift[0]
            r = completion_logps(model64, prompt, rejected).sum() + shift[1]
        pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected,
                      "ref_chosen_logp": round(c.item(), 3), "ref_rejected_logp": round(r.item(), 3)})
    return {"beta": BETA, "pairs": pairs}


def make_sft_batch(gen, vocab):
    rows = []
    for lengths in ((6, 8), (3, 5)):
        prompt, completion = draw(gen, vocab, *lengths)
        rows.append({"prompt_ids": prompt, "completion_ids": completion})
    return {"rows": rows}


def gradients(model, loss_fn, batch):
    model.zero_grad(set_to_none=True)
    loss, sums = loss_fn(model, batch)
    loss.backward()
    grads = {k: p.grad.detach().clone() for k, p in model.named_parameters() if p.requires_grad}
    return loss.item(), sums, grads


def compare(f64, f32):
    """DECISIONS' measure: error over max(norm of the tensor's gradient, 1e-5 of the global norm); the worst tensor."""
    total = torch.sqrt(sum(g.pow(2).sum() for g in f64.values()))
    rel = {k: ((f32[k].double() - g).norm() / max(g.norm(), 1e-5 * total)).item() for k, g in f64.items()}
    return total.item(), max(rel.values())


def write_grads(path, what, loss_fn, batch, model64, model32, rename=lambda k: k):
    loss, sums, grads = gradients(model64, loss_fn, batch)
    loss32, _, grads32 = gradients(model32, loss_fn, batch)
    norm, worst = compare(grads, grads32)
    save_file({rename(k): g.float().contiguous() for k, g in grads.items()}, path / f"{what}.safetensors")
    keys = ("chosen_logp", "rejected_logp") if what == "dpo" else ("completion_logp",)
    for row, value in zip(batch["pairs" if what == "dpo" else "rows"], sums):
        row.update(zip(keys, value if isinstance(value, tuple) else (value,)))
    batch = {**batch, "loss": loss, "loss_f32": loss32, "grad_norm": norm, "worst_relative_f32_error": worst}
    write_json(path / f"{what}.json", batch)
    print(path.name, what, f"loss {loss:.6f} grad_norm {norm:.4f} f32 error {worst:.1e}")
    assert worst < 1e-5


def make_grads(name, seed):
    path = fresh_dir(GOLDEN / "grads" / name)
    gen = torch.Generator().manual_seed(seed)
    model32, model64 = load(name), load(name, torch.float64)
    vocab = model32.config.vocab_size
    batch = make_dpo_batch(gen, model64, vocab)
    write_grads(path, "dpo", dpo, batch, model64, model32)
    write_grads(path, "sft", sft, make_sft_batch(gen, vocab), model64, model32)


def make_adapter(name, seed):
    base, options = ADAPTERS[name]
    path = fresh_dir(GOLDEN / "adapters" / name)
    gen = torch.Generator().manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **options)
    peft = get_peft_model(load(base), config)
    with torch.no_grad():
        for key, p in peft.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=gen) * (0.25 if "lora_A" in key else 0.15))
    peft.peft_config["default"].base_model_name_or_path = f"../../models/{base}"
    peft.save_pretrained(path)
    tidy_adapter(path)
    write_adapter_goldens(path, base, gen)


def write_adapter_goldens(path, base, gen):
    m32 = PeftModel.from_pretrained(load(base), path, is_trainable=True).eval()
    m64 = PeftModel.from_pretrained(load(base, torch.float64), path, is_trainable=True).to(torch.float64).eval()
    rows = load_file(GOLDEN / "models" / base / "goldens.safetensors")
    merged = copy.deepcopy(m32).merge_and_unload()
    tensors, change = {}, 0.0
    with torch.no_grad():
        for i in range(2):
            ids = rows[f"ids.{i}"]
            tensors[f"ids.{i}"] = ids
            tensors[f"logits.{i}"] = m32(ids[None], use_cache=False).logits[0]
            tensors[f"logits_merged.{i}"] = merged(ids[None], use_cache=False).logits[0]
            tensors[f"logps.{i}"] = token_logps(tensors[f"logits.{i}"], ids)
            tensors[f"logps64.{i}"] = token_logps(m64(ids[None], use_cache=False).logits[0], ids)
            change = max(change, (tensors[f"logits.{i}"] - rows[f"logits.{i}"]).abs().max().item())
    assert change > 1.0, "the adapter does nothing"
    save_file(tensors, path / "goldens.safetensors")
    batch = make_dpo_batch(gen, m64, m32.config.vocab_size)
    saved = set(load_file(path / "adapter_model.safetensors"))
    rename = lambda k: k.replace(".default.weight", ".weight")  # noqa: E731  the key in adapter_model.safetensors
    write_grads(path, "dpo", dpo, batch, m64, m32, rename)
    assert set(load_file(path / "dpo.safetensors")) == saved
    for file in path.iterdir():
        file.chmod(0o644)


def main():
    check_versions("torch", "transformers", "peft")
    patch_float64()
    for seed, name in enumerate(GRAD_MODELS):
        make_grads(name, 100 + seed)
    for seed, name in enumerate(ADAPTERS):
        make_adapter(name, 200 + seed)


if __name__ == "__main__":
    main()
