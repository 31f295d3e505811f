"""The linearity score: planted maps, noise, what streams against what is computed at once, and the files."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from loralab.analysis.layers.linearity import rank
from loralab.analysis.layers.moments import Linearity, Moments, affine_r2, fit_affine, refuse_few_tokens, score
from loralab.analysis.layers.texts import TokenBatch
from loralab.analysis.layers.transitions import at_once, gather
from loralab.cli.main import main
from loralab.errors import SpecError
from loralab.models.surgery.blocks import AffineBlock, replace_blocks
from small_models import llama
from tiny import write_llama

WIDTH = 12


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x_ND: Tensor, y_ND: Tensor, parts: int = 1) -> Moments:
    found = Moments(x_ND.shape[1])
    for x, y in zip(x_ND.chunk(parts), y_ND.chunk(parts), strict=True):
        found.add(x, y)
    return found


def scored(x_ND: Tensor, y_ND: Tensor) -> Linearity:
    return score(0, moments(x_ND, y_ND), None)


def directly(x_ND: Tensor, y_ND: Tensor) -> tuple[float, float]:
    """The authors' way: normalised clouds, least squares; and the best scaled rotation."""
    x, y = (each - each.mean(0) for each in (x_ND, y_ND))
    x, y = x / x.norm(), y / y.norm()
    A = torch.linalg.lstsq(x, y).solution
    return 1 - float((x @ A - y).square().sum()), float(torch.linalg.svdvals(x.T @ y).sum()) ** 2


def test_what_streams_is_what_is_computed_at_once() -> None:
    x = gaussian(400, WIDTH, seed=1) * torch.logspace(-2, 2, WIDTH, dtype=torch.float64) + 50
    y = torch.tanh(x / 20) * 3 + gaussian(400, WIDTH, seed=2)
    found = score(0, moments(x, y, parts=7), None)
    main, rotation = directly(x, y)
    assert (found.main, found.orthogonal) == pytest.approx((main, rotation), abs=1e-8)
    assert (found.delta, found.orthogonal_delta) == pytest.approx(directly(x, y - x), abs=1e-8)


def test_an_affine_map_scores_one_and_a_rotation_both() -> None:
    x, A = gaussian(200, WIDTH, seed=1), gaussian(WIDTH, WIDTH, seed=2)
    affine = scored(x, x @ A + 3)
    assert affine.main == pytest.approx(1)
    assert affine.delta == pytest.approx(1)
    assert affine.orthogonal < 0.95
    rotation = scored(x, 2 * x @ torch.linalg.qr(A)[0] - 1)
    assert rotation.orthogonal == pytest.approx(1, abs=0.1)
    white = torch.linalg.qr(x - x.mean(0))[0]
    assert scored(white, 2 * white @ torch.linalg.qr(A)[0] - 1).orthogonal == pytest.approx(1)


def test_singular_clouds_and_maps() -> None:
    flat = gaussian(200, 3, seed=1) @ gaussian(3, WIDTH, seed=2)
    singular = gaussian(WIDTH, 2, seed=3) @ gaussian(2, WIDTH, seed=4)
    assert scored(flat, flat @ singular).main == pytest.approx(1, abs=1e-9)
    assert scored(gaussian(200, WIDTH, seed=5), gaussian(200, WIDTH, seed=5) @ singular).main == pytest.approx(1)


def test_noise_scores_d_over_n() -> None:
    found = scored(gaussian(600, 30, seed=1), gaussian(600, 30, seed=2))
    assert found.main == pytest.approx(30 / 599, abs=0.02)
    assert scored(gaussian(20, 30, seed=1), gaussian(20, 30, seed=2)).main == pytest.approx(1)


def test_held_out_noise_is_no_better_than_a_constant() -> None:
    fit, other = (moments(gaussian(600, 30, seed=s), gaussian(600, 30, seed=s + 9)) for s in (1, 2))
    found = score(0, fit, other)
    assert found.held_out is not None
    assert -0.2 < found.held_out < 0


def test_held_out_is_the_definition() -> None:
    x, A = gaussian(300, WIDTH, seed=1), gaussian(WIDTH, WIDTH, seed=2)
    y = x @ A + gaussian(300, WIDTH, seed=3)
    found = score(0, moments(x[:200], y[:200]), moments(x[200:], y[200:]))
    fitted = torch.linalg.lstsq(x[:200] - x[:200].mean(0), y[:200] - y[:200].mean(0)).solution
    error = y[200:] - y[:200].mean(0) - (x[200:] - x[:200].mean(0)) @ fitted
    expected = 1 - error.square().sum() / (y[200:] - y[200:].mean(0)).square().sum()
    assert found.held_out == pytest.approx(float(expected))


def test_the_order_of_the_scores() -> None:
    for seed in range(5):
        x = gaussian(100, WIDTH, seed=seed)
        found = scored(x, torch.relu(x @ gaussian(WIDTH, WIDTH, seed=seed + 50)))
        assert 0 <= found.orthogonal <= found.main <= 1


