"""What the files of an adapter's folder are called.

    adapter_config.json          PEFT's: rank, alpha, targets
    adapter_model.safetensors    PEFT's: the tensors
    loralab.json                 ours: the exact structure, the specification, the base's fingerprint
    run.json                     of a training: what was run, on what, and what came of it
    checkpoints/                 of a training: where it can go on from, and the best adapter so far
    plain_lora/                  of a method that PEFT lacks: the plain LoRA that it comes to, where there is one

The names alone, so that every part of the program can say them.
"""

from pathlib import Path

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"
OLD_TENSORS_NAME = "adapter_model.bin"
"""What PEFT called its tensors before it wrote safetensors."""
SIDECAR_NAME = "loralab.json"
RUN_NAME = "run.json"
CHECKPOINTS_NAME = "checkpoints"
TENSORBOARD_NAME = "tensorboard"
PLAIN_NAME = "plain_lora"

OWN_TYPE = "LORALAB"
"""In adapter_config.json the peft_type of an adapter that PEFT has no way to express: PEFT refuses it instead of
misreading it."""

SAVED = (CONFIG_NAME, TENSORS_NAME, SIDECAR_NAME)
"""The files that saving an adapter writes."""
PEFT_FILES = (CONFIG_NAME, TENSORS_NAME, OLD_TENSORS_NAME)
"""The files by which an adapter is recognised, whoever wrote it."""

_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def model_files(folder: Path) -> list[str]:
    """The files of a whole model that lie in the folder."""
    return [name for name in _MODEL_FILES if (folder / name).exists()]
