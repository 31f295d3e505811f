import shutil
import sys
from pathlib import Path

import pytest

from loralab.errors import DataError, MissingDependencyError
from loralab.metrics.meteor import meteor

pytest.importorskip("pycocoevalcap.meteor.meteor", reason="pycocoevalcap is not installed")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program; there is no java here")


@needs_java
@pytest.mark.slow
def test_perfect_and_empty_outputs_and_those_with_line_breaks() -> None:
    assert meteor(["the cat sat on the mat", "a\nb"], [["the cat sat on the mat"], ["x", "a b"]]) == pytest.approx(100)
    assert meteor([""], [["the cat"]]) == 0.0
    assert 0 < meteor(["", "the cat sat"], [["a dog ran"], ["the cat sat"]]) < 100


@needs_java
@pytest.mark.slow
def test_blank_references_change_nothing_wherever_they_are() -> None:
    outputs, references = ["zzz", "", "the cat sat"], [["the dog"], ["a b c d"], ["the cats sat", "a cat"]]
    with_blanks = [["", "the dog", " "], ["", "a b c d"], ["the cats sat", "a cat", "\t", ""]]
    assert meteor(outputs, with_blanks) == meteor(outputs, references)
    assert meteor(["a"], [[""]]) == 0.0


@needs_java
@pytest.mark.slow
def test_accents_and_lone_surrogates() -> None:
    assert meteor(["café naïve"], [["café naïve"]]) == pytest.approx(100)
    assert meteor(["café \ud83d"], [["cafe x"]]) < 100


def test_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no java on the PATH; install a Java runtime"):
        meteor(["a"], [["a"]])


@pytest.mark.parametrize("script", ["echo no runtime >&2; exit 1", "echo no runtime", "echo no runtime >&2"])
def test_a_java_that_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"could not run METEOR.*no runtime"):
        meteor(["a"], [["a"]])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.meteor.meteor", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'loralab\[metrics\]'"):
        meteor(["a"], [["a"]])


def test_what_does_not_pair_up() -> None:
    with pytest.raises(DataError):
        meteor(["a"], [[]])
