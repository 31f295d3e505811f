"""Arguments become flags, and a dataclass becomes a help page."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from loralab.cli.parser import parse_arguments
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


def test_what_has_a_place_may_be_a_flag_and_stand_anywhere() -> None:
    places = (["dir", "--model", "m"], ["--model", "m", "dir"], ["--model", "m", "--adapter", "dir"])
    assert [parse_arguments("p", Sample, words).flags for words in places] == [{"adapter": "dir", "model": "m"}] * 3
    assert parse_arguments("p", Sample, ["--", "--dir"]).flags == {"adapter": "--dir"}


def test_a_place_that_a_flag_took_is_not_given_again() -> None:
    with pytest.raises(SpecError, match="unexpected 'other'"):
        parse_arguments("p", Sample, ["other", "--adapter", "dir"])


def test_a_list_is_written_with_commas_or_flag_by_flag() -> None:
    given = parse_arguments("p", Sample, ["--targets", "a,b", "--targets", "c"])
    assert given.flags == {"targets": "a,b,c"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two places with flags of other names."""

    src: str = field(metadata={"positional": True, "also": ("adapter",)})
    """What to read."""
    dst: str = field(metadata={"positional": True})
    """What to write."""


@pytest.mark.parametrize(
    "words", [["a", "b"], ["--adapter", "a", "b"], ["b", "--src", "a"], ["a", "--dst=b"], ["--dst", "b", "a"]], ids=str
)
def test_words_fill_the_places_that_no_flag_took(words: list[str]) -> None:
    assert parse_arguments("p", Pair, words).flags == {"src": "a", "dst": "b"}


def test_a_field_cannot_take_a_flag_of_every_verb() -> None:
    @dataclass(frozen=True)
    class Wrong:
        json: str = ""
        """Not this name."""

    with pytest.raises(TypeError, match="--json belongs to every verb"):
        parse_arguments("p", Wrong, [])
