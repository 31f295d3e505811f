"""`loralab analyse doctor`: what is wrong with an adapter, and what to do about it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from loralab.cli.flags import ChoosesCheckpoint, Loading, WritesFolder
from loralab.cli.opening import Labels, Wanted, load_base, say, wanted_by
from loralab.cli.showing import show_findings, show_lines
from loralab.cli.verb import Answer, Verb, done
from loralab.cli.writing import FilesAmong, writing
from loralab.errors import AdapterFileError

UNHEALTHY = 2
FILES = FilesAmong(("doctor.json",))


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Loading, ChoosesCheckpoint, WritesFolder):
    """The flags of `loralab analyse doctor`."""

    adapter: str = field(metadata={"positional": True})
    """The adapter to examine: its folder, ours or PEFT's, or a loralib checkpoint. It may be damaged."""

    model: str | None = None
    """The base model, to see whether the adapter is of it, loads onto it, moves its logits, and by how much."""

    out: str | None = None
    """Folder for doctor.json."""


def run(config: DoctorConfig) -> Answer:
    """Examine it; damage is reported, not raised."""
    with writing(config.out, FILES, overwrite=config.overwrite):
        return _examine(config)


def _examine(config: DoctorConfig) -> Answer:
    from loralab.files.whole import write_json
    from loralab.formats.doctor.examine import examine

    model = None
    if config.model is not None:
        wanted = _wanted(config.adapter, config.labels)
        model = load_base(config.model, config.dtype, wanted, config.quantize, config.adapter).model
    answer = examine(config.adapter, model, alpha=config.alpha, allow_other_base=config.allow_other_base).to_json()
    if config.out is not None:
        write_json(Path(config.out) / "doctor.json", answer)
    return answer


def show(answer: Answer) -> None:
    """The findings, and one line that sums up."""
    show_findings(answer["findings"])
    count = [each["severity"] for each in answer["findings"]]
    summed = ", ".join(f"{count.count(each)} {each}s" for each in ("error", "warning", "note"))
    state = "healthy" if answer["healthy"] else "NOT healthy"
    held = f"{answer['modules']} low-rank updates, {answer['tensors']} tensors"
    show_lines(f"{state}: {answer['adapter']} ({summed}; {held})")


def status(answer: Answer) -> int:
    """For scripts: 2 where an error was found."""
    return done(answer) if answer["healthy"] else UNHEALTHY


def _wanted(adapter: str, labels: Labels) -> Wanted:
    """The kind of model that the adapter says it was trained on; a language model where that cannot be read."""
    try:
        return wanted_by(adapter, labels)
    except (json.JSONDecodeError, UnicodeDecodeError, AdapterFileError) as problem:
        say([f"{adapter} does not say what kind of model it is of ({problem}); a language model is taken"])
        return Wanted("generation")


VERB = Verb(
    DoctorConfig, run, show, example="loralab analyse doctor out/docstrings --model smollm2-135m", status=status
)
