"""A Llama-type GGUF file written as a Hugging Face folder, its weights dequantised.

transformers reads the file (`gguf_file=`); this adds what that leaves out: the pre-tokenizer that the file
names, the longest context, and a padding token that is not the end-of-text token.

The weights are written in bfloat16: the dtype that SmolLM2 was published in, half the bytes of float32, and
far finer than the 4 bits they come from. A run in float32 and one in bfloat16 then start from the same
numbers.
"""

import copy
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loralab.errors import ModelLoadError
from loralab.extras import deferred, lazy, transformers
from loralab.models.quiet import quiet_transformers
from loralab.progress import announced

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers
else:
    pre_tokenizers = deferred("tokenizers.pre_tokenizers")

gguf = lazy("gguf", "gguf")

DTYPE = torch.bfloat16

PRE_TOKENIZERS = {
    # Digits one by one first, then GPT-2's own split: SmolLM2's tokenizer.json, llama.cpp's "smollm".
    "smollm": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    ),
}
"""What `tokenizer.ggml.pre` means; transformers gives every byte-level tokenizer GPT-2's split alone."""


def write_huggingface_folder(file: Path, folder: Path) -> None:
    """Fill `folder` (existing, empty) with config.json, model.safetensors, and the tokenizer with its chat
    template.

    Raises `ModelLoadError` for a tokenizer kind that is not in `PRE_TOKENIZERS`.
    """
    with announced(f"{file.stem} is converted, once for all"):
        _write(file, folder)


def _write(file: Path, folder: Path) -> None:
    # The bar of the dequantisation is not one that transformers can turn off.
    with quiet_transformers(), redirect_stderr(StringIO()):
        model = _read_model(file)
        tokenizer = _read_tokenizer(file, model.config.max_position_embeddings)
        model.config.pad_token_id = tokenizer.pad_token_id
        if model.generation_config is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read_model(file: Path) -> "transformers.LlamaForCausalLM":
    """The model in bfloat16, dequantised in float32 and rounded once, with no trace of the quantised file."""
    llama = transformers.LlamaForCausalLM
    read = llama.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings: dict[str, Any] = read.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "dtype"):
        settings.pop(key, None)
    model = llama(transformers.LlamaConfig(**settings))
    model.to(DTYPE)  # type: ignore[arg-type]  # transformers wraps `to` without its type
    model.load_state_dict(read.state_dict(), strict=True)
    model.config.dtype = DTYPE
    model.generation_config = copy.deepcopy(read.generation_config)
    return model


def _read_tokenizer(file: Path, longest: int) -> "transformers.PreTrainedTokenizerFast":
    """The tokenizer with its real pre-tokenizer. It pads with the unknown token, which no byte-level text
    holds: the file pads with the end-of-turn token, and a loss that skips padding would then never teach
    the model to stop.
    """
    fast = transformers.PreTrainedTokenizerFast
    tokenizer: transformers.PreTrainedTokenizerFast = fast.from_pretrained(file.parent, gguf_file=file.name)
    kind = _pre_tokenizer_kind(file)
    if kind not in PRE_TOKENIZERS:
        raise ModelLoadError(
            f"{file.name} names the pre-tokenizer {kind!r}, which is not known here (known: "
            f"{', '.join(PRE_TOKENIZERS)}); convert the model to a Hugging Face folder with its own tools"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.model_max_length = longest
    return tokenizer


def _pre_tokenizer_kind(file: Path) -> str:
    field = gguf.GGUFReader(file).get_field("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())
