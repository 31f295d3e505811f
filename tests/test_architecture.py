"""The shape of the source: imports point one way, files and functions stay small, the core stays pure."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import loralab
from loralab.extras import APART, EXTRAS

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src"
FILES = sorted((SOURCE / "loralab").rglob("*.py"))

# Bottom to top. A package may import from groups below its own, never from its own group.
GROUPS = [
    {"errors", "progress", "version"},
    {"extras"},
    {"files", "machine", "metrics", "nn", "processes"},
    {"pictures"},
    {"core", "models", "tasks"},
    {"serving/engine"},
    {"generation", "methods"},
    {"formats", "planning", "evaluation"},
    {"training", "analysis", "serving"},
    {"experiments"},
    {"cli"},
    {"__main__"},
]
LEVEL = {package: level for level, group in enumerate(GROUPS) for package in group}
PUBLIC_PAGE = SOURCE / "loralab" / "__init__.py"
STUB = PUBLIC_PAGE.with_suffix(".pyi")
FOLDERS = sorted({path.parent for path in FILES})
SHOWING = SOURCE / "loralab" / "cli" / "showing.py"
SERVER = SOURCE / "loralab" / "serving" / "http"
AUTO_CLASSES_ALLOWED_IN = SOURCE / "loralab" / "models" / "load.py"
LONGEST_FILE, LONGEST_FUNCTION, FULLEST_FOLDER, LARGEST_FAMILY = 600, 80, 24, 2
MOST_IMPORTS_IN_FORMATS = 110
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def packages_of(requirements: Iterable[str]) -> set[str]:
    """The names of requirements, without their bounds."""
    return {re.split(r"[<>=\[~! ]", each)[0] for each in requirements}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in the tree; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imports_for_types(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The imports that the type checker alone sees: those under `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from imports_of(node)


def lazy_modules(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, module, extra) of every `lazy(module, extra)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy":
            module, extra = (ast.literal_eval(each) for each in node.args)
            yield node.lineno, module, extra


def package_of(path: Path) -> str:
    """`core` for src/loralab/core/layer.py, `errors` for src/loralab/errors.py; a folder that has a level has its name
    in full: `serving/engine`."""
    return package_in([part.removesuffix(".py") for part in path.relative_to(SOURCE / "loralab").parts])


def package_in(parts: list[str]) -> str:
    inner = "/".join(parts[:2])
    return inner if inner in LEVEL else parts[0]


def is_width(node: ast.Name) -> bool:
    """Whether a name is given the width of a page: `WIDTH = 80`."""
    return node.id == "WIDTH" and isinstance(node.ctx, ast.Store)


def module_file(dotted: str) -> Path | None:
    """The source file of an imported dotted name: the module itself, or the module that it is a name of."""
    for candidate in (dotted, dotted.rpartition(".")[0]):
        base = SOURCE.joinpath(*candidate.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def named(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_down(path: Path) -> None:
    if path == PUBLIC_PAGE:
        return
    own = package_of(path)
    assert own in LEVEL, f"{own} has no place in GROUPS"
    for line, dotted in imports_of(tree_of(path)):
        if dotted.split(".")[0] != "loralab":
            continue
        other = package_in([*dotted.split("."), ""][1:])
        allowed = other == own or (other in LEVEL and LEVEL[other] < LEVEL[own])
        assert allowed, f"{named(path)}:{line}: {own} must not import {dotted}"


def test_the_public_page_is_the_stub() -> None:
    """Every line of it is a plain re-export that the package can follow."""
    for statement in tree_of(STUB).body[1:]:
        assert isinstance(statement, ast.ImportFrom), f"line {statement.lineno}: more than a re-export"
        module = import_module(str(statement.module))
        for alias in statement.names:
            assert alias.asname == alias.name, f"line {statement.lineno}: {alias.name} is not exported as itself"
            assert getattr(loralab, alias.name) is getattr(module, alias.name)
            assert alias.name in loralab.__all__


def test_no_cycles() -> None:
    graph = {
        path: {found for _, dotted in imports_of(tree_of(path)) if (found := module_file(dotted)) and found != path}
        for path in FILES
        if path != PUBLIC_PAGE
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " → ".join(named(path) for path in error.args[1]))


@pytest.mark.parametrize("path", [path for path in FILES if path != PUBLIC_PAGE], ids=named)
def test_imports_at_the_top(path: Path) -> None:
    if package_of(path) == "cli":
        return
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [f"{named(path)}:{line}: {dotted}" for node in functions for line, dotted in imports_of(node)]
    assert not inside, "\n".join(inside)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_auto_classes_in_one_file(path: Path) -> None:
    if path == AUTO_CLASSES_ALLOWED_IN:
        return
    found = [
        f"{line}: {name}" for line, name in imports_of(tree_of(path)) if re.match(r"transformers\..*\bAuto[A-Z]", name)
    ]
    attributes = [
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    found += [
        f"{node.lineno}: {node.attr}"
        for node in attributes
        if node.value.id == "transformers" and node.attr.startswith("Auto")
    ]
    assert not found, f"{named(path)}: Auto classes belong in models/load.py: {found}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_sizes(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{named(path)} has {lines} lines"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{named(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_no_folder_is_a_pile(folder: Path) -> None:
    files = sorted(folder.glob("*.py"))
    assert len(files) <= FULLEST_FOLDER, f"{named(folder)} holds {len(files)} files: make a folder of some of them"


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_a_family_of_files_is_a_folder(folder: Path) -> None:
    families: dict[str, list[str]] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        families.setdefault(path.stem.partition("_")[0], []).append(path.name)
    large = [members for members in families.values() if len(members) > LARGEST_FAMILY]
    assert not large, f"{named(folder)}: folders instead of prefixes for {large}"


@pytest.mark.parametrize("path", [path for path in FILES if package_of(path) == "analysis"], ids=named)
def test_analyses_do_not_meet(path: Path) -> None:
    """Those of adapters, those of layers and the report of both know nothing of each other."""
    own = path.relative_to(SOURCE).parts[:3]
    for line, dotted in imports_of(tree_of(path)):
        parts = tuple(dotted.split("."))[:3]
        foreign = parts[:2] == ("loralab", "analysis") and parts != own
        assert not foreign, f"{named(path)}:{line}: {'/'.join(own)} must not import {dotted}"


def test_one_word_is_one_thing() -> None:
    """Two classes of one name are two things that a reader takes for one."""
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(f"{named(path)}:{node.lineno}")
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(places)}" for name, places in twice.items())


def test_formats_have_few_doors() -> None:
    """What is read together lives together: the imports between the files of formats do not grow back."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES if package_of(path) == "formats")
    imports = re.findall(r"^from loralab\.formats", text, re.MULTILINE)
    assert len(imports) <= MOST_IMPORTS_IN_FORMATS, f"{len(imports)} imports of formats in formats"


