"""What the pages of docs/methods say is what the code does: examples run, settings, files and answers are compared."""

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import loralab as ll
from loralab.core.names import modules_by_path
from loralab.formats.quantized import quantize_base
from loralab.methods.lora import principal_under
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.methods.table import METHOD_NAMES
from pages import DOCS, blocks, broken_links, code, commands, configuration, rows, section
from small_models import gpt2, llama
from tiny import write_llama, write_pairs
from toys import give_effect

PAGES = {path.stem: path for path in sorted((DOCS / "methods").glob("*.md"))}
NOT_METHODS = {"index", "shared-settings"}
SMALL = {"rank": 4, "size": 8, "prefix": 3, "infix": 2}
"""Sizes for the tiny models, where a page's own do not matter."""

every_method = pytest.mark.parametrize("name", METHOD_NAMES)


# -- pages and methods --------------------------------------------------------------------------------------------


def test_every_method_has_a_page_and_every_page_a_method() -> None:
    assert PAGES.keys() - NOT_METHODS == set(METHOD_NAMES)


@every_method
def test_a_page_names_its_method_and_specification(name: str) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    header = page.splitlines()[2]
    assert header.startswith(f"`--method {name}` · `ll.")
    made = eval(re.findall(r"`(ll\.[^`]*)`", header)[0].replace("…", ""), {"ll": ll})  # noqa: S307  our own page
    made = made() if isinstance(made, type) else made
    by_flag = specification(MethodSettings(method=name))
    assert type(made) is type(by_flag)
    told = {each.name for each in fields(made) if f"{each.name}=" in header}
    assert all(getattr(made, field) == getattr(by_flag, field) for field in told)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links(PAGES[name]) == []


# -- examples -----------------------------------------------------------------------------------------------------


def base_for(name: str) -> nn.Module:
    """A Llama; a GPT-2 for the method that needs biases."""
    torch.manual_seed(0)
    return (gpt2() if "bitfit" in name else llama()).eval()


@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if blocks(path.read_text(), "python")])
def test_the_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = torch.arange(2, 26).view(2, 12)
    given: dict[str, Any] = {"batch": {"input_ids": ids, "labels": ids}}
    for block in blocks(PAGES[name].read_text(encoding="utf-8"), "python"):
        if '"base"' in block:
            write_llama(Path("base"))
            write_pairs(Path("data"))
        given["model"] = base_for(name)
        exec(compile(block, f"{name}.md", "exec"), given)


@pytest.mark.parametrize("name", PAGES)
def test_the_command_lines_of_a_page_are_understood(name: str) -> None:
    for words in commands(PAGES[name].read_text(encoding="utf-8")):
        config = configuration(words)
        if words[1] == "train":
            config.validate()
            specification(config)
            assert name in config.method.split("+") or name in NOT_METHODS


# -- settings -----------------------------------------------------------------------------------------------------

OTHER_VALUES: dict[str, Any] = {
    "rank": 3, "alpha": 3.0, "dropout": 0.25, "targets": "k_proj", "exclude": "o_proj", "layers": (0,),
    "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 3.0}, "bias": "all", "rank_stabilized": True,
    "modules_to_save": ("lm_head",), "trainable_token_indices": (1,), "invocation_tokens": (1,), "init": "gaussian",
    "pissa_iterations": 4, "nearest_step": True, "modules": 2, "gate": "scalar", "experts": 2, "share": "A",
    "tied_train": "A,B", "d_initial": 0.5, "projection_seed": 4, "size": 9, "drop_layers": 1, "prefix": 3, "infix": 3,
    "refresh_every": 9, "row_choice": "norm", "largest_factor": 3.0, "state_on_refresh": None,
    "projection_scale": 0.5, "refresh_warmup": 3,
}  # fmt: skip
"""For every setting a value that is not its default."""


def settings_read(name: str) -> set[str]:
    """The settings on which the method's specification depends."""
    usual = specification(MethodSettings(method=name))
    found = set()
    for setting, value in OTHER_VALUES.items():
        tried = ("reset", "keep") if setting == "state_on_refresh" else (value,)
        for each in tried:
            try:
                changed = specification(MethodSettings(method=name, **{setting: each})) != usual
            except ll.SpecError:
                continue  # not a setting of this method
            found |= {setting} if changed else set()
    return found


def test_another_value_is_known_of_every_setting() -> None:
    assert OTHER_VALUES.keys() == {each.name for each in fields(MethodSettings)} - {"method"}


