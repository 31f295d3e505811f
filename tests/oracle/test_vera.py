"""VeRA against PEFT's own: files of both sides, the same projections from the same seed, and what is refused."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import Adapter
from loralab.core.attach import put
from loralab.core.names import modules_by_path
from loralab.core.plan import Plan
from loralab.files.names import CONFIG_NAME
from loralab.files.tensors import write_tensors
from loralab.formats.fingerprint import fingerprint
from loralab.formats.peft.vera import VERA_TYPE, has_vera, parse_vera, vera_from_peft, vera_to_peft, why_not_peft_vera
from loralab.formats.read import vera_spec
from loralab.formats.record import describe
from loralab.formats.sidecar import PEFT_LAYOUT, Sidecar, method_to_json
from oracle.case import TENSORS, assert_same, output
from oracle.model_cases import bert, gpt2, llama, roberta, tokens
from oracle.peft_warnings import silenced
from toys import give_effect

pytestmark = [
    *silenced,
    pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A and vera_B:UserWarning"),
]
Tensors = dict[str, Tensor]
NOISE = 0.5
"""Large, since the two vectors are multiplied."""


@dataclass(frozen=True)
class VeraCase:
    """A model, and the same adapter as fields of ll.VeRA and of VeraConfig."""

    build: Callable[[], nn.Module]
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]


def same(build: Callable[[], nn.Module], targets: Sequence[str], **theirs: Any) -> VeraCase:
    """The same target names on both sides."""
    return VeraCase(build, {"targets": targets}, {"target_modules": list(targets), **theirs})


HEAD = {"task_type": "SEQ_CLS"}
CASES: dict[str, VeraCase] = {
    "llama, q and v of different heights": same(llama, ["q_proj", "v_proj"]),
    "llama, all kinds of dense layers": same(llama, ["q_proj", "v_proj", "up_proj", "down_proj"]),
    "llama, output head": same(llama, ["q_proj", "lm_head"]),
    "llama, one block": VeraCase(
        llama,
        {"targets": ["down_proj", "v_proj"], "layers": [1]},
        {"target_modules": ["down_proj", "v_proj"], "layers_to_transform": [1]},
    ),
    "llama, expression": VeraCase(
        llama, {"targets": r".*\.0\.mlp\.(up|down)_proj"}, {"target_modules": r".*\.0\.mlp\.(up|down)_proj"}
    ),
    "llama, all-linear": VeraCase(llama, {"targets": "all-linear"}, {"target_modules": "all-linear"}),
    "gpt2, Conv1D": same(gpt2, ["c_attn", "mlp.c_proj"], fan_in_fan_out=True),
    "bert, with its head": same(bert, ["query", "value"], **HEAD),
    "roberta, with its head of two layers": same(roberta, ["query", "attention.output.dense"], **HEAD),
    "roberta, biases of adapted layers": VeraCase(
        roberta,
        {"targets": ["query"], "bias": "lora_only"},
        {"target_modules": ["query"], "bias": "vera_only", **HEAD},
    ),
    "roberta, all biases": VeraCase(
        roberta, {"targets": ["query"], "bias": "all"}, {"target_modules": ["query"], "bias": "all", **HEAD}
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@dataclass
class Saved:
    """A base, a model with an adapter that has an effect on it, and the folder that it was saved into."""

    base: nn.Module
    model: nn.Module
    folder: Path
    x: Tensors = field(default_factory=tokens)

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / CONFIG_NAME).read_text(encoding="utf-8"))
        return content

    @property
    def tensors(self) -> Tensors:
        return load_file(self.folder / TENSORS)


def with_noise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=NOISE)


def theirs_saved(case: VeraCase, folder: Path, dtype: torch.dtype = torch.float32, **fields: Any) -> Saved:
    base = case.build().to(dtype).eval()
    model = get_peft_model(copy.deepcopy(base), VeraConfig(**{"r": 6, **copy.deepcopy(dict(case.theirs)), **fields}))
    with_noise(model.eval())
    model.save_pretrained(folder)
    return Saved(base, model, folder)


def write(adapter: Adapter, base: nn.Module, folder: Path) -> dict[str, Any]:
    """Into a folder as PEFT has it; adapter_config.json's content."""
    bases = {path: modules_by_path(base)[path] for path in adapter.updates}
    assert why_not_peft_vera(adapter.updates, bases) == []
    assert adapter.shared is not None
    content, tensors = vera_to_peft(adapter.updates, adapter.shared, bases, adapter.spec, base)
    folder.mkdir()
    (folder / CONFIG_NAME).write_text(json.dumps(content), encoding="utf-8")
    write_tensors(folder / TENSORS, tensors)
    return content


