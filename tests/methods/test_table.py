import dataclasses
import subprocess
import sys

import pytest

import loralab as ll
from loralab.core.plan import JointMethod
from loralab.methods.registry import specification
from loralab.methods.settings import MethodSettings
from loralab.methods.table import METHODS, method_name


@pytest.mark.parametrize("name", METHODS)
def test_a_specification_gives_its_name_back(name: str) -> None:
    spec = specification(MethodSettings(method=name))
    assert method_name({"type": type(spec).__name__} | vars(spec)) == name


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_that_a_row_renames_is_one(name: str) -> None:
    row, settings = METHODS[name], MethodSettings()
    fields = {each.name for each in dataclasses.fields(type(specification(MethodSettings(method=name))))}
    assert set(row.called) | set(row.fixed) <= fields
    assert all(hasattr(settings, setting) for setting in row.called.values() if setting is not None)


def test_what_is_in_the_name() -> None:
    assert method_name({"type": "LoRA", "magnitude": True, "init": "pissa-4", "rank_stabilized": True}) == "dora"
    assert method_name({"type": "LoRA", "init": "pissa-4", "rank_stabilized": True}) == "pissa"
    assert method_name({"type": "LoRA", "invocation_tokens": [3], "rank_stabilized": True}) == "alora"
    assert method_name({"type": "FullFineTune", "top_layers": 3}) == "top3"
    assert method_name({"type": "JointMethod", "specs": [{"type": "LoRA"}, {"type": "BitFit"}]}) == "lora+bitfit"


def test_the_names_are_known_without_torch() -> None:
    script = "import sys, loralab.methods.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_settings_arrive() -> None:
    assert specification(MethodSettings(method="lora", rank=3, targets="q")) == ll.LoRA(rank=3, targets="q")
    assert specification(MethodSettings(method="top2")) == ll.FullFineTune(top_layers=2)
    wanted = ll.BottleneckAdapter("pfeiffer", size=5, drop_layers=1)
    assert specification(MethodSettings(method="adapter-p", size=5, drop_layers=1)) == wanted
    both = specification(MethodSettings(method="lora+prefix-layer", rank=2, prefix=1, infix=0))
    assert both == JointMethod((ll.LoRA(rank=2), ll.PrefixLayer(1, 0)))


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"method": "loro"}, "choose from lora"),
        ({"method": "lora+lora"}, "each of its parts once"),
        ({"method": "adapter-h", "size": 0}, "at least 1"),
        ({"method": "prefix-embed", "prefix": 0, "infix": 0}, "nothing to train"),
        ({"prefix": -1}, "negative"),
        ({"drop_layers": -1}, "negative"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ll.SpecError, match=match):
        specification(MethodSettings(**settings))


def test_two_methods_cannot_adapt_one_module() -> None:
    from small_models import build

    with pytest.raises(ll.SpecError, match=r"two of the methods adapt model\.layers\.0\.self_attn\.o_proj"):
        ll.attach(build("llama"), [ll.LoRA(targets="o"), ll.BottleneckAdapter()])


def test_biases_and_low_rank_updates_share_a_module() -> None:
    from small_models import build

    adapter = ll.attach(build("gpt2"), [ll.LoRA(rank=2), ll.BitFit()])
    names = dict(adapter.named_parameters())
    assert "transformer.h.0.attn.c_attn.q.lora_A" in names
    assert "transformer.h.0.attn.c_attn.bias" in names
