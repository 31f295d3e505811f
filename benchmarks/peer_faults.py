"""Whether the installed PEFT still has the problems that its users reported: docs/reliability.md quotes it.

    python -m benchmarks.peer_faults --out docs/results/peer-faults.json

Each case makes what a report describes, on a small model and on a CPU, and says what PEFT does: `silent` (it goes on
with something wrong and says nothing), `warns` (it goes on and says so), `refuses`, or `right`.
"""

import argparse
import copy
import json
import multiprocessing
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SILENT, WARNS, REFUSES, RIGHT = "silent", "warns", "refuses", "right"
PATIENCE = 20.0
"""Seconds for what should take a moment."""


@dataclass(frozen=True)
class Outcome:
    """What PEFT does today, and the sign of it."""

    does: str
    seen: str


Case = Callable[[Path], Outcome]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """The case of this name."""

    def keep(made: Case) -> Case:
        CASES[name] = made
        return made

    return keep


# -- small models ---------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def two(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Two().eval()


def llama(tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


X = torch.linspace(-1, 1, 64).view(4, 16)
IDS = torch.arange(12).view(2, 6)


def adapted(model: nn.Module, name: str = "default", seed: int = 1, **settings: Any) -> Any:
    """A PEFT model whose adapter does something."""
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(
        model, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ["first", "second"]} | settings)), name
    )
    fill(made, name, seed)
    return made.eval()


