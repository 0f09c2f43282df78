"""Writes tests/golden/pack.jsonl: what TRL's pack_dataset makes of rows of given lengths.

  python tests/reference/pack_goldens.py

One case a line: strategy, max_length, the rows' lengths, and the bins: pieces as [row, first token, tokens], flat. The
tokens of the packed rows say where they come from, so the bins are read from TRL's own result. The first cases are those
that TRL's tests state (trl-spec 9); then random ones, some with many equal lengths and some longer than a window of 1,000
rows.
Pinned: trl 1.16.0 (see common.py).
"""

import json
import random

from common import GOLDEN, check_versions

from datasets import Dataset, Features, List, Value, disable_progress_bars
from trl import pack_dataset

SHIFT = 20
STATED = [
    ("bfd", 4, [3, 4, 1]), ("bfd_split", 4, [5, 2, 4, 1]), ("bfd", 4, [5, 2, 4, 1]), ("bfd_split", 5, [5, 1, 4, 3]),
    ("wrapped", 3, [3, 4, 1]),
]


def random_cases(rng):
    for strategy in ("bfd", "bfd_split", "wrapped"):
        for room in (1, 2, 3, 7, 16, 33):
            for n in (1, 5, 40):
                yield strategy, room, [rng.randint(1, 2 * room + 1) for _ in range(n)]
        yield strategy, 64, [rng.randint(1, 64) for _ in range(300)]
        yield strategy, 64, [rng.choice([0, 5, 16, 48, 64, 200]) for _ in range(300)]
        yield strategy, 48, [min(400, int(rng.expovariate(1 / 20)) + 1) for _ in range(2300)]


def pieces(ids):
    """Runs of following tokens of one row; in a bin a row begins anew where its first token is."""
    out = []
    for token in ids:
        row, at = token >> SHIFT, token & ((1 << SHIFT) - 1)
        if out and out[-1][0] == row and out[-1][1] + out[-1][2] == at:
            out[-1][2] += 1
        else:
            out.append([row, at, 1])
    return out


def split_by(ids, lengths):
    at, out = 0, []
    for n in lengths:
        row = ids[at] >> SHIFT
        assert ids[at:at + n] == [ids[at] + i for i in range(n)]
        out.append([row, ids[at] & ((1 << SHIFT) - 1), n])
        at += n
    assert at == len(ids)
    return out


def case(strategy, room, lengths):
    ids = [[(row << SHIFT) + t for t in range(n)] for row, n in enumerate(lengths)]
    data = Dataset.from_dict({"input_ids": ids, "labels": ids}, features=Features(
        {"input_ids": List(Value("int64")), "labels": List(Value("int64"))}))
    packed = pack_dataset(data, room, strategy)
    bins = []
    for row in packed:
        assert row["input_ids"] == row["labels"]
        found = split_by(row["input_ids"], row["seq_lengths"]) if "seq_lengths" in row else pieces(row["input_ids"])
        bins.append([n for piece in found for n in piece])
    return {"strategy": strategy, "max_length": room, "lengths": lengths, "bins": bins}


def main():
    check_versions("trl")
    disable_progress_bars()
    rng = random.Random(20)
    with open(GOLDEN / "pack.jsonl", "w") as out:
        for strategy, room, lengths in STATED + list(random_cases(rng)):
            out.write(json.dumps(case(strategy, room, lengths), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
