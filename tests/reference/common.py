"""What the oracle scripts share: the pinned versions, the folders, and small helpers.

Pinned: torch 2.13.0, transformers 5.23.0, trl 1.16.0, peft 0.21.2, safetensors, tokenizers, datasets, accelerate 1.15.0
(tests/reference/requirements.txt). Golden files made by other versions may differ; check_versions() refuses them.
"""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch  # noqa: E402

torch.set_num_threads(1)

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
WANT = {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2"}


def check_versions(*names):
    """Refuses to write golden files with other versions than the pinned ones."""
    from importlib.metadata import version

    for name in names:
        have = version(name).split("+")[0]
        if have != WANT[name] and not os.environ.get("PLUMB_ORACLE_ANY_VERSION"):
            raise SystemExit(f"{name} {have}, want {WANT[name]} (PLUMB_ORACLE_ANY_VERSION=1 overrides)")


def fresh_dir(path):
    path = Path(path)
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")


def token_logps(logits, ids):
    """log p(ids[t+1] | ids[..t]) for t = 0..T-2, in the dtype of the logits."""
    rows = torch.log_softmax(logits[:-1], dim=-1)
    return rows.gather(1, ids[1:, None]).squeeze(1)


def patch_float64():
    """Lets a float64 model of transformers compute in float64 where it says float32: RMSNorm and the attention's softmax.

    RoPE's cos and sin tables stay as transformers makes them, in float32, so that they are the same function of the
    position for both precisions. Float32 models are not changed.
    """
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2 import modeling_qwen2

    def norm(self, x):
        wide = x.to(torch.promote_types(torch.float32, x.dtype))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)

    modeling_llama.LlamaRMSNorm.forward = norm
    modeling_qwen2.Qwen2RMSNorm.forward = norm
    plain = torch.nn.functional.softmax

    def softmax(x, dim=None, _stacklevel=3, dtype=None):
        return plain(x, dim, _stacklevel, torch.float64 if x.dtype == torch.float64 else dtype)

    torch.nn.functional.softmax = softmax


def tidy_adapter(path):
    """PEFT writes a set of target modules in no fixed order, and a model card: sort the one, drop the other."""
    path = Path(path)
    config = json.loads((path / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path / "README.md").unlink(missing_ok=True)
