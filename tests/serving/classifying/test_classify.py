"""Texts are classified by what they name: mixed as alone, and as the adapter itself would."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from transformers import AutoModelForCausalLM

import loralab as ll
from loralab.evaluation.labels import class_logits
from loralab.serving.engine.engine import EngineConfig
from loralab.serving.http.server import Server, ServerConfig
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encoded import Encoded
from serving.classifying.encoders import ENCODERS, TEXTS, opened, write_encoder
from serving.http.servers import made, served, write_place
from serving.test_registry import write

CLASSES = {"mood": ("bad", "good"), "topic": ("sport", "art", "law", "food"), "third": ("x", "y", "z")}


@pytest.fixture(scope="module", params=list(ENCODERS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(request.param, tmp_path_factory.mktemp("classified"), **CLASSES)


def server_of(place: Path, **settings: Any) -> Server:
    loaded = opened(place)
    config = {"name": "base", "folder": place / "adapters", "engine": EngineConfig(rows=8)} | settings
    return Server(loaded.model, loaded.tokenizer, ServerConfig(**config))


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[httpx2.Client]:
    for url in served(server_of(place, admin_token="t")):
        with httpx2.Client(base_url=url, timeout=120) as made_client:
            yield made_client


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder("bert", tmp_path_factory.mktemp("small"), **CLASSES)


@pytest.fixture(scope="module")
def bert(small: Path) -> Iterator[httpx2.Client]:
    for url in served(server_of(small)):
        with httpx2.Client(base_url=url, timeout=120) as made_client:
            yield made_client


def asked(client: httpx2.Client, model: str, input: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/classify", json={"model": model, "input": input})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def expected(place: Path, name: str, text: str, pair: str | None = None) -> list[float]:
    """By the adapter itself, alone on a model of its own classes."""
    loaded = opened(place, CLASSES[name])
    ll.load(loaded.model, place / "adapters" / name)
    whole = loaded.tokenizer(text, pair)
    batch = collate([Encoded(whole["input_ids"], None, whole.get("token_type_ids"))], 0)
    with torch.no_grad():
        probabilities: list[float] = class_logits(loaded.model, batch)[0].softmax(-1).tolist()
    return probabilities


def test_each_adapter_answers_with_its_own_head(client: httpx2.Client, place: Path) -> None:
    for name, labels in CLASSES.items():
        for text, found in zip(TEXTS, asked(client, name, list(TEXTS)), strict=True):
            wanted = expected(place, name, text)
            assert found["probs"] == pytest.approx(wanted, abs=1e-5)
            assert found["label"] == labels[max(range(len(wanted)), key=wanted.__getitem__)]
            assert found["scores"] == dict(zip(labels, found["probs"], strict=True))
            assert found["num_classes"] == len(labels)


def test_mixed_is_as_alone(client: httpx2.Client) -> None:
    alone = {(name, text): asked(client, name, text)[0]["probs"] for name in CLASSES for text in TEXTS}
    found: dict[tuple[str, str], list[float]] = {}

    def ask(name: str, text: str) -> None:
        found[name, text] = asked(client, name, text)[0]["probs"]

    threads = [threading.Thread(target=ask, args=each) for each in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each, probabilities in alone.items():
        assert found[each] == pytest.approx(probabilities, abs=1e-5)


def test_pairs_are_read_together(bert: httpx2.Client, small: Path) -> None:
    pair = {"text": "it rains", "text_pair": "it is wet"}
    first, second = asked(bert, "third", [pair, "it rains"])
    assert first["probs"] == pytest.approx(expected(small, "third", "it rains", "it is wet"), abs=1e-5)
    assert first["probs"] != second["probs"]


def test_usage_is_counted(bert: httpx2.Client) -> None:
    answer = bert.post("/v1/classify", json={"model": "mood", "input": ["abc", "de"]}).json()
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 0)
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert 'loralab_prompt_tokens_total{model="mood"}' in bert.get("/metrics").text


def test_an_empty_text_is_read_as_the_beginning_of_one(bert: httpx2.Client) -> None:
    assert len(asked(bert, "mood", "")[0]["probs"]) == 2


@pytest.mark.parametrize(
    "route, body, status, said",
    [
        ("classify", {"model": "nobody", "input": "x"}, 404, "no adapter is called"),
        ("classify", {"model": "base", "input": "x"}, 400, "no head that was trained"),
        ("classify", {"model": "mood", "input": []}, 400, "input"),
        ("classify", {"model": "mood", "input": [["a", "b"]]}, 400, "input"),
        ("classify", {"model": "mood", "input": [5]}, 400, "input"),
        ("classify", {"model": "mood", "input": "x" * 300}, 400, "at most 256"),
        ("classify", {"model": "mood", "input": "x", "truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens"),
        ("completions", {"model": "mood", "prompt": "x"}, 400, "/v1/classify"),
        ("chat/completions", {"model": "mood", "messages": [{"role": "user", "content": "x"}]}, 400, "/v1/classify"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    bert: httpx2.Client, route: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = bert.post(f"/v1/{route}", json=body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_trained_head_of_the_base_answers_too(small: Path, tmp_path: Path) -> None:
    loaded = opened(small, ("no", "yes"))
    loaded.model.save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    trained = opened(tmp_path)
    assert not trained.fresh
    server = Server(trained.model, trained.tokenizer, ServerConfig(name="base", folder=None), ("no", "yes"))
    for url in served(server):
        with httpx2.Client(base_url=url, timeout=120) as client:
            assert asked(client, "base", "good")[0]["label"] in ("no", "yes")


def test_a_model_that_writes_says_where_classifiers_are(tmp_path: Path) -> None:
    place = write_place(tmp_path, "sql")
    write_encoder("llama", tmp_path / "other", mood=CLASSES["mood"])
    (tmp_path / "other" / "adapters" / "mood").rename(place / "adapters" / "mood")
    for url in served(made(place)):
        with httpx2.Client(base_url=url, timeout=120) as client:
            answer = client.post("/v1/classify", json={"model": "sql", "input": "x"})
            assert (answer.status_code, "/v1/completions" in answer.text) == (400, True)
            answer = client.post("/v1/completions", json={"model": "mood", "prompt": "x"})
            assert (answer.status_code, "/v1/classify" in answer.text) == (400, True), answer.text


def test_an_adapter_that_writes_is_refused_by_a_classifier(tmp_path: Path) -> None:
    place = write_encoder("llama", tmp_path, mood=CLASSES["mood"])
    write(AutoModelForCausalLM.from_pretrained(place / "base"), place / "adapters" / "writer")
    for url in served(server_of(place)):
        with httpx2.Client(base_url=url, timeout=120) as client:
            answer = client.post("/v1/classify", json={"model": "writer", "input": "x"})
            assert (answer.status_code, "writes text" in answer.text) == (400, True), answer.text
