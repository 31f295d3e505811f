"""The card beside an adapter: what a stranger needs, true of the files, and what somebody wrote into it is kept."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import LlamaForCausalLM

import loralab as ll
from loralab.formats.sharing.card import CARD_NAME, write_card, write_merged_card
from pages import blocks
from tiny import write_llama

RUN: dict[str, Any] = {
    "config": {"model": "smollm2-135m", "task": "e2e", "batch_size": 8, "lr": 0.002, "schedule": "linear", "seed": 0},
    "kind": "generation",
    "model_kind": "generation",
    "data": {"files": {"trainset.csv": "c" * 64}},
    "result": {
        "steps": 80,
        "tokens": 1234,
        "before": {"loss": 3.98},
        "metrics": {"loss": 2.76, "rouge_l": 0.3},
        "held_out": {"split": "validation", "examples": 64},
    },
}


def made(
    tmp_path: Path, name_or_path: str = "smollm2-135m", run: dict[str, Any] | None = None, spec: Any = None
) -> Path:
    """An adapter's folder, as if trained on a model of that name."""
    model = LlamaForCausalLM.from_pretrained(write_llama(tmp_path / "base"))
    adapter = ll.attach(model, spec or ll.LoRA(rank=2, alpha=8))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    model.name_or_path = model.config.name_or_path = name_or_path
    ll.save(adapter, tmp_path / "sql", model=model)
    if run is not None:
        (tmp_path / "sql" / "run.json").write_text(json.dumps(run))
    return tmp_path / "sql"


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    folder = made(tmp_path, run=RUN)
    assert write_card(folder)
    data = ModelCard.load(folder / CARD_NAME).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert (data.tags, data.datasets, data.metrics) == (["lora", "loralab"], ["tuetschek/e2e_nlg"], ["rouge"])
    assert data.license is None
    assert "# license: to be filled in" in (folder / CARD_NAME).read_text()


def test_the_text_says_data_settings_and_scores_before_and_after(tmp_path: Path) -> None:
    folder = made(tmp_path, run=RUN)
    write_card(folder)
    text = (folder / CARD_NAME).read_text()
    for said in (
        "rank 2, alpha 8", "4 modules: `q_proj` (2), `v_proj` (2)", "80 steps, batches of 8", "1,234 tokens",
        "`trainset.csv` (SHA-256 `cccccccccccc…`)",
        "64 examples of the validation split: the loss in nats per target token",
        "| loss | 3.98 | 2.76 |", "| rouge_l | – | 0.3 |", "Q4_1, dequantised", "## Licence\n\nTo be filled in",
    ):  # fmt: skip
        assert said in text


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_its_python_loads_the_adapter_in_loralab_and_in_peft(tmp_path: Path) -> None:
    base = str(tmp_path / "base")
    folder = made(tmp_path, base)
    write_card(folder)
    text = (folder / CARD_NAME).read_text()
    ours, theirs = ({"folder": str(folder)} for _ in range(2))
    code = [block.replace("'BASE'", repr(base)) for block in blocks(text, "python")]
    exec(code[0], ours)
    exec(code[1], theirs)
    ids = torch.arange(12).reshape(2, 6)
    torch.testing.assert_close(ours["model"](ids).logits.float(), theirs["model"](ids).logits, atol=0.05, rtol=0)
    with ll.disabled(ours["model"]):
        assert not torch.allclose(ours["model"](ids).logits.float(), theirs["model"](ids).logits, atol=0.05, rtol=0)


@pytest.mark.parametrize("place", ["/data/secret/model", "./model", "~/model", "C:\\models\\mine"])
def test_a_folder_of_somebodys_machine_is_said_to_be_one_and_its_path_is_not_told(tmp_path: Path, place: str) -> None:
    folder = made(tmp_path, place)
    write_card(folder)
    text = (folder / CARD_NAME).read_text()
    assert "a local folder" in text
    assert "base_model" not in text
    assert "secret" not in text


def test_a_method_of_our_own_says_who_reads_it(tmp_path: Path) -> None:
    folder = made(tmp_path, spec=ll.PrefixEmbedding(prefix=2))
    write_card(folder)
    assert ModelCard.load(folder / CARD_NAME).data.library_name == "loralab"
    assert "PEFT does not know this method" in (folder / CARD_NAME).read_text()


def test_a_merged_model_has_a_card_of_its_own_and_one_that_is_there_stays(tmp_path: Path) -> None:
    folder, out = made(tmp_path, run=RUN), tmp_path / "merged"
    out.mkdir()
    write_merged_card(out, folder, "It was compared.")
    card = ModelCard.load(out / CARD_NAME)
    assert (card.data.library_name, card.data.datasets) == ("transformers", ["tuetschek/e2e_nlg"])
    assert "# merged\n" in card.text
    assert "| loss | 3.98 | 2.76 |" in card.text
    (out / CARD_NAME).write_text("mine")
    write_merged_card(out, folder, "It was compared.")
    assert (out / CARD_NAME).read_text() == "mine"


def test_a_classifier_is_loaded_with_its_labels_and_a_regression_as_one(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for run, said in (
        ({"kind": "classification", "labels": ["no", "yes"]}, "kind='sequence-classification', labels=['no', 'yes'])"),
        ({"kind": "regression"}, "kind='sequence-classification', regression=True)"),
    ):
        (folder / "run.json").write_text(json.dumps(RUN | run | {"model_kind": "sequence-classification"}))
        assert write_card(folder)
        assert said in (folder / CARD_NAME).read_text()


def test_of_an_adapter_of_another_program_nothing_is_claimed_that_its_files_do_not_say(tmp_path: Path) -> None:
    folder = made(tmp_path)
    (folder / "loralab.json").unlink()
    write_card(folder)
    text = (folder / CARD_NAME).read_text()
    assert "rank 2, alpha 8" in text
    assert "`q_proj`, `v_proj`" in text
    assert not any(claim in text for claim in ("made with loralab", "made with", "Q4_1", "loralab loads it onto them"))
    assert ModelCard.load(folder / CARD_NAME).data.tags == ["lora"]


# -- what somebody wrote ----------------------------------------------------------------------------------------------


def test_an_untouched_card_is_renewed_and_a_filled_in_licence_and_words_around_it_stay(tmp_path: Path) -> None:
    folder = made(tmp_path)
    path = folder / CARD_NAME
    write_card(folder)
    (folder / "run.json").write_text(json.dumps(RUN))
    assert write_card(folder)
    assert "tuetschek/e2e_nlg" in path.read_text()
    edited = re.sub(r"# license: .*", "license: mit", path.read_text()) + "\nMine, at the end.\n"
    path.write_text(edited.replace("---\n<!--", "---\nMine, above.\n<!--"))
    (folder / "run.json").write_text(json.dumps(RUN | {"result": {"steps": 81}}))
    assert write_card(folder)
    text = path.read_text()
    for kept in ("license: mit", "Mine, above.", "Mine, at the end.", "81 steps"):
        assert kept in text
    assert "80 steps" not in text
    assert write_card(folder)
    assert path.read_text() == text


@pytest.mark.parametrize("edit", [lambda text: "# My own\n", lambda text: text.replace("made with loralab", "by me")])
def test_a_card_that_somebody_wrote_or_changed_is_left_alone(tmp_path: Path, edit: Any) -> None:
    folder = made(tmp_path)
    write_card(folder)
    path = folder / CARD_NAME
    path.write_text(edit(path.read_text()))
    before = path.read_text()
    (folder / "run.json").write_text(json.dumps(RUN))
    assert not write_card(folder)
    assert path.read_text() == before
