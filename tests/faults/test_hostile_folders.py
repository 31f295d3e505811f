"""Adapter folders that somebody tampered with: read as they say, or refused with the reason; the model untouched.

A folder that is read although it was changed computes what PEFT computes from it, where PEFT reads it too.
"""

import copy
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor, nn

import loralab as ll
from faults.judging import cases, judged, seeded, size_of
from loralab.core.adapter import adapters_on
from loralab.files import expressions
from loralab.formats.convert import convert
from loralab.formats.doctor.examine import examine
from loralab.formats.inspect import inspect
from toys import TOYS, give_effect, quiet

TENSORS, CONFIG, SIDECAR = "adapter_model.safetensors", "adapter_config.json", "loralab.json"
ADAPTERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "lora": ("linear", lambda: ll.LoRA(rank=2, alpha=3, targets=["first", "inner"])),
    "dora": ("linear", lambda: ll.LoRA(rank=2, targets=["inner"], magnitude=True)),
    "parts": ("fused thirds", lambda: ll.LoRA(rank=2, targets=["inner[q,v]"])),
    "embedding": ("embedding", lambda: ll.LoRA(rank=2, targets=["inner"])),
    "conv": ("conv1d", lambda: ll.LoRA(rank=2, targets=["inner"])),
    "attention": ("attention", lambda: ll.LoRA(rank=2, targets=["inner"])),
    "vera": ("linear", lambda: ll.VeRA(rank=4, targets=["inner"])),
    "multilora": ("linear", lambda: ll.MultiLoRA(rank=2, modules=2, targets=["inner"])),
}


@dataclass(frozen=True)
class Sound:
    """An adapter as it was saved, and its base."""

    files: Mapping[str, bytes]
    model: nn.Module
    x: Tensor
    before: Tensor


def saved(name: str, folder: Path) -> Sound:
    toy, spec = TOYS[ADAPTERS[name][0]], ADAPTERS[name][1]
    torch.manual_seed(0)
    model = toy.build()
    x = toy.inputs(torch.float32)
    base = copy.deepcopy(model)
    adapter = ll.attach(model, spec())
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    return Sound({each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}, base, x, quiet(base, x))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    return {name: saved(name, tmp_path_factory.mktemp("sound") / "adapter") for name in ADAPTERS}


# -- what is done to a folder -----------------------------------------------------------------------------------------

Files = dict[str, bytes]
NAMES = st.sampled_from([
    "", ".", "..", "../../outside", "/etc/passwd", "inner", "first", "wte", "a\0b", "x" * 5000, "base_layer", "lora_A",
    "(a+)+$", "(.*)*", r"(\w+\.?)*[^a-z]",
    "inner|first", "[", "all-linear", "_orig_mod.inner", "default", "😀", "-", "{0}",
])  # fmt: skip
PLAIN = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, 1, 2, 3, -1, 2**31, 10**30, 1e-300, 1e300, -0.0, 2.5]), NAMES,
    st.integers(-4, 64), st.text(max_size=8),
)  # fmt: skip
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(NAMES, PLAIN, max_size=3))
KEYS = st.sampled_from([
    "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "modules_to_save", "bias", "lora_bias", "peft_type", "layers_to_transform", "layers_pattern", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "fan_in_fan_out", "init_lora_weights", "task_type",
    "revision", "base_model_name_or_path", "auto_mapping", "peft_version", "ensure_weight_tying", "lora_dropout", "new",
    "layer_replication", "megatron_config", "use_qalora", "save_projection", "projection_prng_key", "d_initial",
])  # fmt: skip
DTYPES = st.sampled_from(
    ["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X"]
)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header: str, data: bytes) -> bytes:
    raw = header.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data


def flip(data: st.DataObject, files: Files) -> None:
    """A few bytes of any file."""
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    files[name] = bytes(content)


def cut(data: st.DataObject, files: Files) -> None:
    """The end of any file."""
    name = data.draw(st.sampled_from(sorted(files)))
    files[name] = files[name][: data.draw(st.integers(0, len(files[name])))]


def key_renamed(data: st.DataObject, files: Files) -> None:
    """A tensor under another name, or another's."""
    header, rest = header_of(files[TENSORS])
    old = data.draw(st.sampled_from(sorted(header)))
    new = data.draw(st.one_of(NAMES, st.sampled_from(sorted(header)), st.just(old.replace("lora_A", "lora_B"))))
    files[TENSORS] = with_header(json.dumps({new if key == old else key: each for key, each in header.items()}), rest)


def key_twice(data: st.DataObject, files: Files) -> None:
    header, rest = header_of(files[TENSORS])
    key = data.draw(st.sampled_from(sorted(header)))
    other = data.draw(st.sampled_from(sorted(header)))
    files[TENSORS] = with_header(f"{json.dumps(header)[:-1]}, {json.dumps(key)}: {json.dumps(header[other])}}}", rest)


