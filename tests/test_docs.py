"""What the README and the documentation say is so: generated parts, Python and paths.

`test_figures.py` holds the figures; `make docs` checks the links within the documentation.
"""

import doctest
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import loralab as ll
from loralab.methods.table import METHOD_NAMES, METHODS, method_name
from pages import DOCS, blocks, broken_links, commands, configuration
from small_models import llama
from tiny import write_llama

REPOSITORY = DOCS.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])
WITH_COMMANDS = [REPOSITORY / "README.md", *sorted(DOCS.glob("guide/*.md")), *sorted(DOCS.glob("start/*.md"))]
GUIDES_THAT_RUN = ("attach", "several-adapters", "merge-and-export")


def _named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# -- generated ------------------------------------------------------------------------------------------------


def test_what_is_generated_is_up_to_date(generate: ModuleType) -> None:
    assert not generate.stale(), "run python docs/generate.py"


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_python_of_a_method_is_that_method(name: str) -> None:
    names: dict[str, Any] = {"ll": ll}
    exec(f"written = {METHODS[name].python}", names)
    written = names["written"]
    assert method_name({"type": type(written).__name__} | vars(written)) == name


def test_every_public_name_is_documented() -> None:
    """Errors have a page of their own, which `test_doc_reference.py` holds."""
    errors = {name for name in dir(ll) if name.endswith("Error")}
    described = set(
        re.findall(r"auto(?:function|class|exception):: (\w+)", (DOCS / "reference" / "api.md").read_text())
    )
    assert described - errors == {name for name in ll.__all__ if not name.startswith("__")} - errors


def test_every_package_is_explained(generate: ModuleType) -> None:
    text = (DOCS / "internals" / "architecture.md").read_text()
    assert not [name for level in generate.levels() for name in level if f"`{name}`" not in text]


# -- Python ---------------------------------------------------------------------------------------------------


def test_the_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = blocks((REPOSITORY / "README.md").read_text(), "python")[0]
    test = doctest.DocTestParser().get_doctest(source, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 10
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


ON_A_TINY_MODEL = {
    '"smollm2-135m"': repr("base"),
    "60 modules, 230,400 parameters": "4 modules, 896 parameters",
    "(60, True)": "(4, True)",
}


@pytest.mark.parametrize("changes", [ON_A_TINY_MODEL, pytest.param({}, marks=pytest.mark.slow)], ids=["tiny", "whole"])
def test_the_python_of_the_tour(
    changes: dict[str, str], smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama(Path("base"))
    (source,) = blocks((DOCS / "start" / "first-adapter.md").read_text(), "pycon")
    for written, other in changes.items():
        assert written in source
        source = source.replace(written, other)
    test = doctest.DocTestParser().get_doctest(source, {}, "first-adapter.md", "first-adapter.md", 0)
    assert len(test.examples) >= 10
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
    assert "## Scores" in Path("out/first/README.md").read_text()


def test_the_python_of_the_package_itself() -> None:
    test = doctest.DocTestParser().get_doctest(ll.__doc__, {}, "loralab", "loralab", 0)
    assert len(test.examples) >= 10
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize("guide", GUIDES_THAT_RUN)
def test_the_python_of_a_guide(guide: str, tmp_path: Path) -> None:
    names = {"ll": ll, "model": llama(), "tokens": torch.randint(9, (3, 6)), "folder": tmp_path / "adapter"}
    for block in blocks((DOCS / "guide" / f"{guide}.md").read_text(), "python"):
        exec(block, names)


# -- command lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_named)
def test_command_lines_are_understood(page: Path) -> None:
    for words in commands(page.read_text()):
        if "--config" not in words and words != ["loralab", "demo"]:
            configuration(words)


# -- paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_the_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    paths = set(re.findall(r"(?<![\w/.-])(?:[\w-]+/)+[\w-]+\.py\b", text)) | set(
        re.findall(r"\bsrc/loralab[\w/.]*\w", text)
    )
    modules = {name for name in re.findall(r"(?<![\w/.-])loralab(?:\.[a-z]\w*)+", text) if name != "loralab.json"}
    missing = [path for path in paths if not any((root / path).exists() for root in _roots(page))]
    missing += [name for name in modules if not _is_module(name)]
    assert not missing, f"{_named(page)} names {sorted(missing)}"


def _roots(page: Path) -> list[Path]:
    return [REPOSITORY, REPOSITORY / "src" / "loralab", page.parent]


def _is_module(dotted: str) -> bool:
    file = REPOSITORY.joinpath("src", *dotted.split("."))
    return file.is_dir() or file.with_suffix(".py").is_file()


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")), ids=_named)
def test_the_links_of_the_readme_and_its_neighbours(page: Path) -> None:
    assert broken_links(page) == []
