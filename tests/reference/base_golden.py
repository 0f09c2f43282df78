#!/usr/bin/env python3
"""Writes tests/golden/base: shortest decimals as Python prints them, and permutations as PyTorch draws them.

Made with Python 3.11 and torch 2.13.0. Usage: base_golden.py tests/golden/base
"""
import pathlib
import random
import struct
import sys

import torch

torch.set_num_threads(1)
out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def double(b):
    return struct.unpack("<d", struct.pack("<Q", b))[0]


rng = random.Random(1)
values = [0.0, -0.0, 1.0, -1.5, 0.1, 1e16, 1e15, 9999999999999998.0, 1e-4, 1e-5, 0.00012345, 123456789012345680.0, 1e22, 1e23,
          5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308, 0.1 + 0.2, 2.0**53, 2.0**-44, 1 / 3]
values += [2.0**k for k in range(-1074, 1024, 7)]
values += [double(rng.getrandbits(52)) for _ in range(60)]  # denormal
values += [double(rng.getrandbits(64)) for _ in range(300)]
values += [rng.gauss(0, 10) for _ in range(200)] + [float(rng.getrandbits(60)) for _ in range(40)]
values += [round(rng.gauss(0, 10), rng.randrange(8)) for _ in range(100)]
values += [float(torch.tensor(rng.gauss(0, 10), dtype=torch.float32)) for _ in range(60)]
with open(out / "doubles.txt", "w") as f:
    for x in values:
        if x == x and abs(x) != float("inf"):
            f.write(f"{bits(x):016x} {x!r}\n")

with open(out / "randperm.txt", "w") as f:
    for n, seed in [(0, 1), (1, 1), (2, 3), (10, 42), (10, 43), (700, 42), (25, 2**32 + 42), (25, 2**63 - 1), (1500, 1234)]:
        p = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        f.write(" ".join(map(str, [n, seed] + p)) + "\n")
