import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.errors import DataError
from loralab.metrics.wikisql.database import Source, Table, build_database
from loralab.metrics.wikisql.query import Condition, Query
from loralab.metrics.wikisql.score import Gold, read_gold, score_queries, write_gold
from loralab.metrics.wikisql.text import render_query

HEADER = ("Name", "Points")
QUERY = Query(0, 0, (Condition(1, 1, 2), Condition(0, 0, "Ann")))
GOLD = write_gold(Gold(QUERY, "1-2", HEADER))
TEXT = render_query(QUERY, HEADER)
OFFICIAL = QUERY.official()


def source(*rows: list[Any]) -> Source:
    table = Table(HEADER, ("text", "real"), rows)
    return partial(build_database, lambda: {"1-2": table})


def score(*predictions: str, sources: list[Source] | None = None) -> dict[str, float]:
    return score_queries(predictions, [[GOLD]] * len(predictions), sources or []).metrics


@pytest.mark.parametrize(
    "prediction",
    [
        TEXT,
        GOLD,
        json.dumps(OFFICIAL),
        json.dumps({"query": OFFICIAL}),
        json.dumps({"query": OFFICIAL, "error": ""}),
        json.dumps({"sql": OFFICIAL, "question": "?"}),
        json.dumps(OFFICIAL | {"conds": OFFICIAL["conds"][::-1]}),
        "select name from t where NAME = 'ANN' and points > '2'",
    ],
)
def test_right_in_every_form(prediction: str) -> None:
    assert score(prediction) == {"logical_form": 100.0, "unparsable": 0.0}


@pytest.mark.parametrize(
    "prediction",
    [
        TEXT.replace('"Name" FROM', '"Points" FROM'),
        TEXT.replace('"Name" FROM', 'COUNT("Name") FROM'),
        TEXT.replace(">", "<"),
        TEXT.replace("> 2", "> 3"),
        TEXT.replace("Ann", "Anne"),
        TEXT.replace(" AND \"Name\" = 'Ann'", ""),
        TEXT + " AND \"Name\" = 'Bob'",
    ],
)
def test_wrong_in_any_piece(prediction: str) -> None:
    assert prediction != TEXT
    assert score(prediction) == {"logical_form": 0.0, "unparsable": 0.0}


@pytest.mark.parametrize(
    "prediction",
    [
        "",
        "Ann",
        '{"error": "none"}',
        json.dumps({"query": OFFICIAL, "error": "none"}),
        '{"query": null}',
        "{",
        "[]",
        '{"query": {"sel": 0}}',
        "SELECT",
        "\ud800",
    ],
)
def test_what_is_no_query_is_wrong_and_counted(prediction: str) -> None:
    found = score_queries([prediction, TEXT], [[GOLD]] * 2)
    assert found.metrics == {"logical_form": 50.0, "unparsable": 1.0}
    assert found.notes[0] == "1 of 2 predictions are not a query and count as wrong"


def test_another_query_with_the_same_results_is_right_by_execution() -> None:
    other = 'SELECT "Name" FROM table WHERE "Name" = \'ann\''
    rows = source(["Ann", 5], ["Bob", 6])
    assert score(other, sources=[rows]) == {"logical_form": 0.0, "execution": 100.0, "unparsable": 0.0}
    found = score(TEXT, TEXT.replace("> 2", "> 5"), "nothing", "SELECT col7 FROM table", sources=[rows])
    assert found == {"logical_form": 25.0, "execution": 25.0, "unparsable": 2.0}


def test_execution_is_left_out_and_said_where_a_table_is_missing() -> None:
    golds = [[GOLD], [write_gold(Gold(QUERY, "9-9", HEADER))]]
    found = score_queries([TEXT] * 2, golds, [source(["Ann", 5])])
    assert found.metrics == {"logical_form": 100.0, "unparsable": 0.0}
    assert found.notes == ("execution accuracy is left out: 1 tables, such as '9-9', are not there",)


def test_tables_may_be_in_several_places() -> None:
    elsewhere = partial(build_database, lambda: {"9-9": Table(HEADER, ("text", "real"), [["Bob", 1]])})
    golds = [[GOLD], [write_gold(Gold(Query(0), "9-9", HEADER))]]
    found = score_queries([TEXT, "SELECT MAX(Name) FROM t"], golds, [source(["Ann", 5]), elsewhere])
    assert found.metrics["execution"] == 100.0


def test_a_reference_that_cannot_be_run_is_an_error() -> None:
    gold = write_gold(Gold(Query(5), "1-2", HEADER))
    with pytest.raises(DataError, match="cannot be run on table '1-2'"):
        score_queries([TEXT], [[gold]], [source(["Ann", 5])])


def test_without_the_names_columns_by_index_are_read() -> None:
    gold = write_gold(Gold(QUERY, "1-2"))
    found = score_queries([TEXT, render_query(QUERY)], [[gold]] * 2)
    assert found.metrics == {"logical_form": 50.0, "unparsable": 1.0}
    assert "without the tables only columns as col0" in found.notes[0]


@pytest.mark.parametrize(
    "reference", ["SELECT", "{}", '{"sql": 1}', '{"table_id": 1, "sql": {"sel":0,"agg":0,"conds":[]}}']
)
def test_what_is_no_reference_is_an_error(reference: str) -> None:
    with pytest.raises(DataError):
        score_queries([TEXT], [[reference]])


def test_numbers_that_do_not_pair_up() -> None:
    with pytest.raises(DataError, match="1 predictions for 2 references"):
        score_queries([TEXT], [[GOLD]] * 2)
    with pytest.raises(DataError, match="2 references for a query"):
        score_queries([TEXT], [[GOLD, GOLD]])


CONDITIONS = st.builds(Condition, st.integers(0, 1), st.integers(0, 2), st.text(max_size=5) | st.integers())


@given(st.integers(0, 1), st.integers(0, 5), st.lists(CONDITIONS, max_size=4), st.randoms())
def test_a_query_is_right_against_itself_in_any_order(
    column: int, aggregation: int, conditions: list[Condition], random: Any
) -> None:
    shuffled = random.sample(conditions, len(conditions))
    gold = write_gold(Gold(Query(column, aggregation, tuple(conditions)), "1-2", HEADER))
    assert read_gold(gold).query == Query(column, aggregation, tuple(conditions))
    prediction = render_query(Query(column, aggregation, tuple(shuffled)), HEADER)
    assert score_queries([prediction], [[gold]]).metrics["logical_form"] == 100.0
