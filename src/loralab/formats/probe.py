"""Inputs on which two models are compared: the same every time, for any kind of transformers model.

Token sequences of several lengths drawn from the whole vocabulary, real sentences where there is a tokenizer, or
pictures or sound of noise. One sequence per call, so that nothing is padded. Knows nothing of adapters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loralab.core.names import unwrapped
from loralab.errors import SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Probe = Sequence[Mapping[str, Tensor]]
"""Keyword arguments of the model's forward, one mapping per call."""

LENGTHS = (5, 16, 40)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Paris is the capital of France; 12 × 12 = 144, and water boils at 100 °C.",
)
_IMAGE, _SAMPLES, _FRAMES = 224, 8000, 200
_POSITIONS_TO_SPARE = 4
"""RoBERTa and OPT use the first few positions otherwise."""


def make_probe(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None" = None) -> list[dict[str, Tensor]]:
    """The probe for a model; raises SpecError for one whose main input is of a kind not known here."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    kind = model.main_input_name
    if kind == "input_ids":
        calls = [{"input_ids": ids} for ids in _token_ids(model, tokenizer, generator)]
    elif kind == "pixel_values":
        height, width = _image_size(config)
        calls = [{kind: torch.randn(2, int(getattr(config, "num_channels", 3)), height, width, generator=generator)}]
    elif kind == "input_values":
        calls = [{kind: torch.randn(1, _SAMPLES, generator=generator)}]
    elif kind == "input_features":
        frames = 2 * int(getattr(config, "max_source_positions", _FRAMES // 2))
        calls = [{kind: torch.randn(1, int(getattr(config, "num_mel_bins", 80)), frames, generator=generator)}]
    else:
        raise SpecError(f"{type(model).__name__} takes {kind!r}, for which no probe is known; pass probe= yourself")
    if getattr(config, "is_encoder_decoder", False) and model.can_generate():
        for call in calls:
            call["decoder_input_ids"] = _decoder_ids(model, generator)
    return calls


def _token_ids(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", generator: torch.Generator
) -> Iterator[Tensor]:
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", None) or max(LENGTHS) + _POSITIONS_TO_SPARE)
    longest = max(1, longest - _POSITIONS_TO_SPARE)
    vocabulary = _vocabulary(model)
    end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    for length in LENGTHS:
        ids = torch.randint(vocabulary, (1, min(length, longest)), generator=generator)
        if end is not None and 0 <= end < vocabulary:
            ids[0, -1] = end  # BART's classifier reads there
        yield ids
    for sentence in SENTENCES if tokenizer is not None else ():
        ids = torch.tensor([tokenizer(sentence)["input_ids"][:longest]])  # type: ignore[misc]  # tested for None above
        if ids.numel() and int(ids.max()) < vocabulary:
            yield ids


def _decoder_ids(model: "PreTrainedModel", generator: torch.Generator) -> Tensor:
    ids = torch.randint(_vocabulary(model), (1, LENGTHS[0]), generator=generator)
    ids[0, 0] = getattr(model.config, "decoder_start_token_id", None) or 0
    return ids


def _vocabulary(model: "PreTrainedModel") -> int:
    return int(unwrapped(model.get_input_embeddings()).get_parameter("weight").shape[0])


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or _IMAGE
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))


Logits = list[Tensor]
"""Per call of the probe [positions, classes], float32, on the CPU."""


def base_dtype(model: nn.Module) -> torch.dtype:
    """The precision of the model beneath its adapters: that of its largest weight."""
    weights = [p for name, p in model.named_parameters() if ".updates." not in name and p.is_floating_point()]
    return max(weights, key=lambda weight: weight.numel()).dtype


def logits_of(model: nn.Module, probe: Probe) -> Logits:
    """What the model says on each call of the probe: all outputs called logits, or else the first output."""
    found = []
    inner = unwrapped(model)
    device, dtype = next(inner.parameters()).device, base_dtype(model)
    with torch.no_grad():
        for call in probe:
            moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in call.items()}
            output = inner(**moved, return_dict=True)
            chosen = [value for name, value in output.items() if name.endswith("logits")] or [output[0]]
            found += [each.detach().float().cpu().reshape(-1, each.shape[-1]) for each in chosen]
    return found
