"""Truncation on the live model, the curve and its knee, and the adapters that are written."""

import json
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import loralab as ll
from loralab.analysis.adapters.parts import Truncation
from loralab.analysis.adapters.rank import Curve, Point, default_ranks
from loralab.cli.main import main
from loralab.core.adapter import Adapter
from planted import Toy, orthonormal, write_adapter
from toys import TOYS, give_effect, quiet
from trained import TARGETS, Trained, train_adapter

RANK = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_adapter(tmp_path_factory.mktemp("rank"))


@pytest.fixture
def planted_two(tmp_path: Path) -> Path:
    """Rank 8, of which every update uses two directions, in factors that do not show it."""
    mix = torch.randn(2, RANK)
    A, B = torch.linalg.pinv(mix) @ orthonormal(12, 2, 1).T, orthonormal(10, 2, 2) @ mix
    return write_adapter(tmp_path / "planted", {f"layers.{layer}.{name}": (A, B) for layer in (0, 1) for name in "qv"})


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [module[name](x) for module in model.layers for name in "qv"]  # type: ignore[union-attr]


def stored(adapter: Adapter) -> list[tuple[str, int, Tensor]]:
    """What an adapter's tensors are, and whether they are the same objects."""
    return [(name, id(tensor), tensor.detach().clone()) for name, tensor in adapter.named_tensors()]


# -- truncation ---------------------------------------------------------------------------------------------------


def test_a_planted_rank_computes_the_same_and_one_less_does_not(planted_two: Path) -> None:
    model, x = Toy().eval(), torch.randn(5, 12)
    adapter = ll.load(model, planted_two)
    cut, whole = Truncation(adapter), outputs(model, x)
    assert (cut.rank, cut.energy_kept(2)) == (RANK, pytest.approx(1.0))
    assert cut.energy_kept(1) == pytest.approx(0.5, abs=1e-5)
    for rank, same in ((1, False), (2, True), (4, True), (8, True)):
        with cut.to(rank):
            close = [torch.allclose(one, other, atol=1e-6) for one, other in zip(outputs(model, x), whole, strict=True)]
        assert close == [same] * 4


def test_afterwards_the_very_same_tensors_are_back(planted_two: Path) -> None:
    model = Toy().eval()
    adapter = ll.load(model, planted_two)
    before, cut = stored(adapter), Truncation(adapter)
    with suppress(ZeroDivisionError), cut.to(1):
        ranks = {len(tensor) for name, tensor in adapter.named_tensors() if name.endswith("lora_A")}
        raise ZeroDivisionError
    assert ranks == {1}
    after = stored(adapter)
    assert all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", TOYS)
def test_every_kind_of_layer_is_cut_to_the_best_of_its_rank(name: str) -> None:
    """‖ΔW − ΔW'‖² is what the dropped singular values say, for the ΔW that the layers themselves state."""
    toy = TOYS[name]
    model = toy.build().eval()
    adapter = ll.attach(model, ll.LoRA(rank=3, targets=list(toy.targets)))
    give_effect(adapter)
    x, cut = toy.inputs(torch.float32), Truncation(adapter)
    whole, deltas = quiet(model, x), deltas_of(adapter)
    with cut.to(1):
        lost = sum(
            float((after - before).square().sum()) for before, after in zip(deltas, deltas_of(adapter), strict=True)
        )
        assert not torch.equal(quiet(model, x), whole)
    dropped = sum(float(energy[1:].sum()) for energy in cut.energies.values())
    assert lost == pytest.approx(dropped, rel=1e-4)
    assert torch.equal(quiet(model, x), whole)


def deltas_of(adapter: Adapter) -> list[Tensor]:
    return [
        D.detach().double()
        for path, update in adapter.updates.items()
        for D in update.deltas(adapter.layers[path].base).values()
    ]


# -- the knee -----------------------------------------------------------------------------------------------------


