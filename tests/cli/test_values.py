"""Values from the text of a flag and from TOML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from loralab.cli.fields import config_fields
from loralab.cli.values import read_value, split_commas


@dataclass(frozen=True)
class Sample:
    """One field of every type that a configuration may have."""

    whole: int
    """."""
    fraction: float
    """."""
    switch: bool
    """."""
    choice: Literal["linear", "cosine"]
    """."""
    level: Literal[0, 1]
    """."""
    names: tuple[str, ...] | None
    """."""
    pair: tuple[float, float]
    """."""
    ranks: dict[str, int]
    """."""
    folder: Path
    """."""
    either: int | float
    """."""


FIELDS = {field.name: field for field in config_fields(Sample)}


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("whole", "8", 8),
        ("whole", 8, 8),
        ("fraction", "2e-4", 2e-4),
        ("fraction", 1, 1.0),
        ("switch", True, True),
        ("switch", "false", False),
        ("choice", "cosine", "cosine"),
        ("level", "0", 0),
        ("names", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("names", "c_attn[q,v],c_proj", ("c_attn[q,v]", "c_proj")),
        ("names", ["q_proj"], ("q_proj",)),
        ("names", "none", None),
        ("pair", "0.9,0.999", (0.9, 0.999)),
        ("ranks", "q_proj=4,v_proj=8", {"q_proj": 4, "v_proj": 8}),
        ("ranks", {"q_proj": 4}, {"q_proj": 4}),
        ("folder", "here", Path("here")),
        ("either", "3", 3),
        ("either", "0.06", 0.06),
    ],
)
def test_reads(name: str, written: Any, expected: Any) -> None:
    value = read_value(FIELDS[name], written)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("whole", "x", "expected a whole number, found 'x'"),
        ("whole", 1.5, "expected a whole number, found 1.5"),
        ("whole", True, "expected a whole number, found True"),
        ("fraction", "nan", "expected a finite number, found 'nan'"),
        ("switch", "yes", "expected true or false"),
        ("choice", "sine", "expected one of linear, cosine, found 'sine'"),
        ("pair", "0.9", "expected 2 items separated by a comma"),
        ("ranks", "q_proj", "expected pairs like name=value"),
        ("ranks", "q_proj=many", "expected pairs like name=value"),
        ("folder", 3, "expected a path, found 3"),
    ],
)
def test_refuses(name: str, written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_value(FIELDS[name], written)


def test_commas_inside_brackets_do_not_split() -> None:
    assert split_commas(r"a{1,2},(b,c),d") == ["a{1,2}", "(b,c)", "d"]