def fill(model: Any, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and f".{name}" in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def out(model: Any, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        answer = model(x)
    return getattr(answer, "logits", answer)


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@contextmanager
def said() -> Iterator[list[str]]:
    """What it warns of that is about adapters."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
    words = ("adapter", "key", "target", "tie", "merge", "config", "base")
    messages = [str(each.message) for each in caught if "Could not find a config file" not in str(each.message)]
    heard += [each for each in messages if any(word in each.lower() for word in words)]


def judged(wrong: bool, heard: list[str], seen: str) -> Outcome:
    return Outcome((WARNS if heard else SILENT) if wrong else RIGHT, seen)


def attempted(do: Callable[[], Outcome]) -> Outcome:
    """Its outcome, or that it was refused."""
    try:
        return do()
    except Exception as error:  # noqa: BLE001  whatever PEFT raises is its refusal
        lines = str(error).strip().splitlines()
        return Outcome(REFUSES, f"{type(error).__name__}: {lines[0][:100] if lines else ''}".rstrip(": "))


def loaded(folder: Path, base: nn.Module | None = None) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(two() if base is None else base, str(folder)).eval()


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# -- the cases, by the number of the problem --------------------------------------------------------------------------


@case("2 a missing tensor")
def missing_tensor(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    write(place, {key: each for key, each in tensors_of(place).items() if "second" not in key})
    with said() as heard:
        model = loaded(place)
    return judged(gap(out(model), out(two())) > 0, heard, "half of the adapter is fresh")


@case("2 an extra tensor")
def extra_tensor(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    write(place, tensors_of(place) | {"base_model.model.third.lora_A.weight": torch.ones(4, 16)})
    with said() as heard:
        loaded(place)
    return judged(True, heard, "a tensor that belongs nowhere is left out")


@case("3 saved from a compiled model")
def compiled(place: Path) -> Outcome:
    model = adapted(torch.compile(two()))
    model.save_pretrained(place)
    with said() as heard:
        again = loaded(place)
    dead = gap(out(again), out(two())) == 0
    return judged(dead, heard, "loaded into the plain model it does nothing" if dead else "it acts in the plain model")


@case("4 a target that matches nothing")
def idle_target(place: Path) -> Outcome:
    with said() as heard:
        adapted(two(), target_modules=["first", "q_proj"])
    return judged(True, heard, "one hit among the targets is enough")


@case("6 unmerging in bfloat16")
def unmerged(place: Path) -> Outcome:
    base = two().bfloat16()
    before = base.first.weight.clone()
    model = adapted(base)
    with said() as heard:
        model.merge_adapter()
        model.unmerge_adapter()
    changed = gap(model.base_model.model.first.base_layer.weight, before)
    return judged(changed > 0, heard, f"the base's weights differ by up to {changed:.1g} afterwards")


@case("8 onto another base")
def other_base(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    with said() as heard:
        loaded(place, two(seed=9))
    return judged(True, heard, "a base of other weights and the same shapes is taken")


@case("9 a tied embedding, merged and saved")
def tied(place: Path) -> Outcome:
    base = llama(tied=True)
    base.config.tie_word_embeddings = True

    def do() -> Outcome:
        model = adapted(base, target_modules=["embed_tokens", "q_proj"])
        live = out(model, IDS)
        with said() as heard:
            merged = model.merge_and_unload()
            merged.save_pretrained(place)
        again = type(merged).from_pretrained(place).eval()
        apart = gap(out(again, IDS), live)
        return judged(apart > 1e-3, heard, f"logits of the written model differ by {apart:.2g} from the live ones")

    return attempted(do)


@case("10 embeddings saved by surprise")
def saved_embeddings(place: Path) -> Outcome:
    model = adapted(llama(), target_modules=["embed_tokens", "q_proj"])
    with said() as heard:
        model.save_pretrained(place)
    whole = [key for key in tensors_of(place) if key.endswith("base_layer.weight")]
    return judged(bool(whole), heard, "the base's embedding lies in the adapter's file" if whole else "factors alone")


@case("11 a tensor that was never gathered")
def empty(place: Path) -> Outcome:
    def do() -> Outcome:
        model = adapted(two())
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.data = torch.empty(0)
        with said() as heard:
            model.save_pretrained(place)
        return judged(True, heard, "factors of no numbers are saved")

    return attempted(do)


@case("12 training on from a folder")
def frozen(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    with said() as heard:
        model = loaded(place)
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return judged(trainable == 0, heard, f"{trainable} parameters train unless is_trainable is passed")


@case("13 reentrant checkpointing")
def checkpointing(place: Path) -> Outcome:
    def do() -> Outcome:
        model = adapted(llama(), target_modules=["q_proj"])
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": True})
        model.train()
        with said() as heard:
            model(IDS, labels=IDS).loss.backward()
        fed = [each.grad is not None for key, each in model.named_parameters() if "lora_B" in key]
        return judged(not all(fed), heard, f"{sum(fed)} of {len(fed)} B get a gradient")

    return attempted(do)


@case("16 PiSSA loaded again")
def pissa(place: Path) -> Outcome:
    model = adapted(two(), init_lora_weights="pissa_niter_4")
    live = out(model)
    with said() as heard:
        model.save_pretrained(place)
        again = loaded(place)
    apart = gap(out(again), live)
    return judged(apart > 1e-3, heard, f"outputs differ by {apart:.2g} after a save and a load")


@case("17 a weighted sum, linear")
def weighted(place: Path) -> Outcome:
    from peft import LoraConfig

    model = adapted(two(), "a")
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"]))
    fill(model, "b", 2)
    layer = model.base_model.model.first
    wanted = layer.get_delta_weight("a") + layer.get_delta_weight("b")
    with said() as heard:
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "c", combination_type="linear")
    off = gap(layer.get_delta_weight("c"), wanted) / float(wanted.abs().max())
    return judged(off > 1e-3, heard, f"ΔW is off by {off:.0%} of its largest entry")


@case("18 one of two active adapters merged")
def half_merged(place: Path) -> Outcome:
    from peft import LoraConfig

    model = adapted(two(), "a")
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"]))
    fill(model, "b", 2)
    model.base_model.set_adapter(["a", "b"])
    live = out(model)
    with said() as heard:
        model.merge_adapter(["a"])
        apart = gap(out(model), live)
    return judged(apart > 1e-4, heard, f"outputs change by {apart:.2g}: the other adapter acts no more")


@case("19 a row for an adapter that is not there")
def unknown_row(place: Path) -> Outcome:
    model = adapted(two())

    def do() -> Outcome:
        with said() as heard, torch.no_grad():
            model(X, adapter_names=["default", "typo", "default", "__base__"])
        return judged(True, heard, "it gets the base's answer")

    return attempted(do)


@case("23 a name that is a path")
def escape(place: Path) -> Outcome:
    def do() -> Outcome:
        inside = place / "inside"
        outside = place / "outside"
        model = adapted(two(), str(outside))
        with said() as heard:
            model.save_pretrained(inside)
        left = (outside / "adapter_config.json").exists()
        return judged(left, heard, "an adapter is written where its name, a path, says" if left else "it stays inside")

    return attempted(do)


@case("25 a setting that it does not know")
def unknown_setting(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    edit(place, use_newer_scaling=True)
    with said() as heard:
        loaded(place)
    return judged(True, heard, "the setting is dropped")


@case("26 an attention's output projection")
def attention(place: Path) -> Outcome:
    torch.manual_seed(0)
    base = nn.ModuleDict({"inner": nn.MultiheadAttention(16, 2, batch_first=True)}).eval()
    x = X.view(1, 4, 16)
    model = adapted(copy.deepcopy(base), target_modules=["inner"])
    layer = model.base_model.model["inner"]
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if "out_proj" not in key and "lora_B" in key:
                parameter.zero_()
        live = layer(x, x, x)[0]
        plain = base["inner"](x, x, x)[0]
        pair = layer.base_layer.out_proj
        twin = copy.deepcopy(base["inner"])
        twin.out_proj.weight += pair.get_delta_weight("default")
        once = twin(x, x, x)[0] - plain
    ratio = float((live - plain).norm() / once.norm())
    return judged(abs(ratio - 1) > 1e-3, [], f"its update acts {ratio:.2f} times")


@case("27 a dilated convolution")
def dilated(place: Path) -> Outcome:
    torch.manual_seed(0)
    base = nn.ModuleDict({"inner": nn.Conv1d(16, 8, 3, padding=2, dilation=2)}).eval()
    x = X.view(1, 16, 4)

    def do() -> Outcome:
        with said() as heard:
            model = adapted(base, target_modules=["inner"])
            layer = model.base_model.model["inner"]
            with torch.no_grad():
                live = layer(x)
                model.merge_adapter()
                merged = layer(x)
        apart = gap(live, merged)
        return judged(apart > 1e-4, heard, f"merged and live differ by {apart:.2g}")

    return attempted(do)


@case("28 a rank_pattern that contradicts the tensors")
def contradiction(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    edit(place, rank_pattern={"first": 2})

    def do() -> Outcome:
        with said() as heard:
            loaded(place)
        return judged(True, heard, "it loads")

    return attempted(do)


@case("29 numbers that are none")
def nan(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    write(place, {key: torch.full_like(each, float("nan")) for key, each in tensors_of(place).items()})

    def do() -> Outcome:
        with said() as heard:
            model = loaded(place)
        return judged(bool(out(model).isnan().all()), heard, "the model's outputs are NaN")

    return attempted(do)


SLOW = r"(\w+_?)*[^a-z]"


def _load_slow(place: str) -> None:
    name = "base_model_layers_0_self_attention_q_proj"
    loaded(
        Path(place), nn.ModuleDict({name: nn.Linear(16, 16), "first": nn.Linear(16, 16), "second": nn.Linear(16, 16)})
    )


@case("30 an expression that never ends")
def endless(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    edit(place, target_modules=SLOW)
    child = multiprocessing.get_context("fork").Process(target=_load_slow, args=(str(place),))
    child.start()
    child.join(PATIENCE)
    hangs = child.is_alive()
    child.kill()
    child.join()
    return judged(hangs, [], f"loading takes more than {PATIENCE:g} s" if hangs else "it ends")


@case("31 a save that is killed")
def killed_save(place: Path) -> Outcome:
    """As a kill between its two files leaves it: the tensors of the new adapter beside the configuration of the old."""
    new = place / "new"
    adapted(two(), lora_alpha=8).save_pretrained(place / "old")
    adapted(two(), seed=5, lora_alpha=64).save_pretrained(new)
    write(place / "old", tensors_of(new))

    def do() -> Outcome:
        with said() as heard:
            model = loaded(place / "old")
        apart = gap(out(model), out(loaded(new)))
        return judged(apart > 1e-4, heard, "new tensors are scaled by the old alpha")

    return attempted(do)


@case("34 trained biases")
def biases(place: Path) -> Outcome:
    model = adapted(two(), bias="lora_only")
    with torch.no_grad():
        model.base_model.model.first.base_layer.bias.add_(1.0)
    live = out(model)
    with said() as heard:
        model.save_pretrained(place)
        again = loaded(place)
    apart = gap(out(again), live)
    return judged(apart > 1e-4, heard, f"outputs differ by {apart:.2g} after a save and a load")


def beside(model: Any, name: str, seed: int, **settings: Any) -> None:
    """Another adapter on a PEFT model that has one."""
    from peft import LoraConfig

    model.add_adapter(name, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ["first", "second"]} | settings)))
    fill(model, name, seed)


@case("35 torch's own encoder in evaluation")
def encoder(place: Path) -> Outcome:
    torch.manual_seed(0)
    base = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
    x = X.view(1, 4, 16)
    with said() as heard:
        model = adapted(base, target_modules=["linear1", "linear2"])
        training = out(model.train(), x)
        evaluating = out(model.eval(), x)
    return judged(gap(training, evaluating) > 1e-4, heard, "the adapter acts in train() and not in eval()")


class Twice(nn.Module):
    """One module in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def merging_apart(model: Any, x: Tensor) -> float:
    """By how much a merge changes what a PEFT model computes."""
    live = out(model, x)
    model.merge_adapter()
    return gap(out(model, x), live)


@case("36 a module in two places")
def in_two_places(place: Path) -> Outcome:
    torch.manual_seed(0)
    with said() as heard:
        apart = merging_apart(adapted(Twice().eval(), target_modules=["first"]), X)
    return judged(apart > 1e-4, heard, f"it is adapted in one of them, merged in both: outputs change by {apart:.2g}")


@case("37 an embedding that shortens its rows")
def shortening(place: Path) -> Outcome:
    torch.manual_seed(0)
    base = nn.ModuleDict({"inner": nn.Embedding(16, 8, max_norm=0.5)}).eval()
    with said() as heard:
        layer = adapted(base, target_modules=["inner"]).base_model.model["inner"]
        with torch.no_grad():
            live = layer(torch.arange(16))
            layer.merge()
            apart = gap(layer(torch.arange(16)), live)
    return judged(apart > 1e-4, heard, f"merged and live differ by {apart:.2g}")


@case("38 an adapter exchanged for another")
def exchanged(place: Path) -> Outcome:
    from peft.utils.hotswap import hotswap_adapter

    settings = {"rank_pattern": {"first": 2}}
    adapted(two(), seed=1, **settings).save_pretrained(place / "old")
    adapted(two(), seed=5, **settings).save_pretrained(place / "new")

    def do() -> Outcome:
        with said() as heard:
            model = loaded(place / "old")
            hotswap_adapter(model, str(place / "new"), adapter_name="default")
        apart = gap(out(model), out(loaded(place / "new")))
        return judged(apart > 1e-4, heard, f"outputs differ by {apart:.2g} from the new adapter's own")

    return attempted(do)


@case("39 a weighted sum of rank-stabilised adapters")
def stabilised(place: Path) -> Outcome:
    model = adapted(two(), "a", use_rslora=True)
    layer = model.base_model.model.first
    with said() as heard:
        model.add_weighted_adapter(["a"], [1.0], "c", combination_type="linear")
    ratio = float(layer.get_delta_weight("c").norm() / layer.get_delta_weight("a").norm())
    return judged(abs(ratio - 1) > 1e-3, heard, f"the sum of one adapter is {ratio:.2f} times that adapter")


@case("40 a second adapter, loaded to be trained")
def second_trains(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    with said() as heard:
        model = loaded(place)
        model.load_adapter(str(place), adapter_name="other", is_trainable=True)
    training = sorted({key.split(".")[-2] for key, each in model.named_parameters() if each.requires_grad})
    return judged(training != ["other"], heard, f"what trains is {' and '.join(training) or 'nothing'}")


@case("41 rows of an embedding, of two adapters")
def two_rows(place: Path) -> Outcome:
    def do() -> Outcome:
        from peft import LoraConfig

        rows = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}
        model = adapted(llama(), "a", **rows)
        model.add_adapter("b", LoraConfig(**rows))
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            with torch.no_grad():
                for key, each in model.named_parameters():
                    if key.endswith(f"trainable_tokens_delta.{name}"):
                        each.copy_(torch.randn_like(each))
        before = out(model, IDS)
        with said() as heard:
            for name in "ab":
                model.base_model.merge_adapter([name])
            model.base_model.unmerge_adapter()
        apart = gap(out(model, IDS), before)
        return judged(apart > 1e-4, heard, f"merged one after the other and unmerged, outputs differ by {apart:.2g}")

    return attempted(do)


class Wrapper(nn.Module):
    """A text model within another model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.language_model = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.language_model(x)


@case("42 the adapter of a text model on a model that holds it")
def wrapped(place: Path) -> Outcome:
    adapted(two()).save_pretrained(place)
    with said() as heard:
        model = loaded(place, Wrapper(two()))
    return judged(gap(out(model), out(two())) == 0, heard, "the model computes what its base does")


@case("43 a mixed batch over a module in full that keeps a cache")
def cached(place: Path) -> Outcome:
    def do() -> Outcome:
        model = adapted(llama(), "a", target_modules=["up_proj"], modules_to_save=["self_attn"])
        with torch.no_grad():
            for key, each in model.named_parameters():
                if "modules_to_save" in key:
                    each.add_(torch.randn_like(each), alpha=0.3)
            ids = torch.arange(12).view(2, 6)
            alone = out(model, ids)
            with said() as heard:
                mixed = model(ids, adapter_names=["a", "__base__"]).logits
            base = out(llama(), ids)
        apart = max(gap(mixed[0], alone[0]), gap(mixed[1], base[1]))
        return judged(apart > 1e-3, heard, f"a row's logits differ by {apart:.2g} from those of that row alone")

    return attempted(do)


# -- all of them ------------------------------------------------------------------------------------------------------


def measured() -> dict[str, dict[str, str]]:
    """What PEFT does, by case."""
    found = {}
    for name, made in CASES.items():
        with tempfile.TemporaryDirectory() as place, redirect_stdout(sys.stderr):
            outcome = attempted(lambda made=made, place=place: made(Path(place)))  # type: ignore[misc]
        found[name] = {"does": outcome.does, "seen": outcome.seen}
    return found


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    import peft
    import transformers

    flags = argparse.ArgumentParser(description="Whether the installed PEFT still has the problems that were reported.")
    flags.add_argument("--out", type=Path, help="a JSON file to write")
    given = flags.parse_args(arguments)
    warnings.simplefilter("ignore")
    cases = measured()
    width = max(map(len, cases))
    for name, each in cases.items():
        print(f"{name.ljust(width)}  {each['does'].ljust(8)} {each['seen']}")
    versions = f"PEFT {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    content = {
        "versions": versions,
        "python": platform.python_version(),
        "recorded": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.peer_faults --out docs/results/peer-faults.json",
        "cases": cases,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
