"""Defaults, TOML file and flags become one configuration, or one error that says everything."""

from dataclasses import dataclass

import pytest

from loralab.cli.fields import config_fields
from loralab.cli.parser import parse_arguments
from loralab.cli.settings import build_config
from loralab.errors import SpecError


@dataclass(frozen=True)
class Sample:
    """A small configuration."""

    model: str
    """The model."""
    rank: int = 8
    """The rank."""
    max_length: int = 512
    """Tokens at most."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SpecError(f"rank: expected 1 or more, found {self.rank}")


def test_flags_win_over_the_file_and_the_file_over_defaults() -> None:
    config = build_config(Sample, {"rank": "4"}, {"model": "m", "rank": 2, "max-length": 9}, "run.toml")
    assert config == Sample(model="m", rank=4, max_length=9)


@dataclass(frozen=True)
class Borrowed:
    """A configuration with a flag that is a word of Python's."""

    from_: str = ""
    """Where from."""


def test_a_field_with_an_underscore_behind_it_is_the_word_without() -> None:
    (field,) = config_fields(Borrowed)
    assert field.label == "--from"
    assert build_config(Borrowed, {}, {"from": "here"}, "run.toml").from_ == "here"
    assert build_config(Borrowed, parse_arguments("x", Borrowed, ["--from", "there"]).flags, {}, "").from_ == "there"
    with pytest.raises(SpecError, match="unknown key 'from_'"):
        build_config(Borrowed, {}, {"from_": "here"}, "run.toml")


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        build_config(Sample, {"max_length": "long"}, {"rnk": 2}, "run.toml")
    message = str(caught.value)
    assert message.startswith("3 problems:")
    assert "run.toml: unknown key 'rnk' (did you mean rank?)" in message
    assert "--model is needed" in message
    assert "--max-length: expected a whole number, found 'long'" in message


def test_a_key_given_twice_is_an_error() -> None:
    with pytest.raises(SpecError, match="max_length is given twice"):
        build_config(Sample, {"model": "m"}, {"max-length": 1, "max_length": 2}, "run.toml")


def test_the_dataclass_has_the_last_word() -> None:
    with pytest.raises(SpecError, match="rank: expected 1 or more, found 0"):
        build_config(Sample, {"model": "m", "rank": "0"}, {}, "")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"max-lenght": 9}, r"unknown key 'max-lenght' \(did you mean max_length\?\)"),
        ({"maxlength": 9}, r"unknown key 'maxlength' \(did you mean max_length\?\)"),
        ({"LoRA-R": 4}, r"unknown key 'LoRA-R' \(did you mean rank\?\)"),
        ({"adapter": {"rank": 4}}, r"unknown section \[adapter\]: keys stand in no section here; write rank above"),
        ({"rank": {"q": 4}}, r"unknown section \[rank\]: keys stand in no section here"),
        ({"train": {"x": 4}}, r"unknown section \[train\]: .*no key of it is known"),
        ({"paterns": {"q": 4}}, r"unknown section \[paterns\] \(did you mean patterns\?\)"),
    ],
    ids=str,
)
def test_a_key_that_is_not_there_is_answered_with_one_that_is(file: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_config(Patterned, {}, {"model": "m", **file}, "run.toml")


@dataclass(frozen=True)
class Patterned(Sample):
    """A configuration with a mapping."""

    patterns: dict[str, int] | None = None
    """Values by name."""


def test_a_section_is_a_mapping_and_null_is_none() -> None:
    file = {"model": "m", "patterns": {"q": 4}}
    assert build_config(Patterned, {}, file, "run.toml").patterns == {"q": 4}
    assert build_config(Patterned, {}, file | {"patterns": None}, "run.json").patterns is None
