r"""Counts what TRL's and plumb's rules make of hh-rlhf transcripts with the GPT-2 tokenizer: a developer's check, no golden file.

  python tests/reference/hh_counts.py PAIRS.jsonl.gz GPT2_DIR [max_length]

GPT2_DIR holds vocab.json and merges.txt. The prompt ends at the last "\n\nAssistant:" of the part that both transcripts share
from the start; rows whose transcripts go on differently before their last turn, or hold further turns, are counted.
Pinned: tokenizers 0.23.3.
"""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

MARK, EOS = "\n\nAssistant:", "<|endoftext|>"


def tokenizer(folder):
    tok = Tokenizer(models.BPE.from_file(str(Path(folder) / "vocab.json"), str(Path(folder) / "merges.txt")))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.add_special_tokens([EOS])
    return lambda text: tok.encode(text, add_special_tokens=False).ids


def common(a, b):
    n = 0
    for x, y in zip(a, b):
        if x != y:
            break
        n += 1
    return n


def split(chosen, rejected):
    """(prompt, answer, answer): cut after the last marker inside the shared beginning."""
    shared = chosen[: common(chosen, rejected)]
    at = shared.rfind(MARK)
    if at < 0:
        return None
    cut = at + len(MARK)
    return chosen[:cut], chosen[cut:], rejected[cut:]


def main():
    encode, max_length = tokenizer(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1024
    counts, empty, differing, unclean = Counter(), [], [], []
    for number, line in enumerate(gzip.open(sys.argv[1], "rt", encoding="utf-8")):
        row = json.loads(line)
        counts["rows"] += 1
        parts = split(row["chosen"], row["rejected"])
        if parts is None:
            counts["no marker in the shared part"] += 1
            continue
        if row["chosen"][: row["chosen"].rfind(MARK)] != row["rejected"][: row["rejected"].rfind(MARK)]:
            differing.append(number)  # the prompts before the last answers are not the same
        prompt, answers = encode(parts[0]), parts[1:]
        empty += [number] * any(not a.strip() for a in answers)
        counts["an answer holds a further turn"] += any(MARK in a or "\n\nHuman:" in a for a in answers)
        counts["equal answers"] += answers[0] == answers[1]
        joint = [encode(parts[0] + a + EOS) for a in answers]
        cut = min(common(prompt, j) for j in joint)
        if cut < len(prompt):
            unclean.append(number)
        if cut >= max_length:
            counts["dropped: the prompt fills max_length"] += 1
            continue
        counts["answers cut by max_length"] += sum(len(j) > max_length for j in joint)
        counts["prompt tokens"] += cut
        counts["answer tokens"] += sum(len(j) - cut for j in joint)
        counts["num_tokens of one epoch"] += sum(min(len(j), max_length) for j in joint)
        counts["longest sequence"] = max(counts["longest sequence"], *map(len, joint))
    for key, value in counts.items():
        print(f"{value:9} {key}")
    print(f"{len(empty):9} rows with an empty answer: {empty}")
    print(f"{len(differing):9} rows with differing prompts: {differing}")
    print(f"{len(unclean):9} rows whose prompt ids are no prefix of the joint ids: {unclean[:10]}")


if __name__ == "__main__":
    main()