@every_method
def test_a_page_tells_exactly_the_settings_of_its_method(name: str) -> None:
    told = section(PAGES[name].read_text(encoding="utf-8"), "Settings")
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)`", told)}
    training = {each.name for each in fields(ll.TrainConfig)} - {each.name for each in fields(MethodSettings)}
    assert flags - training == settings_read(name)


@pytest.mark.parametrize("name", [*METHOD_NAMES, "shared-settings"])
def test_the_defaults_of_a_page_are_those_of_the_code(name: str) -> None:
    spec = specification(MethodSettings(method=name)) if name in METHOD_NAMES else ll.LoRA()
    by_flag = {each.name: each.default for each in fields(ll.TrainConfig)}
    in_python = {each.name: each for each in fields(spec)}
    for flag, default, python, _ in rows(section(PAGES[name].read_text(encoding="utf-8"), "Settings")):
        if code(flag):
            known = by_flag[code(flag).removeprefix("--").replace("-", "_")]
            assert code(default) == ("" if known is None or known is False else str(known)), flag
        if code(python):
            field, _, value = code(python).partition("=")
            known = in_python[field]
            assert ast.literal_eval(value) == (
                known.default_factory() if callable(known.default_factory) else known.default
            )


# -- what trains, and the files -----------------------------------------------------------------------------------


def saved(name: str, folder: Path) -> tuple[nn.Module, Any]:
    """A tiny model under the method, which has an effect and is saved to the folder; and the specification."""
    model = base_for(name)
    spec = specification(MethodSettings(method=name, **SMALL))
    adapter = ll.attach(model, spec)
    give_effect(adapter)
    ll.save(adapter, folder, model=model)
    return model, spec


def sizes_at(path: str, bases: dict[str, nn.Module], spec: Any) -> dict[str, int]:
    """What the letters of a page's shapes stand for at one module."""
    base = bases.get(path)
    weight = getattr(base, "weight", None)
    known = {"d": 32, "r": SMALL["rank"], "size": SMALL["size"], "l": SMALL["prefix"] + SMALL["infix"]}
    known |= {"n": getattr(spec, "modules", 0)}
    known |= {"widest_in": 32, "widest_out": 32}
    if isinstance(weight, Tensor) and weight.dim() == 2:
        known |= {"out": weight.shape[0], "inputs": weight.shape[1]}
    return known


def pattern_of(written: str) -> re.Pattern[str]:
    """`….lora_A_*` as an expression: `…` is any path, `*` a number, `{in}` the number of inputs."""
    escaped = re.escape(written).replace("…", "(?P<path>.+)", 1).replace("…", ".+").replace(r"\*", r"\d+")
    return re.compile(escaped.replace(r"\{in\}", r"(?P<inputs>\d+)").replace(r"\{out\}", r"(?P<out>\d+)"))


@every_method
def test_the_files_of_a_method_hold_what_its_page_says(name: str, tmp_path: Path) -> None:
    told = section(PAGES[name].read_text(encoding="utf-8"), "What trains and what is stored")
    model, spec = saved(name, tmp_path)
    ll.detach(model)
    bases, seen = dict(modules_by_path(model)), set()
    table = [(pattern_of(code(tensor)), code(shape) or shape, tensor) for tensor, shape in rows(told)]
    for key, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        found = next(((pattern, shape, row) for pattern, shape, row in table if pattern.fullmatch(key)), None)
        assert found is not None, f"{key} is in the file and not on the page"
        pattern, shape, row = found
        read = pattern.fullmatch(key).groupdict()
        path = read.pop("path", "").removeprefix("base_model.model.")
        seen.add(row)
        if shape == "as in the base":
            assert model.state_dict()[key].shape == tensor.shape
        else:
            letters = sizes_at(path, bases, spec) | {letter: int(number) for letter, number in read.items()}
            dimensions = re.sub(r"\bin\b", "inputs", shape).strip("[]").split(",")
            expected = [eval(each, {}, letters) for each in dimensions]  # noqa: S307
            assert list(tensor.shape) == expected, f"{key}: {shape}"
    assert seen == {row for _, _, row in table}


# -- what it can do -----------------------------------------------------------------------------------------------


def raises(action: Any) -> bool:
    """Whether it is refused."""
    try:
        action()
    except ll.LoralabError:
        return True
    return False


def run_in_rows(model: nn.Module) -> None:
    with ll.rows(model, ["default", None]):
        model(torch.arange(2, 26).view(2, 12))


@every_method
def test_what_a_page_says_that_a_method_can_do_it_can(name: str, tmp_path: Path) -> None:
    answers = dict(rows(section(PAGES[name].read_text(encoding="utf-8"), "What it can do")))
    model, spec = saved(name, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert code(answers["`peft_type`"]) == config["peft_type"]
    plain = answers["plain LoRA"]
    assert plain.startswith("in `plain_lora/`") == (tmp_path / "plain_lora").exists()
    assert plain.startswith("it is one") == (config["peft_type"] == "LORA" and not config["use_dora"])
    if (tmp_path / "plain_lora").exists():
        assert_rank_of_export(plain, json.loads((tmp_path / "plain_lora" / "adapter_config.json").read_text()), spec)
    assert answers["one adapter per row"].startswith("no" if raises(lambda: run_in_rows(model)) else "yes")
    summed = "no" if raises(lambda: ll.combine(model, {"default": 0.5}, name="sum", rank=2)) else "with a rank"
    summed = summed if raises(lambda: ll.combine(model, {"default": 0.5}, name="exact")) else "yes"
    assert answers["`combine`"].startswith(summed)
    ll.activate(model, "default")
    assert answers["merges"].startswith("no" if raises(lambda: ll.merge(model)) else "yes")


@every_method
def test_a_base_in_four_bits_is_taken_as_a_page_says(name: str) -> None:
    answer = dict(rows(section(PAGES[name].read_text(encoding="utf-8"), "What it can do")))["on a base in 4 bits"]
    model, spec = base_for(name), specification(MethodSettings(method=name, **SMALL))
    quantize_base(model, "nf4", principal_under(model, spec))
    assert answer.startswith("no" if raises(lambda: ll.attach(model, spec)) else "yes")


def assert_rank_of_export(told: str, config: dict[str, Any], spec: Any) -> None:
    """A page says of the plain LoRA `rank …`, `alpha …`, in the method's own letters."""
    letters = {"r": spec.rank, "n": getattr(spec, "modules", 1), "alpha": getattr(spec, "alpha", None) or spec.rank}
    rank, alpha = (eval(expression, {}, letters) for expression in re.findall(r"`(?:rank|alpha) = ([^`]+)`", told))  # noqa: S307
    assert (config["r"], config["lora_alpha"]) == (rank, alpha)
