import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.errors import DataError
from loralab.metrics.wikisql.query import AGGREGATIONS, OPERATORS, Condition, Query
from loralab.metrics.wikisql.text import column_text, parse_query, render_query

HEADER = ("Player", "No.", "Team", "team", "Team", "", "Points Per Game", 'A "b" c', "W > L", "Max")

PIECES = ["col1", "SELECT", " FROM table", " WHERE ", " AND ", " = ", ">", *"'\"`();", "COUNT(", "é\n", "\0"]
TEXTS = st.text(max_size=6) | st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def queries(draw: st.DrawFn) -> tuple[Query, list[str]]:
    """A query of a table, and the table's header; or a header of none, where it is not known."""
    header = draw(st.lists(TEXTS, max_size=5))
    columns = st.integers(0, len(header) - 1 if header else 9)
    condition = st.builds(Condition, columns, st.integers(0, len(OPERATORS) - 1), TEXTS | NUMBERS)
    conditions = draw(st.lists(condition, max_size=4))
    return Query(draw(columns), draw(st.integers(0, len(AGGREGATIONS) - 1)), tuple(conditions)), header


@given(queries())
def test_what_is_rendered_is_read_back(drawn: tuple[Query, list[str]]) -> None:
    query, header = drawn
    assert repr(parse_query(render_query(query, header), header)) == repr(query)


def test_the_one_form() -> None:
    query = Query(0, 3, (Condition(7, 0, "O'Bryan"), Condition(1, 1, 20), Condition(4, 2, 0.5)))
    selection, conditions = render_query(query, HEADER).split(" WHERE ")
    assert selection == 'SELECT COUNT("Player") FROM table'
    assert conditions.split(" AND ") == ['"A ""b"" c" = ' + "'O''Bryan'", '"No." > 20', "col4 < 0.5"]
    assert render_query(Query(1), ()) == "SELECT col1 FROM table"


def test_columns_that_share_a_name_or_have_none_go_by_index() -> None:
    names = [column_text(column, HEADER) for column in range(len(HEADER))]
    assert names[:6] == ['"Player"', '"No."', "col2", '"team"', "col4", "col5"]
    assert names[6:] == ['"Points Per Game"', '"A ""b"" c"', '"W > L"', '"Max"']
    assert column_text(10, HEADER) == "col10"


@pytest.mark.parametrize(
    "text",
    [
        """SELECT COUNT("Player") FROM table WHERE "No." = '3' AND "Points Per Game" > 2""",
        """  select count ( "player" ) from table_1_2 where "no." = '3' and "points  per GAME" > 2 ; """,
        """SELECT COUNT(`Player`) FROM "my table" WHERE `No.`='3' AND `Points Per Game`>2""",
        """SELECT COUNT(Player) FROM table WHERE No. = "3" AND Points Per Game > 2""",
        """SELECT COUNT col0 FROM table WHERE col1 = "3" AND col6 > 2""",
        """SELECT COUNT Player FROM table WHERE "col1" == '3'AND Points per game > 2""",
    ],
)
def test_other_spellings_of_the_same_query(text: str) -> None:
    assert parse_query(text, HEADER) == Query(0, 3, (Condition(1, 0, "3"), Condition(6, 1, 2)))


@pytest.mark.parametrize(
    "value, read",
    [
        ("3", 3),
        ("-0.5e2", -50.0),
        ("007", "007"),
        ("2,003", "2,003"),
        ("1e999", "1e999"),
        ("rock and roll", "rock and roll"),
        ("John O'Bryan", "John O'Bryan"),
        ("a = b AND c", "a = b AND c"),
        ("'a' ", "a"),
        ('"its"', "its"),
        ("''", ""),
    ],
)
def test_values(value: str, read: str | float) -> None:
    query = parse_query(f"SELECT A FROM t WHERE B = 1 AND W > L = {value} AND No. < 4", ("A", "B", "W > L", "No."))
    assert repr(query.conditions) == repr((Condition(1, 0, 1), Condition(2, 0, read), Condition(3, 2, 4)))


def test_a_name_that_begins_as_an_aggregation() -> None:
    assert parse_query("SELECT Max FROM t", HEADER) == Query(9)
    assert parse_query("SELECT MAX(Max) FROM t", HEADER) == Query(9, 1)
    assert parse_query("SELECT COUNT(x) FROM t", ("x", "COUNT(x)")) == Query(0, 3)
    with pytest.raises(DataError):
        parse_query("SELECT Max speed FROM t", ("speed", "Max speed"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the player",
        "SELECT FROM table",
        "SELECT * FROM table",
        "SELECT COUNT(*) FROM table",
        "SELECT Player",
        "SELECT Player, Max FROM table",
        "SELECT Unknown FROM table",
        'SELECT "Team" FROM table',
        "SELECT TEAM FROM table",
        "SELECT col99 FROM table",
        "SELECT COUNT(Player FROM table",
        "SELECT Player FROM table WHERE",
        "SELECT Player FROM table WHERE Max",
        "SELECT Player FROM table WHERE Max >= 3",
        "SELECT Player FROM table WHERE Max <> 3",
        "SELECT Player FROM table WHERE Max != 3",
        "SELECT Player FROM table WHERE Max =",
        "SELECT Player FROM table WHERE Max = 'abc",
        "SELECT Player FROM table WHERE Max = 'abc' OR Max = 'd'",
        "SELECT Player FROM table WHERE Max = 'abc' AND",
        "SELECT Player FROM table ORDER BY Max",
        "SELECT Player FROM table; SELECT Max FROM table",
        "INSERT INTO table VALUES (1)",
    ],
)
def test_what_is_no_query_or_unclear_is_an_error(text: str) -> None:
    with pytest.raises(DataError):
        parse_query(text, HEADER)


def test_without_a_header_columns_go_by_index_alone() -> None:
    assert parse_query("select min(COL7) from t where `col2` < 'x'") == Query(7, 2, (Condition(2, 2, "x"),))
    with pytest.raises(DataError, match="does not begin with SELECT, one of the columns"):
        parse_query("SELECT Player FROM table")


@pytest.mark.parametrize("noise", [" " * 20000, "AND col0 = " * 2000, "(" * 20000, "'" * 20001, "FROM t " * 3000])
def test_odd_texts_are_read_or_refused_and_nothing_else(noise: str) -> None:
    for prefix in ("SELECT ", "SELECT col0 FROM t WHERE col1 = ", "SELECT COUNT("):
        try:
            read = parse_query(prefix + noise, ("a",))
        except DataError:
            continue
        assert read.column == 0


def test_numbers_keep_all_digits() -> None:
    for value, sign in product([0.1 + 0.2, 1e22, 5e-324, 2.0**70, 10**30, math.pi], [1, -1]):
        query = Query(0, 0, (Condition(0, 0, sign * value),))
        assert repr(parse_query(render_query(query))) == repr(query)
