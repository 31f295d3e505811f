"""What PEFT, vLLM, SGLang and llama.cpp would refuse of an adapter, or silently leave out: as findings about a folder,
and for a move to one of them, with the command that starts that server with it.

What they take changes with their versions: PEFT 0.21, vLLM 0.11 (config/lora.py, lora/peft_helper.py), SGLang 0.5
(lora/lora_config.py), llama.cpp of 2026 (convert_lora_to_gguf.py); one that has learned more since takes more. Nothing
of theirs is imported or run. Where a folder stays here a refusal is a note, since whoever tries will be told, and what
goes unsaid there is a warning.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from loralab.core.names import unwrapped
from loralab.errors import SpecError, some
from loralab.extras import lacking, transformers
from loralab.files.names import CONFIG_NAME, PLAIN_NAME
from loralab.formats.gguf import GgufBase, obstacles
from loralab.formats.stored import Finding, StoredAdapter

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
    return [*_on_vllm(stored), *_in_gguf(stored, None if model is None else _gguf_base(model))]


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


def _on_vllm(stored: StoredAdapter) -> Iterator[Finding]:
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


def _in_gguf(stored: StoredAdapter, base: GgufBase | None) -> list[Finding]:
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


# -- a move to another server --------------------------------------------------------------------------------------

TRAIN_PLAINLY = f"{MERGE}, or train with one rank and alpha for all modules"
UNSTABLE = "set lora_alpha to alpha·√r and use_rslora to false, which says the same, or merge"


@dataclass(frozen=True)
class Move:
    """An adapter on its way to another server."""

    server: str
    whole: bool
    """Whether all of it would work there."""
    lost: list[Finding]
    """What would be refused (error) or silently left out or changed (warning); notes say what to know."""
    source: str
    """Where the rules are from."""
    start: list[str]
    """Commands; M is the base's folder or name."""


@dataclass(frozen=True)
class OtherServer:
    """What a server takes."""

    source: str
    findings: Callable[[StoredAdapter], Iterator[Finding]]
    start: Callable[[str, Path, int], list[str]]
    """Of an adapter's name, folder and highest rank."""


def move_to(stored: StoredAdapter, name: str) -> Move:
    """What would happen to an adapter on the server of this name (`SERVERS`). SpecError for one that is not known."""
    server = SERVERS.get(name)
    if server is None:
        raise SpecError(f"--for {name!r}: what is known of are {', '.join(SERVERS)}; choose one of them")
    lost = [*_unreadable(stored, name), *(() if _is_foreign(stored) else server.findings(stored))]
    folder = stored.source / PLAIN_NAME if stored.has_plain else stored.source
    whole = all(each.severity == "note" for each in lost)
    return Move(name, whole, lost, server.source, server.start(stored.name, folder, highest_rank(stored)))


def _is_foreign(stored: StoredAdapter) -> bool:
    return stored.is_own or stored.is_checkpoint


def _unreadable(stored: StoredAdapter, server: str) -> Iterator[Finding]:
    """Folders that are not PEFT's."""
    if stored.is_checkpoint:
        yield Finding("error", stored.where, f"{server} reads PEFT's folders only", "loralab convert --to peft")
    elif stored.has_plain:
        yield Finding("note", PLAIN_NAME, "the plain LoRA beside it is what is taken there", "start it with that")
    elif stored.is_own:
        why = some(stored.why_not_peft) or "the layout is loralab's own"
        yield Finding("error", CONFIG_NAME, f"method {stored.method} is not PEFT's: {why}", MERGE)


def _vllm(stored: StoredAdapter) -> Iterator[Finding]:
    yield from (Finding("error", CONFIG_NAME, each, MERGE) for each in vllm_refusals(stored))
    yield from _tensors_without_place(stored)
    yield from _scales(stored)
    yield from _everywhere(stored)
    yield from _rounded(stored)


