import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.errors import DataError, NotFoundError, SpecError
from loralab.metrics.scores import Scores
from loralab.metrics.wikisql.query import AGGREGATIONS, OPERATORS
from loralab.metrics.wikisql.score import read_gold
from loralab.tasks.example import Example
from loralab.tasks.task import Task
from loralab.tasks.wikisql import hub_example, open_wikisql

QUESTION = {"phase": 1, "table_id": "1-2", "question": "Who?", "sql": {"sel": 0, "agg": 0, "conds": [[1, 1, 2]]}}
TABLE = {"id": "1-2", "header": ["Name", "Points"], "types": ["text", "real"], "rows": [["Ann", 5], ["Bob", 1]]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return path


def with_tables(folder: Path) -> Task:
    write(folder / "dev.tables.jsonl", TABLE)
    return open_wikisql(str(write(folder / "dev.jsonl", QUESTION)))


def score(task: Task, *outputs: str) -> Scores:
    return task.score_texts(outputs, [each.answers() for each in task.references("all") if isinstance(each, Example)])


def test_an_example(tmp_path: Path) -> None:
    (example,) = with_tables(tmp_path).examples("all")
    assert isinstance(example, Example)
    assert example.prompt == 'table("Name" text, "Points" real)\nWho?\nSQL:'
    assert example.target == ' SELECT "Name" FROM table WHERE "Points" > 2'
    assert read_gold(example.references[0]).header == ("Name", "Points")


def test_without_tables_there_are_answers_but_no_prompts(tmp_path: Path) -> None:
    task = open_wikisql(str(write(tmp_path / "dev.jsonl", QUESTION)))
    with pytest.raises(NotFoundError, match=r"there is no .*dev\.tables\.jsonl"):
        task.examples("all")
    found = score(task, '{"sel": 0, "agg": 0, "conds": [[1, 1, "2"]]}')
    assert found.metrics == {"logical_form": 100.0, "unparsable": 0.0}
    assert "execution accuracy is left out" in found.notes[0]


def test_queries_are_run_on_the_tables_or_the_official_database(tmp_path: Path) -> None:
    task = with_tables(tmp_path)
    other = "SELECT Name FROM t WHERE Name = 'ann'"
    assert score(task, other).metrics == {"logical_form": 0.0, "execution": 100.0, "unparsable": 0.0}
    with sqlite3.connect(tmp_path / "dev.db") as connection:
        connection.execute("CREATE TABLE table_1_2 (col0 text, col1 real)")
    connection.close()
    assert score(open_wikisql(str(tmp_path / "dev.jsonl")), other.replace("ann", "x")).metrics["execution"] == 100.0


def test_a_folder_has_its_splits(tmp_path: Path) -> None:
    with_tables(tmp_path)
    write(tmp_path / "train.jsonl", QUESTION, QUESTION)
    task = open_wikisql(str(tmp_path))
    assert list(task.splits) == ["train", "validation"]
    assert len(task.examples("dev")) == 1
    assert len(task.references("train")) == 2
    with pytest.raises(NotFoundError, match=r"train\.tables\.jsonl"):
        task.examples("train")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"table_id": "9"}, "the table '9' is not among the 1 tables"),
        ({"sql": {"sel": 2, "agg": 0, "conds": []}}, "the query has column 2, but its table only 2"),
        ({"sql": {"sel": 0, "agg": 0, "conds": [[7, 0, "a"]]}}, "the query has column 7"),
        ({"sql": {"sel": 0, "conds": []}}, "a query must be an object with sel, agg"),
        ({"question": None}, "question is null"),
        ({"table_id": 4}, "table_id is a int"),
    ],
)
def test_bad_questions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with_tables(tmp_path)
    write(tmp_path / "dev.jsonl", QUESTION, QUESTION | change)
    with pytest.raises(DataError, match=r"dev\.jsonl, line 2: " + message):
        open_wikisql(str(tmp_path)).examples("validation")


def test_missing_files_and_labels(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none of train\.jsonl, dev\.jsonl, test\.jsonl"):
        open_wikisql(str(tmp_path))
    with pytest.raises(SpecError, match="it has no labels"):
        open_wikisql(None, ["a"])


def test_a_row_of_the_hub() -> None:
    conditions = {"column_index": [1], "operator_index": [1], "condition": ["2"]}
    row = {"question": "Who?", "table": TABLE, "sql": {"sel": 0, "agg": 3, "conds": conditions}}
    assert hub_example(1, row).target == """ SELECT COUNT("Name") FROM table WHERE "Points" > '2\'"""
    with pytest.raises(DataError, match="row 2: not a row as expected"):
        hub_example(2, row | {"sql": {"sel": 0, "agg": 0}})


@pytest.fixture(scope="module")
def official(shared_data: Path) -> Task:
    return open_wikisql(str(shared_data / "wikisql" / "dev.jsonl"))


Change = Callable[[dict[str, Any]], object]


def changed(task: Task, change: Change) -> dict[str, float]:
    """The scores of the official queries after a change of each."""
    examples = [each for each in task.references("all") if isinstance(each, Example)]
    queries = [read_gold(each.references[0]).query.official() for each in examples]
    for query in queries:
        change(query)
    return score(task, *(json.dumps({"query": query}) for query in queries)).metrics


def in_every_condition(place: int, change: Callable[[Any], Any]) -> Change:
    def change_all(query: dict[str, Any]) -> None:
        for condition in query["conds"]:
            condition[place] = change(condition[place])

    return change_all


def test_official_row_counts(official: Task) -> None:
    examples = [each for each in official.references("all") if isinstance(each, Example)]
    golds = [read_gold(each.references[0]) for each in examples]
    assert len(examples) == 8421
    assert len({(each.prompt, gold.table_id) for each, gold in zip(examples, golds, strict=True)}) == 8391
    values = [type(condition.value) for gold in golds for condition in gold.query.conditions]
    assert [values.count(kind) for kind in (str, int, float)] == [8592, 2714, 239]


def test_every_official_query_is_right_against_itself(official: Task) -> None:
    right = {"logical_form": 100.0, "unparsable": 0.0}
    examples = [each for each in official.references("all") if isinstance(each, Example)]
    assert score(official, *(each.target for each in examples)).metrics == right
    assert changed(official, lambda content: None) == right
    assert changed(official, lambda content: random.shuffle(content["conds"])) == right


def test_every_official_query_is_wrong_with_another_column_or_aggregation(official: Task) -> None:
    wrong = {"logical_form": 0.0, "unparsable": 0.0}
    assert changed(official, lambda query: query.update(agg=(query["agg"] + 1) % len(AGGREGATIONS))) == wrong
    assert changed(official, lambda query: query.update(sel=query["sel"] + 1)) == wrong


def test_every_official_query_is_wrong_with_other_conditions(official: Task) -> None:
    unconditional = pytest.approx(100 * 64 / 8421)
    for change in (
        in_every_condition(0, lambda column: column + 1),
        in_every_condition(1, lambda operator: (operator + 1) % len(OPERATORS)),
        in_every_condition(2, lambda value: f"{value}!"),
    ):
        assert changed(official, change) == {"logical_form": unconditional, "unparsable": 0.0}
