"""Configuration and tensors of a folder tell one story, or the error says both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loralab as ll
from loralab.formats.peft.config import parse_config
from toys import give_effect


def blocks() -> nn.Module:
    torch.manual_seed(0)

    def block() -> nn.Module:
        return nn.ModuleDict({"up": nn.Linear(4, 4), "down": nn.Linear(4, 4)})

    return nn.ModuleDict({"body": nn.ModuleList([block(), block()]), "up": nn.Linear(4, 4), "head": nn.Linear(4, 2)})


def saved(folder: Path, with_model: bool = True, **fields: Any) -> Path:
    model = blocks()
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "targets": ["down"]} | fields))
    give_effect(adapter)
    return ll.save(adapter, folder, model=model if with_model else None)


def edit(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"target_modules": ["nothing"]}, r"'nothing'.*does not name body\.0\.down"),
    "an expression that is nothing": ({"target_modules": "nothing"}, r"'nothing'.*does not name body\.0\.down"),
    "another module": ({"target_modules": ["body.0.up"]}, r"names body\.0\.up, of which the file has no factors"),
    "one of two": ({"target_modules": ["body.0.down"]}, r"does not name body\.1\.down"),
    "more than there is": ({"target_modules": ["down", "body.0.up"]}, r"names body\.0\.up"),
    "excluded": ({"exclude_modules": ["0.down"]}, r"does not name body\.0\.down"),
    "another layer": ({"layers_to_transform": [0], "layers_pattern": "body"}, r"does not name body\.1\.down"),
    "a parameter": ({"target_parameters": ["head.weight"]}, r"names head\.weight, of which"),
    "a head that is not there": ({"modules_to_save": ["head"]}, r"names head, which the file does not hold"),
    "a rank": ({"rank_pattern": {"0.down": 3}}, r"body\.0\.down\.lora_A\.weight has shape \[2, 4\], not \[3, 4\]"),
    "an alpha": ({"alpha_pattern": {"1.down": 3}}, r"disagree about body\.1\.down"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_configuration_that_was_edited_is_refused_and_both_stories_told(tmp_path: Path, case: str) -> None:
    changes, told = EDITS[case]
    with pytest.raises(ll.AdapterFileError, match=told):
        ll.load(blocks(), edit(saved(tmp_path), **changes))


def test_a_head_that_the_configuration_forgot_is_refused(tmp_path: Path) -> None:
    folder = edit(saved(tmp_path, modules_to_save=["head"]), modules_to_save=None)
    with pytest.raises(ll.AdapterFileError, match="does not name head, which the file holds in full"):
        ll.load(blocks(), folder)


def test_biases_that_the_configuration_forgot_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ll.AdapterFileError, match=r"bias 'none' is not for body\.\d\.down\.bias"):
        ll.load(blocks(), edit(saved(tmp_path, bias="lora_only"), bias="none"))


@pytest.mark.parametrize("targets", [["nothing"], "nothing", ["body.7.down"]])
def test_without_a_record_of_ours_too(tmp_path: Path, targets: object) -> None:
    folder = edit(saved(tmp_path), target_modules=targets)
    (folder / "loralab.json").unlink()
    with pytest.raises(ll.AdapterFileError, match=r"(nothing|body\.7\.down).*the tensors are of body\.0\.down"):
        ll.load(blocks(), folder)


@pytest.mark.parametrize("rewritten", [["body.0.down", "body.1.down"], r"body\.\d\.down", r".*\.down"])
def test_the_same_story_in_other_words_is_taken(tmp_path: Path, rewritten: object) -> None:
    assert ll.load(blocks(), edit(saved(tmp_path), target_modules=rewritten)).matched == ["body.0.down", "body.1.down"]


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("fields", [{"targets": ["^up$"]}, {"bias": "all"}, {"modules_to_save": ["head", "up"]}])
def test_whatever_we_save_tells_one_story(tmp_path: Path, fields: dict[str, Any], with_model: bool) -> None:
    """Also where a whole path (`up`) is the ending of others and no model was there to see it."""
    assert ll.load(blocks(), saved(tmp_path, with_model, **fields)).matched


def test_an_empty_layers_pattern_is_none_at_all() -> None:
    content = {"peft_type": "LORA", "r": 2, "target_modules": ["down"], "layers_to_transform": [0]}
    assert parse_config(content | {"layers_pattern": ""}, "a") == parse_config(content, "a")
