"""Writes tests/golden/trl/: a tokenizer, two tiny models and data files on which TRL and plumb can run the same YAML.

  python tests/reference/trl_setup.py

All text is generated here. The tokenizer is a byte-level BPE (GPT-2's pipeline, no BOS, eos '<|endoftext|>') trained on it.
The rows of the parity runs have a clean seam: the prompt's own ids are a prefix of the joint ids, for some although the
prompt ends in a space. data `seam` has the other kind, with what both rules make of them.
Pinned: torch 2.13.0, transformers 5.23.0 (see common.py).
"""

import json
import random

from common import GOLDEN, check_versions, fresh_dir, write_json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

ROOT = GOLDEN / "trl"
EOS = "<|endoftext|>"
NAMES = ["Ann", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Ida"]
THINGS = ["apple", "river", "candle", "window", "garden", "letter", "pencil", "kettle", "ladder", "basket"]
COLOURS = ["red", "green", "blue", "grey", "yellow", "white"]
HEDGES = ["Well, that is a question with many sides.", "It is hard to say.", "Some would say one thing, some another.",
          "I would rather not commit to an answer here.", "Perhaps we should think about it for a while."]
MODEL = dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, attention_dropout=0.0, bos_token_id=None)


def corpus(rng):
    """A few thousand short generated sentences for the BPE trainer."""
    for _ in range(3000):
        a, b, thing, name = rng.randint(0, 99), rng.randint(0, 99), rng.choice(THINGS), rng.choice(NAMES)
        yield rng.choice([
            f"Q: What is {a} + {b}?\nA: {a + b}.\n", f"{name} has a {rng.choice(COLOURS)} {thing}.",
            f"User: Name the colour of the {thing}.\nAssistant: It is {rng.choice(COLOURS)}.", rng.choice(HEDGES),
            f"Say hello to {name}, please. Hello, {name}!", f"The {thing} and the {rng.choice(THINGS)} belong to {name}."])


def make_tokenizer(rng):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    tok.train_from_iterator(corpus(rng), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=EOS, model_max_length=128)


def make_model(name, config, tokenizer, seed):
    """Random weights of moderate size: logits spread over a few units, so that training moves them quickly."""
    gen = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32)
    with torch.no_grad():
        for key, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=gen)
            p.copy_(1 + 0.1 * draw if key.endswith("norm.weight") else 0.15 * draw)
    model.config.dtype = torch.float32
    path = fresh_dir(ROOT / name)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    for file in path.iterdir():
        file.chmod(0o644)


def pair_rows(rng, count):
    rows = []
    while len(rows) < count:
        i = len(rows)
        a, b, thing, name = rng.randint(2, 60), rng.randint(2, 39), rng.choice(THINGS), rng.choice(NAMES)
        hedge, colour = rng.choice(HEDGES), rng.choice(COLOURS)
        row = [
            (f"Q: What is {a} + {b}?\nA:", f" {a + b}.", f" {hedge} It may be {a + b}."),
            (f"User: Name the colour of the {thing}.\nAssistant:", f" It is {colour}.", f" {hedge}"),
            (f"Say hello to {name}, please.\n", f"Hello, {name}!", f"{hedge} Hello."),
            (f"{name} has a {colour} {thing}. Which colour? ", f"\n{colour}", f"\nThe {thing} of {name}. {hedge}"),
            (f"Räume für {name}: {a} €. \u4f60\u597d?\n", f"{a} € \U0001f600", "Nein, danke. Ça va?"),
        ][i % 5]
        if not any(row[:2] == other[:2] for other in rows):  # the runs tell rows apart by their ids
            rows.append(row)
    return [dict(zip(("prompt", "chosen", "rejected"), row)) for row in rows]


