import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.errors import DataError, SpecError
from loralab.tasks.docstrings import CUE, first_sentence, open_docstrings, read_pairs, split_of


def test_about_3600_pairs_of_which_none_is_twice() -> None:
    pairs = read_pairs()
    assert 2500 < len(pairs) < 5000
    assert len({pair.sentence for pair in pairs}) == len({pair.code for pair in pairs}) == len(pairs)


def test_splits_have_all_pairs_and_share_no_module() -> None:
    task = open_docstrings(None)
    sizes = {split: len(task.examples(split)) for split in task.splits}
    assert sum(sizes.values()) == len(read_pairs())
    assert sizes["train"] > 2000
    assert min(sizes.values()) > 100


def test_the_first_few_are_of_many_modules() -> None:
    module = {pair.sentence: pair.module for pair in read_pairs()}
    first = open_docstrings(None).examples("test", 30)
    assert len({module[example.target.strip()] for example in first}) >= 6


def test_prompts_are_functions_without_their_docstring() -> None:
    for example in open_docstrings(None).examples("test", 50):
        code = example.prompt.removesuffix(CUE)
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(function) is None
        assert example.target.strip() not in code
        assert example.target.startswith(" ")


def test_known_pair() -> None:
    (pair,) = [pair for pair in read_pairs() if pair.code.startswith("def heapify(")]
    assert pair.module == "heapq"
    assert pair.sentence == "Transform list into a heap, in-place, in O(len(x)) time."


def test_the_split_does_not_depend_on_the_process() -> None:
    program = "from loralab.tasks.docstrings import split_of; print(split_of('asyncio'), split_of('mailbox'))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [split_of("asyncio"), split_of("mailbox")] == ["train", "test"]


@pytest.mark.parametrize(
    "docstring, sentence",
    [
        ("Return it. Then stop.", "Return it."),
        ("Wrap a\n    text.\n\nMore.", "Wrap a text."),
        ("Use e.g. Python. No more", "Use e.g. Python."),
        ("No full stop\n\nSecond", "No full stop"),
        ("Version 3.11 of it", "Version 3.11 of it"),
    ],
)
def test_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def test_a_library_without_sources_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only 0 documented functions"):
        read_pairs(tmp_path)


def test_a_path_is_refused() -> None:
    with pytest.raises(SpecError, match="leave out --data"):
        open_docstrings("somewhere")
