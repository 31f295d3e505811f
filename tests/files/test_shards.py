"""Safetensors tensor by tensor: what the library reads, refuses and agrees on."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loralab.errors import ModelLoadError, OutputError
from loralab.files.shards import (
    DTYPES,
    INDEX,
    WEIGHTS,
    TensorFolder,
    TensorKind,
    in_shards,
    same_bits,
    write_index,
    write_tensors,
)


def some_tensors() -> dict[str, Tensor]:
    return {
        "a.weight": torch.randn(3, 5),
        "b.weight": torch.randn(7, 3).to(torch.bfloat16),
        "c.steps": torch.tensor(12),
        "d.mask": torch.tensor([True, False, True]),
        "e.empty": torch.zeros(0, 4),
        "ü.weight": torch.randn(2, 6).T,
    }


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(path, {name: TensorKind.of(each) for name, each in tensors.items()}, tensors.__getitem__)


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = some_tensors()
    write(tmp_path / WEIGHTS, tensors)
    found = load_file(tmp_path / WEIGHTS)
    assert found.keys() == tensors.keys()
    assert all(same_bits(found[name], each) for name, each in tensors.items())


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    tensors = {name: each.contiguous() for name, each in some_tensors().items()}
    save_file(tensors, tmp_path / WEIGHTS)
    folder = TensorFolder(tmp_path)
    assert folder.kinds == {name: TensorKind.of(each) for name, each in tensors.items()}
    assert all(same_bits(folder.read(name), each) for name, each in tensors.items())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randint(2, (4, 3)).to(dtype)
    write(tmp_path / WEIGHTS, {"x": tensor})
    assert same_bits(TensorFolder(tmp_path).read("x"), tensor)


def test_tensors_are_asked_for_one_at_a_time_and_lie_aligned(tmp_path: Path) -> None:
    tensors, asked = some_tensors(), []

    def read(name: str) -> Tensor:
        asked.append(name)
        return tensors[name]

    write_tensors(tmp_path / WEIGHTS, {name: TensorKind.of(each) for name, each in tensors.items()}, read)
    assert sorted(asked) == sorted(tensors)
    for name in asked:
        found = TensorFolder(tmp_path).read(name)
        assert found.numel() == 0 or found.data_ptr() % found.dtype.itemsize == 0


def test_shards_and_their_index(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.full((10,), float(number)) for number in range(5)}
    kinds = {name: TensorKind.of(each) for name, each in tensors.items()}
    file_of = in_shards(kinds, limit=100)
    assert sorted(set(file_of.values())) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for file in set(file_of.values()):
        write(tmp_path / file, {name: each for name, each in tensors.items() if file_of[name] == file})
    write_index(tmp_path, file_of, kinds)
    assert json.loads((tmp_path / INDEX).read_text())["metadata"] == {"total_parameters": 50, "total_size": 200}
    assert all(same_bits(TensorFolder(tmp_path).read(name), each) for name, each in tensors.items())


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path / WEIGHTS, some_tensors())
    content = (tmp_path / WEIGHTS).read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        (tmp_path / WEIGHTS).write_bytes(content[:length])
        with pytest.raises(ModelLoadError, match="cut short or damaged"):
            _ = TensorFolder(tmp_path).kinds


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))
    with pytest.raises(ModelLoadError, match="out of its own folder"):
        _ = TensorFolder(tmp_path).file_of
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(ModelLoadError, match="damaged"):
        _ = TensorFolder(tmp_path).file_of


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    def fail(name: str) -> Tensor:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_tensors(tmp_path / WEIGHTS, {"x": TensorKind(torch.float32, (2,))}, fail)
    assert list(tmp_path.iterdir()) == []


def test_same_bits_knows_nan_and_dtype() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, torch.tensor([float("nan"), -0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert not same_bits(torch.zeros(2), torch.zeros(2, 1))
