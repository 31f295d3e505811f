"""What of an adapter would not survive on another server, and the command that starts that server with it.

Every rule is from the named file of the server's source, as it was when the version given there was current; a server
that has learned more since takes more. Nothing of theirs is imported or run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loralab.errors import SpecError, some
from loralab.files.names import CONFIG_NAME, PLAIN_NAME
from loralab.formats.doctor.peers import MERGE, VLLM_DEFAULT_RANK, VLLM_RANKS, highest_rank, other_scales, vllm_refusals
from loralab.formats.gguf.layout import obstacles
from loralab.formats.stored import Finding, StoredAdapter

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
