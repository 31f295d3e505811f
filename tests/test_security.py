"""What could run somebody's file is imported nowhere, and what reads a pickle reads tensors alone: SECURITY.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")])
EXAMPLES = sorted([*(REPOSITORY / "examples").rglob("*.py"), *(REPOSITORY / "runs").rglob("*.py")])
RUNS_FILES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
ONLY_THE_NAME_OF_AN_ERROR = {("pickle", "UnpicklingError")}
CALLS = {"eval", "exec", "__import__"}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of all imports, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (((node.module or "").partition(".")[0], alias.name) for alias in node.names)


def is_true(node: ast.Call, argument: str) -> bool:
    value = next((each.value for each in node.keywords if each.arg == argument), None)
    return isinstance(value, ast.Constant) and value.value is True


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(`torch.load`, the call) of all that are called by a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def faults(source: str) -> list[str]:
    """What a source does that could run a file."""
    tree = ast.parse(source)
    found = [
        f"imports {module}"
        for module, name in imported(tree)
        if module in RUNS_FILES and (module, name) not in ONLY_THE_NAME_OF_AN_ERROR
    ]
    for name, call in calls(tree):
        if name in CALLS or name.endswith(("os.system", "os.popen")):
            found.append(f"calls {name}")
        if name == "torch.load" and not is_true(call, "weights_only"):
            found.append("torch.load without weights_only")
        if any(each.arg == "trust_remote_code" and is_true(call, "trust_remote_code") for each in call.keywords):
            found.append("trust_remote_code")
        if any(each.arg == "shell" and is_true(call, "shell") for each in call.keywords):
            found.append("a shell")
        if any(each.arg == "allow_pickle" and is_true(call, "allow_pickle") for each in call.keywords):
            found.append("numpy's pickles")
    return found


@pytest.mark.parametrize("path", [*SOURCES, *EXAMPLES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_could_run_a_file_is_imported_nowhere(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load(x)", "torch.load(x, weights_only=False)",
        "def f():\n    import marshal", "eval(x)", "a.from_pretrained(b, trust_remote_code=True)",
        "import os\nos.system(x)",
        "import dill as d", "numpy.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "__import__(x)",
    ],
)  # fmt: skip
def test_it_is_found(source: str) -> None:
    assert faults(source)


def test_what_is_harmless_is_not() -> None:
    assert not faults("from pickle import UnpicklingError\ntorch.load(x, weights_only=True)\nmodel.eval()\nimport json")
