"""Classes keep the order of the model's outputs, whatever the order of the data; names that disagree are refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

import loralab as ll
from loralab.cli.main import main
from loralab.evaluation.evaluate import evaluate
from loralab.evaluation.label_order import in_order_of
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from tiny import SMALL, byte_tokenizer, write_image, write_lines

WORDS = ["bad", "fine", "good"]


def write_oracle(folder: Path, names: Sequence[object] | None, letters: str = "bfg") -> Path:
    """A classifier that is always right: output i is the class whose text begins with letter i, called names[i]."""
    torch.manual_seed(0)
    named = {} if names is None else {"id2label": dict(enumerate(names)), "label2id": {}}
    config = BertConfig(**SMALL, vocab_size=258, pad_token_id=0, num_labels=len(letters), **named)
    model = BertForSequenceClassification(config).eval()
    ids = byte_tokenizer().convert_tokens_to_ids(list(letters))
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "encoder" not in name or "LayerNorm" in name:
                each.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        model.bert.embeddings.word_embeddings.weight[ids] = 9 * torch.eye(len(ids), 32)
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight.fill_(1)
            layer.output.LayerNorm.weight.fill_(1)
        model.bert.pooler.dense.weight.copy_(torch.eye(32))
        model.classifier.weight.copy_(torch.eye(len(ids), 32))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_words(folder: Path, labels: Sequence[object]) -> Path:
    """Texts that begin with the letter of their class, the classes called `labels` in the order bad, fine, good."""
    lines = [{"text": WORDS[i % 3], "label": labels[i % 3]} for i in range(12)]
    for split in ("train", "validation", "test"):
        write_lines(folder / f"{split}.jsonl", lines)
    return folder


def accuracy(model: Path, data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> float:
    told = ["--model", str(model), "--task", "jsonl", "--data", str(data), "--dtype", "float32", "--json"]
    assert main(["eval", *told, *more]) == 0
    return float(json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]["accuracy"])


CASES = {
    "another order": (["good", "bad", "fine"], ["bad", "fine", "good"], "gbf"),
    "case": (["GOOD", "Bad", "FINE"], ["bad", "fine", "good"], "gbf"),
    "separators": (["very-good", "Not Bad", "so_fine"], ["not_bad", "so fine", "very good"], "gbf"),
    "integers": ([2, 0, 1], [0, 1, 2], "gbf"),
    "integers as text": (["2", "0", "1"], [0, 1, 2], "gbf"),
    "placeholders that are mixed": (["LABEL_2", "LABEL_0", "LABEL_1"], [0, 1, 2], "gbf"),
    "placeholders in order": (None, [0, 1, 2], "bfg"),
    "placeholders of text": (None, ["0", "1", "2"], "bfg"),
}


@pytest.mark.parametrize("names, labels, letters", CASES.values(), ids=CASES)
def test_who_is_always_right_is_measured_so(names, labels, letters: str, tmp_path: Path, capsys) -> None:
    model, data = write_oracle(tmp_path / "m", names, letters), write_words(tmp_path / "d", labels)
    assert accuracy(model, data, capsys) == 100.0
    written = tmp_path / "said.txt"
    accuracy(model, data, capsys, "--predictions", str(written))
    assert written.read_text(encoding="utf-8").split("\n")[:3] == [str(each) for each in labels]
    loaded = BertForSequenceClassification.from_pretrained(model)
    assert evaluate(loaded, byte_tokenizer(), open_task("jsonl", str(data)), "test").metrics["accuracy"] == 100.0


def test_training_keeps_the_checkpoints_order_and_records_it(tmp_path: Path, capsys) -> None:
    model = write_oracle(tmp_path / "m", ["GOOD", "bad", "Fine"], "gbf")
    data, out = write_words(tmp_path / "d", WORDS), tmp_path / "run"
    config = ll.TrainConfig(
        model=str(model), task="jsonl", data=str(data), out=str(out), rank=2, steps=1, lr=1e-6, dtype="float32"
    )
    assert ll.train(config).metrics["accuracy"] == 100.0
    for name in ("run.json", "loralab.json"):
        assert json.loads((out / name).read_text(encoding="utf-8"))["labels"] == ["good", "bad", "fine"]
    assert "labels" not in json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert accuracy(model, data, capsys, "--adapter", str(out)) == 100.0
    (out / "run.json").unlink()
    assert accuracy(model, data, capsys, "--adapter", str(out)) == 100.0


def test_an_adapter_that_records_no_order(tmp_path: Path, capsys) -> None:
    """As PEFT leaves it: what is assumed is said, and --labels says otherwise."""
    model = write_oracle(tmp_path / "m", None, "gbf")
    data, out = write_words(tmp_path / "d", WORDS), tmp_path / "a"
    loaded = load_model(str(model), kind="sequence-classification", dtype="float32")
    ll.save(ll.attach(loaded.model, ll.LoRA(rank=2, modules_to_save=["classifier"])), out, model=loaded.model)
    (out / "loralab.json").unlink()
    told = ["--model", str(model), "--task", "jsonl", "--data", str(data), "--adapter", str(out), "--json"]
    assert main(["eval", *told]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["metrics"]["accuracy"] == 0.0
    assert "records no order" in said.err or "does not record the order of its classes: bad, fine, good" in said.err
    assert accuracy(model, data, capsys, "--adapter", str(out), "--labels", "good,bad,fine") == 100.0


def test_labels_that_contradict_the_record_are_refused(tmp_path: Path, capsys) -> None:
    model = write_oracle(tmp_path / "m", ["good", "bad", "fine"], "gbf")
    data, out = write_words(tmp_path / "d", WORDS), tmp_path / "a"
    loaded = load_model(str(model), kind="sequence-classification", dtype="float32").model
    ll.save(ll.attach(loaded, ll.LoRA(rank=2)), out, model=loaded)
    told = ["--model", str(model), "--task", "jsonl", "--data", str(data), "--adapter", str(out)]
    assert main(["eval", *told, "--labels", "bad,fine,good"]) == 2
    assert "records good,bad,fine" in capsys.readouterr().err


def test_names_that_disagree_are_refused_and_labels_says_what_they_mean(tmp_path: Path, capsys) -> None:
    model, data = (
        write_oracle(tmp_path / "m", ["3 stars", "1 star", "2 stars"], "gbf"),
        write_words(tmp_path / "d", WORDS),
    )
    told = ["--model", str(model), "--task", "jsonl", "--data", str(data)]
    assert main(["eval", *told]) == 2
    assert "3 stars, 1 star, 2 stars" in capsys.readouterr().err
    assert accuracy(model, data, capsys, "--labels", "good,bad,fine") == 100.0


def test_a_checkpoint_may_know_more_classes_than_the_data_show(tmp_path: Path, capsys) -> None:
    model = write_oracle(tmp_path / "m", ["good", "bad", "odd", "fine"], "gbof")
    assert accuracy(model, write_words(tmp_path / "d", WORDS), capsys) == 100.0


def test_labels_in_training(tmp_path: Path) -> None:
    model, data = write_oracle(tmp_path / "m", None, "gbf"), write_words(tmp_path / "d", WORDS)
    config = {"model": str(model), "task": "jsonl", "data": str(data), "rank": 2, "steps": 1, "lr": 1e-6}
    told = ll.TrainConfig(**config, out=str(tmp_path / "run"), labels=("good", "bad", "fine"), dtype="float32")
    assert ll.train(told).metrics["accuracy"] == 100.0
    started = ll.TrainConfig(**config, out=str(tmp_path / "second"), init_adapter=told.out, dtype="float32")
    assert ll.train(started).metrics["accuracy"] == 100.0
    with pytest.raises(ll.SpecError, match="good, bad, odd"):
        ll.train(ll.TrainConfig(**config, out=str(tmp_path / "third"), labels=("good", "bad", "odd")))


def test_glue(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "MNLI"
    folder.mkdir()
    rows = [("nice", "neutral"), ("each", "entailment"), ("cold", "contradiction")]
    text = "sentence1\tsentence2\tgold_label\n" + "".join(f"{word}\t{word}\t{label}\n" for word, label in rows)
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    model = write_oracle(tmp_path / "m", ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], "cne")
    told = ["--model", str(model), "--task", "glue/mnli", "--data", str(tmp_path), "--split", "dev_matched", "--json"]
    assert main(["eval", *told]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]["accuracy"] == 100.0


def test_images(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    config = ViTConfig(**SMALL, image_size=8, patch_size=4, id2label={0: "Red", 1: "blue"}, label2id={})
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([9.0, -9.0]))  # it says red, whatever it sees
    model.save_pretrained(tmp_path / "vit")
    for name in ("blue", "red"):
        write_image(tmp_path / "data" / "test" / name / "1.png", (255, 0, 0))
        write_image(tmp_path / "data" / "train" / name / "1.png", (250, 0, 0))
    write_image(tmp_path / "data" / "test" / "red" / "2.png", (251, 0, 0))
    written = tmp_path / "said.txt"
    told = ["--model", str(tmp_path / "vit"), "--task", "images", "--data", str(tmp_path / "data")]
    assert main(["eval", *told, "--predictions", str(written), "--json"]) == 0
    assert written.read_text(encoding="utf-8").split() == ["red"] * 3
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]["accuracy"]
    assert found == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    "names, order, found",
    [
        (["a", "b"], ["b", "a"], ("b", "a")),
        (["A", "a"], ["a", "A"], ("a", "A")),
        (["A", "b"], ["B", "a"], ("b", "A")),
        (["0", "1"], ["True", "False"], ("1", "0")),
        (["x_y", "z"], ["Z", "X Y"], ("z", "x_y")),
        (["a", "b"], ["a", "c"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["a", "b"], ["b", "other", "a"], ("b", "other", "a")),
        (["x_y", "x-y"], ["X-Y", "X_Y"], ("x-y", "x_y")),
    ],
)
def test_names_are_matched_as_strictly_as_they_can_be(names, order, found) -> None:
    assert in_order_of(names, order) == found