def shape(data: st.DataObject, files: Files) -> None:
    """Huge, transposed, negative, of more dimensions."""
    header, rest = header_of(files[TENSORS])
    each = header[data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))]
    sizes = st.sampled_from([0, 1, 2, 16, 2**20, 2**31, 2**40, 2**63, -1])
    each["shape"] = data.draw(st.one_of(st.just(each["shape"][::-1]), st.lists(sizes, max_size=5)))
    files[TENSORS] = with_header(json.dumps(header), rest)


def dtype(data: st.DataObject, files: Files) -> None:
    header, rest = header_of(files[TENSORS])
    header[data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))]["dtype"] = data.draw(DTYPES)
    files[TENSORS] = with_header(json.dumps(header), rest)


def offsets(data: st.DataObject, files: Files) -> None:
    header, rest = header_of(files[TENSORS])
    each = header[data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))]
    each["data_offsets"] = data.draw(st.lists(st.integers(-8, 2**40), min_size=1, max_size=3))
    files[TENSORS] = with_header(json.dumps(header), rest)


def metadata(data: st.DataObject, files: Files) -> None:
    header, rest = header_of(files[TENSORS])
    header["__metadata__"] = data.draw(st.one_of(st.dictionaries(NAMES, NAMES, max_size=3), VALUES))
    files[TENSORS] = with_header(json.dumps(header), rest)


def values(data: st.DataObject, files: Files) -> None:
    """Numbers that are none, and numbers that are others."""
    header, rest = header_of(files[TENSORS])
    content = bytearray(rest)
    number = data.draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, 0.0, 1.0]))
    at = 4 * data.draw(st.integers(0, max(0, len(content) // 4 - 1)))
    content[at : at + 4] = torch.tensor([number]).numpy().tobytes()
    files[TENSORS] = with_header(json.dumps(header), bytes(content))


def setting(data: st.DataObject, files: Files) -> None:
    """Any key of the configuration."""
    content = json.loads(files[CONFIG])
    content[data.draw(st.one_of(KEYS, st.sampled_from(sorted(content))))] = data.draw(VALUES)
    files[CONFIG] = json.dumps(content).encode()


def deep_setting(data: st.DataObject, files: Files) -> None:
    """Any value of loralab.json, at any depth; or it is taken out."""
    content = json.loads(files[SIDECAR])
    place: Any = content
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 4)) == 0:
            break
        place = place[key]
    if data.draw(st.integers(0, 4)):
        place[key] = data.draw(VALUES)
    else:
        del place[key]
    files[SIDECAR] = json.dumps(content).encode()


def bomb(data: st.DataObject, files: Files) -> None:
    """JSON that nests deep, repeats a key, or is long."""
    name = data.draw(st.sampled_from([CONFIG, SIDECAR]))
    if name not in files:
        return
    text = files[name].decode("utf-8", "replace").rstrip()[:-1]
    more = data.draw(st.sampled_from([
        '"a": ' + "[" * 50_000 + "]" * 50_000, '"a": ' + '{"a":' * 3000 + "1" + "}" * 3000, '"r": 1, "r": 2',
        '"a": [' + "[]," * 100_000 + "[]]", '"a": "' + "x" * 1_000_000 + '"', '"a": NaN', '"a": 1e999',
        '"r": -Infinity', '"a": "\\ud800"', '"a": ' + "9" * 5000,
    ]))  # fmt: skip
    files[name] = f"{text}, {more}}}".encode()


def without_ours(data: st.DataObject, files: Files) -> None:
    files.pop(SIDECAR, None)


CHANGES = (
    flip, cut, key_renamed, key_twice, shape, dtype, offsets, metadata, values, setting, setting, deep_setting, bomb,
    without_ours,
)  # fmt: skip


def signed(files: Files) -> Files:
    """With the hash of the tensors that are there in loralab.json, as a forger would have it."""
    try:
        content = json.loads(files[SIDECAR])
        content["tensors_sha256"] = hashlib.sha256(files[TENSORS]).hexdigest()
    except (KeyError, ValueError, TypeError, RecursionError):
        return files
    return {**files, SIDECAR: json.dumps(content).encode()}


def tampered(data: st.DataObject, files: Mapping[str, bytes]) -> Files:
    """One to three changes, each where it can be made; mostly with a hash that fits."""
    changed = dict(files)
    if data.draw(st.booleans()):
        changed.pop(SIDECAR, None)
    for change in data.draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        try:
            change(data, changed)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError):
            continue  # an earlier change left nothing there to be changed so
    return signed(changed) if data.draw(st.integers(0, 3)) else changed


# -- what must hold ---------------------------------------------------------------------------------------------------


