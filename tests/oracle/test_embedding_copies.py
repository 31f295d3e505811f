"""PEFT's copy of the base's own embedding beside the factors of one that it adapts is no tensor trained in full."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import examine
from loralab.formats.gguf import read_gguf
from loralab.formats.inspect import inspect
from oracle.case import assert_same, keys, output, peft_model
from oracle.peft_warnings import silenced
from small_models import NO_ENDS, SIZES

pytestmark = silenced
EMBEDDINGS = {"lm_head": "output.weight", "model.embed_tokens": "token_embd.weight"}
every_embedding = pytest.mark.parametrize("path", EMBEDDINGS)


def theirs(folder: Path, path: str) -> tuple[nn.Module, nn.Module]:
    """(the base, PEFT's model), both saved: an adapter on `q_proj` and the embedding at the path."""
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=False, **NO_ENDS)).eval()
    base.save_pretrained(folder / "base")
    model = peft_model(base, target_modules=["q_proj", path.rpartition(".")[2]])
    model.save_pretrained(folder / "a")
    assert f"base_model.model.{path}.base_layer.weight" in load_file(folder / "a" / "adapter_model.safetensors")
    return base, model


@every_embedding
def test_it_goes_to_gguf(tmp_path: Path, path: str) -> None:
    _, model = theirs(tmp_path, path)
    done = convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "base"))
    assert done.tensors == len(keys(tmp_path / "a"))
    read, layer = read_gguf(tmp_path / "a.gguf"), model.base_model.model.get_submodule(path)
    A, B = read.pairs[EMBEDDINGS[path]]
    expected = layer.get_delta_weight("default")
    change = B @ A if path == "lm_head" else A @ B.T  # llama.cpp looks an embedding's rows up in A
    torch.testing.assert_close(read.alpha / 2 * change, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


@every_embedding
def test_it_goes_to_loralib_and_back_into_the_model(tmp_path: Path, path: str) -> None:
    base, model = theirs(tmp_path, path)
    assert convert(tmp_path / "a", tmp_path / "a.safetensors", to="loralib").lossless
    x = {"input_ids": torch.arange(3, 9).view(1, 6)}
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path / "a.safetensors")
    assert_same(output(ours, x), output(model, x), unlike=output(base, x))


@every_embedding
def test_nothing_is_said_to_be_in_full(tmp_path: Path, path: str) -> None:
    theirs(tmp_path, path)
    said = [*inspect(tmp_path / "a").notes, *(each.what for each in examine(tmp_path / "a").findings)]
    assert not [each for each in said if "full" in each]