def ours_saved(case: VeraCase, folder: Path, **fields: Any) -> Saved:
    base = case.build().eval()
    model = copy.deepcopy(base)
    adapter = ll.attach(model, ll.VeRA(**{"rank": 6, **case.ours, **fields}))
    give_effect(adapter, NOISE)
    write(adapter, base, folder)
    return Saved(base, model, folder)


def read(saved: Saved, **changes: Any) -> tuple[nn.Module, Adapter]:
    """(the base with the adapter from the folder on it, the adapter)."""
    content, model = saved.content | changes, copy.deepcopy(saved.base)
    assert content["peft_type"] == VERA_TYPE
    updates, shared, notes = vera_from_peft(model, parse_vera(content), saved.tensors)
    plan = Plan(updates, tuple(notes), (), shared)
    return model.eval(), put(model, plan, vera_spec(parse_vera(content)), "default")


def refusal(saved: Saved, tensors: Mapping[str, Tensor], **changes: Any) -> str:
    with pytest.raises(ll.AdapterFileError) as caught:
        vera_from_peft(saved.base, parse_vera(saved.content | changes), tensors)
    return str(caught.value)


# -- what one side saved, the other computes ---------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("projections_saved", [True, False])
def test_we_compute_what_peft_saved(tmp_path: Path, case: VeraCase, projections_saved: bool) -> None:
    saved = theirs_saved(case, tmp_path / "theirs", save_projection=projections_saved, projection_prng_key=5)
    assert ("base_model.vera_A" in saved.tensors) is projections_saved
    ours, adapter = read(saved)
    assert_same(output(ours, saved.x), output(saved.model, saved.x), unlike=output(saved.base, saved.x))
    assert any("projection_prng_key 5" in note for note in adapter.notes) is not projections_saved
    ll.merge(ours)
    assert_same(output(ours, saved.x), output(saved.model, saved.x), unlike=output(saved.base, saved.x))


@every_case
def test_peft_computes_what_we_saved(tmp_path: Path, case: VeraCase) -> None:
    saved = ours_saved(case, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(copy.deepcopy(saved.base), saved.folder).eval()
    live = output(saved.model, saved.x)
    assert_same(output(theirs, saved.x), live, unlike=output(saved.base, saved.x))
    theirs.save_pretrained(tmp_path / "theirs")
    again = Saved(saved.base, theirs, tmp_path / "theirs")
    names = {name for name in again.tensors if not name.endswith(".base_layer.weight")} - doubles(again.tensors)
    assert names == set(saved.tensors)
    assert all(torch.equal(again.tensors[name], saved.tensors[name]) for name in names)


def doubles(tensors: Tensors) -> set[str]:
    """With bias="all" PEFT writes the biases of modules saved in full twice more."""
    return {name for name in tensors if ".original_module." in name or ".modules_to_save." in name}


@every_case
def test_what_was_read_is_written_as_it_was(tmp_path: Path, case: VeraCase) -> None:
    saved = theirs_saved(case, tmp_path / "theirs", projection_prng_key=5, vera_dropout=0.25, d_initial=0.2)
    content = write(read(saved)[1], saved.base, tmp_path / "ours")
    written = load_file(tmp_path / "ours" / TENSORS)
    assert set(written) == set(saved.tensors) - doubles(saved.tensors) - {"base_model.model.lm_head.base_layer.weight"}
    assert all(torch.equal(written[name], saved.tensors[name]) for name in written)
    kept = ("peft_type", "r", "projection_prng_key", "vera_dropout", "d_initial", "bias", "fan_in_fan_out")
    assert {name: content[name] for name in kept} == {name: saved.content[name] for name in kept}
    VeraConfig(**content)


def test_a_trained_head_travels_both_ways(tmp_path: Path) -> None:
    case, key = CASES["bert, with its head"], "base_model.model.classifier.weight"
    theirs, ours = theirs_saved(case, tmp_path / "theirs"), ours_saved(case, tmp_path / "ours")
    read_head = read(theirs)[1].updates["classifier"].replacements()["weight"]
    assert torch.equal(read_head, theirs.tensors[key])
    assert not torch.equal(read_head, theirs.base.get_parameter("classifier.weight"))
    loaded = PeftModel.from_pretrained(copy.deepcopy(ours.base), ours.folder).state_dict()
    assert torch.equal(loaded["base_model.model.classifier.modules_to_save.default.weight"], ours.tensors[key])
    assert ours.content["modules_to_save"] == ["classifier"]
    assert ours.content["task_type"] == "SEQ_CLS"


class Scaled(nn.Linear):
    """A head with a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__(16, 4)
        self.register_buffer("factor", torch.tensor(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class Small(nn.Module):
    """A dense layer and such a head; no transformers model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 16), Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)))


