"""`--resume auto` goes on where there is a run and begins one elsewhere; `--resume` alone stays an error there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import loralab as ll
from loralab.cli.verbs.train import VERB
from loralab.errors import SpecError
from loralab.training.command import train_command
from loralab.training.folder import without_auto
from pages import configuration

Configure = Callable[..., ll.TrainConfig]
COMMAND = ("loralab", "train", "--model", "m", "--task", "t", "--out", "o")


@pytest.mark.parametrize(
    ("flags", "meant"),
    [((), False), (("--resume",), True), (("--resume", "auto"), "auto"), (("--resume=auto",), "auto"),
     (("--no-resume",), False), (("--resume", "--seed", "1"), True)],
)  # fmt: skip
def test_the_flag_is_a_switch_with_a_value(flags: tuple[str, ...], meant: object) -> None:
    assert configuration([*COMMAND, *flags]).resume == meant


def test_other_values_are_refused() -> None:
    with pytest.raises(SpecError, match="true or false or one of auto, found 'perhaps'"):
        configuration([*COMMAND, "--resume", "perhaps"])
    assert "resume" in VERB.essentials


def test_one_command_begins_and_goes_on(configured: Configure) -> None:
    config = configured(steps=2, resume="auto", save_every=2)
    assert without_auto(config).resume is False
    assert ll.train(config).steps == 2
    assert without_auto(config).resume is True
    assert ll.train(replace(config, steps=4)).steps == 4
    assert "--resume auto" in train_command(config)


def test_auto_leaves_a_folder_alone_that_holds_something_else(configured: Configure) -> None:
    config = configured(steps=2, resume="auto")
    Path(config.out).mkdir()
    (Path(config.out) / "letter.txt").write_text("dear")
    with pytest.raises(ll.OutputError, match="is not empty"):
        ll.train(config)


def test_auto_and_overwrite_exclude_each_other(configured: Configure) -> None:
    with pytest.raises(SpecError, match="resume and overwrite"):
        ll.train(configured(resume="auto", overwrite=True))
