"""Each thing that can be wrong with an adapter is found, whatever else is; nothing is in a sound one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loralab as ll
from loralab.core.adapter import adapters_on
from loralab.formats.doctor.examine import Diagnosis, examine
from loralab.formats.stored import Finding
from small_models import build, llama
from toys import TOYS, give_effect

QV = ["q_proj", "v_proj"]
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def saved(folder: Path, model: nn.Module | None = None, **spec: object) -> Path:
    """An adapter with an effect, and the model's name recorded."""
    model = llama(num_hidden_layers=4) if model is None else model
    model.name_or_path = "a-base"
    adapter = ll.attach(model, ll.LoRA(**{"rank": 2, "alpha": 4, "targets": QV, **spec}))
    give_effect(adapter, std=0.01)
    folder = ll.save(adapter, folder / "a", model=model, overwrite=True)
    ll.detach(model)
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """As another program would: without a word in loralab.json."""
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "loralab.json").unlink(missing_ok=True)


def change_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def matching(found: Diagnosis, severity: str, where: str, says: str) -> Finding:
    """The one finding like this."""
    like = [e for e in found.findings if (e.severity, e.where) == (severity, where) and says in e.what]
    assert len(like) == 1, "\n".join(map(str, found.findings))
    assert like[0].advice
    return like[0]


def test_a_sound_adapter_has_no_findings(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=4)
    found = examine(saved(tmp_path, model), model)
    assert found.to_json() == {
        "adapter": str(tmp_path / "a"), "modules": 8, "tensors": 16, "findings": [], "healthy": True,
    }  # fmt: skip


@pytest.mark.parametrize("kind", TOYS)
def test_every_kind_of_update_can_be_sound(tmp_path: Path, kind: str) -> None:
    model = TOYS[kind].build()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=TOYS[kind].targets))
    give_effect(adapter, std=0.01)
    ll.save(adapter, tmp_path / "a")
    ll.detach(model)
    found = examine(tmp_path / "a", model)
    assert [each for each in found.findings if each.severity != "note"] == []


def test_another_base_is_found_and_the_rest_is_examined_on_it(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    torch.manual_seed(1)
    other = llama(num_hidden_layers=4)
    found = examine(folder, other)
    assert not found.healthy
    assert "holds other values" in matching(found, "error", "base model", "trained on another base model").what
    assert len(found.findings) == 1
    allowed = examine(folder, other, allow_other_base=True)
    assert allowed.healthy
    matching(allowed, "note", "base model", "trained on another base model")
    shorter = examine(folder, llama(num_hidden_layers=2))
    matching(shorter, "error", "base model", "does not fit this model, which has no model.layers.2")
    assert not adapters_on(other).adapters


def test_nan_and_empty_and_lone_tensors_are_all_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[Q.format(0, "A")][0, 0] = float("nan")
        tensors[Q.format(1, "B")][0, 0] = float("inf")
        tensors[Q.format(2, "A")] = torch.empty(0)
        del tensors[Q.format(3, "B")]

    change_tensors(folder, damage)
    found = examine(folder, llama(num_hidden_layers=4))
    where = "adapter_model.safetensors"
    assert (
        Q.format(0, "A").removeprefix("base_model.model.") in matching(found, "error", where, "2 tensors hold NaN").what
    )
    assert "layers.2" in matching(found, "error", where, "1 tensors are empty").what
    assert "layers.3" in matching(found, "error", where, "missing beside").what
    matching(found, "error", "base model", "holds NaN or infinite values")
    assert found.modules == 4  # the v projections; of q none is whole


def test_factors_that_do_not_fit_each_other_or_the_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, lambda tensors: tensors.update({Q.format(0, "A"): torch.randn(3, 32)}))
    matching(examine(folder), "error", "adapter_model.safetensors", "do not fit each other")
    folder = saved(tmp_path)
    change_config(folder, r=4)
    found = examine(folder)
    assert (
        "2 in the file, 4 in the configuration"
        in matching(found, "error", "adapter_config.json", "8 ranks differ").what
    )


