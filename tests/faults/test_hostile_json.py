"""Configurations that two readers would read differently, or that no reader should: refused with the reason."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import loralab as ll
from loralab.formats.convert import convert
from toys import TOYS, give_effect

Edit = Callable[[dict[str, object]], str]


def changed(**settings: object) -> Edit:
    return lambda content: json.dumps(content | settings)


HOSTILE: dict[str, tuple[Edit, str]] = {
    "a key twice": (lambda content: json.dumps(content)[:-1] + ', "lora_alpha": 64}', "'lora_alpha' is there twice"),
    "a key twice, deep": (lambda content: json.dumps(content)[:-1] + ', "x": {"a": 1, "a": 2}}', "'a' is"),
    "deep": (lambda content: '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nests deeper"),
    "half a character": (changed(task_type="\ud800"), "surrogates"),
    "half a character as a key": (changed(**{"\udfff": 1}), "surrogates"),
    "a number of 5000 digits": (lambda content: '{"r": ' + "9" * 5000 + "}", "digits"),
    "a rank that no tensor has": (changed(r=10**30), "not a whole number from 1"),
    "a rank beyond what a tensor has": (changed(rank_pattern={"inner": 2**31}), "not a whole number from 1"),
    "an alpha that is no float": (changed(lora_alpha=10**400), "not a finite number"),
    "an alpha in words": (changed(lora_alpha="4"), "not a finite number"),
    "an infinite alpha": (changed(lora_alpha=float("inf")), "no number"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A sound adapter, and its base."""
    model = TOYS["linear"].build()
    base = copy.deepcopy(model)
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=4, targets=["inner"]))
    give_effect(adapter)
    return ll.save(adapter, tmp_path_factory.mktemp("ours") / "adapter"), base


@pytest.mark.parametrize("with_sidecar", [True, False], ids=["ours", "PEFT's"])
@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_with_the_reason(
    ours: tuple[Path, nn.Module], tmp_path: Path, what: str, with_sidecar: bool
) -> None:
    edit, reason = HOSTILE[what]
    folder = Path(shutil.copytree(ours[0], tmp_path / "adapter"))
    config = folder / "adapter_config.json"
    config.write_text(edit(json.loads(config.read_text())))
    if not with_sidecar:
        (folder / "loralab.json").unlink()
    for use in (lambda: ll.load(ours[1], folder), lambda: convert(folder, tmp_path / "out", "peft")):
        with pytest.raises(ll.AdapterFileError, match=reason):
            use()
    assert not (tmp_path / "out").exists()
