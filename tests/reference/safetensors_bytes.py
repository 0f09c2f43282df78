"""Checks that safetensors' own writer lays out the tensors of tests/unit/tensor/test_st_write.c (layout) as the test says.

  python tests/reference/safetensors_bytes.py

Pinned: safetensors of torch 2.13.0 / transformers 5.23.0 (see common.py).
"""

import re

from common import GOLDEN

import numpy as np
from safetensors.numpy import save

TEST = GOLDEN.parent / "unit" / "tensor" / "test_st_write.c"


def main():
    tensors = {"b": np.arange(1, 7, dtype=np.float32).reshape(2, 3), "z": np.array([7, 8, 9], np.uint8),
               "a": np.zeros(0, np.float32), "i": np.array(-1, np.int64)}
    raw = save(tensors, metadata={"format": "pt"})
    text = re.search(r"static const char want\[\] =(.*?);", TEST.read_text(), re.S).group(1)
    want = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text)).replace('\\"', '"').encode()
    want += b" " * (-len(want) % 8)
    assert raw[8:8 + len(want)] == want, raw[8:].split(b"}}")[0]
    assert int.from_bytes(raw[:8], "little") == len(want)
    print("same layout,", len(raw), "bytes")


if __name__ == "__main__":
    main()