def test_a_block_that_does_nothing() -> None:
    x = gaussian(100, WIDTH, seed=1)
    found = scored(x, x)
    assert (found.main, found.cosine) == (pytest.approx(1), pytest.approx(1))
    assert found.delta is found.orthogonal_delta is None
    other = score(1, moments(x, x + gaussian(100, WIDTH, seed=2)), None)
    assert [each.block for each in rank([other, found], "delta", "lstsq")] == [0, 1]


def test_few_tokens_are_refused() -> None:
    refuse_few_tokens(60, 12)
    with pytest.raises(SpecError, match=r"59 tokens for a stream 12 wide: N/D is 4\.9 and 5 is needed"):
        refuse_few_tokens(59, 12)


def test_ridge_finds_the_map_and_a_large_one_drops() -> None:
    x, A = (
        gaussian(300, WIDTH, seed=1) * torch.logspace(-2, 2, WIDTH, dtype=torch.float64),
        gaussian(WIDTH, WIDTH, seed=2),
    )
    both = moments(x, x + x @ A + 3)
    map_DD, bias_D = fit_affine(both, 1e-10)
    torch.testing.assert_close(map_DD, A, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias_D, torch.full((WIDTH,), 3.0, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert affine_r2((map_DD, bias_D), both) == pytest.approx(1)
    assert float(fit_affine(both, 1e12)[0].abs().max()) < 1e-6
    assert affine_r2(fit_affine(both, 1e9), both) == pytest.approx(0, abs=1e-6)
    with pytest.raises(SpecError, match="above 0"):
        fit_affine(both, 0)


IDS = torch.randint(2, 64, (40, 20), generator=torch.Generator().manual_seed(0))
BATCHES = [TokenBatch(IDS, torch.ones_like(IDS, dtype=torch.bool))]


def test_an_affine_block_in_a_model_is_found_and_replaced() -> None:
    model = llama(num_hidden_layers=4).eval()
    replace_blocks(model, {(1, 2): AffineBlock(torch.randn(32, 32) * 0.2, torch.randn(32))})
    found = gather(model, BATCHES, [(number, number + 1) for number in range(4)], skip_first=False)
    scores = [score(number, each, None) for number, each in enumerate(found)]
    assert rank(scores, "delta", "lstsq")[0].block == 1
    assert scores[1].delta == pytest.approx(1, abs=1e-6)
    assert all(each.delta is not None and each.delta < 0.99 for each in scores if each.block != 1)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        map_DD, bias_D = fit_affine(found[1], 1e-9)
        replace_blocks(model, {(1, 2): AffineBlock(map_DD.T.float(), bias_D.float())})
        torch.testing.assert_close(model(input_ids=IDS).logits, before, atol=1e-4, rtol=0)


def test_passes_runs_and_first_tokens() -> None:
    model = llama(num_hidden_layers=4).eval()
    together = gather(model, BATCHES, [(0, 1), (1, 2), (1, 4)], skip_first=False)
    alone = gather(model, BATCHES, [(1, 4)], skip_first=False)
    torch.testing.assert_close(together[2].xy_DD, alone[0].xy_DD)
    torch.testing.assert_close(together[1].xx_DD, alone[0].xx_DD)
    assert gather(model, BATCHES, [(1, 4)], skip_first=True)[0].count == 40 * 19
    assert at_once(576, held_out=True) > 30
    assert at_once(10**6, held_out=True) == 1


def flags(tmp_path: Path, model: Path, *more: object) -> list[str]:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number * 7919 % 1000} is a number. " for number in range(4000)))
    given = ["--model", model, "--data", path, "--chars", 50, "--chunks", 20, "--out", tmp_path / "out", *more]
    return ["analyse", "linearity", *map(str, given)]


def test_the_verb_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_llama(tmp_path / "model", num_hidden_layers=3)
    assert main([*flags(tmp_path, model, "--mode", "main"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((tmp_path / "out" / "linearity.json").read_text())
    assert [each["ell"] for each in written["scores"]] == [0, 1, 2]
    expected = {"ell", "ls_main", "ls_delta", "lo", "norm_h", "norm_delta", "cos", "r2_heldout"}
    assert expected <= written["scores"][0].keys()
    assert (answer["tokens"], answer["width"], answer["noise"]) == (800, 32, pytest.approx(32 / 799))
    assert (tmp_path / "out" / "linearity.png").read_bytes().startswith(b"\x89PNG")
    assert main(flags(tmp_path, model, "--heldout", 0, "--reference", "--overwrite")) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines() if not line.startswith("/"))


def test_the_verb_refuses_few_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_llama(tmp_path / "model")
    assert main(flags(tmp_path, model, "--chunks", 3)) == 2
    assert "N/D is 3.1 and 5 is needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unused_module_is_no_block() -> None:
    with pytest.raises(SpecError, match="its blocks are not known"):
        gather(nn.Sequential(nn.Linear(2, 2)), BATCHES, [(0, 1)], skip_first=False)