def test_the_knee_is_the_first_that_keeps_enough() -> None:
    shares = {0: 0.0, 1: 0.8, 2: 0.96, 4: 0.94, 8: 1.0}
    points = tuple(Point(rank, 3 - share, 1.0, share) for rank, share in shares.items())
    for share, rank in ((0.5, 1), (0.8, 1), (0.95, 2), (0.97, 8)):
        knee = Curve(points, 1.0, share).knee
        assert knee is not None
        assert knee.rank == rank
    assert Curve(tuple(Point(rank, 3.0, 1.0, None) for rank in (0, 1)), -0.1, 0.95).knee is None


def test_ranks_double_up_to_the_adapters_own() -> None:
    assert [default_ranks(rank) for rank in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_measures_every_rank_and_writes_what_it_measured(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rank"
    assert main(["analyse", "rank", *trained.flags, "--out", str(out), "--share", "0.9", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    curve = {point["rank"]: point for point in answer["curve"]}
    assert list(curve) == [0, 1, 2, 4]
    assert curve[4]["metric"] < curve[0]["metric"] - 0.3
    assert (curve[0]["gain_share"], curve[4]["gain_share"], curve[4]["energy"]) == (0, 1, 1)
    assert curve[answer["knee"]]["gain_share"] >= 0.9
    assert answer["truncated"]["metric"] == pytest.approx(curve[answer["knee"]]["metric"], abs=1e-5)
    assert json.loads((out / "rank.json").read_text())["curve"] == answer["curve"]
    assert (out / "rank.png").stat().st_size > 10_000
    for name in ("truncated", "suggested"):
        flags = [*trained.flags[:2], *trained.flags[4:], "--adapter", str(out / name), "--split", "validation"]
        assert main(["eval", *flags, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(answer[name]["metric"], abs=1e-6)
    kept = answer["suggested"]["error"] ** 2
    assert kept <= answer["truncated"]["error"] ** 2 + 1e-6


def test_the_suggestion_is_a_configuration_for_training(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rank"
    assert main(["analyse", "rank", *trained.flags, "--out", str(out), "--share", "0.9", "--ranks", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    told = tomllib.loads((out / "suggested.toml").read_text())
    adapter = ll.attach(llama_of(trained), ll.LoRA(targets=list(TARGETS), **told))
    ranks = {path: update.factors_of("weight").recipe for path, update in adapter.updates.items()}
    assert {path: recipe.rank for path, recipe in ranks.items()} == answer["rank_pattern"]
    assert {recipe.scale for recipe in ranks.values()} == {2.0}


def llama_of(trained: Trained) -> nn.Module:
    model: nn.Module = LlamaForCausalLM.from_pretrained(trained.model)
    return model


def test_an_adapter_that_does_not_help_has_no_knee(trained: Trained, tmp_path: Path) -> None:
    """The trained updates with their sign turned are sure to harm."""
    adapter = ll.load(llama_of(trained), trained.adapter)
    for name, tensor in adapter.state_dict().items():
        if name.endswith("lora_B"):
            tensor.neg_()
    ll.save(adapter, tmp_path / "turned")
    flags = [*trained.flags, "--adapter", str(tmp_path / "turned"), "--metric", "perplexity"]
    assert main(["analyse", "rank", *flags, "--out", str(tmp_path / "rank")]) == 0
    found = json.loads((tmp_path / "rank" / "rank.json").read_text())
    assert found["gain"] < 0
    assert found["knee"] is None
    assert "no rank is enough" in found["notes"][0]
    assert f"measured on {found['examples']} examples only" in found["notes"][-1]
    assert not (tmp_path / "rank" / "truncated").exists()


def test_what_cannot_be_says_why(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*flags: str, out: Path = tmp_path / "out") -> str:
        assert main(["analyse", "rank", *trained.flags, "--out", str(out), *flags]) == 2
        return capsys.readouterr().err

    assert "can be cut to ranks 1 to 4" in refused("--ranks", "5")
    assert "can be cut to ranks 1 to 4" in refused("--ranks", "0,1")
    assert "above 0 and at most 1" in refused("--share", "2")
    assert "task jsonl has no metric 'accuracy'; it has loss, perplexity" in refused("--metric", "accuracy")
    (tmp_path / "full" / "truncated").mkdir(parents=True)
    (tmp_path / "full" / "truncated" / "file").touch()
    assert "exists already" in refused(out=tmp_path / "full")
