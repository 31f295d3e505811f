from typing import Any

import pytest

from loralab.errors import DataError
from loralab.metrics.wikisql.query import Condition, Query, read_query

QUERY = Query(3, 1, (Condition(5, 0, "Butler CC (KS)"), Condition(1, 2, 2.5)))


def test_the_official_structure_and_back() -> None:
    content = {"sel": 3, "agg": 1, "conds": [[5, 0, "Butler CC (KS)"], [1, 2, 2.5]]}
    assert read_query(content | {"other": None}) == QUERY
    assert QUERY.official() == content


def test_conditions_are_a_set_and_values_lower_cased_text() -> None:
    shuffled = Query(3, 1, (Condition(1, 2, "2.5"), Condition(5, 0, "BUTLER cc (ks)"), Condition(1, 2, 2.5)))
    assert shuffled.logical_form() == QUERY.logical_form()
    assert Query(0, 0, (Condition(0, 0, 2),)).logical_form() != Query(0, 0, (Condition(0, 0, 2.0),)).logical_form()


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "must be an object with sel, agg and conds, found None"),
        ({"sel": 1, "agg": 0}, "must be an object with sel"),
        ({"sel": "1", "agg": 0, "conds": []}, "sel must be an index"),
        ({"sel": True, "agg": 0, "conds": []}, "sel must be an index, found True"),
        ({"sel": -1, "agg": 0, "conds": []}, "sel must be an index"),
        ({"sel": 1, "agg": 6, "conds": []}, "agg must be an index below 6"),
        ({"sel": 1, "agg": 0, "conds": {}}, "conds must be a list"),
        ({"sel": 1, "agg": 0, "conds": [[0, 0]]}, "a condition must be a list of column"),
        ({"sel": 1, "agg": 0, "conds": [[0, 3, "a"]]}, "an operator must be an index below 3"),
        ({"sel": 1, "agg": 0, "conds": [[0, 0, None]]}, "a string or a finite number, found None"),
        ({"sel": 1, "agg": 0, "conds": [[0, 0, False]]}, "a string or a finite number"),
        ({"sel": 1, "agg": 0, "conds": [[0, 0, float("inf")]]}, "a string or a finite number"),
    ],
)
def test_anything_else_is_an_error(content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_query(content)
