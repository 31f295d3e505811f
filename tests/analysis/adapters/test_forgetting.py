"""The loss on other text: the windows, the paired change, and the command."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

import loralab as ll
from loralab.analysis.adapters.forgetting import Forgetting, HeldOut, embedded_text, forgetting, read_text, windows_of
from loralab.cli.main import main
from loralab.errors import DataError, NotFoundError, SpecError
from loralab.models.load import LoadedModel, load_model
from tiny import write_bert, write_labels, write_t5
from toys import give_effect
from trained import Trained, train_adapter

TEXT = HeldOut("letters", "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1000)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_adapter(tmp_path_factory.mktemp("forgetting"))


@pytest.fixture
def loaded(trained: Trained) -> LoadedModel:
    return load_model(str(trained.model), kind="generation", dtype="float32")


def test_windows_are_spread_over_the_text_and_do_not_overlap(loaded: LoadedModel) -> None:
    found = windows_of(loaded.model, loaded.tokenizer, TEXT, 320, 64)
    texts = [loaded.tokenizer.decode(each.input_ids) for each in found]
    starts = [TEXT.text.index(text) for text in texts]
    assert starts == [0, 234, 468, 702, 936]
    assert {len(text) for text in texts} == {64}
    assert {each.targets for each in found} == {63}
    assert len(windows_of(loaded.model, loaded.tokenizer, TEXT, 10**6, 64)) == 15
    assert len(windows_of(loaded.model, loaded.tokenizer, TEXT, 512, 10**6)[0].input_ids) == 256  # the context


def test_the_losses_are_the_models_own_mean_over_next_tokens(loaded: LoadedModel, trained: Trained) -> None:
    expected = {}
    ids = [each.input_ids for each in windows_of(loaded.model, loaded.tokenizer, TEXT, 128, 64)]
    for name in ("before_W", "after_W"):
        adapter = ll.load(loaded.model, trained.adapter) if name == "after_W" else None
        with torch.no_grad():
            tensors = [torch.tensor([row]) for row in ids]
            expected[name] = [float(loaded.model(input_ids=row, labels=row).loss) for row in tensors]
    assert adapter is not None
    found = forgetting(adapter, loaded.model, loaded.tokenizer, TEXT, tokens=128, window=64)
    assert found.tokens == 126
    for name, losses in expected.items():
        assert list(getattr(found, name)) == pytest.approx(losses, rel=1e-5)
    assert found.before != found.after


def test_an_adapter_of_zeros_forgets_exactly_nothing(loaded: LoadedModel) -> None:
    adapter = ll.attach(loaded.model, ll.LoRA(rank=2))
    silent = forgetting(adapter, loaded.model, loaded.tokenizer, TEXT, tokens=256, window=64)
    assert (silent.change, silent.standard_error) == (0.0, 0.0)
    give_effect(adapter, 0.3)
    loud = forgetting(adapter, loaded.model, loaded.tokenizer, TEXT, tokens=256, window=64)
    assert loud.before_W == silent.before_W
    assert loud.change != 0


def test_the_change_and_its_standard_error_are_of_paired_differences() -> None:
    found = Forgetting("text", 30, (1.0, 2.0, 6.0), (1.1, 2.3, 6.2))
    assert found.change == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert Forgetting("text", 10, (1.0,), (2.0,)).standard_error is None


def test_the_embedded_text_is_long_english() -> None:
    text = embedded_text().text
    assert len(text) > 300_000
    assert text.count(" the ") > 3000


def test_the_command_measures_text_and_task(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters.txt").write_text(TEXT.text)
    (tmp_path / "other.txt").write_text(TEXT.text.upper())
    texts = f"{tmp_path / 'letters.txt'},{tmp_path / 'other.txt'}"
    flags = [*trained.flags, "--text", texts, "--tokens", "512", "--window", "64", "--out", str(tmp_path / "out")]
    assert main(["analyse", "forgetting", *flags, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["gain"] == pytest.approx(answer["without_adapter"] - answer["with_adapter"])
    assert answer["gain"] > 0.3
    assert [row["text"] for row in answer["texts"]] == ["letters.txt", "other.txt"]
    row = answer["texts"][0]
    assert row["change"] == pytest.approx(row["loss_after"] - row["loss_before"])
    assert row["perplexity_after"] == pytest.approx(math.exp(row["loss_after"]))
    assert len(json.loads((tmp_path / "out" / "forgetting.json").read_text())["windows"]["letters.txt"]["before"]) == 8
    assert (tmp_path / "out" / "forgetting.png").stat().st_size > 10_000
    assert main(["analyse", "forgetting", *flags, "--overwrite"]) == 0
    assert "letters.txt: loss" in capsys.readouterr().out


def test_what_cannot_be_says_why(trained: Trained, loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_text(str(tmp_path / "nowhere"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_text(str(tmp_path / "bytes"))
    with pytest.raises(DataError, match="short has 10 tokens, less than one window of 64"):
        windows_of(loaded.model, loaded.tokenizer, HeldOut("short", "0123456789"), 64, 64)
    for tokens, window in ((64, 4), (32, 64)):
        with pytest.raises(SpecError, match="a window needs at least"):
            windows_of(loaded.model, loaded.tokenizer, TEXT, tokens, window)
    t5 = load_model(str(write_t5(tmp_path / "t5")), kind="generation", dtype="float32")
    with pytest.raises(SpecError, match="a causal language model"):
        windows_of(t5.model, t5.tokenizer, TEXT, 64, 64)


def test_a_classifier_has_no_loss_on_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = write_labels(tmp_path / "labels"), str(write_bert(tmp_path / "bert"))
    bert = load_model(model, kind="sequence-classification", labels=("no", "yes"), dtype="float32")
    ll.save(ll.attach(bert.model, ll.LoRA(rank=2)), tmp_path / "adapter", model=bert.model)
    (tmp_path / "adapter" / "run.json").write_text('{"labels": ["no", "yes"], "kind": "classification"}')
    flags = ["--model", model, "--adapter", str(tmp_path / "adapter"), "--task", "jsonl", "--data", str(data)]
    assert main(["analyse", "forgetting", *flags, "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 2
    assert "a classification: its model has no loss on a plain text" in capsys.readouterr().err
