"""Files of others are read safely, and damaged ones are named."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loralab.errors import AdapterFileError, NotFoundError
from loralab.files.tensors import read_tensors, write_tensors

TENSORS = {"a.lora_A": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.metadata == {"format": "pt"}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    """safetensors itself writes two entries of metadata in either order."""
    tensors, metadata = {"ä": torch.ones(3), "b": torch.zeros(2, dtype=torch.int64)}, {"alpha": "16", "z": "π"}
    for number in range(8):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    read = read_tensors(tmp_path / "0.safetensors")
    assert read.metadata == {"format": "pt", **metadata}
    assert {name: values.tolist() for name, values in read.tensors.items()} == {"ä": [1, 1, 1], "b": [0, 0]}


def test_no_header_length_is_taken_for_a_pickle(tmp_path: Path) -> None:
    path, heads = tmp_path / "x.safetensors", set()
    for length in range(512, 1536, 8):  # the file begins with the header's length: 0x80 0x02 is one of these
        save_file({"x": torch.zeros(1)}, path, metadata={"pad": "y" * length})
        heads.add(path.read_bytes()[:2])
        read_tensors(path)
    assert b"\x80\x02" in heads


@pytest.mark.parametrize("old_format", [True, False])
def test_a_pickled_state_dict(tmp_path: Path, old_format: bool) -> None:
    torch.save(OrderedDict(TENSORS), tmp_path / "x.bin", _use_new_zipfile_serialization=not old_format)
    found = read_tensors(tmp_path / "x.bin").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("old_format", [True, False])
def test_a_pickle_called_safetensors_is_refused(tmp_path: Path, old_format: bool) -> None:
    torch.save(TENSORS, tmp_path / "x.safetensors", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(AdapterFileError, match="called safetensors but is a pickle"):
        read_tensors(tmp_path / "x.safetensors")


class Touch:
    """An object whose pickle, when it is loaded by an unguarded reader, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": Touch(tmp_path / "was-here")}, tmp_path / "x.bin")
    with pytest.raises(AdapterFileError, match="holds more than tensors"):
        read_tensors(tmp_path / "x.bin")
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("content", [{"a": 1}, {"a": {"b": torch.ones(1)}}, [torch.ones(1)]])
def test_other_content_than_tensors_by_name_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(AdapterFileError, match="should hold tensors by name"):
        read_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_every_truncation_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    save_file(TENSORS, path) if suffix == "safetensors" else torch.save(TENSORS, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterFileError, match=r"truncated or damaged|cannot be read safely"):
            read_tensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"x\.bin"):
        read_tensors(tmp_path / "x.bin")


EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_numbers_of_eight_bits_are_widened(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    values = torch.tensor([[0.5, -2.0], [1.75, 0.0]])
    tensors = {"a": values.to(dtype), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.arange(3)}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
    found = read_tensors(tmp_path / name).tensors
    assert found["a"].dtype == torch.float32
    assert torch.equal(found["a"], values)
    assert (found["b"].dtype, found["c"].dtype) == (torch.bfloat16, torch.int64)


def test_several_numbers_in_a_byte_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, tmp_path / "x.bin")
    with pytest.raises(AdapterFileError, match="float4_e2m1fn_x2 in a: several numbers in a byte"):
        read_tensors(tmp_path / "x.bin")