def seam_rows(rng, tok):
    """Rows whose prompt ids are not a prefix of the joint ids, for both answers or for one; cut anywhere in a sentence."""
    both, one = [], []
    while len(both) < 4 or len(one) < 4:
        name, thing, colour = rng.choice(NAMES), rng.choice(THINGS), rng.choice(COLOURS)
        text, other = f"{name} has a {colour} {thing}. Hello!", f"The {thing} and the {rng.choice(THINGS)} belong to {name}."
        cut = rng.randint(5, len(text) - 8)
        row = {"prompt": text[:cut], "chosen": text[cut:], "rejected": other[rng.randint(1, 12):]}
        facts = seam(tok, row)
        kinds = [facts["chosen_clean"], facts["rejected_clean"]]
        if not any(kinds) and len(both) < 4:
            both.append(row)
        elif kinds.count(True) == 1 and len(one) < 4:
            one.append(row)
    return both + one


def prefix(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def seam(tok, row):
    """What plumb's default rule makes of a row: a joint tokenization where clean, else a continuation, per answer."""
    prompt = tok(row["prompt"])["input_ids"]
    out = {"prompt_ids": prompt}
    for key in ("chosen", "rejected", "completion"):
        if key in row:
            joint = tok(row["prompt"] + row[key] + EOS)["input_ids"]
            clean = joint[: len(prompt)] == prompt
            out[f"{key}_clean"] = clean
            out[f"{key}_ids"] = joint[len(prompt):] if clean else tok(row[key] + EOS)["input_ids"]
    return out


def trl_tokens(tok, row):
    """TRL 1.16's rule: the prompt is cut where it stops being a prefix of the joint ids (DPO: of either answer's)."""
    prompt, keys = tok(row["prompt"])["input_ids"], [k for k in ("chosen", "rejected", "completion") if k in row]
    joint = {k: tok(row["prompt"] + row[k] + EOS)["input_ids"] for k in keys}
    cut = min(prefix(prompt, joint[k]) for k in keys)
    return {"prompt_ids": prompt[:cut], **{f"{k}_ids": joint[k][cut:] for k in keys}}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main():
    check_versions("torch", "transformers")
    rng = random.Random(7)
    ROOT.mkdir(parents=True, exist_ok=True)
    made = make_tokenizer(rng)
    vocab, eos = len(made), made.eos_token_id
    llama = LlamaConfig(**MODEL, vocab_size=vocab, eos_token_id=eos, tie_word_embeddings=False, rms_norm_eps=1e-5)
    qwen2 = Qwen2Config(**MODEL, vocab_size=vocab, eos_token_id=eos, tie_word_embeddings=True, use_sliding_window=False)
    make_model("llama", llama, made, 1)
    make_model("qwen2", qwen2, made, 2)
    tok = AutoTokenizer.from_pretrained(ROOT / "llama")
    pairs, held_out, joined = pair_rows(rng, 14), pair_rows(rng, 8), seam_rows(rng, tok)
    assert all(seam(tok, r)["chosen_clean"] and seam(tok, r)["rejected_clean"] for r in pairs + held_out)
    done = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in pair_rows(rng, 13)]
    done_test = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in pair_rows(rng, 6)]
    texts = [{"text": r["prompt"] + r["chosen"]} for r in pair_rows(rng, 12)]
    write_lines(ROOT / "pairs/train.jsonl", pairs)
    write_lines(ROOT / "pairs/test.jsonl", held_out)
    write_lines(ROOT / "completions/train.jsonl", done)
    write_lines(ROOT / "completions/test.jsonl", done_test)
    write_lines(ROOT / "texts/train.jsonl", texts)
    write_lines(ROOT / "seam/train.jsonl", joined)
    write_lines(ROOT / "tokens/seam_joint.jsonl", [trl_tokens(tok, r) for r in joined])
    write_lines(ROOT / "tokens/seam_auto.jsonl", [seam(tok, r) for r in joined])
    lengths = [len(tok(r["prompt"] + r["rejected"] + EOS)["input_ids"]) for r in pairs]
    print("vocab", vocab, "eos", eos, "lengths", lengths)


if __name__ == "__main__":
    main()
