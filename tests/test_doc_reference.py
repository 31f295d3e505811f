"""What docs/reference and docs/start say is so: errors come in those words, files hold those keys, data are read."""

import builtins
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import loralab as ll
from loralab import errors
from loralab.core.updates.update import KINDS
from loralab.formats.gguf import ARCHITECTURES
from loralab.formats.record import BIASED, INVOKED, MAGNITUDE
from loralab.metrics.scores import higher_is_better
from loralab.tasks.glue.table import GLUE
from loralab.tasks.own.turns import MORE, ROLES
from loralab.tasks.readers.rows import READERS as ENDINGS
from loralab.tasks.splits import SPLIT_NAMES
from loralab.tasks.table import READERS, open_task
from pages import DOCS, blocks, broken_links, code, commands, configuration, rows, section
from small_models import llama
from tiny import write_bert, write_images, write_labels, write_llama, write_pairs

PATHS = [*(DOCS / "reference").glob("*.md"), DOCS / "start" / "your-data.md"]
ERRORS, FORMATS, METRICS, DATA = (
    (DOCS / name).read_text(encoding="utf-8")
    for name in ("reference/errors.md", "reference/file-formats.md", "reference/metrics.md", "start/your-data.md")
)
every_page = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


@every_page
def test_command_lines_are_understood(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        configuration(words)


# -- errors -------------------------------------------------------------------------------------------------------

CLASSES = {
    name: each
    for name, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.LoralabError) and each is not errors.LoralabError
}


def test_every_error_has_its_section_and_every_section_an_error() -> None:
    assert set(re.findall(r"^## (\w+)$", ERRORS, re.MULTILINE)) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_comes_as_its_section_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.environ["PATH"])  # an example takes it away
    told = section(ERRORS, name)
    assert issubclass(CLASSES[name], getattr(builtins, code(told)))
    assert issubclass(getattr(ll, name), errors.LoralabError)
    write_llama(Path("base"))
    write_pairs(Path("data"))
    given: dict[str, Any] = {"model": llama().eval()}
    exec(blocks(ERRORS, "python")[0], given)
    with pytest.raises(CLASSES[name]) as caught:
        exec(blocks(told, "python")[0], given)
    said, wanted = (" ".join(text.split()) for text in (str(caught.value), blocks(told, "text")[0]))
    as_told = re.fullmatch(".+".join(map(re.escape, wanted.split("…"))), said) is not None
    assert as_told, f"{name} on the page should say: {said}"


# -- file formats -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: a classifier with its head."""
    place = tmp_path_factory.mktemp("run")
    write_bert(place / "base")
    write_labels(place / "data")
    config = ll.TrainConfig(
        model=str(place / "base"), task="jsonl", data=str(place / "data"), out=str(place / "out"), steps=2, rank=2,
        eval_every=1, eval_limit=2,
    )  # fmt: skip
    ll.train(config)
    return place / "out"


def keys_of(table: str) -> set[str]:
    """The names in backticks in the first column of a section's table."""
    return {key for row in rows(table) for key in re.findall(r"`([^`]+)`", row[0])}


def test_the_files_of_a_run_are_those_of_the_page(run: Path) -> None:
    told = {name.rstrip("/") for name in keys_of(section(FORMATS, "An adapter's folder"))}
    assert {each.name for each in run.iterdir()} <= told
    assert told - {each.name for each in run.iterdir()} == {"plain_lora"}


def test_the_keys_of_loralab_json_are_those_of_the_page(run: Path) -> None:
    content = json.loads((run / "loralab.json").read_text())
    told = section(FORMATS, "loralab.json")
    assert keys_of(told) == content.keys() | {"shared"}
    module = next(iter(content["modules"].values()))
    adapted = next(iter(content["fingerprint"]["tensors"].values()))
    inner = [*module, *module["parts"][0], *content["fingerprint"], *adapted]
    assert all(f"`{key}`" in told for key in inner)


def test_the_kinds_of_module_are_those_of_the_page() -> None:
    told = section(FORMATS, "loralab.json")
    assert all(f"`{kind}`" in told for kind in KINDS)
    assert all(f"`{ending}`" in told for ending in (MAGNITUDE, INVOKED, BIASED))


