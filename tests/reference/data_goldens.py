"""Two small tokenizers in SentencePiece's style and rows whose tokens merge at the seam, with the ids that `tokenizers` gives.

Writes tests/golden/data/. Pinned: tokenizers as of transformers 5.23 (see requirements.txt).
pieces: every text begins with <s>. pieces_eos: and the post-processor ends it with </s>.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent / "golden" / "data"
SPACE = "\u2581"
SPECIAL = ["<unk>", "<s>", "</s>"]
MERGES = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["a", "b"], [SPACE, "hello"], [SPACE, "a"]]
ROWS = [
    {"prompt": "say hell", "chosen": "o now", "rejected": " yes"},
    {"prompt": "hell", "chosen": "o", "rejected": "ll"},
    {"prompt": "a", "chosen": "b a", "rejected": "a"},
    {"prompt": "", "chosen": "hello", "rejected": " hello"},
    {"prompt": "say ", "chosen": "hello", "rejected": "ab \U0001f600"},
    {"prompt": "\u00e4\n", "chosen": "ab", "rejected": ""},
]


def tokenizer(ends):
    vocab = SPECIAL + [f"<0x{i:02X}>" for i in range(256)] + [SPACE] + [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab += [a + b for a, b in MERGES]
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    if ends:
        single.append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": s, **flags} for i, s in enumerate(SPECIAL)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {s: {"id": s, "ids": [SPECIAL.index(s)], "tokens": [s]} for s in ("<s>", "</s>")}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {s: i for i, s in enumerate(vocab)}, "merges": MERGES},
    }


def prefix(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def joint_rule(tok, row):
    """TRL's rule (1.16): one cut for both answers. </s> is in the text; the post-processor is not asked for another one."""
    prompt = tok.encode(row["prompt"]).ids
    joint = {k: tok.encode(row["prompt"] + row[k] + "</s>").ids for k in ("chosen", "rejected")}
    cut = min(prefix(prompt, ids) for ids in joint.values())
    return {"prompt_ids": prompt[:cut], **{f"{k}_ids": ids[cut:] for k, ids in joint.items()}}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main():
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, ends in (("pieces", False), ("pieces_eos", True)):
        write(ROOT / name / "tokenizer.json", json.dumps(tokenizer(ends), ensure_ascii=False, separators=(",", ":")))
        write(ROOT / name / "tokenizer_config.json", json.dumps(config, indent=1))
    tok = Tokenizer.from_file(str(ROOT / "pieces" / "tokenizer.json"))
    assert Tokenizer.from_file(str(ROOT / "pieces_eos" / "tokenizer.json")).encode("ab").ids == [1, 259, 290, 2]
    lines = [json.dumps({**r, **joint_rule(tok, r)}, ensure_ascii=False) for r in ROWS]
    write(ROOT / "pieces_joint.jsonl", "".join(s + "\n" for s in lines))


if __name__ == "__main__":
    main()
