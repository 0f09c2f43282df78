"""Writes tests/golden/score/<name>/: tiny reward models, their scores, and gradients of a Bradley-Terry loss by autograd.

  python tests/reference/score_goldens.py

Each folder is a ...ForSequenceClassification directory with one label as transformers saves it (no tokenizer), or a PEFT adapter
(SEQ_CLS) on one of them. Scores are read at the last token of each row, every row run on its own; the loss is that of
TRL's RewardTrainer, mean over pairs of -logsigmoid(c - r - margin) + 0.01 (c + r)^2. Float64 is what is kept; the JSON names the
distance of float32.
Pinned: torch 2.13.0, transformers 5.23.0, peft 0.21.2 (see common.py).
"""

from common import GOLDEN, check_versions, fresh_dir, patch_float64, tidy_adapter, write_json
from grad_goldens import compare, draw
from model_goldens import llama, qwen2, randomise, rope

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

CENTER = 0.01
MODELS = {
    "llama": llama(num_labels=1, pad_token_id=0, vocab_size=61),
    "qwen2": qwen2(num_labels=1, pad_token_id=0, vocab_size=61, tie_word_embeddings=True,
                   rope_parameters=rope(1000000.0, rope_type="default")),
}
ADAPTERS = {"llama_lora": ("llama", dict(r=3, lora_alpha=6, target_modules="all-linear"))}


def load(name, dtype):
    return AutoModelForSequenceClassification.from_pretrained(GOLDEN / "score" / name, dtype=dtype, attn_implementation="eager").eval()


def score(model, ids):
    """At the last token: one row of batch size one, where transformers looks for no padding but of the last id."""
    logits = model(torch.tensor(ids)[None], use_cache=False).logits
    assert logits.shape == (1, 1)
    return logits[0, 0]


def loss_of(model, batch):
    losses, scores = [], []
    for pair in batch["pairs"]:
        c = score(model, pair["prompt_ids"] + pair["chosen_ids"])
        r = score(model, pair["prompt_ids"] + pair["rejected_ids"])
        losses.append(-torch.nn.functional.logsigmoid(c - r - pair["margin"]) + batch["center_rewards_coefficient"] * (c + r) ** 2)
        scores.append((c.item(), r.item()))
    return torch.stack(losses).mean(), scores


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss, scores = loss_of(model, batch)
    loss.backward()
    return loss.item(), scores, {k: p.grad.detach().clone() for k, p in model.named_parameters() if p.requires_grad}


def make_batch(gen, vocab):
    pairs = []
    for lengths, margin in (((7, 5, 9), 0.0), ((4, 11, 3), 0.5), ((6, 1, 4), -0.25)):
        prompt, chosen, rejected = draw(gen, vocab, *lengths)
        pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "margin": margin})
    return {"center_rewards_coefficient": CENTER, "pairs": pairs}


def write_goldens(path, model64, model32, gen, rename=lambda k: k):
    batch = make_batch(gen, model64.config.vocab_size)
    loss, scores, grads = gradients(model64, batch)
    loss32, scores32, grads32 = gradients(model32, batch)
    norm, worst = compare(grads, grads32)
    save_file({rename(k): g.float().contiguous() for k, g in grads.items()}, path / "reward.safetensors")
    for pair, (c, r) in zip(batch["pairs"], scores):
        pair.update(chosen_score=c, rejected_score=r)
    apart = max(abs(a - b) for x, y in zip(scores, scores32) for a, b in zip(x, y))
    batch.update(loss=loss, loss_f32=loss32, grad_norm=norm, worst_relative_f32_error=worst, worst_f32_score_error=apart)
    write_json(path / "reward.json", batch)
    print(path.name, f"loss {loss:.6f} grad_norm {norm:.4f} f32 error {worst:.1e} scores {scores}")
    assert worst < 1e-5


def make_model(name, seed):
    path = fresh_dir(GOLDEN / "score" / name)
    gen = torch.Generator().manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(MODELS[name])
    randomise(model, gen)
    model.save_pretrained(path)
    write_goldens(path, load(name, torch.float64), load(name, torch.float32), gen)


def make_adapter(name, seed):
    base, options = ADAPTERS[name]
    path = fresh_dir(GOLDEN / "score" / name)
    gen = torch.Generator().manual_seed(seed)
    peft = get_peft_model(load(base, torch.float32), LoraConfig(task_type="SEQ_CLS", lora_dropout=0.0, bias="none", **options))
    with torch.no_grad():
        for key, p in peft.named_parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=gen) * (0.25 if "lora_A" in key else 0.15))
    peft.peft_config["default"].base_model_name_or_path = f"../{base}"
    peft.save_pretrained(path)
    tidy_adapter(path)
    m32 = PeftModel.from_pretrained(load(base, torch.float32), path, is_trainable=True).eval()
    m64 = PeftModel.from_pretrained(load(base, torch.float64), path, is_trainable=True).to(torch.float64).eval()
    # the names in adapter_model.safetensors
    rename = lambda k: k.replace(".default.weight", ".weight").replace(".modules_to_save", "")  # noqa: E731
    write_goldens(path, m64, m32, gen, rename)
    assert set(load_file(path / "reward.safetensors")) == set(load_file(path / "adapter_model.safetensors"))
    for file in path.iterdir():
        file.chmod(0o644)


def main():
    check_versions("torch", "transformers", "peft")
    patch_float64()
    for seed, name in enumerate(MODELS):
        make_model(name, 300 + seed)
    for seed, name in enumerate(ADAPTERS):
        make_adapter(name, 400 + seed)


if __name__ == "__main__":
    main()
