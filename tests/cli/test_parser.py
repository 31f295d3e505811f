"""Arguments become flags, and a dataclass becomes a help page."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from loralab.cli.parser import help_page, parse_arguments
from loralab.errors import SpecError


@dataclass(frozen=True)
class Sample:
    """A small configuration."""

    adapter: str = field(metadata={"positional": True})
    """Folder of the adapter."""
    model: str
    """An embedded name, a local folder, or a Hub id; a text long enough to be folded onto a second line."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Modules to adapt."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate goes."""
    resume: bool = False
    """Go on."""
    warmup: float = field(default=0.06, metadata={"group": "schedule"})
    """Part of the steps to warm up in."""


def test_flags_of_every_form() -> None:
    given = parse_arguments("p", Sample, ["dir", "--model=m", "--targets", "a,b", "--no-resume", "--json"])
    assert given.flags == {"adapter": "dir", "model": "m", "targets": "a,b", "resume": False}
    assert given.json
    assert given.config_file is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "m"], r"unknown flag --modle \(did you mean --model\?\) \(see p --help\)"),
        (["--mod", "m"], "unknown flag --mod"),
        (["d", "--model"], r"--model: expected one argument \(see p --help\)"),
        (["d", "--targets", "a", "b"], "unexpected 'b': .*a list is written with commas"),
        (["--resume=yes"], "--resume"),
    ],
)
def test_refuses(arguments: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_arguments("p", Sample, arguments)


def test_help_page_fits_and_says_everything() -> None:
    page = help_page("loralab sample", "Does it.", "loralab sample dir", Sample)
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith("usage: loralab sample ADAPTER --model TEXT [flags]\n\nDoes it.\n")
    for expected in ("--targets A,B", "[q_proj,v_proj]", "--schedule linear|cosine", "schedule:", "[0.06]"):
        assert expected in page


def test_a_field_cannot_take_a_flag_of_every_verb() -> None:
    @dataclass(frozen=True)
    class Wrong:
        json: str = ""
        """Not this name."""

    with pytest.raises(TypeError, match="--json belongs to every verb"):
        parse_arguments("p", Wrong, [])
