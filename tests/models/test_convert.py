"""GGUF to Hugging Face folder: a tiny file written here, and what SmolLM2 came out as."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import ModelLoadError
from loralab.models.convert import write_huggingface_folder
from loralab.models.embedded import EMBEDDED, _resource

HIDDEN, INNER = 32, 64


def byte_characters() -> list[str]:
    """The 256 characters that byte-level tokenizers write bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(moved))]


def write_gguf(file: Path, pre_tokenizer: str) -> None:
    """A Llama of one layer with random Q8_0 matrices and a byte-level tokenizer without merges."""
    random = np.random.default_rng(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters(), "ĠĠ"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN // 2, HIDDEN), "attn_v": (HIDDEN // 2, HIDDEN),
              "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
              "ffn_down": (HIDDEN, INNER)}  # fmt: skip
    for name, shape in {"token_embd": (len(tokens), HIDDEN)}.items() | {
        f"blk.0.{name}": shape for name, shape in shapes.items()
    }.items():
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quantize(random.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", "smollm")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_huggingface_folder(tmp_path / "tiny.gguf", folder)
    return folder


def dequantised(file: Path, name: str) -> torch.Tensor:
    (tensor,) = [tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == name]
    return torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))


def test_weights_are_the_files_rounded_once(converted: Path) -> None:
    written = load_file(converted / "model.safetensors")
    for name, key in (("blk.0.ffn_up", "model.layers.0.mlp.up_proj"), ("token_embd", "model.embed_tokens")):
        expected = dequantised(converted.parent / "tiny.gguf", f"{name}.weight").to(torch.bfloat16)
        assert written[f"{key}.weight"].equal(expected)
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_converting_is_silent_and_repeatable(
    converted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    capfd.readouterr()
    write_huggingface_folder(tmp_path / "tiny.gguf", again)
    assert capfd.readouterr() == ("", "")
    for file in converted.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_the_pre_tokenizer_is_the_one_that_the_file_names(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    assert tokenizer.pad_token != tokenizer.eos_token


def test_no_trace_of_the_quantised_file(converted: Path) -> None:
    config = (converted / "config.json").read_text()
    assert "gguf" not in config
    assert '"dtype": "bfloat16"' in config


def test_a_pre_tokenizer_that_is_not_known(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "gpt-2")
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf names the pre-tokenizer 'gpt-2', .*\(known: smollm\)"):
        write_huggingface_folder(tmp_path / "tiny.gguf", tmp_path)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(smollm2)
    return loaded


@pytest.fixture(scope="module")
def model(smollm2: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    return loaded


def test_digits_stand_alone_and_take_no_space(tokenizer: PreTrainedTokenizerBase) -> None:
    """As the published tokenizer has it; GPT-2's split alone would make "Ġ", "Ġ", "1" of the first."""
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("It's 3.14") == ["It", "'s", "Ġ", "3", ".", "1", "4"]


@pytest.mark.parametrize("text", ["def f(x):\n    return x + 1234  # naïve\n", "\tÜber 20 €, “yes”…  \n\n end"])
def test_text_comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("<|im_start|>user<|im_end|>").input_ids == [1, 4093, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.model_max_length == 8192


def test_the_chat_template_is_there(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_smollm2_weights_are_the_files(smollm2: Path) -> None:
    file = _resource("smollm2-135m", EMBEDDED["smollm2-135m"])
    written = load_file(smollm2 / "model.safetensors")
    expected = dequantised(file, "blk.7.ffn_down.weight").to(torch.bfloat16)
    assert written["model.layers.7.mlp.down_proj.weight"].equal(expected)
    assert sum(tensor.numel() for tensor in written.values()) == 134_515_008


def test_smollm2_speaks_english(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(written[0]) == "The capital of France is Paris."


def test_smollm2_expects_english(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    sentence = "The cat sat on the mat. Paris is the capital of France, and London is the capital of England."
    assert 2.0 < loss(sentence) < 3.2
    assert loss(" ".join(reversed(sentence.split()))) > loss(sentence) + 1.5
