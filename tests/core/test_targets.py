"""Which modules a pattern names, and what is said of one that names none."""

import pytest
import torch
from torch import nn

from loralab.core.targets import find_targets, split_patterns
from loralab.errors import SpecError, TargetError


def blocks() -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict(
            {"attn": nn.ModuleDict({"q_proj": nn.Linear(4, 4), "c_attn": nn.Linear(4, 12)}), "mlp": nn.Linear(4, 4)}
        )

    return nn.ModuleDict({"layers": nn.ModuleList([block(), block(), block()]), "lm_head": nn.Linear(4, 9)})


def paths(*patterns: str, **kwargs: object) -> list[str]:
    return [target.path for target in find_targets(blocks(), patterns, **kwargs)]


def test_a_name_matches_endings_at_dots_only() -> None:
    assert paths("q_proj") == [f"layers.{i}.attn.q_proj" for i in range(3)]
    assert paths("attn.q_proj", layers=[1]) == ["layers.1.attn.q_proj"]
    with pytest.raises(TargetError, match="proj"):
        paths("proj")


def test_a_regular_expression_matches_whole_paths() -> None:
    assert paths(r"layers\.[02]\..*q_proj") == ["layers.0.attn.q_proj", "layers.2.attn.q_proj"]
    with pytest.raises(SpecError, match="regular expression"):
        paths("q_proj(")


class Foreign(nn.Module):
    """A module that keeps a matrix of its own under the usual name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))


KINDS = {"lin": nn.Linear(4, 4), "emb": nn.Embedding(4, 4), "conv": nn.Conv1d(4, 4, 3), "raw": Foreign()}


@pytest.mark.parametrize("name", KINDS)
def test_the_name_of_a_weight_is_that_of_its_module(name: str) -> None:
    model = nn.ModuleDict({"block": nn.ModuleDict(KINDS), "attn": nn.MultiheadAttention(4, 2)})
    for pattern in (f"{name}.weight", f"block.{name}.weight", rf"block\.({name})\.weight"):
        assert [(each.path, each.parts) for each in find_targets(model, [pattern])] == [(f"block.{name}", ("weight",))]
    (target,) = find_targets(model, ["out_proj.weight"])
    assert (target.path, target.parts) == ("attn", ("out",))
    left = find_targets(model, [r"block\..*"], exclude=["emb.weight"])
    assert [each.path for each in left] == ["block.lin", "block.conv", "block.raw"]


def test_the_name_of_a_weight_takes_parts_and_is_no_wildcard() -> None:
    (target,) = find_targets(blocks(), ["c_attn.weight[q,v]"], layers=[0])
    assert (target.path, target.parts) == ("layers.0.attn.c_attn", ("q", "v"))
    for pattern in ("weight", "attn.weight", "q_prj.weight", "q_proj.bias"):
        with pytest.raises(TargetError, match="matches no module"):
            paths(pattern)


def test_parts_of_one_module_come_together() -> None:
    (target,) = find_targets(blocks(), ["c_attn[q]", "c_attn[v]"], layers=[0])
    assert (target.path, target.parts) == ("layers.0.attn.c_attn", ("q", "v"))
    (target,) = find_targets(blocks(), ["c_attn[q]", "c_attn"], layers=[0])
    assert target.parts == ("weight",)


def test_every_pattern_that_matches_nothing_is_named_with_near_misses() -> None:
    with pytest.raises(TargetError, match=r"'q_prj' matches no module \(near: .*q_proj.*'v_proj' matches"):
        paths("q_prj", "mlp", "v_proj")
    with pytest.raises(TargetError, match="'nothing'"):
        paths("mlp", exclude=["nothing"])
    with pytest.raises(TargetError, match=r"layers \[7\]"):
        paths("mlp", layers=[0, 7])


def test_a_module_that_cannot_be_a_target_is_named_by_its_kind() -> None:
    with pytest.raises(TargetError, match=r"'attn' names ModuleDict, which cannot be a target \(near: .*c_attn"):
        paths("attn")
    model = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 8, 3), "down": nn.Linear(4, 4)})
    with pytest.raises(TargetError, match="'up' names ConvTranspose2d, which cannot be a target"):
        find_targets(model, ["up"])


def test_excluding_everything_is_an_error() -> None:
    assert paths("mlp", "lm_head", exclude=["lm_head"]) == [f"layers.{i}.mlp" for i in range(3)]
    with pytest.raises(TargetError, match="no target is left"):
        paths("mlp", exclude=["mlp"])


def test_patterns_split_at_commas_outside_brackets() -> None:
    assert split_patterns("q_proj, c_attn[q,v],x{1,2}") == ["q_proj", "c_attn[q,v]", "x{1,2}"]
    assert split_patterns(["a,b"]) == ["a,b"]


def test_the_output_of_an_attention_is_a_part_of_the_attention() -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
    (target,) = find_targets(model, ["out_proj"])
    assert (target.path, target.parts) == ("attn", ("out",))