def test_the_keys_of_run_json_are_those_of_the_page(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    told = section(FORMATS, "run.json")
    assert keys_of(told) == content.keys()
    assert all(f"`{key}`" in told for key in (*content["result"], *content["machine"]))
    steps, measured = {}, {}
    for entry in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        (steps if entry["split"] == "train" else measured).update(entry)
    assert all(f"`{key}`" in told for key in steps)
    assert measured.keys() - {"step", "split"} <= {name for name, _ in METRIC_ROWS}


def test_a_checkpoint_holds_what_the_page_says(run: Path) -> None:
    told = section(FORMATS, "Checkpoints")
    assert (run / "checkpoints" / "best.safetensors").exists()
    with safe_open(str(run / "checkpoints" / "step-00000002.safetensors"), "pt") as file:
        content, names = json.loads(file.metadata()["loralab"]), list(file.keys())
    assert all(f"`{key}`" in told for key in content)
    assert {name.partition("/")[0] for name in names} == {"adapter", "optimizer", "random"}


def test_the_keys_of_adapter_config_are_those_that_we_write(tmp_path: Path) -> None:
    model = llama()
    adapter = ll.attach(model, ll.LoRA(rank=2))
    config = json.loads((ll.save(adapter, tmp_path, model=model) / "adapter_config.json").read_text())
    told = keys_of(section(FORMATS, "adapter_config.json").partition("In `LORA`")[2])
    assert told - config.keys() == {"target_parameters", "alora_invocation_tokens"}  # where there are any


def test_the_model_types_of_gguf_are_those_of_the_page() -> None:
    named = re.search(r"Model types: ([^.]*)\.", section(FORMATS, "GGUF"))[1]
    assert re.split(r",\s+", named) == list(ARCHITECTURES)


# -- metrics ------------------------------------------------------------------------------------------------------

METRIC_ROWS = [
    (key, row[2]) for row in rows(section(METRICS, "Keys and units")) for key in re.findall(r"`([^`]+)`", row[0])
]


def test_every_metric_points_the_way_the_page_says() -> None:
    assert all(higher_is_better(name) == (way == "higher") for name, way in METRIC_ROWS)


def test_every_task_has_the_metrics_of_the_page(tmp_path: Path) -> None:
    write_pairs(tmp_path / "texts")
    write_labels(tmp_path / "classes")
    write_images(tmp_path / "images")
    values = tmp_path / "values.jsonl"
    values.write_text("".join(json.dumps({"text": str(i), "label": i + 0.5}) + "\n" for i in range(8)))
    pairs, documents = tmp_path / "pairs.jsonl", tmp_path / "documents.txt"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    documents.write_text("a b c")
    own = {"texts": tmp_path / "texts", "classes": tmp_path / "classes", "values": values}
    own |= {"pairs": pairs, "documents": documents}
    seen = set()
    for names, kind, metrics in rows(section(METRICS, "Tasks")):
        for name, which in re.findall(r"`([^`]+)`(?: \((\w+)\))?", names):
            data = own[which] if which else tmp_path / "images" if name == "images" else None
            task = open_task(name, None if data is None else str(data))
            assert (task.kind, task.metrics) == (kind, tuple(re.findall(r"`([^`]+)`", metrics))), name
            seen.add(name)
    assert seen == set(READERS)
    assert {name for name, _ in METRIC_ROWS} >= {metric for each in GLUE.values() for metric in each.metrics}


# -- your own data ------------------------------------------------------------------------------------------------

SHAPES = [block for block in blocks(DATA, "json") if '"image"' not in block]


@pytest.mark.parametrize("block", SHAPES, ids=lambda block: ", ".join(json.loads(block.splitlines()[0])))
def test_every_shape_of_the_page_is_read(block: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(block, encoding="utf-8")
    assert len(open_task("jsonl", str(file)).examples("all")) == len(block.splitlines())


def test_the_endings_of_the_page_are_those_that_are_read() -> None:
    told = section(DATA, "Files")
    assert {name for row in rows(told) for name in re.findall(r"`(\.[a-z]+)`", row[0])} == ENDINGS.keys()


def test_the_names_of_splits_and_roles_are_those_of_the_page() -> None:
    assert all(f"`{name}`" in section(DATA, "Splits") for name in SPLIT_NAMES)
    assert all(f"`{name}`" in section(DATA, "Shapes") for name in (*ROLES, *MORE))
