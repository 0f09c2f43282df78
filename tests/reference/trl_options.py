"""tests/golden/trl/options.json: the names and defaults of everything that TRL's trainers take.

{"dpo": {name: default, ...}, ...}: the fields of ScriptArguments, the trainer's config (and so TrainingArguments) and
ModelConfig, as `trl dpo` and the other commands read them. Of two dataclasses with one name the first in that order counts.
"""

import dataclasses

from common import GOLDEN, check_versions, write_json

check_versions("torch", "transformers", "trl", "peft")

from trl import DPOConfig, KTOConfig, ModelConfig, RewardConfig, ScriptArguments, SFTConfig  # noqa: E402
from trl.experimental.cpo import CPOConfig  # noqa: E402
from trl.experimental.orpo import ORPOConfig  # noqa: E402


def default_of(field):
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory()
    return getattr(value, "value", value)  # enums by their text


def fields_of(*classes):
    out = {}
    for cls in classes:
        for field in dataclasses.fields(cls):
            out.setdefault(field.name, default_of(field))
    return dict(sorted(out.items()))


write_json(
    GOLDEN / "trl" / "options.json",
    {
        "dpo": fields_of(ScriptArguments, DPOConfig, ModelConfig),
        "sft": fields_of(ScriptArguments, SFTConfig, ModelConfig),
        "kto": fields_of(ScriptArguments, KTOConfig, ModelConfig),
        "orpo": fields_of(ScriptArguments, ORPOConfig, ModelConfig),
        "cpo": fields_of(ScriptArguments, CPOConfig, ModelConfig),
        "reward": fields_of(ScriptArguments, RewardConfig, ModelConfig),
    },
)
