"""The notebooks run from the first cell to the last, without a warning, and still say what they are committed with.

A cell tagged `varies` shows what other processors or releases may make otherwise: it must run, and no more. A figure is
there and small; what it shows is not compared.
"""

import base64
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

pytestmark = pytest.mark.examples

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "examples" / "notebooks"
NAMES = ("first_adapter", "what_did_it_learn")
FRACTION = re.compile(r"\d+\.\d+")
LARGEST_FIGURE = 60_000
"""Bytes."""
WARNINGS = "error,default::PendingDeprecationWarning"
"""The exception is ipykernel's, as it shuts down."""


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_says_what_is_committed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    fresh = nbformat.from_dict(committed)
    _use_this_checkout(monkeypatch, tmp_path)
    place = _tree(tmp_path) / "examples" / "notebooks"
    client = NotebookClient(
        fresh, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(place)}}, coalesce_streams=True
    )
    client.execute()
    for before, after in zip(_code(committed), _code(fresh), strict=True):
        assert _figures(after) == _figures(before), after.source
        if "varies" not in before.metadata.get("tags", []):
            assert _words(after) == _words(before)
            assert _numbers(after) == pytest.approx(_numbers(before), rel=0.02, abs=0.002)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_whole_small_and_of_no_machine(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in _code(notebook)] == list(range(1, len(_code(notebook)) + 1))
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not re.findall(r"/(?:home|root|tmp|work|Users)\b", "".join(map(_text, _code(notebook))))
    figures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert figures
    assert max(len(base64.b64decode(figure)) for figure in figures) < LARGEST_FIGURE


def _use_this_checkout(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """For the kernel and the commands that it starts: this source, this Python, warnings as errors, no user's files."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    monkeypatch.setenv("PYTHONWARNINGS", WARNINGS)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(folder / "jupyter"))


def _tree(folder: Path) -> Path:
    """As much of the repository as the notebooks see from where they lie; they write beside it."""
    (folder / "examples" / "notebooks").mkdir(parents=True)
    (folder / "adapters").symlink_to(REPOSITORY / "adapters")
    return folder


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(cell: NotebookNode) -> str:
    """What a cell prints, on either stream, and the value of its last line."""
    said = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(said)


def _words(cell: NotebookNode) -> list[str]:
    """The text without the lines of tables, wherever a line is broken, and with its fractions left open."""
    return FRACTION.sub("#", re.sub("[─-╿]", " ", _text(cell))).split()


def _numbers(cell: NotebookNode) -> list[float]:
    """Its fractions, whose last digits are another processor's."""
    return [float(each) for each in FRACTION.findall(_text(cell))]


def _figures(cell: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)
