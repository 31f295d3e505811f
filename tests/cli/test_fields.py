"""Fields of a configuration dataclass: types, defaults and documentation."""

from dataclasses import dataclass, field

import pytest

from loralab.cli.fields import config_fields


@dataclass(frozen=True)
class Sample:
    """A configuration with one field of each sort."""

    source: str = field(metadata={"positional": True})
    """Where it
    comes from."""

    rank: int = 8
    """The rank."""

    max_length: int | None = None
    """Tokens at most."""

    resume: bool = False
    """Go on."""


@dataclass(frozen=True)
class Undocumented:
    """A configuration with a field that nobody explained."""

    rank: int = 8


def test_documentation_is_the_string_under_the_field() -> None:
    assert [each.documentation for each in config_fields(Sample)] == [
        "Where it comes from.",
        "The rank.",
        "Tokens at most.",
        "Go on.",
    ]


def test_types_defaults_and_labels() -> None:
    source, rank, max_length, resume = config_fields(Sample)
    assert (source.label, source.required) == ("SOURCE", True)
    assert (rank.kinds, rank.optional, rank.default) == ((int,), False, 8)
    assert (max_length.label, max_length.kinds, max_length.optional) == ("--max-length", (int,), True)
    assert resume.is_switch


def test_a_field_without_documentation_is_refused() -> None:
    with pytest.raises(TypeError, match="Undocumented: no documentation string under rank"):
        config_fields(Undocumented)


@dataclass(frozen=True, kw_only=True)
class Derived(Sample):
    """A configuration that takes over the fields of another."""

    model: str
    """The model."""


def test_inherited_fields_come_last_with_their_documentation() -> None:
    fields = config_fields(Derived)
    assert [field.name for field in fields] == ["model", "source", "rank", "max_length", "resume"]
    assert fields[2].documentation == "The rank."