def test_dead_updates(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, lambda tensors: tensors[Q.format(1, "B")].zero_())
    found = examine(folder)
    assert found.healthy
    matching(found, "warning", "adapter_model.safetensors", "1 of 8 updates are zero")
    model = llama()
    ll.save(ll.attach(model, ll.LoRA(rank=2)), tmp_path / "fresh", model=model)
    ll.detach(model)
    found = examine(tmp_path / "fresh", model)
    matching(found, "error", "adapter_model.safetensors", "all 6 updates are zero")
    matching(found, "error", "base model", "no effect")


def test_updates_out_of_line_with_the_others_and_with_the_weight(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=4)
    folder = saved(tmp_path, model)
    change_tensors(folder, lambda tensors: (tensors[Q.format(1, "B")].mul_(1000), tensors[Q.format(2, "B")].mul_(1e-3)))
    found = examine(folder, model)
    assert "layers.1" in matching(found, "warning", "adapter_model.safetensors", "far above the median").what
    assert "layers.2" in matching(found, "note", "adapter_model.safetensors", "far below the median").what
    assert (
        "layers.1"
        in matching(found, "warning", "adapter_model.safetensors", "1 updates are larger than the weight").what
    )


def test_dtypes(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, lambda tensors: tensors.update({k: each.bfloat16() for k, each in tensors.items()}))
    matching(examine(folder), "note", "adapter_model.safetensors", "bfloat16 (8 significant bits)")
    change_tensors(folder, lambda tensors: tensors.update({Q.format(1, "B"): torch.full((32, 2), 6e4).half()}))
    matching(examine(folder), "warning", "adapter_model.safetensors", "15 in bfloat16, 1 in float16")
    matching(examine(folder), "warning", "adapter_model.safetensors", "near the largest of float16")
    change_tensors(folder, lambda tensors: tensors.update({Q.format(1, "B"): torch.ones(32, 2, dtype=torch.int8)}))
    matching(examine(folder), "error", "adapter_model.safetensors", "not floating-point")


def test_targets_that_differ_from_the_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_config(folder, target_modules=["v_proj", "k_proj"], rank_pattern={"o_proj": 4}, modules_to_save=["head"])
    found = examine(folder)
    what = matching(found, "error", "adapter_config.json", "target_modules does not name").what
    assert "model.layers.0.self_attn.q_proj" in what
    assert "and 1 more" in what
    matching(found, "warning", "adapter_config.json", "it targets k_proj")
    matching(found, "warning", "adapter_config.json", "rank_pattern 'o_proj' matches no adapted module")
    matching(found, "error", "adapter_config.json", "modules_to_save names head")
    change_config(folder, target_modules=r".*\.(q|v)_proj", rank_pattern={}, modules_to_save=None)
    assert examine(folder).findings == []


def test_ties(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    folder = saved(tmp_path, model, targets=["q_proj", "embed_tokens"])
    assert "model.embed_tokens with lm_head" in matching(examine(folder, model), "warning", "base model", "shared").what
    assert "one tensor" in matching(examine(folder, model), "note", "GGUF", "embed_tokens").what


def test_what_other_programs_make_of_it(tmp_path: Path) -> None:
    model = llama()
    folder = saved(tmp_path, model, rank=20, rank_pattern={"v_proj": 2}, modules_to_save=["lm_head"])
    found = examine(folder)
    matching(found, "note", "vLLM", "modules_to_save is ['lm_head']")
    assert "v_proj" in matching(found, "warning", "vLLM", "would scale 3 updates wrongly").what
    matching(found, "note", "GGUF", "lm_head.weight (trained in full)")
    high = examine(saved(tmp_path, model, rank=20, targets="mlp"))
    assert "--max-lora-rank 32" in matching(high, "note", "vLLM", "rank 20 is above").advice
    ll.save(ll.attach(model, ll.BottleneckAdapter(size=2)), tmp_path / "own", model=model)
    own = examine(tmp_path / "own")
    matching(own, "note", "PEFT, vLLM, GGUF", "nonlinearity")
    matching(own, "warning", "adapter_model.safetensors", "inserted layers")


def test_neighbours_of_lora_are_whole_and_say_where_others_can_use_them(tmp_path: Path) -> None:
    model = build("llama")
    for name, spec in {"vera": ll.VeRA(rank=8), "tied": ll.TiedLoRA(rank=2), "dora": ll.LoRA(magnitude=True)}.items():
        adapter = ll.attach(model, spec, name)
        give_effect(adapter)
        ll.save(adapter, tmp_path / name, model=model)
        assert {each.severity for each in examine(tmp_path / name).findings} == {"note"}
    matching(examine(tmp_path / "vera"), "note", "vLLM", "its method is VeRA")
    matching(examine(tmp_path / "dora"), "note", "vLLM", "use_dora")
    assert "plain_lora" in matching(examine(tmp_path / "tied"), "note", "PEFT, vLLM, GGUF", "tied").advice
    (tmp_path / "vera" / "loralab.json").unlink()
    assert examine(tmp_path / "vera").healthy


QALORA = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "use_qalora": true}'


