"""Folders that PEFT 0.3 to 0.21 wrote, each with its own code: they load, and compute what that PEFT computed.

`peft_versions/write.py` wrote them.
"""

import json
from pathlib import Path

import pytest
import torch

import loralab as ll
from formats.peft_versions.base import TOKENS, base
from loralab.formats.convert import convert
from toys import quiet

HERE = Path(__file__).resolve().parent / "peft_versions"
FOLDERS = sorted(path.parent for path in HERE.rglob("outputs.json"))


def test_every_version_is_there() -> None:
    minor = {int(path.parent.name.split(".")[1]) for path in FOLDERS}
    assert minor == set(range(3, 22))


def lost_its_biases(folder: Path) -> bool:
    """PEFT 0.7 to 0.20 trains biases under `lora_only` and does not save them."""
    return folder.name == "expression" and 7 <= int(folder.parent.name.split(".")[1]) <= 20


LOST = [folder for folder in FOLDERS if lost_its_biases(folder)]


@pytest.mark.parametrize("folder", LOST, ids=lambda path: path.parent.name)
def test_what_that_peft_did_not_save_is_said(folder: Path) -> None:
    with pytest.raises(ll.AdapterFileError, match=r"first\.base_layer\.bias is missing"):
        ll.load(base(), folder, name="theirs")


WHOLE = [folder for folder in FOLDERS if folder not in LOST]


@pytest.mark.parametrize("folder", WHOLE, ids=lambda path: str(path.relative_to(HERE)))
def test_it_computes_what_that_peft_computed(folder: Path, tmp_path: Path) -> None:
    wanted = torch.tensor(json.loads((folder / "outputs.json").read_text()))
    model = base()
    ll.load(model, folder, name="theirs")
    torch.testing.assert_close(quiet(model, TOKENS), wanted, rtol=1e-5, atol=1e-6)
    ll.merge(model)
    torch.testing.assert_close(quiet(model, TOKENS), wanted, rtol=1e-5, atol=1e-5)
    convert(folder, tmp_path / "again", "peft")
    again = base()
    ll.load(again, tmp_path / "again")
    torch.testing.assert_close(quiet(again, TOKENS), wanted, rtol=1e-5, atol=1e-6)
    assert float((wanted - quiet(base(), TOKENS)).abs().max()) > 1e-2, "an adapter that does nothing proves nothing"