def _sglang(stored: StoredAdapter) -> Iterator[Finding]:
    if stored.vera is not None:
        yield Finding("error", CONFIG_NAME, "its method is VeRA", MERGE)
    if stored.content.get("use_dora"):
        yield Finding("error", CONFIG_NAME, "use_dora is True", MERGE)
    if isinstance(stored.content.get("target_modules"), str) and stored.content["target_modules"] != "all-linear":
        what = "target_modules is a regular expression, and a list of names is read"
        yield Finding("error", CONFIG_NAME, what, "write the names of the modules there")
    if stored.content.get("use_rslora"):
        yield Finding("warning", CONFIG_NAME, "use_rslora is not read: the scale would be alpha/r", UNSTABLE)
    yield from _kinds(stored, ("linear", "embedding"))
    yield from _tensors_without_place(stored)
    yield from _scales(stored)
    yield from _everywhere(stored)
    yield from _rounded(stored)


def _llama_cpp(stored: StoredAdapter) -> Iterator[Finding]:
    yield from (Finding("error", stored.where, f"GGUF has no place for {each}", MERGE) for each in obstacles(stored))
    if stored.content.get("use_rslora") or other_scales(stored):
        what = "their converter writes lora_alpha alone: use_rslora and alpha_pattern would be lost"
        yield Finding("note", CONFIG_NAME, what, "convert with loralab, which keeps every module's scale")
    yield from _everywhere(stored)


def _kinds(stored: StoredAdapter, held: tuple[str, ...]) -> Iterator[Finding]:
    others = [f"{pair.name} ({pair.kind})" for pair in stored.entries if pair.kind not in held]
    if others:
        yield Finding("error", stored.where, f"there is no place for updates of {some(others)}", MERGE)


def _tensors_without_place(stored: StoredAdapter) -> Iterator[Finding]:
    """Heads, biases, token rows, lengths: whatever is no factor."""
    others = [key for key in stored.others if key not in stored.base_copies]
    if others:
        yield Finding("error", stored.where, f"{len(others)} tensors are no low-rank factors: {some(others)}", MERGE)


def _scales(stored: StoredAdapter) -> Iterator[Finding]:
    other = other_scales(stored)
    if other:
        what = f"r and lora_alpha alone are read, which would scale {len(other)} updates wrongly: {some(other)}"
        yield Finding("warning", CONFIG_NAME, what, TRAIN_PLAINLY)


def _everywhere(stored: StoredAdapter) -> Iterator[Finding]:
    if stored.config is not None and stored.config.invocation:
        what = "its invocation (aLoRA) is not read: it would act at every token"
        yield Finding("warning", CONFIG_NAME, what, "serve it with loralab or PEFT")


def _rounded(stored: StoredAdapter) -> Iterator[Finding]:
    wide = [pair.name for pair in stored.entries if str(pair.A.dtype) == "torch.float32"]
    if wide:
        what = "its factors are float32 and are rounded to the model's precision"
        yield Finding("note", stored.where, what, "nothing to do: answers may differ in their last digits")


def _start_vllm(name: str, folder: Path, rank: int) -> list[str]:
    most = next((each for each in VLLM_RANKS if each >= max(rank, VLLM_DEFAULT_RANK)), VLLM_RANKS[-1])
    return [f"vllm serve M --enable-lora --max-loras 8 --max-lora-rank {most} --lora-modules {name}={folder}"]


def _start_sglang(name: str, folder: Path, rank: int) -> list[str]:
    sizes = f"--max-lora-rank {rank} --max-loras-per-batch 8"
    return [f"python -m sglang.launch_server --model-path M --enable-lora {sizes} --lora-paths {name}={folder}"]


def _start_llama_cpp(name: str, folder: Path, rank: int) -> list[str]:
    return [
        f"loralab convert {folder} {name}.gguf --to gguf --model M",
        f"llama-server -m M.gguf --lora {name}.gguf",
    ]


SERVERS = {
    "vllm": OtherServer("vLLM 0.11, vllm/lora/peft_helper.py and vllm/config/lora.py", _vllm, _start_vllm),
    "sglang": OtherServer("SGLang 0.5, python/sglang/srt/lora/lora_config.py", _sglang, _start_sglang),
    "llama.cpp": OtherServer("llama.cpp of 2026, convert_lora_to_gguf.py", _llama_cpp, _start_llama_cpp),
}
