"""Trained rows of embeddings, held against PEFT: its folders here, and ours there."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
)

import loralab as ll
from oracle.case import TENSORS, Case, assert_same, ours_saved, output, peft_loads, theirs_saved
from oracle.peft_warnings import silenced
from small_models import CLASSIFIER, SIZES, bert, gpt2, llama

pytestmark = silenced
LIST, BOTH, OTHERS = [3, 5, 12], {"embed_tokens": [3, 5], "lm_head": [3, 5]}, {"embed_tokens": [3], "lm_head": [5, 3]}
DELTA = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def ids() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(3, 13).repeat(2, 1)}


def both_sides() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(3, 13)[None], "decoder_input_ids": torch.arange(4, 9)[None]}


def bart() -> nn.Module:
    layers = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIDE.items()}
    return BartForConditionalGeneration(BartConfig(d_model=32, vocab_size=64, scale_embedding=True, **layers))


SIDE = {"layers": 1, "ffn_dim": 48, "attention_heads": 4}


def gemma() -> nn.Module:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, num_key_value_heads=2, pad_token_id=0))


def tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


def case(build: Callable[[], nn.Module], tokens: Any, targets: list[str], inputs: Any = ids, **more: Any) -> Case:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return build()

    common = {"trainable_token_indices": tokens}
    theirs = {"target_modules": targets, "use_dora": bool(more)}
    return Case(seeded, inputs, {"targets": targets, **more}, theirs, common)


CASES: dict[str, Case] = {
    "llama": case(llama, LIST, ["q_proj"]),
    "llama, by name": case(llama, {"embed_tokens": [3, 5]}, ["q_proj"]),
    "llama, both": case(llama, BOTH, ["q_proj"]),
    "llama, others in the head": case(llama, OTHERS, ["q_proj"]),
    "llama, the head": case(llama, {"lm_head": [3]}, ["q_proj"]),
    "llama, LoRA on the head": case(llama, LIST, ["q_proj", "lm_head"]),
    "tied": case(tied, LIST, ["q_proj"]),
    "tied, both": case(tied, BOTH, ["q_proj"]),
    "tied, others in the head": case(tied, OTHERS, ["q_proj"]),
    "tied, the head": case(tied, {"lm_head": [3]}, ["q_proj"]),
    "gpt2": case(gpt2, LIST, ["c_attn"]),
    "a classifier": case(bert, LIST, ["query"]),
    "scaled": case(gemma, LIST, ["q_proj"]),
    "encoder-decoder": case(bart, LIST, ["q_proj"], both_sides),
    "DoRA": case(tied, LIST, ["q_proj"], magnitude=True),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
def test_our_folder_computes_the_same_in_peft(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path)
    assert_same(output(peft_loads(base, tmp_path), case.inputs()), output(ours, case.inputs()), unlike=base_of(case))


@cases
@pytest.mark.parametrize("embeddings", ["auto", True])
def test_pefts_folder_computes_the_same_here(tmp_path: Path, case: Case, embeddings: Any) -> None:
    base, theirs = theirs_saved(case, tmp_path)
    theirs.save_pretrained(tmp_path, save_embedding_layers=embeddings)
    ours, x = copy.deepcopy(base), case.inputs()
    adapter = ll.load(ours, tmp_path)
    assert_same(output(ours, x), output(theirs, x), unlike=base_of(case))
    trained = sum(each.numel() for name, each in theirs.named_parameters() if each.requires_grad)
    assert sum(each.numel() for each in adapter.parameters()) == trained
    ll.merge(ours)
    assert_same(output(ours, x), output(theirs, x), unlike=base_of(case))
    ll.unmerge(ours)
    ll.save(adapter, tmp_path / "again", model=ours)
    assert_same(output(peft_loads(base, tmp_path / "again"), x), output(theirs, x), unlike=base_of(case))


def base_of(case: Case) -> Tensor:
    return output(case.make()[0], case.inputs())


def test_both_name_the_tensors_and_the_indices_alike(tmp_path: Path) -> None:
    for name in ("tied", "llama, both"):
        ours_saved(CASES[name], tmp_path / name / "ours")
        theirs_saved(CASES[name], tmp_path / name / "theirs")
        rows = [
            {
                key: tuple(each.shape)
                for key, each in load_file(tmp_path / name / side / TENSORS).items()
                if "tok" in key
            }
            for side in ("ours", "theirs")
        ]
        kept = [{key: shape for key, shape in each.items() if "delta" in key} for each in rows]
        assert kept[0] == kept[1]
    config = json.loads((tmp_path / "tied" / "ours" / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == LIST


def test_without_the_model_a_tie_is_written_so_that_it_holds_anyway(tmp_path: Path) -> None:
    base, ours = ours_saved(CASES["tied"], tmp_path / "with")
    ll.save(ours._loralab_adapters.adapter("default"), tmp_path / "without")
    x = ids()
    assert_same(output(peft_loads(base, tmp_path / "without"), x), output(ours, x), unlike=output(base, x))
    (tmp_path / "without" / "loralab.json").unlink()
    again = copy.deepcopy(base)
    ll.load(again, tmp_path / "without")
    assert torch.equal(output(again, x), output(ours, x))


def test_a_tie_that_no_config_tells_of_holds_in_peft_too(tmp_path: Path) -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok, self.mid, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
            self.head.weight = self.tok.weight

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mid(self.tok(input_ids))))

    base, ours = ours_saved(case(Toy, {"tok": [3, 5]}, ["mid"]), tmp_path)
    assert_same(output(peft_loads(base, tmp_path), ids()), output(ours, ids()), unlike=output(base, ids()))


def test_training_moves_the_rows_as_peft_does(tmp_path: Path) -> None:
    one = CASES["tied"]
    base, theirs = theirs_saved(one, tmp_path)
    theirs = theirs.train()
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("trainable_tokens_delta" in name or "lora_" in name)
    ours = copy.deepcopy(base)
    adapter = ll.load(ours.train(), tmp_path)
    for model in (ours, theirs):
        parameters = adapter.parameters() if model is ours else [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(list(parameters), lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            model(**ids(), labels=ids()["input_ids"]).loss.backward()
            optimizer.step()
    assert_same(output(ours.eval(), ids()), output(theirs.eval(), ids()), unlike=output(base, ids()))


def test_a_head_whose_bias_peft_leaves_out_stays_in_our_layout(tmp_path: Path) -> None:
    biased = case(lambda: BertForMaskedLM(BertConfig(**CLASSIFIER)), LIST, ["query"])
    base, ours = ours_saved(biased, tmp_path / "ours")
    again = copy.deepcopy(base)
    ll.load(again, tmp_path / "ours")
    assert torch.equal(output(again, ids()), output(ours, ids()))
    with pytest.raises((KeyError, ValueError), match="LORALAB"):
        peft_loads(base, tmp_path / "ours")
    theirs_saved(biased, tmp_path / "theirs")
    with pytest.raises(ll.AdapterFileError, match="PEFT leaves out the bias"):
        ll.load(base, tmp_path / "theirs")


@pytest.mark.parametrize("name, said", [("emb", "pos_emb"), ("out", "lora_dropout")])
def test_a_name_that_another_ends_in_stays_in_our_layout(tmp_path: Path, name: str, said: str) -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.pos_emb, self.mid = nn.Embedding(16, 8), nn.Embedding(16, 8), nn.Linear(8, 8)
            self.out = nn.Linear(8, 4, bias=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.out(self.mid(self.emb(input_ids) + self.pos_emb(torch.arange(input_ids.shape[1]))))

    base, ours = ours_saved(case(Toy, {name: [3]}, ["mid"]), tmp_path)
    assert said in json.loads((tmp_path / "adapter_config.json").read_text())["why_not_peft"][0]
    again = copy.deepcopy(base)
    ll.load(again, tmp_path)
    assert torch.equal(output(again, ids()), output(ours, ids()))


def test_a_folder_for_a_resized_vocabulary_loads_whatever_its_new_rows_were(tmp_path: Path) -> None:
    base = CASES["tied"].build().eval()
    base.resize_token_embeddings(70)
    theirs = get_peft_model(
        copy.deepcopy(base), LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[66])
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.requires_grad)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = copy.deepcopy(base)
    ll.save(ll.load(ours, tmp_path / "theirs"), tmp_path / "ours", model=ours)
    fresh = CASES["tied"].build().eval()
    x = {"input_ids": torch.tensor([[3, 66, 9]])}
    for folder in ("theirs", "ours"):
        with pytest.raises(ll.AdapterFileError, match=r"token 66.*has 64 rows.*resize_token_embeddings"):
            ll.load(fresh, tmp_path / folder)
    torch.manual_seed(1)
    fresh.resize_token_embeddings(70)
    assert not torch.equal(fresh.lm_head.weight, base.lm_head.weight)  # new rows start at random
    loaded = copy.deepcopy(fresh)
    ll.load(loaded, tmp_path / "ours")
    known = [*range(64), 66]
    assert_same(output(loaded, x).view(3, 70)[:, known], output(theirs, x).view(3, 70)[:, known], torch.zeros(1))


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], object], str]] = {
    "fewer rows": (
        lambda config, tensors: tensors.update({DELTA: tensors[DELTA][:2]}),
        r"shape \[2, 32\], not \[3, 32",
    ),
    "more indices": (
        lambda config, _: config.update(trainable_token_indices=[3, 5, 12, 13]),
        r"\[3, 32\], not \[4, 32",
    ),
    "no rows": (lambda _, tensors: tensors.pop(DELTA), "is missing"),
    "no indices": (lambda config, _: config.update(trainable_token_indices=None), "belongs to nothing"),
    "twice the same": (lambda config, _: config.update(trainable_token_indices=[3, 3, 5]), "more than once"),
    "negative": (lambda config, _: config.update(trainable_token_indices=[3, 5, -1]), "count from 0"),
    "text": (lambda config, _: config.update(trainable_token_indices=["3", "5", "12"]), "not a list of whole numbers"),
    "a number": (lambda config, _: config.update(trainable_token_indices=3), "not a list of whole numbers"),
    "no such module": (lambda config, _: config.update(trainable_token_indices={"wte": LIST}), "wte"),
    "saved in full too": (lambda config, _: config.update(modules_to_save=["embed_tokens"]), "embed_tokens"),
    "NaN": (lambda _, tensors: tensors[DELTA].fill_(float("nan")), "NaN"),
}


@pytest.mark.parametrize("change, said", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_folder_whose_rows_and_indices_disagree_is_refused(
    tmp_path: Path, change: Callable[[Mapping[str, Any], Mapping[str, Tensor]], object], said: str
) -> None:
    base, _ = theirs_saved(CASES["llama"], tmp_path)
    config, tensors = json.loads((tmp_path / "adapter_config.json").read_text()), load_file(tmp_path / TENSORS)
    change(config, tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({name: each.contiguous() for name, each in tensors.items()}, tmp_path / TENSORS)
    before = output(base, ids())
    with pytest.raises(ll.AdapterFileError, match=said):
        ll.load(base, tmp_path)
    assert torch.equal(output(base, ids()), before)


def test_lora_on_a_head_that_follows_the_rows_is_refused_though_peft_stacks_them(tmp_path: Path) -> None:
    base, _ = theirs_saved(case(tied, LIST, ["q_proj", "lm_head"]), tmp_path)
    with pytest.raises(ll.AdapterFileError, match=r"lm_head.*merge it in PEFT"):
        ll.load(base, tmp_path)
