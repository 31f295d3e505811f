"""The examples run and show what they claim."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_a_plain_vision_model_learns_unseen_digits_and_keeps_the_old_ones() -> None:
    specification = importlib.util.spec_from_file_location("digits", EXAMPLES / "digits.py")
    digits = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(digits)
    accuracy = digits.main()
    assert accuracy["before"] < 40
    assert accuracy["after"] > 90
    assert accuracy["kept"] > 90
