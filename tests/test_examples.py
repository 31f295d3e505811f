"""The examples run offline and show what they claim, as their readers see it: in what they print."""

import re
import runpy
from pathlib import Path

import pytest

from loralab.methods.table import METHODS

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ROUNDING = 1e-3
"""How far logits of one function may differ between two ways to compute it, in float32."""

Printed = pytest.CaptureFixture[str]


def shown_by(name: str, printed: Printed) -> str:
    """What an example prints when it is run as a script."""
    printed.readouterr()
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.readouterr().out


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of a pattern, in the one place where it is found."""
    found = re.search(pattern, text)
    assert found, text
    return [float(each) for each in found.groups()]


def test_a_plain_vision_model_learns_unseen_digits_and_keeps_the_old_ones(capsys: Printed) -> None:
    shown = shown_by("digits.py", capsys)
    before, after = numbers(r"digits 5–9: ([\d.]+)% before, ([\d.]+)% with the adapter", shown)
    (kept,) = numbers(r"digits 0–4 with the adapter disabled: ([\d.]+)%", shown)
    assert before < 40
    assert after > 90
    assert kept > 90


def test_a_method_of_ones_own_trains_and_is_the_same_saved_loaded_and_merged(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METHODS, "gated", raising=False)  # which the example adds, and this takes out again
    shown = shown_by("add_a_method.py", capsys)
    before, after = numbers(r"digits on their side: ([\d.]+)% before, ([\d.]+)% after", shown)
    assert before < 40
    assert after > 80
    gates = [[float(each) for each in line.split()] for line in re.findall(r"\.gates((?:  [\d.]+)+)", shown)]
    assert [len(layer) for layer in gates] == [8, 8]
    assert all(layer[0] > layer[-1] > 0 for layer in gates)
    assert max(numbers(r"loaded as GatedLoRA: the same logits within (\S+)", shown)) < ROUNDING
    assert max(numbers(r"merged into 2 weights: the same logits within (\S+)", shown)) < ROUNDING


@pytest.mark.usefixtures("smollm2")
def test_two_adapters_and_the_base_answer_in_one_batch_as_each_alone(capsys: Printed) -> None:
    shown = shown_by("two_adapters_one_batch.py", capsys)
    assert "pirate: Ahoy Sophie, ye old sea dog!\n" in shown
    assert "butler: Good evening, Sophie. Shall I serve the tea?\n" in shown
    base = re.search(r"^base: (.*)$", shown, re.MULTILINE)
    assert base
    assert "Ahoy" not in base[1]
    assert "Good evening" not in base[1]
    differences = [float(each) for each in re.findall(r"differ by at most (\S+)", shown)]
    assert len(differences) == 3
    assert max(differences) < ROUNDING


@pytest.mark.usefixtures("smollm2")
def test_a_jsonl_file_teaches_its_form(capsys: Printed) -> None:
    shown = shown_by("train_on_your_jsonl.py", capsys)
    first, last = numbers(r"the loss went from ([\d.]+) to ([\d.]+)", shown)
    assert last < first / 10
    answers = re.findall(r"the \w+ was (\w+): '(\w+)', before '(.*)'", shown)
    assert {adjective: verdict for adjective, verdict, _ in answers} == {
        "fantastic": "good",
        "dreadful": "bad",
        "delightful": "good",
        "filthy": "bad",
    }
    assert not {"good", "bad"} & {before for _, _, before in answers}


@pytest.mark.usefixtures("smollm2")
def test_what_is_merged_is_the_same_reopened_and_by_hand(capsys: Printed) -> None:
    shown = shown_by("merge_and_verify.py", capsys)
    assert "the merged model: The capital of Atlantis is Poseidonis." in shown
    assert max(numbers(r"60 weights merged; its logits are the live adapter's within (\S+)", shown)) < ROUNDING
    assert max(numbers(r"transformers alone; its logits are the merged ones within (\S+)", shown)) < ROUNDING
    assert max(numbers(r"60 weights by hand .* the written ones within (\S+)", shown)) < ROUNDING
