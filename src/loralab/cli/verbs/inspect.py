"""`loralab inspect`: what an adapter on disk is, what it touches, and whether it does anything."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from loralab.cli.flags import Loading, ReadsAdapter
from loralab.cli.opening import load_base, say, wanted_by
from loralab.cli.showing import show_answer, show_findings
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class InspectConfig(ReadsAdapter, Loading):
    """The flags of `loralab inspect`."""

    model: str | None = None
    """The base model, to load the adapter onto it and measure by how much it moves the logits."""

    for_: Literal["vllm", "sglang", "llama.cpp"] | None = None
    """Another server: lists what of the adapter would not survive there, and the flags to start it by."""


def run(config: InspectConfig) -> Answer:
    """Read the files; with a model also try them on it."""
    from loralab.formats.doctor.servers import move_to
    from loralab.formats.inspect import inspect
    from loralab.formats.read import read_adapter

    wanted = wanted_by(config.adapter, config.labels)
    model = (
        load_base(config.model, config.dtype, wanted, config.quantize, config.adapter).model if config.model else None
    )
    answer = inspect(config.adapter, model, alpha=config.alpha, allow_other_base=config.allow_other_base).to_json()
    if model is None:
        del answer["probe_logit_change"]
    if config.for_ is not None:
        answer["for"] = asdict(move_to(read_adapter(config.adapter, config.alpha), config.for_))
    say(answer["notes"])
    return answer


def show(answer: Answer) -> None:
    """What it is in a few lines; of the norms the largest and the smallest."""
    norms = answer["delta_norms"] or {}
    ends = sorted(norms, key=norms.__getitem__)
    summary = {f"norm {path}": norms[path] for path in dict.fromkeys([*ends[-1:], *ends[:1]])}
    brief = {"targets": f"{len(answer['targets'])} modules", "dead_tensors": len(answer["dead_tensors"])}
    brief |= {name: _summed(answer[name]) for name in ("rank", "alpha") if isinstance(answer[name], dict)}
    hidden = ("delta_norms", "notes", "findings", "for")
    show_answer({key: value for key, value in (answer | brief).items() if key not in hidden} | summary)
    show_findings(answer["findings"])
    if "for" in answer:
        _show_move(answer["for"])


def _show_move(move: dict[str, Any]) -> None:
    """What another server makes of it, and how to start that."""
    print(f"\n{move['server']}: " + ("all of it works there" if move["whole"] else "not all of it survives there"))
    show_findings(move["lost"])
    print("\n".join([f"(by {move['source']})", "", *move["start"]]))


def _summed(by_module: dict[str, float]) -> str:
    """`4 (×180), 6 (×30)`: how many modules have which value."""
    return ", ".join(f"{value:g} (×{count})" for value, count in sorted(Counter(by_module.values()).items()))


VERB = Verb(InspectConfig, run, show, example="loralab inspect out/docstrings --model smollm2-135m")