def test_what_a_head_keeps_out_of_its_state_is_kept_out_of_the_file(tmp_path: Path) -> None:
    case = VeraCase(Small, {"targets": ["first"], "modules_to_save": ["head"]}, {})
    saved = replace(ours_saved(case, tmp_path / "ours"), x={"x": torch.randn(3, 16)})
    assert not any("factor" in name for name in saved.tensors)
    ours, adapter = read(saved)
    theirs = PeftModel.from_pretrained(copy.deepcopy(saved.base), saved.folder).eval()
    assert_same(output(ours, saved.x), output(saved.model, saved.x), unlike=output(saved.base, saved.x))
    assert_same(output(theirs, saved.x), output(saved.model, saved.x), unlike=output(saved.base, saved.x))
    assert set(adapter.updates["head"].replacements()) == {"weight", "bias", "factor"}


def test_vera_beside_bitfit_is_still_pefts(tmp_path: Path) -> None:
    base, model = (each := roberta().eval()), copy.deepcopy(each)
    adapter = ll.attach(model, [ll.VeRA(rank=6, projection_seed=4, d_initial=0.3, targets=["query"]), ll.BitFit()])
    give_effect(adapter, NOISE)
    content = write(adapter, base, tmp_path / "ours")
    assert (content["bias"], content["projection_prng_key"], content["d_initial"]) == ("all", 4, 0.3)
    saved = Saved(base, model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), saved.folder).eval()
    assert_same(output(read(saved)[0], saved.x), output(model, saved.x), unlike=output(base, saved.x))
    assert_same(output(theirs, saved.x), output(model, saved.x), unlike=output(base, saved.x))


def test_without_the_model_every_layer_is_named_in_full() -> None:
    model = gpt2()
    adapter = ll.attach(model, ll.VeRA(rank=6, targets=["c_attn"]))
    assert adapter.shared is not None
    bases = {path: layer.base for path, layer in adapter.layers.items()}
    content, _ = vera_to_peft(adapter.updates, adapter.shared, bases, adapter.spec, None)
    assert content["target_modules"] == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert content["base_model_name_or_path"] is content["task_type"] is None


