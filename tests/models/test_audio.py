"""Models of sound are refused by name, and no other is taken for one."""

import json
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from loralab.errors import ModelLoadError
from loralab.models.audio import is_of_sound
from loralab.models.load import config_of_type, load_model, model_from_config

SOUND = ["whisper", "speech_to_text", "wav2vec2", "hubert", "wavlm", "speecht5", "moonshine", "vits", "encodec", "dia"]
OTHERS = ["llama", "gpt2", "bert", "t5", "bart", "vit", "qwen3", "mamba", "deberta-v2", "marian", "gemma3_text", "opt"]


@pytest.mark.parametrize("model_type", SOUND)
@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq-lm", "sequence-classification"])
def test_a_model_of_sound_is_refused_by_name(model_type: str, kind: str) -> None:
    with pytest.raises(ModelLoadError, match=f"type '{model_type}'. hears or makes sound"):
        model_from_config("heard", config_of_type(model_type, {}), kind)


@pytest.mark.parametrize("kind", ["causal-lm", "generation"])
def test_a_folder_with_whispers_config(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="hears or makes sound"):
        load_model(str(tmp_path), kind=kind)


@pytest.mark.parametrize("model_type", OTHERS)
def test_no_other_model_is_taken_for_one(model_type: str) -> None:
    assert not is_of_sound(CONFIG_MAPPING[model_type]())


@pytest.mark.parametrize("model_type", ["clap", "musicgen", "qwen2_audio", "voxtral", "seamless_m4t", "moshi"])
def test_those_that_also_read(model_type: str) -> None:
    assert is_of_sound(CONFIG_MAPPING[model_type]())
