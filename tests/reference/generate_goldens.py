"""Writes tests/golden/generate/: what transformers generates greedily, and what its logits warpers keep.

  python tests/reference/generate_goldens.py

greedy.json: for every tiny model of tests/golden/models and for tests/golden/trl/{llama,qwen2}: prompts as ids, the ids that
model.generate adds (do_sample=False, KV cache, eos disabled) and their log-probs from the logits of those very steps. Prompts are
drawn until the smallest distance between the two largest logits of any step is over 1e-2, so that rounding cannot change an id.
adapters.json: the same with the PEFT adapters of tests/golden/adapters (B is not zero) on top, and for some models and adapters with
bf16 operands as plumb's `bf16: true` has them: input and weight of every linear layer and of the head rounded to bf16, products summed in
f32, everything else f32, LoRA's products too. Prompts have wider margins there, since a sum that falls on the other side of a rounding
boundary moves a log-prob.
text.json: the same through the tokenizer of the TRL models: prompt and completion as text.
warpers.json: logits, settings, and the ids and float64 probabilities that remain after temperature, top-k, top-p and min-p, in
this order. Settings at which a rounding error or the order of equal logits would decide are left out.
"""

import json

import torch
from common import GOLDEN, check_versions, fresh_dir, write_json
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

OUT = GOLDEN / "generate"
NEW = 24
MARGIN = 1e-2


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def round_operands(model):
    """Linear layers but LoRA's multiply operands rounded to bf16; products and sums stay f32."""

    def forward(layer, x):
        y = x.bfloat16().float() @ layer.weight.bfloat16().float().T
        return y if layer.bias is None else y + layer.bias

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name:
            layer.forward = forward.__get__(layer)


def greedy(path, ids, adapter=None, bf16=False):
    """A fresh model each time: dynamic RoPE keeps state between calls."""
    model = load(path)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).eval()
    if bf16:
        round_operands(model)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    new = out.sequences[0, len(ids) :].tolist()
    logits = torch.cat(out.logits)
    top = logits.topk(2, dim=-1).values
    logps = torch.log_softmax(logits, -1).gather(1, torch.tensor(new)[:, None]).squeeze(1)
    return new, logps.tolist(), (top[:, 0] - top[:, 1]).min().item()


def cases(path, vocab, lengths, seed, least=MARGIN, **options):
    rng = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        for _ in range(200):
            ids = torch.randint(3, vocab, (length,), generator=rng).tolist()
            new, logps, margin = greedy(path, ids, **options)
            if margin > least:
                found.append({"prompt_ids": ids, "ids": new, "logps": logps, "margin": margin})
                break
        else:
            raise SystemExit(f"{path}: no prompt of {length} tokens with a clear margin")
    return found


def write_greedy():
    models = []
    for path in sorted((GOLDEN / "models").iterdir()):
        if not (path / "config.json").exists() or path.name == "llama_keys_old":
            continue
        vocab = load(path).config.vocab_size
        models.append({"model": f"models/{path.name}", "cases": cases(path, vocab, [1, 6, 21], 1)})
    for name in ("llama", "qwen2"):
        path = GOLDEN / "trl" / name
        models.append({"model": f"trl/{name}", "cases": cases(path, 320, [2, 9, 33, 60], 2)})
    write_json(OUT / "greedy.json", {"max_new_tokens": NEW, "models": models})


def write_adapters():
    rows = []
    for name in ("lora_all", "lora_qv", "lora_regex", "lora_rs", None):
        adapter = GOLDEN / "adapters" / name if name else None
        for model in [None] if name else ["models/llama_bf16", "models/qwen2_untied", "trl/llama"]:
            base = GOLDEN / model if model else (adapter / json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]).resolve()
            vocab = load(base).config.vocab_size
            for bf16 in (False, True) if name else (True,):
                found = cases(base, vocab, [1, 6, 21], 4, least=0.05 if bf16 else MARGIN, adapter=adapter, bf16=bf16)
                rows.append({"model": str(base.relative_to(GOLDEN)), "adapter": name and f"adapters/{name}", "bf16": bf16, "cases": found})
    write_json(OUT / "adapters.json", {"max_new_tokens": NEW, "models": rows})