# -- the projections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", ["llama, all kinds of dense layers", "gpt2, Conv1D"])
def test_the_same_seed_draws_pefts_projections_bit_for_bit(name: str, seed: int) -> None:
    case = CASES[name]
    theirs = get_peft_model(case.build(), VeraConfig(r=6, projection_prng_key=seed, **case.theirs)).base_model
    for ours, equal in ((seed, True), (seed + 1, False)):
        shared = ll.attach(case.build(), ll.VeRA(rank=6, projection_seed=ours, **case.ours)).shared
        assert shared is not None
        assert torch.equal(shared.matrix("vera_A"), theirs.vera_A["default"]) is equal
        assert torch.equal(shared.matrix("vera_B"), theirs.vera_B["default"]) is equal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_projections_drawn_again_are_those_that_peft_has_on_a_base_of_this_precision(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    case = CASES["llama, all kinds of dense layers"]
    saved = theirs_saved(case, tmp_path / "theirs", dtype, save_projection=False)
    _, shared, _ = vera_from_peft(saved.base, parse_vera(saved.content), saved.tensors)
    for name in ("vera_A", "vera_B"):
        theirs = getattr(saved.model.base_model, name)["default"]
        assert shared.matrix(name).dtype == theirs.dtype
        assert torch.equal(shared.matrix(name), theirs)


def test_all_layers_use_a_corner_of_one_frozen_pair(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["llama, all kinds of dense layers"], tmp_path / "theirs")
    _, adapter = read(saved)
    assert adapter.shared is not None
    assert tuple(adapter.shared.matrix("vera_A").shape) == (6, 24)
    assert tuple(adapter.shared.matrix("vera_B").shape) == (24, 6)
    assert not list(adapter.shared.parameters())
    shapes = {path.rpartition(".")[2]: update.matrices("weight") for path, update in adapter.updates.items()}
    assert {name: (tuple(A.shape), tuple(B.shape)) for name, (A, B) in shapes.items()} == {
        "q_proj": ((6, 16), (16, 6)),
        "v_proj": ((6, 16), (8, 6)),
        "up_proj": ((6, 16), (24, 6)),
        "down_proj": ((6, 24), (16, 6)),
    }


def test_projections_larger_than_the_layers_are_written_as_large_as_peft_takes(tmp_path: Path) -> None:
    saved = ours_saved(CASES["llama, all kinds of dense layers"], tmp_path / "all")
    adapter = ll.adapters_of(saved.model).adapter("default")
    for path in [path for path in adapter.updates if "_proj" in path and "q_proj" not in path]:
        del adapter.updates[path]
    write(adapter, saved.base, tmp_path / "fewer")
    fewer = Saved(saved.base, saved.model, tmp_path / "fewer")
    assert tuple(fewer.tensors["base_model.vera_A"].shape) == (6, 16)
    theirs = PeftModel.from_pretrained(copy.deepcopy(saved.base), fewer.folder).eval()
    assert_same(output(theirs, saved.x), output(read(fewer)[0], saved.x), unlike=output(saved.base, saved.x))


def test_projections_in_a_file_that_says_it_has_none_must_be_those_drawn(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["gpt2, Conv1D"], tmp_path / "theirs", projection_prng_key=3)
    ours, _ = read(saved, save_projection=False)
    assert_same(output(ours, saved.x), output(saved.model, saved.x), unlike=output(saved.base, saved.x))
    said = refusal(saved, saved.tensors, save_projection=False, projection_prng_key=4)
    assert "projection_prng_key 4" in said
    assert "set save_projection to true" in said


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_damaged_file_is_one_error_that_names_everything(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["bert, with its head"], tmp_path / "theirs")
    tensors, at = saved.tensors, "base_model.model.bert.encoder.layer.{}.attention.self.{}"
    del tensors[at.format(0, "query.vera_lambda_d")]
    tensors[at.format(0, "value.vera_lambda_b")] = torch.zeros(15)
    tensors[at.format(1, "value.vera_lambda_b")][3] = float("nan")
    tensors[at.format(1, "key.vera_lambda_b")] = torch.zeros(16)
    tensors["base_model.vera_A"] = torch.zeros(6, 17)
    del tensors["base_model.vera_B"], tensors["base_model.model.classifier.weight"]
    before = copy.deepcopy(saved.base.state_dict())
    said = refusal(saved, tensors)
    for name, why in {
        "0.attention.self.query.vera_lambda_d": "is missing",
        "0.attention.self.value.vera_lambda_b": "has shape [15], not [16]",
        "1.attention.self.value.vera_lambda_b": "holds NaN or infinite values",
        "1.attention.self.key.vera_lambda_b": "belongs to nothing",
        "base_model.vera_A": "has shape [6, 17], not [6, 16]",
        "base_model.vera_B": "is missing",
        "classifier.weight": "is missing",
    }.items():
        assert f"{name} {why}" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.base.state_dict().items())


def test_settings_that_change_the_function_or_cannot_be_are_one_error(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["bert, with its head"], tmp_path / "theirs")
    wrong = {
        "use_dora": True,
        "rank_pattern": {"query": 4},
        "exclude_modules": ["value"],
        "r": 0,
        "bias": "lora_only",
        "vera_dropout": 1.5,
        "projection_prng_key": 2**64,
        "save_projection": "yes",
        "d_initial": "small",
        "target_modules": 3,
    }
    said = refusal(saved, saved.tensors, **wrong)
    assert [name for name in wrong if f"{name} is " not in said] == []
    assert "peft_type" not in said
    assert "peft_type is 'LORA'" in refusal(saved, saved.tensors, peft_type="LORA")
    assert "not a setting" not in refusal(saved, {}, use_dora=False, exclude_modules=None)


def test_another_rank_in_the_configuration_is_refused_for_every_tensor(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["gpt2, Conv1D"], tmp_path / "theirs")
    said = refusal(saved, saved.tensors, r=5)
    assert said.count("vera_lambda_d has shape [6], not [5]") == 4
    assert "base_model.vera_B has shape [48, 6], not [48, 5]" in said


def test_targets_that_are_not_dense_layers_are_refused(tmp_path: Path) -> None:
    saved = theirs_saved(CASES["gpt2, Conv1D"], tmp_path / "theirs")
    said = refusal(saved, saved.tensors, target_modules=["c_attn", "wte"])
    assert "transformer.wte, a Embedding, and VeRA adapts dense layers only" in said


