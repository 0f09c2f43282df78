"""Writes tests/golden/trl/{unpaired,margins,reward}: rows and a tiny reward model for the runs of objective_runs.py.

  python tests/reference/objective_setup.py

`unpaired` has rows with labels, `margins` the pairs of trl_setup.py with a margin, `reward` a llama with a random score head, saved as
transformers' sequence classifier, and the tokenizer with a padding token of its own (TRL finds the last token of a row by it; with the
end token in its place it would read the score one token early).
Pinned: torch 2.13.0, transformers 5.23.0 (see common.py).
"""

import json
import random

from common import check_versions, fresh_dir
from trl_setup import MODEL, ROOT, pair_rows, seam, write_lines

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

PAD = "<|pad|>"


def reward_model():
    tok = AutoTokenizer.from_pretrained(ROOT / "llama")
    tok.add_special_tokens({"pad_token": PAD})
    config = LlamaConfig(**MODEL, vocab_size=len(tok), eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, num_labels=1,
                         tie_word_embeddings=False, rms_norm_eps=1e-5)
    gen = torch.Generator().manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").to(torch.float32)
    with torch.no_grad():
        for key, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=gen)
            p.copy_(1 + 0.1 * draw if key.endswith("norm.weight") else 0.15 * draw)
    model.config.dtype = torch.float32
    path = fresh_dir(ROOT / "reward")
    model.save_pretrained(path)
    tok.save_pretrained(path)
    for file in path.iterdir():
        file.chmod(0o644)


def unpaired_rows(rng, count):
    """Mostly the hedging answers are desirable: learning them raises them after other prompts too, so that KTO's kl is not 0.

    The last two rows, a batch of their own, are both desirable."""
    labels = [rng.random() < 0.5 for _ in range(count - 2)] + [True, True]
    labels[0:count - 2:4] = [True] * len(labels[0:count - 2:4])
    labels[1:count - 2:4] = [False] * len(labels[1:count - 2:4])
    return [{"prompt": row["prompt"], "completion": row["rejected" if label == (i % 5 != 3) else "chosen"], "label": label}
            for i, (row, label) in enumerate(zip(pair_rows(rng, count), labels))]


def main():
    check_versions("torch", "transformers")
    rng, tok = random.Random(13), AutoTokenizer.from_pretrained(ROOT / "llama")
    rows = {"train": unpaired_rows(rng, 14), "test": unpaired_rows(rng, 8)}
    for split, part in rows.items():
        assert all(seam(tok, row)["completion_clean"] for row in part)
        write_lines(ROOT / f"unpaired/{split}.jsonl", part)
        pairs = [json.loads(line) for line in open(ROOT / f"pairs/{split}.jsonl")]
        write_lines(ROOT / f"margins/{split}.jsonl", [row | {"margin": round(rng.uniform(0, 1.5), 2)} for row in pairs])
    reward_model()
    print("labels", [row["label"] for row in rows["train"]])


if __name__ == "__main__":
    main()
