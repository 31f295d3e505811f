"""Adapter folders that an earlier loralab wrote load as they were meant and are written again byte for byte.

The folders beside this file were written at commit a40b0ba, from the root of the repository, by

    PYTHONPATH=src:tests python -c "from formats.test_old_folders import write; write()"

Nothing in them is left to chance, and weights are whole numbers of 1/64 or 1/1024, which every machine adds up alike.
`outputs.json` holds what each model said under its adapter, `kinds.json` the record of every kind of update.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.names import unwrapped
from loralab.core.updates.factors import Factors, Recipe
from loralab.core.updates.low_rank import BiasedLinear
from loralab.core.updates.update import WHOLE
from loralab.formats.record import ModuleRecord, describe
from loralab.methods.adamix_adapter import AdaMixAdapter
from toys import TOYS

FOLDERS = Path(__file__).parent / "folders"
FILES = ("adapter_config.json", "loralab.json", "adapter_model.safetensors")


class Words(nn.Module):
    """An embedding, a convolution, a fused projection and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.fused = nn.Linear(8, 24)
        self.narrow = nn.Linear(24, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        hidden: Tensor = self.head(self.narrow(torch.tanh(self.fused(x))))
        return hidden


def _llama() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=32, **sizes))


SPECS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "lora_dora": (
        Words,
        ll.LoRA(
            rank=2,
            alpha=4,
            targets=["embed", "conv", "fused[q,v]", "narrow"],
            rank_pattern={"narrow": 3},
            magnitude=True,
            bias="lora_only",
            modules_to_save=["head"],
        ),
    ),
    "vera": (Words, ll.VeRA(rank=4, targets=["fused", "narrow"], modules_to_save=["head"])),
    "own": (
        _llama,
        [
            ll.PrefixLayer(prefix=2, infix=1),
            ll.LoRA(rank=2, alpha=3, dropout=0.25, targets=["q_proj", "v_proj"], rank_stabilized=True),
        ],
    ),
}


def _model(case: str) -> nn.Module:
    model = SPECS[case][0]()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(_values(parameter, number, 64))
    return model.eval()


def _values(like: Tensor, number: int, unit: int) -> Tensor:
    return (((torch.arange(like.numel()) * 37 + number * 11) % 101 - 50) / unit).view(like.shape)


def _attached(model: nn.Module, spec: Any) -> Adapter:
    adapter = ll.attach(model, spec)
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters()):
            parameter.copy_(_values(parameter, number, 1024) + 3 / 32)
    return adapter


def _outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output = model(torch.tensor([[1, 5, 9, 2], [11, 0, 3, 3]]))
    return (output if isinstance(output, Tensor) else output.logits).flatten()


def _kinds() -> dict[str, ModuleRecord]:
    """A record of each kind of update, by a name for it."""
    cases = {name: (TOYS[name].build(), ll.LoRA(rank=2, targets=TOYS[name].targets)) for name in TOYS}
    llama: dict[str, Any] = {
        "tied": ll.TiedLoRA(targets=["q_proj"]),
        "alora": ll.LoRA(targets=["q_proj"], invocation_tokens=[3, 4]),
    }
    llama |= {"tokens": ll.LoRA(targets=["q_proj"], trainable_token_indices=[2, 5]), "full": ll.FullFineTune()}
    llama |= {"bottleneck": ll.BottleneckAdapter(style="houlsby", size=4), "mixed": AdaMixAdapter(size=4)}
    llama |= {"blocks": ll.PrefixLayer(prefix=1, infix=2), "magnitude": ll.LoRA(targets=["q_proj"], magnitude=True)}
    cases |= {name: (_llama(), spec) for name, spec in llama.items()}
    cases |= {name: (Words(), SPECS[name][1]) for name in ("lora_dora", "vera")}
    found = {}
    for name, (model, spec) in cases.items():
        for path, update in ll.attach(model, spec).updates.items():
            found[f"{name}: {path}"] = describe(update, unwrapped(model.get_submodule(path)))
    biased = BiasedLinear({WHOLE: Factors.drawn(Recipe(2), (2, 8), (4, 2), torch.device("cpu"))}, 4)
    return found | {"lora_bias": describe(biased, nn.Linear(8, 4, bias=False))}


def write() -> None:
    """Write everything anew: only where a new case is added."""
    outputs = {}
    for case, (_, spec) in SPECS.items():
        model = _model(case)
        ll.save(_attached(model, spec), FOLDERS / case, model=model, overwrite=True)
        outputs[case] = [round(value, 5) for value in _outputs(model).tolist()]
    (FOLDERS / "outputs.json").write_text(json.dumps(outputs) + "\n")
    kinds = {name: record.to_json() for name, record in _kinds().items()}
    (FOLDERS / "kinds.json").write_text(json.dumps(kinds) + "\n")


@pytest.mark.parametrize("case", SPECS)
def test_it_loads_as_it_was_meant(case: str) -> None:
    model = _model(case)
    ll.load(model, FOLDERS / case, name="old")
    expected = torch.tensor(json.loads((FOLDERS / "outputs.json").read_text())[case])
    assert torch.allclose(_outputs(model), expected, atol=2e-5, rtol=1e-5)
    ll.activate(model, None)
    assert not torch.allclose(_outputs(model), expected, atol=1e-2)


@pytest.mark.parametrize("case", SPECS)
def test_it_is_written_again_byte_for_byte(case: str, tmp_path: Path) -> None:
    loaded, made = _model(case), _model(case)
    ll.save(ll.load(loaded, FOLDERS / case), tmp_path / "loaded", model=loaded)
    ll.save(_attached(made, SPECS[case][1]), tmp_path / "made", model=made)
    for file in FILES:
        assert (tmp_path / "loaded" / file).read_bytes() == (FOLDERS / case / file).read_bytes(), file
        assert (tmp_path / "made" / file).read_bytes() == (FOLDERS / case / file).read_bytes(), file


def test_every_record_is_read_and_written_as_it_was() -> None:
    known = json.loads((FOLDERS / "kinds.json").read_text())
    for name, content in known.items():
        assert list(ModuleRecord.from_json(content).to_json().items()) == list(content.items()), name
    now = {name: record.to_json() for name, record in _kinds().items()}
    assert json.loads(json.dumps(now)) == known
    assert len({content["kind"] for content in known.values()}) >= 16
