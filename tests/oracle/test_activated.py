"""Activated LoRA, as PEFT computes it: forward, generated, mixed and trained, from folders of either side."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

import loralab as ll
from loralab.files.names import CONFIG_NAME
from oracle.case import Case, assert_same, ours_saved, output, peft_loads, peft_model, theirs_saved
from oracle.peft_warnings import silenced
from small_models import gpt2, llama

pytestmark = silenced
CALL = [7, 8]
TOKENS = {"alora_invocation_tokens": CALL, "task_type": "CAUSAL_LM"}


def prompts() -> dict[str, Tensor]:
    """Four sequences: the invocation once, twice, never, and at the very end."""
    ids = [
        [11, 12, 13, 14, 7, 8, 21, 22, 23],
        [15, 7, 8, 16, 24, 7, 8, 25, 26],
        [17, 18, 19, 20, 7, 9, 8, 7, 27],
        [17, 18, 19, 20, 28, 29, 30, 7, 8],
    ]
    return {"input_ids": torch.tensor(ids)}


def _case(build: Any, *targets: str, **theirs: Any) -> Case:
    ours = {"targets": list(targets), "invocation_tokens": CALL}
    return Case(build, prompts, ours, {"target_modules": list(targets), **TOKENS, **theirs})


CASES = {
    "llama": _case(llama, "q_proj", "v_proj", "down_proj"),
    "llama with its head": _case(llama, "o_proj", "lm_head"),
    "gpt2": _case(gpt2, "c_attn", "c_fc", fan_in_fan_out=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def generated(model: nn.Module) -> Tensor:
    """Eight new tokens for each prompt, with a cache."""
    inputs = prompts()
    mask = torch.ones_like(inputs["input_ids"])
    return model.generate(
        **inputs, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None
    )


@every_case
def test_peft_computes_what_we_saved(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path, alpha=40)
    theirs, x = peft_loads(base, tmp_path), case.inputs()
    assert_same(output(theirs, x), output(ours, x), unlike=output(base, x))
    assert torch.equal(generated(theirs), generated(ours))
    assert not torch.equal(generated(base), generated(ours))


@every_case
def test_we_compute_what_peft_saved(tmp_path: Path, case: Case) -> None:
    base, theirs = theirs_saved(case, tmp_path, lora_alpha=40)
    ours, x = copy.deepcopy(base), case.inputs()
    adapter = ll.load(ours, tmp_path, name="call")
    assert adapter.invocation == tuple(CALL)
    assert_same(output(ours, x), output(theirs, x), unlike=output(base, x))
    assert torch.equal(generated(ours), generated(theirs))
    again = copy.deepcopy(base)
    ll.save(adapter, tmp_path / "again")
    assert list(ll.load(again, tmp_path / "again").spec.invocation_tokens) == CALL
    torch.testing.assert_close(output(again, x), output(ours, x))
    torch.testing.assert_close(output(peft_loads(base, tmp_path / "again"), x), output(theirs, x))


def test_it_trains_as_pefts_does(tmp_path: Path) -> None:
    case = CASES["llama"]
    base, theirs = theirs_saved(case, tmp_path)
    ours = copy.deepcopy(base)
    ll.load(ours, tmp_path, name="call")
    for model in (ours.train(), theirs.train()):
        model(**prompts(), labels=prompts()["input_ids"]).loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    for name, parameter in ll.adapters_of(ours).adapter("call").named_parameters():
        path, _, factor = name.rpartition(".")
        torch.testing.assert_close(parameter.grad, expected[f"base_model.model.{path}.{factor}.default.weight"])


def test_a_batch_of_plain_activated_and_base(tmp_path: Path) -> None:
    base = llama().eval()
    theirs = peft_model(base, target_modules=["q_proj", "v_proj"], **TOKENS)
    theirs.add_adapter("plain", LoraConfig(r=3, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    theirs.eval().save_pretrained(tmp_path)
    ours, x = copy.deepcopy(base), {"input_ids": prompts()["input_ids"][[0, 1, 0, 0]]}
    ll.load(ours, tmp_path, name="default")
    ll.load(ours, tmp_path / "plain")
    with torch.no_grad():
        expected = theirs(**x, adapter_names=["default", "default", "plain", "__base__"]).logits
    with ll.rows(ours, ["default", "default", "plain", None]):
        assert_same(output(ours, x), expected.flatten(), unlike=output(base, x))


def configure(folder: Path, **fields: object) -> None:
    """Other settings in a folder's configuration."""
    file = folder / CONFIG_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_what_is_not_the_same_in_both_is_refused(tmp_path: Path) -> None:
    base = llama().eval()
    with pytest.raises(ValueError, match="alora_invocation_tokens"):
        peft_model(base, target_modules=["embed_tokens", "q_proj"], **TOKENS)
    peft_model(base, target_modules=["embed_tokens", "q_proj"]).save_pretrained(tmp_path / "embedding")
    configure(tmp_path / "embedding", **TOKENS)
    with pytest.raises(ll.AdapterFileError, match="embed_tokens is not a dense layer"):
        ll.load(copy.deepcopy(base), tmp_path / "embedding")
    _, _ = ours_saved(CASES["llama"], tmp_path / "ours")
    configure(tmp_path / "ours", alora_invocation_tokens=[1])
    with pytest.raises(ll.AdapterFileError, match=r"\[1\].*loralab.json.*\[7, 8\]"):
        ll.load(copy.deepcopy(base), tmp_path / "ours")


def test_pefts_own_forward_needs_the_task(tmp_path: Path) -> None:
    """Saved without the model the folder still says CAUSAL_LM, without which PEFT looks for no invocation."""
    base = llama().eval()
    ours = copy.deepcopy(base)
    adapter = ll.attach(ours, ll.LoRA(rank=2, targets="q_proj", invocation_tokens=CALL))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    ll.save(adapter, tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert_same(output(theirs, prompts()), output(ours, prompts()), unlike=output(base, prompts()))