TEXTS = [
    "Which is less, 3 or 36?",
    "Name a colour.",
    "Answer: the quick brown fox",
    "Two\nlines, and é, 日本, 🙂",
    "add 4 and 5 =",
    "A",
]


def write_text():
    rows = []
    for name in ("llama", "qwen2"):
        path = GOLDEN / "trl" / name
        tok = AutoTokenizer.from_pretrained(path)
        for text in TEXTS:
            ids = tok(text)["input_ids"]
            new, _, margin = greedy(path, ids)
            if margin < MARGIN / 10:
                continue
            whole = tok.decode(ids + new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            start = tok.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert whole.startswith(start)
            rows.append({"model": f"trl/{name}", "prompt": text, "prompt_ids": ids, "ids": new, "completion": whole[len(start) :]})
    assert len(rows) >= 6
    write_json(OUT / "text.json", {"max_new_tokens": NEW, "rows": rows})


def warp(logits, temperature, top_k, top_p, min_p):
    """float64 after the float32 logits, as in plumb; None where rounding or the order of equal logits decides."""
    scores = logits.double()[None]
    scores = TemperatureLogitsWarper(temperature)(None, scores) if temperature != 1 else scores
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        cumulative = scores.sort(dim=-1).values.softmax(-1).cumsum(-1)[0]
        near = (cumulative - (1 - top_p)).abs()
        if near[cumulative > 0].min() < 1e-6:
            return None
        before = scores[0]
        scores = TopPLogitsWarper(top_p)(None, scores)
        gone = before[torch.isinf(scores[0]) & ~torch.isinf(before)]
        kept = before[~torch.isinf(scores[0])]
        if len(gone) and gone.max() == kept.min():
            return None
    if min_p > 0:
        probs = scores.softmax(-1)[0]
        if (probs[probs > 0] / probs.max() - min_p).abs().min() < 1e-6:
            return None
        scores = MinPLogitsWarper(min_p)(None, scores)
    probs = scores.softmax(-1)[0]
    ids = torch.nonzero(~torch.isinf(scores[0])).squeeze(1)
    return {"ids": ids.tolist(), "probs": probs[ids].tolist()}


def write_warpers():
    rng = torch.Generator().manual_seed(3)
    rows = []
    vectors = [
        torch.randn(64, generator=rng) * 3,
        (torch.randn(96, generator=rng) * 12).round() / 4,  # many ties
        torch.cat([torch.full((30,), -4.0), torch.tensor([9.0, 8.875, 8.75, 2.0])]),
        torch.randn(300, generator=rng) * 0.1,  # nearly flat
        torch.zeros(16),  # all equal
    ]
    settings = [
        (t, k, p, m)
        for t in (1.0, 0.7, 1.9)
        for k in (0, 1, 5, 20)
        for p in (1.0, 0.9, 0.35, 0.01)
        for m in (0.0, 0.05, 0.6)
    ]
    for i, logits in enumerate(vectors):
        cases_ = []
        for t, k, p, m in settings:
            kept = warp(logits, t, k, p, m)
            if kept is not None:
                if len(kept["ids"]) > 24:  # the sum of squares says enough about long lists
                    kept = {"ids": kept["ids"], "sum_p2": sum(x * x for x in kept["probs"])}
                if len(kept["ids"]) == len(logits):
                    kept["ids"] = None
                cases_.append({"temperature": t, "top_k": k, "top_p": p, "min_p": m, **kept})
        rows.append({"logits": logits.tolist(), "cases": cases_})
    assert sum(len(r["cases"]) for r in rows) > 400
    (OUT / "warpers.json").write_text(json.dumps({"rows": rows}, separators=(",", ":")) + "\n")


def main():
    check_versions("torch", "transformers", "peft")
    fresh_dir(OUT)
    write_greedy()
    write_adapters()
    write_text()
    write_warpers()


if __name__ == "__main__":
    main()
