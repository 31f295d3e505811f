"""Adapter folders with any one value damaged: read as they say, or refused with the reason; the model untouched."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import adapters_on
from loralab.errors import LoralabError
from loralab.formats.convert import convert
from loralab.formats.inspect import inspect
from small_models import llama
from toys import TOYS, give_effect

Keys = tuple[str | int, ...]

WRONG: tuple[object, ...] = (None, -1, 1.5, "x", [], {"a": 1})
"""What is put in the place of a value; beside it, the value is taken out."""

ADAPTERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "lora on parts": (TOYS["attention"].build, lambda: ll.LoRA(rank=2, targets=["inner[q,v]"])),
    "vera": (TOYS["linear"].build, lambda: ll.VeRA(rank=4, targets=["inner"])),
    "multilora": (TOYS["linear"].build, lambda: ll.MultiLoRA(rank=2, modules=2, targets=["inner"])),
    "adapter layers": (lambda: llama(num_hidden_layers=1), lambda: ll.BottleneckAdapter(size=2)),
}


@pytest.fixture(params=ADAPTERS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, nn.Module]:
    """An adapter's folder, and its base."""
    build, spec = ADAPTERS[request.param]
    model = build()
    adapter = ll.attach(model, spec())
    give_effect(adapter)
    folder = ll.save(adapter, tmp_path / "whole")
    ll.detach(model)
    return folder, model


def places(content: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The keys that lead to each value of a JSON file; of a list's, to the first."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content[:1]):
        yield (*keys, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*keys, key))


def damaged(content: Any, keys: Keys) -> Iterator[Any]:
    """A file's content without one value, then with another thing in its place."""
    for wrong in ("taken out", *WRONG):
        copied = json.loads(json.dumps(content))
        parent = copied
        for key in keys[:-1]:
            parent = parent[key]
        if wrong == "taken out":
            del parent[keys[-1]]
        else:
            parent[keys[-1]] = wrong
        yield copied


def read_or_refused(folder: Path, model: nn.Module) -> None:
    """Loading, inspecting and converting raise nothing but errors of ours; the model is as it was afterwards."""
    before = dict(model.named_modules())
    target = folder.parent / "converted"
    with contextlib.suppress(LoralabError):
        ll.detach(model, ll.load(model, folder).name)
    assert dict(model.named_modules()) == before
    assert not adapters_on(model).adapters
    for read in (lambda: inspect(folder), lambda: convert(folder, target, "peft")):
        with contextlib.suppress(LoralabError):
            read()
    shutil.rmtree(target, ignore_errors=True)


@pytest.mark.parametrize("name", ["loralab.json", "adapter_config.json"])
def test_any_value_of_its_json(saved: tuple[Path, nn.Module], name: str) -> None:
    folder, model = saved
    content = json.loads((folder / name).read_text())
    for keys in places(content):
        for wrong in damaged(content, keys):
            (folder / name).write_text(json.dumps(wrong))
            read_or_refused(folder, model)


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "whole numbers": lambda t: t.long(),
    "longer": lambda t: torch.cat([t, t]),
    "of one dimension more": lambda t: t[None].clone(),
    "empty": lambda t: t.reshape(-1)[:0].clone(),
    "one number": lambda t: torch.tensor(1.0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_of_its_tensors(saved: tuple[Path, nn.Module], damage: str) -> None:
    folder, model = saved
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        save_file(tensors | {name: DAMAGES[damage](tensor)}, file, metadata={"format": "pt"})
        sign(folder)
        with pytest.raises(ll.AdapterFileError):
            ll.load(model, folder)
        read_or_refused(folder, model)


def sign(folder: Path) -> None:
    """Have loralab.json name the tensor file that is there."""
    path = folder / "loralab.json"
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tensors_sha256": digest}))