def test_long_lists_are_cut_in_one_place() -> None:
    """`a, b and 4 more` is written by errors.py's `listed` and `some`."""
    found = [named(path) for path in FILES if re.search(r'and \{len\([^}]*\} more"', path.read_text(encoding="utf-8"))]
    assert found == ["loralab/errors.py"]


def test_one_way_to_show() -> None:
    """The command line prints through one file, which knows rich and how wide a page is."""
    for path in FILES:
        if package_of(path) != "cli" or path == SHOWING:
            continue
        tree = tree_of(path)
        rich = [f"{named(path)}:{line}" for line, dotted in imports_of(tree) if dotted.split(".")[0] == "rich"]
        assert not rich, f"{rich}: print through {named(SHOWING)}"
        widths = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and is_width(node)]
        assert not widths, f"{named(path)}:{widths}: the width of a page is in {named(SHOWING)}"


@pytest.mark.parametrize("path", [path for path in FILES if package_of(path) in ("core", "nn")], ids=named)
def test_core_knows_only_torch(path: Path) -> None:
    for line, dotted in imports_of(tree_of(path)):
        root = dotted.split(".")[0]
        known = root == "torch" or root in sys.stdlib_module_names
        own = dotted.startswith(("loralab.core.", "loralab.nn.", "loralab.errors."))
        assert known or own, f"{named(path)}:{line}: the core must not import {dotted}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{named(path)} has no docstring"
    if path.name == "__init__.py" and path != PUBLIC_PAGE:
        assert len(tree.body) == 1, f"{named(path)} holds more than a docstring"
    assert path.stem not in {"utils", "util", "common", "misc", "helpers", "helper"}, "name the concept"


def test_extras_are_those_of_pyproject() -> None:
    declared = {name: packages_of(PROJECT["optional-dependencies"][name]) for name in EXTRAS}
    assert declared == {name: set(packages.values()) for name, packages in EXTRAS.items()}
    assert PROJECT["optional-dependencies"]["all"] == [f"loralab[{','.join(sorted(EXTRAS.keys() - set(APART)))}]"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_are_declared(path: Path) -> None:
    """What is always installed is imported; a package of an extra stands in for itself (`extras.lazy`) until used, but
    where a whole folder is of the extra."""
    tree, declared = tree_of(path), packages_of(PROJECT["dependencies"])
    of_folder = {*EXTRAS["serve"], "pydantic", "starlette"} if path.parent == SERVER else set()  # fastapi brings both
    declared = declared | of_folder
    optional = {module for packages in EXTRAS.values() for module in packages} - of_folder
    for line, dotted in set(imports_of(tree)) - set(imports_for_types(tree)):
        root = dotted.split(".")[0]
        assert root not in optional, f"{named(path)}:{line}: {root} is not always installed: use extras.lazy"
        if root != "loralab" and root not in sys.stdlib_module_names:
            assert root in declared, f"{named(path)}:{line}: {root} is not in pyproject.toml"
    for line, module, extra in lazy_modules(tree):
        assert not EXTRAS[extra].keys().isdisjoint(module.split(".")), (
            f"{named(path)}:{line}: {module} is not in {extra}"
        )