@pytest.mark.parametrize(
    "file, content, says",
    [
        ("adapter_config.json", "{", "is not JSON"),
        ("adapter_config.json", QALORA, "use_qalora"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": "two", "target_modules": [3]}', "not a whole number"),
        ("adapter_config.json", None, "no adapter_config.json in it"),
        ("loralab.json", "[]", "should hold a JSON object"),
        ("loralab.json", '{"format": 1}', "is damaged"),
        ("adapter_model.safetensors", "short", "not a complete safetensors file"),
        ("adapter_model.safetensors", None, "no adapter_model.safetensors in it"),
    ],
)  # fmt: skip
def test_damaged_files_are_findings(tmp_path: Path, file: str, content: str | None, says: str) -> None:
    folder = saved(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    for model in (None, llama(num_hidden_layers=4)):
        found = examine(folder, model)
        assert not found.healthy
        matching(found, "error", file, says)
    assert found.modules == (0 if file.endswith("safetensors") else 8)


def test_every_damage_at_once(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, lambda tensors: tensors[Q.format(0, "A")].fill_(float("nan")))
    (folder / "loralab.json").write_text("nothing")
    (folder / "adapter_config.json").write_bytes(b"\xff\xfe")
    assert [each.where for each in examine(folder).findings] == [
        "adapter_config.json", "loralab.json", "adapter_model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["adapter_config.json", "loralab.json"])
def test_values_of_any_wrong_type_are_no_failure(tmp_path: Path, file: str) -> None:
    folder = saved(tmp_path)
    sound = json.loads((folder / file).read_text())
    for key in sound:
        for value in (None, 3.5, "x", ["x"], {"x": 1}):
            (folder / file).write_text(json.dumps(sound | {key: value}))
            found = examine(folder)
            assert found.modules == 8 or not found.healthy, (key, value)


def test_a_file_that_was_replaced(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    sidecar = (folder / "loralab.json").read_bytes()
    change_tensors(folder, lambda tensors: tensors[Q.format(0, "A")].mul_(2))
    (folder / "loralab.json").write_bytes(sidecar)
    matching(examine(folder), "error", "loralab.json", "is not the file that loralab.json was written with")


def test_a_loralib_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "adapters" / "microsoft_lora" / "roberta_base_lora_mnli.bin"
    found = examine(path)
    assert (found.healthy, found.modules) == (True, 24)
    matching(found, "note", path.name, "does not record its base model and its alpha")
    torch.save({"a.lora_A": torch.randn(2, 4), "a.lora_B": torch.full((4, 2), torch.nan)}, tmp_path / "x.bin")
    matching(examine(tmp_path / "x.bin", alpha=2), "error", "x.bin", "1 tensors hold NaN")


def test_pefts_own_files(shared_data: Path) -> None:
    for folder in sorted((shared_data / "adapters" / "peft_regression").glob("lora*/*")):
        assert examine(folder).healthy, folder


def test_where_there_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ll.NotFoundError, match="no such folder"):
        examine(tmp_path / "nothing")
    with pytest.raises(ll.NotFoundError, match=r"no adapter_config\.json"):
        examine(tmp_path)
    with pytest.raises(ll.SpecError, match="says its own"):
        examine(tmp_path, alpha=2)
