"""Files as PEFT itself writes them: its quirks are known, its recorded outputs reproduced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import loralab as ll

PREFIX = "base_model.model."


def written(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """A PEFT folder with these tensors (names without the prefix) and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({PREFIX + name: t.contiguous() for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["inner"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def model_of(**children: nn.Module) -> nn.Module:
    return nn.ModuleDict(children).eval()


def pair(name: str, out: int, inputs: int, rank: int = 2) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": torch.randn(rank, inputs), f"{name}.lora_B.weight": torch.randn(out, rank)}


def delta(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


@pytest.mark.parametrize("targets", [["inner.weight"], r"inner\.weight"])
def test_a_target_by_the_name_of_its_weight_is_the_module(tmp_path: Path, targets: object) -> None:
    model, tensors = model_of(inner=nn.Linear(8, 4)), pair("inner", 4, 8)
    x = torch.randn(3, 8)
    expected = model.inner(x) + 3 * x @ delta(tensors, "inner").T
    adapter = ll.load(model, written(tmp_path / "a", tensors, target_modules=targets))
    torch.testing.assert_close(model.inner(x), expected)
    assert not any("does not have" in note for note in adapter.notes)


# -- attention: one pair for q, k and v, and the output's update added twice ---------------------------------------


@pytest.mark.parametrize(("version", "times"), [(None, 2), ("0.21.2", 2), ("0.15.0.dev0@abc", 2), ("0.22.0", 1)])
def test_attention_as_the_peft_that_wrote_it_computes_it(tmp_path: Path, version: str | None, times: int) -> None:
    model = model_of(inner=nn.MultiheadAttention(8, 2, batch_first=True))
    tensors = pair("inner", 24, 8) | pair("inner.base_layer.out_proj", 8, 8)
    adapter = ll.load(model, written(tmp_path / "a", tensors, peft_version=version))
    assert any("one A for q, k and v" in note for note in adapter.notes)
    before = {name: tensor.clone() for name, tensor in unadapted(model, "inner").items()}
    ll.merge(model)
    after = unadapted(model, "inner")
    moved = {name: after[name] - before[name] for name in before}
    torch.testing.assert_close(moved["in_proj_weight"], 3 * delta(tensors, "inner"), atol=1e-5, rtol=1e-5)
    expected = times * 3 * delta(tensors, "inner.base_layer.out_proj")
    torch.testing.assert_close(moved["out_proj.weight"], expected, atol=1e-5, rtol=1e-5)


def unadapted(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The tensors that the base module under an adapted layer holds now."""
    return {key: value.detach() for key, value in model[name].base.state_dict().items()}


# -- convolutions ---------------------------------------------------------------------------------------------------


def test_a_dense_grouped_convolution_runs_but_is_not_merged(tmp_path: Path) -> None:
    model = model_of(inner=nn.Conv1d(8, 4, 3, groups=2, padding=1))
    tensors = {"inner.lora_A.weight": torch.randn(4, 8, 3), "inner.lora_B.weight": torch.randn(4, 2, 1)}
    x = torch.randn(1, 8, 5)
    base = model["inner"](x)
    ll.load(model, written(tmp_path / "a", tensors, r=4))
    u = nn.functional.conv1d(x, tensors["inner.lora_A.weight"], padding=1)
    expected = base + 1.5 * nn.functional.conv1d(u, tensors["inner.lora_B.weight"], groups=2)
    torch.testing.assert_close(model["inner"](x), expected, atol=1e-5, rtol=1e-5)
    again = ll.save(ll.load(model, tmp_path / "a", "again"), tmp_path / "b")
    saved = load_file(again / "adapter_model.safetensors")
    assert {name.removeprefix(PREFIX): tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    with pytest.raises(ll.AdapterStateError, match="keep the adapter live"):
        ll.merge(model)


def test_a_blocked_grouped_convolution_can_be_merged(tmp_path: Path) -> None:
    model = model_of(inner=nn.Conv1d(8, 4, 3, groups=2, padding=1))
    A = torch.zeros(4, 8, 3)
    A[:2, :4], A[2:, 4:] = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    tensors = {"inner.lora_A.weight": A, "inner.lora_B.weight": torch.randn(4, 2, 1)}
    ll.load(model, written(tmp_path / "a", tensors, r=4, use_rslora=True))
    x = torch.randn(1, 8, 5)
    live = model["inner"](x)
    ll.merge(model)
    torch.testing.assert_close(model["inner"](x), live, atol=1e-5, rtol=1e-5)


def test_a_rank_that_does_not_divide_by_the_groups_is_refused(tmp_path: Path) -> None:
    model = model_of(inner=nn.Conv1d(8, 4, 3, groups=2))
    with pytest.raises(ll.AdapterFileError, match="does not divide by its 2 groups"):
        ll.load(model, written(tmp_path / "a", pair("inner", 4, 8), r=3))


# -- which modules ------------------------------------------------------------------------------------------------


def blocks() -> nn.Module:
    layer: Callable[[], nn.Module] = lambda: nn.ModuleDict({"up": nn.Linear(4, 4), "down": nn.Linear(4, 4)})  # noqa: E731
    return model_of(body=nn.ModuleDict({"layers": nn.ModuleList([layer(), layer()])}), up=nn.Linear(4, 4))


TARGETS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ending": ({"target_modules": ["down"]}, ["body.layers.0.down", "body.layers.1.down"]),
    "path": ({"target_modules": ["body.layers.1.up"]}, ["body.layers.1.up"]),
    "expression": ({"target_modules": r".*\.0\.(up|down)"}, ["body.layers.0.up", "body.layers.0.down"]),
    "layers": ({"target_modules": ["down"], "layers_to_transform": [1]}, ["body.layers.1.down"]),
    "one layer of a pattern": (
        {"target_modules": ["down"], "layers_to_transform": 0, "layers_pattern": "layers"},
        ["body.layers.0.down"],
    ),
    "exclude a list": ({"target_modules": ["down"], "exclude_modules": ["0.down"]}, ["body.layers.1.down"]),
    "exclude an expression": ({"target_modules": ["up"], "exclude_modules": "body.*"}, ["up"]),
    "all but what is saved": ({"target_modules": "all-linear", "modules_to_save": ["0.up", "0.down", "1.up"]},
                              ["body.layers.1.down", "up"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_targets_as_peft_matches_them(tmp_path: Path, case: str) -> None:
    config, expected = TARGETS[case]
    model = blocks()
    tensors = {key: tensor for path in expected for key, tensor in pair(path, 4, 4).items()}
    for path, module in model.named_modules():
        if any(path.endswith(name) for name in config.get("modules_to_save", [])):
            tensors |= {f"{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    assert ll.load(model, written(tmp_path / "a", tensors, **config)).matched == expected


def test_rank_and_alpha_patterns(tmp_path: Path) -> None:
    tensors = pair("body.layers.0.up", 4, 4) | pair("body.layers.1.up", 4, 4, rank=3) | pair("up", 4, 4)
    config = {"target_modules": ["up"], "rank_pattern": {"layers.1.up": 3}, "alpha_pattern": {"^up": 1}}
    adapter = ll.load(blocks(), written(tmp_path / "a", tensors, **config))
    scales = [update.factors_of("weight").recipe.scale for update in adapter.updates.values()]
    assert scales == [3.0, 2.0, 0.5]


def test_two_parameters_of_a_module_are_nested(tmp_path: Path) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 4, 6))

    model = model_of(inner=Experts())
    first, second = pair("inner.base_layer", 6, 4, rank=6), pair("inner", 4, 6, rank=6)
    config = {"target_modules": None, "target_parameters": ["inner.first", "inner.second"]}
    ll.load(model, written(tmp_path / "a", first | second, **config))
    before = {name: tensor.clone() for name, tensor in unadapted(model, "inner").items()}
    ll.merge(model)
    for name, tensors, stem in (("first", first, "inner.base_layer"), ("second", second, "inner")):
        A = tensors[f"{stem}.lora_A.weight"].reshape(3, 2, -1)
        B = tensors[f"{stem}.lora_B.weight"].reshape(-1, 2, 3)
        expected = before[name] + 3 * torch.einsum("ore,eri->eoi", B, A)
        torch.testing.assert_close(unadapted(model, "inner")[name], expected, atol=1e-5, rtol=1e-5)


# -- tensors that PEFT writes beside the adapter's -----------------------------------------------------------------


def test_doubles_of_a_saved_modules_bias_are_left_out(tmp_path: Path) -> None:
    model = model_of(inner=nn.Linear(4, 4), head=nn.Linear(4, 2))
    head = {"head.weight": torch.randn(2, 4), "head.bias": torch.randn(2)}
    doubles = {"head.original_module.bias": torch.zeros(2), "head.modules_to_save.bias": head["head.bias"].clone()}
    tensors = pair("inner", 4, 4) | head | doubles | {"inner.base_layer.bias": torch.randn(4)}
    adapter = ll.load(model, written(tmp_path / "a", tensors, bias="all", modules_to_save=["head"]))
    torch.testing.assert_close(adapter.state_dict()["head.bias"], head["head.bias"])


def test_a_module_without_tensors_that_is_to_be_saved_is_left_out(tmp_path: Path) -> None:
    model = model_of(inner=nn.Linear(4, 4), act=nn.ReLU())
    folder = written(tmp_path / "a", pair("inner", 4, 4), modules_to_save=["act"])
    assert ll.load(model, folder).matched == list(ll.load(model, folder, "again").updates) == ["inner"]


def llama(vocabulary: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def embedding(rank: int = 2) -> dict[str, Tensor]:
    return {
        "model.embed_tokens.lora_embedding_A": torch.randn(rank, 16),
        "model.embed_tokens.lora_embedding_B": torch.randn(8, rank),
    }


def test_a_copy_of_the_bases_embedding_is_left_out_and_another_refused(tmp_path: Path) -> None:
    model = llama()
    copy = {"model.embed_tokens.base_layer.weight": model.model.embed_tokens.weight.detach().clone()}
    config = {"target_modules": ["embed_tokens"]}
    assert ll.load(model, written(tmp_path / "a", embedding() | copy, **config)).matched == ["model.embed_tokens"]
    copy["model.embed_tokens.base_layer.weight"] += 1
    with pytest.raises(ll.AdapterFileError, match=r"a copy of the base's model\.embed_tokens"):
        ll.load(llama(), written(tmp_path / "b", embedding() | copy, **config))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_copy_of_the_bases_embedding_is_one(tmp_path: Path, dtype: torch.dtype) -> None:
    model = llama()
    copy = {"model.embed_tokens.base_layer.weight": model.model.embed_tokens.weight.detach().to(dtype)}
    ll.load(model, written(tmp_path / "a", embedding() | copy, target_modules=["embed_tokens"]))


def test_a_copy_of_the_bias_of_a_head_is_left_out_and_another_refused(tmp_path: Path) -> None:
    model = llama()
    model.lm_head = nn.Linear(8, 16)
    copy = {f"lm_head.base_layer.{name}": each.detach().clone() for name, each in model.lm_head.named_parameters()}
    folder = written(tmp_path / "a", pair("lm_head", 16, 8) | copy, target_modules=["lm_head"])
    assert list(ll.load(model, folder).state_dict()) == ["lm_head.lora_A", "lm_head.lora_B"]
    copy["lm_head.base_layer.bias"] += 1
    ll.detach(model)
    with pytest.raises(ll.AdapterFileError, match=r"a copy of the base's lm_head\.bias"):
        ll.load(model, written(tmp_path / "b", pair("lm_head", 16, 8) | copy, target_modules=["lm_head"]))


def test_an_embedding_that_was_resized_and_trained_replaces_the_bases(tmp_path: Path) -> None:
    model = llama()
    weight = torch.randn(16, 8)
    tensors = pair("model.layers.0.self_attn.q_proj", 8, 8) | {"model.embed_tokens.weight": weight}
    adapter = ll.load(model, written(tmp_path / "a", tensors, target_modules=["q_proj"]))
    assert any("holds model.embed_tokens in full" in note for note in adapter.notes)
    assert torch.equal(model.model.embed_tokens(torch.arange(16)), weight)
    with pytest.raises(ll.AdapterFileError, match=r"embed_tokens\.weight has shape \[16, 8\], not \[20, 8\]"):
        ll.load(llama(20), tmp_path / "a")


def test_an_embedding_that_shortens_its_rows_runs_live_and_is_not_merged(tmp_path: Path) -> None:
    model = model_of(inner=nn.Embedding(6, 4, max_norm=0.5))
    tensors = {"inner.lora_embedding_A": torch.randn(2, 6), "inner.lora_embedding_B": torch.randn(4, 2)}
    i = torch.arange(6)
    expected = model.inner(i) + 3 * (tensors["inner.lora_embedding_B"] @ tensors["inner.lora_embedding_A"]).T
    ll.load(model, written(tmp_path / "a", tensors))
    torch.testing.assert_close(model.inner(i), expected)
    with pytest.raises(ll.AdapterStateError, match="max_norm"):
        ll.merge(model)


# -- the fixtures of PEFT's own regression tests ----------------------------------------------------------------------


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin0, self.lin1 = nn.Linear(10, 20), nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin1(self.lin0(x.float()).relu()).log_softmax(-1)


class EmbeddingAndConv1D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv1d, self.lin0 = nn.Embedding(100, 5), Conv1D(1, 5), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin0(self.conv1d(self.emb(x)).relu().flatten(1)).log_softmax(-1)


@pytest.mark.parametrize(
    ("case", "build"),
    [("lora_mlp", MLP), ("lora_mlp_modules_to_save", MLP), ("lora_emb_conv1d", EmbeddingAndConv1D)],
)
def test_recorded_outputs_of_peft_0_6(shared_data: Path, case: str, build: Callable[[], nn.Module]) -> None:
    folder = shared_data / "adapters" / "peft_regression" / case / "0.6.1"
    torch.manual_seed(0)
    model = build()
    if case == "lora_mlp_modules_to_save":
        nn.init.zeros_(model.get_parameter("lin1.weight"))
    adapter = ll.load(model, folder)
    assert (adapter.name, len(adapter.matched)) == ("0.6.1", 2 if "emb" in case else 1)
    expected = torch.load(folder / "output.pt", map_location="cpu", weights_only=True)
    torch.testing.assert_close(model(torch.arange(90).reshape(9, 10)), expected, atol=1e-5, rtol=1e-5)
