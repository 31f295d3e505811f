"""`{tree}`: every module of the package with its docstring's first sentence, so that no list of files goes stale."""

import ast
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).resolve().parents[2] / "src" / "loralab"


class Tree(SphinxDirective):
    """The files below `src/loralab`, a nested list."""

    def run(self) -> list[nodes.Node]:
        for path in SOURCE.rglob("*.py"):
            self.env.note_dependency(str(path))
        return [_listed(SOURCE)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("tree", Tree)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _listed(folder: Path) -> nodes.bullet_list:
    items = [_item(f"{path.name}/", path / "__init__.py", _listed(path)) for path in _packages(folder)]
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    return nodes.bullet_list("", *items, *(_item(path.name, path) for path in files), classes=["tree"])


def _packages(folder: Path) -> Iterator[Path]:
    return (init.parent for init in sorted(folder.glob("*/__init__.py")))


def _item(name: str, described: Path, *below: nodes.Node) -> nodes.list_item:
    words = nodes.paragraph("", "", nodes.literal("", name), nodes.Text(f" {_first_sentence(described)}"))
    return nodes.list_item("", words, *below)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".").removesuffix(":")
