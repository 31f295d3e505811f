"""Every field of every method holds a value of its kind, or the specification says which does not."""

import dataclasses

import pytest
import torch

import loralab as ll
from loralab.methods.registry import specs

WRONG: tuple[object, ...] = (None, "word", b"q", 1.5, True, [None], ["q", 3], {"q": None}, {1: 2}, object())


@pytest.mark.parametrize("name", specs())
def test_another_kind_of_value_is_refused_by_name(name: str) -> None:
    """Some of these values are of a field's kind; those that are not are refused, by any method."""
    spec = specs()[name]
    for each in dataclasses.fields(spec):
        refused = 0
        for value in WRONG:
            try:
                spec(**{each.name: value})
            except ll.SpecError as problem:
                assert each.name in str(problem)  # noqa: PT017  the other outcome is right too
                refused += 1
        assert refused >= 6, each.name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targets": 3}, "targets is 3 and must be a text or a list, a text each or None"),
        ({"targets": ["q", 3]}, r"targets is \['q', 3\] and must be a text or a list, a text each or None"),
        ({"layers": "1,2"}, "layers is '1,2' and must be a list, a whole number each or None"),
        ({"rank_pattern": ["q"]}, r"rank_pattern is \['q'\] and must be a mapping to a whole number each"),
        ({"alpha_pattern": {"q": "8"}}, "alpha_pattern is .* must be a mapping to a number each"),
        ({"magnitude": "no"}, "magnitude is 'no' and must be true or false"),
        ({"rank": True}, "rank is True and must be a whole number"),
        ({"rank": 0, "alpha": float("inf")}, "rank is 0 .*; alpha is inf"),
    ],
)
def test_it_says_what_is_wrong(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ll.SpecError, match=said):
        ll.LoRA(**fields)  # type: ignore[arg-type]


def test_what_is_of_its_kind_is_taken() -> None:
    """A range and a set are lists too, and a whole number is a number."""
    spec = ll.LoRA(targets={"q", "v"}, layers=range(2), alpha=4, rank_pattern={"q": 2}, fused={"qv": {"q": range(3)}})  # type: ignore[arg-type]
    assert spec.alpha == 4
    with pytest.raises(ll.SpecError, match="fused"):
        ll.LoRA(fused={"qv": {"q": torch.arange(3)}})  # type: ignore[dict-item]