AGAINST: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "parts of a fused projection": (gpt2, ll.VeRA(rank=6, targets=["c_attn[q,v]"]), "not parts of a fused one"),
    "plain LoRA beside it": (
        llama,
        [ll.VeRA(rank=6, targets=["q_proj"]), ll.LoRA(rank=2, targets=["v_proj"])],
        "v_proj: PEFT's VeRA adapts dense layers by nothing but VeRA's two vectors",
    ),
    "a prefix beside it": (
        llama,
        [ll.VeRA(rank=6, targets=["q_proj"]), ll.PrefixEmbedding(prefix=2)],
        "it is ",
    ),
    "no VeRA at all": (llama, ll.LoRA(rank=2, targets=["q_proj"]), "this adapter has none"),
}


@pytest.mark.parametrize("name", AGAINST)
def test_what_pefts_vera_cannot_be_is_said(name: str) -> None:
    build, spec, why = AGAINST[name]
    model = build()
    adapter = ll.attach(model, spec)
    bases = {path: layer.base for path, layer in adapter.layers.items()}
    assert has_vera(adapter.updates) is ("no VeRA" not in name and "fused" not in name)
    assert any(why in reason for reason in why_not_peft_vera(adapter.updates, bases))


def test_a_part_of_a_head_is_said_too() -> None:
    model = bert()
    adapter = ll.attach(model, ll.VeRA(rank=6))
    bases = {path: layer.base for path, layer in adapter.layers.items()}
    assert why_not_peft_vera(adapter.updates, bases) == []
    del adapter.updates["classifier"].replaced._parameters["bias"]
    assert why_not_peft_vera(adapter.updates, bases) == ["classifier: PEFT trains all tensors of a module, or its bias"]


class Dense(nn.Module):
    """A dense layer that is no nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = 16, 16, None
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_every_reason_is_said() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Dense(), nn.Linear(16, 16))
    first = ll.attach(model, ll.VeRA(rank=6, targets=["0", "1"]), name="first")
    second = ll.attach(model, ll.VeRA(rank=5, targets=["2"]), name="second")
    first.updates["0"].replace("weight", torch.zeros(16, 16))
    bases = {path: layer.base for path, layer in (first.layers | second.layers).items()}
    assert why_not_peft_vera(first.updates | second.updates, bases) == [
        "0: PEFT does not replace other tensors than the bias of an adapted module",
        "1: PEFT's VeRA adapts nn.Linear and transformers' Conv1D, and this is a Dense",
        "PEFT's VeRA has one rank for all layers, and this adapter has several",
        "PEFT's VeRA has one pair of projections, and this adapter has several",
    ]


# -- with loralab's own record beside it -------------------------------------------------------------------------


def sidecar_of(saved: Saved) -> Sidecar:
    updates, bases = ll.adapters_of(saved.model).adapter("default").updates, modules_by_path(saved.base)
    records = {path: describe(update, bases[path]) for path, update in updates.items()}
    return Sidecar(PEFT_LAYOUT, method_to_json(ll.VeRA()), records, fingerprint([], None), "")


def test_the_record_says_which_tensors_there_are(tmp_path: Path) -> None:
    """One bias of several is more than PEFT's configuration can say: PEFT loads it, and so do we with the record."""
    base, model = (each := roberta().eval()), copy.deepcopy(each)
    adapter = ll.attach(model, ll.VeRA(rank=6, targets=["query"], bias="lora_only"))
    first = next(iter(adapter.updates.values()))
    del first.replaced._parameters["bias"]
    give_effect(adapter, NOISE)
    write(adapter, base, tmp_path / "ours")
    saved = Saved(base, model, tmp_path / "ours")
    assert "query.base_layer.bias is missing" in refusal(saved, saved.tensors)
    again = copy.deepcopy(base)
    updates, shared, notes = vera_from_peft(again, parse_vera(saved.content), saved.tensors, sidecar_of(saved))
    put(again, Plan(updates, tuple(notes), (), shared), vera_spec(parse_vera(saved.content)), "default")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), saved.folder).eval()
    assert torch.equal(output(again, saved.x), output(model, saved.x))
    assert_same(output(theirs, saved.x), output(model, saved.x), unlike=output(base, saved.x))


def test_a_record_that_disagrees_with_the_configuration_is_refused(tmp_path: Path) -> None:
    saved = ours_saved(CASES["gpt2, Conv1D"], tmp_path / "ours")
    with pytest.raises(ll.AdapterFileError, match=r"disagree about transformer\.h\.0\.attn\.c_attn"):
        vera_from_peft(saved.base, parse_vera(saved.content | {"r": 5}), saved.tensors, sidecar_of(saved))
