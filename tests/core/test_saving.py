"""`save_pretrained` while adapters are on: refused live, plain when merged, the class's own again afterwards."""

import copy
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import loralab as ll
from loralab.formats.quantized import quantize_base

TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(**settings: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **TINY, **settings)).eval()


def adapted(model: nn.Module, **spec: Any) -> ll.Adapter:
    adapter = ll.attach(model, ll.LoRA(rank=2, alpha=8, **spec))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(torch.arange(12).reshape(2, 6)).logits  # type: ignore[no-any-return]


def reloaded(kind: Any, folder: Path) -> PreTrainedModel:
    """As a stranger's program loads it: nothing missing, nothing left over."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()  # type: ignore[no-any-return]


def test_live_every_part_that_writes_itself_refuses_and_nothing_is_written(tmp_path: Path) -> None:
    model = llama()
    adapted(model)
    for part in (model, model.model, torch.compile(model, backend="eager")):
        with pytest.raises(ll.AdapterStateError, match=r"not merged \(default\).*loralab\.export_merged"):
            part.save_pretrained(tmp_path / "out")
    ll.activate(model, None)
    with pytest.raises(ll.AdapterStateError, match=r"not merged"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Retriever(PreTrainedModel):
    """A model of somebody's own around another."""

    config_class = LlamaConfig
    _supports_sdpa = True

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.encoder = LlamaForCausalLM(config)
        self.post_init()


@pytest.mark.parametrize("made_later", [False, True])
def test_a_model_around_the_one_with_the_adapter_refuses_too(made_later: bool, tmp_path: Path) -> None:
    whole = Retriever(llama(tie_word_embeddings=False).config)
    part = llama(tie_word_embeddings=False) if made_later else whole.encoder
    adapted(part)
    whole.encoder = part
    with pytest.raises(ll.AdapterStateError, match=r"a Retriever, a part of which has adapters.*\(default\)"):
        whole.save_pretrained(tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))
    state = whole.state_dict()  # a training's own checkpoint
    whole.load_state_dict(state)
    ll.merge(part)
    whole.save_pretrained(tmp_path / "out")
    again = reloaded(Retriever, tmp_path / "out")
    assert torch.equal(logits(again.encoder), logits(part))  # type: ignore[arg-type]
    ll.unmerge(part)
    ll.detach(part)
    whole.save_pretrained(tmp_path / "base")


SAVED: list[tuple[str, Any]] = [
    ("tied", lambda: llama(tie_word_embeddings=True)),
    ("bfloat16", lambda: LlamaForCausalLM._from_config(llama().config, dtype=torch.bfloat16).eval()),
    (
        "experts",
        lambda: MixtralForCausalLM(
            MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **TINY)
        ).eval(),
    ),
    ("head", lambda: BertForSequenceClassification(BertConfig(vocab_size=64, **TINY)).eval()),
]


@pytest.mark.parametrize(("name", "made"), SAVED, ids=[name for name, _ in SAVED])
def test_merged_it_writes_plain_tensors_and_what_is_reloaded_is_equal(name: str, made: Any, tmp_path: Path) -> None:
    model = made()
    keys = list(model.state_dict())
    adapter = adapted(model, **({"modules_to_save": ["classifier"]} if name == "head" else {}))
    base = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    ll.merge(model)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path / "out", max_shard_size="10KB")
    dtype = {"dtype": model.dtype} if name == "bfloat16" else {}
    again, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True, **dtype)
    assert not any(report.values()), report
    assert torch.equal(logits(again.eval()), logits(model))
    ll.unmerge(model)
    assert all(map(torch.equal, base, (*model.parameters(), *model.buffers())))
    assert list(adapter.state_dict())


def test_torch_and_safetensors_write_a_merged_model_under_plain_names(tmp_path: Path) -> None:
    model, plain = llama(tie_word_embeddings=True), llama(tie_word_embeddings=True)
    adapted(model)
    live = copy.deepcopy(model)
    ll.merge(model)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    safetensors.torch.load_model(plain, tmp_path / "model.safetensors")
    assert torch.equal(logits(plain), logits(model))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(logits(plain), logits(model))
    live.load_state_dict(live.state_dict())  # live: a training's own checkpoint goes into the same model again


def test_plain_tensors_go_into_the_base_of_an_adapted_model_and_leave_the_adapter(tmp_path: Path) -> None:
    model, other = llama(), llama()
    adapter = adapted(model)
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    model.load_state_dict(other.state_dict())
    with ll.disabled(model):
        assert torch.equal(logits(model), logits(other))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.state_dict().items())
    state = other.state_dict()
    del state["model.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(RuntimeError, match=r"Missing.*q_proj"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected.*q_proj\.base\.bias"):
        model.load_state_dict(other.state_dict() | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})


def test_only_a_part_without_adapters_writes_itself_while_they_are_live(tmp_path: Path) -> None:
    model = nn.ModuleDict({"seen": llama(), "read": llama()})
    adapted(model["read"])
    model["seen"].save_pretrained(tmp_path / "seen")
    assert torch.equal(logits(reloaded(LlamaForCausalLM, tmp_path / "seen")), logits(model["seen"]))


def test_a_merge_that_parts_tied_weights_is_refused_with_what_writes_them(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    adapted(model, targets=["lm_head"])
    ll.merge(model)
    with pytest.raises(ll.AdapterStateError, match=r"share a weight.*export_merged"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_inner_embeddings_leaves_the_outer_tied_head_as_it_was(tmp_path: Path) -> None:
    """The adapter is on the part without the head: merged, the embeddings change and the head does not."""
    whole = llama(tie_word_embeddings=True)
    adapted(whole.model, targets=["embed_tokens"])
    with pytest.raises(ll.AdapterStateError, match=r"a part of which has adapters"):
        whole.save_pretrained(tmp_path / "live")
    live = logits(whole)
    ll.merge(whole.model)
    assert not torch.equal(whole.lm_head.weight, whole.model.embed_tokens.weight)
    whole.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(reloaded(LlamaForCausalLM, tmp_path / "merged")), live)


def test_a_quantised_base_is_refused_even_where_the_adapter_merges(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TINY | {"hidden_size": 64}, vocab_size=64, num_key_value_heads=2)).eval()
    quantize_base(model, "nf4")
    adapted(model, targets=["lm_head"])
    ll.merge(model)
    with pytest.raises(ll.AdapterStateError, match="quantised"):
        model.save_pretrained(tmp_path / "out")


def test_the_guard_goes_along_into_copies_and_pickles_and_leaves_with_the_last_adapter(tmp_path: Path) -> None:
    model = llama()
    method, signature = type(model).save_pretrained, inspect.signature(model.save_pretrained)
    adapted(model)
    ll.attach(model, ll.LoRA(rank=1, targets=["o_proj"]), name="other")
    assert inspect.signature(model.save_pretrained) == signature
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        with pytest.raises(ll.AdapterStateError):
            twin.save_pretrained(tmp_path / "twin")
        ll.detach(twin)
        twin.save_pretrained(tmp_path / "twin")
    ll.detach(model, "other")
    with pytest.raises(ll.AdapterStateError):
        model.save_pretrained(tmp_path / "out")
    ll.detach(model)
    assert model.save_pretrained.__func__ is method
    assert type(model).save_pretrained is method


def test_kept_merged_tensors_are_an_ordinary_model(tmp_path: Path) -> None:
    model = llama()
    adapted(model)
    ll.merge(model)
    merged = logits(model)
    ll.detach(model, keep_merged=True)
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(reloaded(LlamaForCausalLM, tmp_path / "out")), merged)
