"""Writes the folders here, with the PEFT that is in a folder of its own:

    pip install --no-deps --target /tmp/peft-0.9.0 peft==0.9.0
    python tests/formats/peft_versions/write.py /tmp/peft-0.9.0

Beside each adapter, outputs.json has what that PEFT computes with it. 0.16 and 0.17 import HybridCache from
transformers, which has it no more: the name was taken out of that line of theirs by hand, and nothing here uses it.
"""

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
NAMES = ["first", "second", "embedding"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 3, "lora_alpha": 6, "target_modules": NAMES, "modules_to_save": ["head"]},
    "expression": {"r": 2, "lora_alpha": 4, "target_modules": "first|sec.*", "bias": "lora_only"},
    "patterns": {
        "r": 2, "lora_alpha": 4, "target_modules": NAMES, "rank_pattern": {"first": 3}, "alpha_pattern": {"second": 1},
    },
    "rslora": {"r": 4, "lora_alpha": 4, "target_modules": ["first"], "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 4, "target_modules": ["first", "second"], "use_dora": True},
}  # fmt: skip
"""Each is written by the versions that have its settings."""


def main(place: str) -> None:
    sys.path[:0] = [place, str(HERE)]
    warnings.simplefilter("ignore")
    import base as small
    import peft

    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    for kind, settings in KINDS.items():
        if not settings.keys() <= known:
            continue
        model = small.base()
        model.config = SimpleNamespace(to_dict=lambda: {"_name_or_path": None}, model_type="small")
        model = peft.get_peft_model(model, peft.LoraConfig(**{"lora_dropout": 0.0} | settings)).eval()
        with torch.no_grad():
            for number, (key, parameter) in enumerate(model.named_parameters()):
                if "lora_" in key or "modules_to_save" in key or parameter.requires_grad:
                    parameter.add_(small.waves(parameter.numel(), number + 3).view(parameter.shape) * 0.4)
            outputs = model(small.TOKENS).tolist()
        folder = HERE / peft.__version__ / kind
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        (folder / "outputs.json").write_text(json.dumps(outputs) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