def peft_output(sound: Sound, folder: Path) -> Tensor | None:
    """What PEFT computes from the folder; None where it refuses it or warns that something does not land."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(copy.deepcopy(sound.model), str(folder)).eval()
        if any("adapter" in str(each.message) or "layer" in str(each.message) for each in said):
            return None
        return quiet(model, sound.x)
    except Exception:  # noqa: BLE001  whatever it raises, it has no answer to compare with
        return None


def holds(sound: Sound, files: Files, place: Path) -> str:
    """All that must hold of one folder; what became of it."""
    folder, out = place / "adapter", place / "out"
    for each in (folder, out):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    size, modules = size_of(folder), dict(sound.model.named_modules())
    adapter = judged(lambda: ll.load(sound.model, folder), size, out)
    computed = None
    if isinstance(adapter, ll.Adapter):
        computed = quiet(sound.model, sound.x)
        ll.detach(sound.model)
    assert dict(sound.model.named_modules()) == modules
    assert not adapters_on(sound.model).adapters
    assert torch.equal(quiet(sound.model, sound.x), sound.before)
    judged(lambda: examine(folder), size, out)
    judged(lambda: inspect(folder), size, out)
    judged(lambda: convert(folder, out / "a.safetensors", "loralib"), size, out)
    converted = judged(lambda: convert(folder, out / "peft", "peft"), size, out)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == files
    if computed is None:
        return "refused"
    theirs = peft_output(sound, folder)
    if theirs is not None and bool((theirs + computed).isfinite().all()):
        torch.testing.assert_close(computed, theirs, rtol=1e-4, atol=1e-4)
    if not isinstance(converted, ll.LoralabError):
        again = ll.load(sound.model, out / "peft")
        assert torch.equal(quiet(sound.model, sound.x), computed) or not bool(computed.isfinite().all())
        ll.detach(sound.model, again.name)
    return "read"


@seeded
@cases(120)
@given(data=st.data(), name=st.sampled_from(sorted(ADAPTERS)))
def test_a_folder_that_was_tampered_with(
    sound: dict[str, Sound], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    holds(sound[name], tampered(data, sound[name].files), tmp_path_factory.getbasetemp())


@pytest.mark.faults
@seeded
@cases(4000)
@given(data=st.data(), name=st.sampled_from(sorted(ADAPTERS)))
def test_thousands_of_folders_that_were_tampered_with(
    sound: dict[str, Sound], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    holds(sound[name], tampered(data, sound[name].files), tmp_path_factory.getbasetemp())


# -- what is not a file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG, TENSORS, SIDECAR])
@pytest.mark.parametrize("what", ["a folder", "a pipe", "a link to nothing", "a link to itself", "a link to a device"])
def test_what_is_no_file_is_not_waited_for(sound: dict[str, Sound], tmp_path: Path, name: str, what: str) -> None:
    folder, out = tmp_path / "adapter", tmp_path / "out"
    out.mkdir()
    folder.mkdir()
    for each, content in sound["lora"].files.items():
        (folder / each).write_bytes(content)
    (folder / name).unlink()
    make: dict[str, Callable[[], object]] = {
        "a folder": (folder / name).mkdir,
        "a pipe": lambda: os.mkfifo(folder / name),
        "a link to nothing": lambda: (folder / name).symlink_to("nowhere"),
        "a link to itself": lambda: (folder / name).symlink_to(name),
        "a link to a device": lambda: (folder / name).symlink_to("/dev/zero"),
    }
    make[what]()
    for use in (lambda: ll.load(sound["lora"].model, folder), lambda: convert(folder, out / "peft", "peft")):
        answer = judged(use, size_of(folder), out)
        assert isinstance(answer, ll.LoralabError)


def test_an_expression_that_would_take_years_is_given_a_moment(
    sound: dict[str, Sound], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's re is at it for longer than anyone waits."""
    monkeypatch.setattr(expressions, "SECONDS", 0.1)
    name = "base_model_layers_0_self_attention_q_proj"
    model = nn.ModuleDict({name: nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    ll.save(ll.attach(model, ll.LoRA(rank=2, targets=["b"])), tmp_path / "adapter")
    ll.detach(model)
    (tmp_path / "adapter" / SIDECAR).unlink()
    path = tmp_path / "adapter" / CONFIG
    content, slow = json.loads(path.read_text()), r"(?:(?:a|[a-z]|\w|\.)+)+(?=@)"
    for settings in ({"target_modules": slow}, {"exclude_modules": slow}):
        path.write_text(json.dumps(content | settings))
        answer = judged(lambda: ll.load(model, tmp_path / "adapter"), 0, tmp_path / "out")
        assert "takes longer than" in str(answer)
    path.write_text(json.dumps(content | {"target_modules": r"(\w+_?)*[^a-z]|b"}))
    assert isinstance(judged(lambda: ll.load(model, tmp_path / "adapter"), 0, tmp_path / "out"), ll.Adapter)
