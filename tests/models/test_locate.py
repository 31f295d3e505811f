"""From a model's name to where it is, and what is said when it is nowhere."""

from pathlib import Path

import pytest

from loralab.errors import ModelLoadError, NotFoundError
from loralab.models.embedded import EMBEDDED, published_name
from loralab.models.locate import locate, stand_in


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert locate(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "FacebookAI/roberta-base"])
def test_a_hub_id_is_itself(name: str) -> None:
    assert locate(name) == name


@pytest.mark.parametrize("name", ["./nothing", "/nowhere/at/all", "a/b/c", "with space"])
def test_a_path_to_nothing_lists_the_embedded_models(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"no such folder; give an embedded model \(smollm2-135m, minilm-l6\)"):
        locate(name)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"not a Hugging Face model folder: it has no config\.json"):
        locate(str(tmp_path))


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="holds an adapter, not a model"):
        locate(str(tmp_path))


@pytest.mark.parametrize("tensors", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_model_with_an_adapter_in_its_folder(tmp_path: Path, tensors: str) -> None:
    for name in ("config.json", "model-00001-of-00002.safetensors", "adapter_config.json", tensors):
        (tmp_path / name).write_text("{}")
    both = r"whole model \(config\.json, model-00001-of-00002\.safetensors\) and an adapter \(adapter_config\.json, "
    with pytest.raises(ModelLoadError, match=both + tensors):
        locate(str(tmp_path))


def test_an_adapter_with_its_models_config_is_still_an_adapter(tmp_path: Path) -> None:
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelLoadError, match="holds an adapter, not a model"):
        locate(str(tmp_path))


def test_a_folder_with_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin, a pickle, .* save_pretrained"):
        locate(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"has no weights: no \*\.safetensors"):
        locate(str(tmp_path))


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelLoadError, match="is a file"):
        locate(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_id_of_an_embedded_model_is_that_model_without_a_network_and_it_is_said(name: str) -> None:
    origin = EMBEDDED[name].origin
    assert published_name(name) == origin
    assert locate(origin) == locate(name)
    assert [name in note for note in stand_in(origin, locate(origin))] == [True]
    assert stand_in(name, locate(name)) == []


def test_the_id_of_an_embedded_model_is_itself_where_it_was_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As huggingface_hub lays out its cache."""
    origin = EMBEDDED["minilm-l6"].origin
    repo = tmp_path / f"models--{origin.replace('/', '--')}"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc" / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate(origin) == origin
