"""Drawings as SVG: what is not a number is left out, bounds are kept, names are escaped and cut to fit."""

import math
import re
from xml.etree import ElementTree

import pytest

from loralab.pictures.svg import curves
from loralab.pictures.svg.cells import Cells, draw_cells
from loralab.pictures.svg.curves import Curves, Series, draw_curves
from loralab.pictures.svg.drawing import BOTTOM, TOP, Drawing, Scale, scale_of, shortened, tick_text
from loralab.pictures.svg.rows import Lane, Mark, Rows, draw_rows

NAN = math.nan


def parsed(drawing: Drawing | None) -> ElementTree.Element:
    assert drawing is not None
    return ElementTree.fromstring(drawing.svg)


def texts(drawing: Drawing | None) -> list[str]:
    return [str(each.text) for each in parsed(drawing).iter("text")]


def test_a_drawing_has_its_title_as_its_name() -> None:
    root = parsed(draw_curves(Curves("a <b> & c", "x", "y", [Series("s", [(1, 2)])])))
    assert (root.get("role"), root.get("aria-label"), root.findtext("title")) == ("img", "a <b> & c", "a <b> & c")


def test_points_that_are_no_numbers_are_left_out() -> None:
    root = parsed(draw_curves(Curves("", "x", "y", [Series("s", [(1, 2), (2, NAN), (3, math.inf), (4, 3)])])))
    (line,) = root.iter("polyline")
    assert len(str(line.get("points")).split()) == 2
    assert draw_curves(Curves("", "x", "y", [Series("s", [(1, NAN)])])) is None
    assert draw_curves(Curves("", "x", "y", [Series("s", [(0, 1)])], ratios_across=True)) is None


def test_no_axis_goes_beyond_the_bounds() -> None:
    assert scale_of([2.0, 99.0], bounds=(0, 100)) == Scale(0.0, 100.0)
    assert scale_of([40.0, 60.0], bounds=(0, 100)) == Scale(38.8, 61.2)
    assert scale_of([101.0, 102.0], bounds=(0, 100)).high == 102.0, "what is beyond them is shown"


def test_curves_end_where_their_bounds_do() -> None:
    root = parsed(draw_curves(Curves("", "x", "y", [Series("s", [(1, 100), (2, 0)])], bounds=(0, 100))))
    heights = [float(str(each.get("cy"))) for each in root.iter("circle")]
    assert heights == [TOP, curves.HEIGHT - BOTTOM], "the ends of the panel: no room above 100 or below 0"


@pytest.mark.parametrize("values", [[10.8515, 10.8538], [-0.00125, -0.00120], [1.0, 2.0]])
def test_numbers_on_the_axis_have_room(values: list[float]) -> None:
    root = parsed(draw_curves(Curves("", "x", "y", [Series("s", list(enumerate(values)))])))
    before = [each for each in root.iter("text") if each.get("text-anchor") == "end"]
    assert before
    assert all(float(str(each.get("x"))) >= 6.5 * len(str(each.text)) for each in before)


def test_a_scale_of_ratios() -> None:
    drawing = draw_curves(
        Curves("", "parameters", "y", [Series("s", [(26_000, 1), (1_200_000, 2)])], ratios_across=True)
    )
    assert [text for text in texts(drawing) if text.endswith(("k", "M"))] == ["50k", "100k", "200k", "500k", "1M"]


def test_the_middle_of_the_axis_is_the_geometric_mean() -> None:
    assert Scale(10.0, 1000.0, logarithmic=True).share(100.0) == pytest.approx(0.5)


def test_rows_say_what_is_no_number() -> None:
    drawing = draw_rows(Rows("", "x", [Lane("good", [Mark(1.0, (0.5, 1.5), "one")]), Lane("bad", [Mark(NAN)])]))
    assert {"good", "one", "bad", "not a finite number"} <= set(texts(drawing))
    assert draw_rows(Rows("", "x", [Lane("bad", [Mark(NAN)])])) is None


@pytest.mark.parametrize("value, side", [(3.0, "right"), (-3.0, "left")])
def test_bars_begin_at_the_origin(value: float, side: str) -> None:
    rows = Rows("", "x", [Lane("a", [Mark(value)]), Lane("b", [Mark(-value)])], bars=True, origin=0.0)
    root = parsed(draw_rows(rows))
    origin = float(next(each for each in root.iter("line") if each.get("class") == "origin").get("x1"))  # type: ignore[arg-type]
    first = next(root.iter("rect"))
    left, width = float(str(first.get("x"))), float(str(first.get("width")))
    assert (left if side == "right" else left + width) == pytest.approx(origin, abs=0.2)


def test_cells_of_a_large_matrix_are_thinned_and_empty_ones_left_out() -> None:
    size = 100
    grid = [[None if column < row else 1.0 * column for column in range(size)] for row in range(size)]
    drawing = draw_cells(Cells("", "x", "y", grid, 99.0, range(size), range(size)))
    cells = [each for each in parsed(drawing).iter("rect") if each.find("title") is not None]
    assert len(cells) == 32 * 33 // 2
    assert max(float(str(each.get("fill-opacity"))) for each in cells) == 1.0
    assert draw_cells(Cells("", "x", "y", [], 1.0, [], [])) is None


def test_long_names_lose_their_middle_and_stay_whole_in_the_note() -> None:
    name = "model.layers.0." + "very." * 30 + "q_proj"
    assert (len(shortened(name)), shortened(name)[-6:]) == (51, "q_proj")
    drawing = draw_rows(Rows("", "x", [Lane(name, [Mark(1.0)])]))
    assert drawing is not None
    assert name in drawing.svg
    assert max(map(len, texts(drawing))) <= 52


@pytest.mark.parametrize(
    ("values", "words"),
    [([0, 0.5, 1], ["0.0", "0.5", "1.0"]), ([5.1, 5.15], ["5.10", "5.15"]), ([-20, 0], ["−20", "0"])],
)
def test_ticks_have_the_digits_that_tell_them_apart(values: list[float], words: list[str]) -> None:
    assert [tick_text(value, values) for value in values] == words


def test_nothing_has_a_colour_of_its_own() -> None:
    drawings = [
        draw_curves(Curves("", "x", "y", [Series("s", [(1, 2), (2, 3)], [(1, 3), (2, 4)], band=True)], {"level": 2.0})),
        draw_rows(Rows("", "x", [Lane("a", [Mark(1.0)])], band=(0.0, 2.0), origin=1.0)),
        draw_cells(Cells("", "x", "y", [[1.0]], 1.0, [1], [1], marked=[(0, 0)])),
    ]
    for drawing in drawings:
        assert drawing is not None
        assert not re.search(r"#[0-9a-f]{3}|rgb|fill=|stroke=|style=", drawing.svg)
