"""What PEFT, vLLM and llama.cpp would refuse of an adapter, or silently leave out.

What they take changes with their versions: PEFT 0.21, vLLM 0.11 (config/lora.py, lora/peft_helper.py), llama.cpp of
2026. A refusal is a note, since whoever tries will be told; what goes unsaid there is a warning here.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from loralab.core.names import unwrapped
from loralab.errors import SpecError, some
from loralab.extras import deferred, lacking
from loralab.files.names import PLAIN_NAME
from loralab.formats.gguf.layout import GgufBase, obstacles
from loralab.formats.stored import Finding, StoredAdapter

if TYPE_CHECKING:
    import transformers
else:
    transformers = deferred("transformers")

PEFT, VLLM, GGUF = "PEFT", "vLLM", "GGUF"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank can be; 16 unless it is set."""
VLLM_DEFAULT_RANK = 16
MERGE = "merge it into its base for that: loralab merge"


def peer_findings(stored: StoredAdapter, model: nn.Module | None = None) -> list[Finding]:
    """Of a folder that holds tensors; with the base model also which of its tensors GGUF has."""
    if stored.is_checkpoint or not stored.named:
        return []
    if stored.is_own:
        reasons = some(stored.why_not_peft) or "the layout is loralab's own"
        advice = "use it with loralab; if it changes weights only, merge it into its base"
        if stored.has_plain:
            advice = f"use the plain LoRA that it comes to, in its folder {PLAIN_NAME}"
        return [Finding("note", f"{PEFT}, {VLLM}, {GGUF}", f"it cannot be used there: {reasons}", advice)]
    return [*_vllm(stored), *_gguf(stored, None if model is None else _gguf_base(model))]


def highest_rank(stored: StoredAdapter) -> int:
    """Of the pairs that multiply as a LoRA's."""
    return max((len(pair.A) for pair in stored.entries if pair.kind in ("linear", "embedding")), default=0)


def other_scales(stored: StoredAdapter) -> list[str]:
    """The updates whose scale is another than `r` and `lora_alpha` of the configuration give all."""
    if stored.config is None:
        return []
    usual = type(stored.config)(stored.config.rank, stored.config.alpha, 0.0, stored.config.rank_stabilized).recipe("")
    return [pair.name for pair in stored.entries if not math.isclose(pair.recipe.scale, usual.scale, rel_tol=1e-6)]


def vllm_refusals(stored: StoredAdapter) -> list[str]:
    """What vLLM would refuse it for."""
    refused = [
        f"{key} is {stored.content[key]!r}" for key in ("use_dora", "modules_to_save") if stored.content.get(key)
    ]
    if stored.vera is not None:
        refused.append("its method is VeRA")
    if stored.content.get("bias") not in (None, "none"):
        refused.append(f"bias is {stored.content['bias']!r}")
    kinds = sorted({pair.kind for pair in stored.entries if pair.kind not in ("linear", "embedding")})
    refused += [f"there are updates of the kind {kind!r}" for kind in kinds]
    rank = highest_rank(stored)
    return refused + ([f"rank {rank} is above {VLLM_RANKS[-1]}"] if rank > VLLM_RANKS[-1] else [])


def _vllm(stored: StoredAdapter) -> Iterator[Finding]:
    refused, highest = vllm_refusals(stored), highest_rank(stored)
    if refused:
        yield Finding("note", VLLM, f"it would be refused there: {'; '.join(refused)}", MERGE)
    elif highest > VLLM_DEFAULT_RANK:
        least = next(rank for rank in VLLM_RANKS if rank >= highest)
        what = f"rank {highest} is above vLLM's default of {VLLM_DEFAULT_RANK}"
        yield Finding("note", VLLM, what, f"start it with --max-lora-rank {least}")
    other = other_scales(stored)
    if other:
        what = f"it reads r and lora_alpha alone, and would scale {len(other)} updates wrongly: {some(other)}"
        yield Finding("warning", VLLM, what, f"{MERGE}, or train with one rank and alpha")
    embeddings = [pair.name for pair in stored.entries if pair.kind == "embedding"]
    if embeddings:
        what = f"whether the update of an embedding is applied depends on the model: {some(embeddings)}"
        yield Finding("note", VLLM, what, "compare its answers with loralab's, or merge")


def _gguf(stored: StoredAdapter, base: GgufBase | None) -> list[Finding]:
    problems = obstacles(stored, base)
    what = f"a LoRA in GGUF (convert --to gguf) has no place for {some(problems)}"
    return [Finding("note", GGUF, what, MERGE)] if problems else []


def _gguf_base(model: nn.Module) -> GgufBase | None:
    """The base as GGUF sees it; None where llama.cpp's names for it are not known, or the package that knows them is
    not installed.
    """
    inner = unwrapped(model)
    if lacking("gguf") or not isinstance(inner, transformers.PreTrainedModel):
        return None
    try:
        return GgufBase.of(inner.name_or_path or "the base", inner.config)
    except SpecError:
        return None
