"""The report as one HTML page that needs nothing else: style, pictures and curves are in it, and no script."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from loralab.analysis.report.collect import Lines, ResultTable, Section
from loralab.files.whole import write_text

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 720, 260, 56, 34, 10
"""Of a curve's drawing, in its own units."""
TICKS = 4
SHORT = 12
"""Rows of a table that is shown at once; a longer one is folded, behind the pictures."""


def write_report(sections: Sequence[Section], path: Path, title: str) -> None:
    """Write the page whole."""
    style = files("loralab.analysis.report").joinpath("report.css").read_text(encoding="utf-8")
    contents = "".join(
        f'<li><a href="#section-{number}">{_text(section.kind)}: {_text(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    body = "".join(_section(section, number) for number, section in enumerate(sections))
    write_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1><nav><ul>{contents}</ul></nav></header>\n<main>\n{body}</main>\n"
        "<footer>Written by loralab. This page loads nothing from anywhere.</footer>\n</body>\n</html>\n",
    )


def _section(section: Section, number: int) -> str:
    parts = [
        f'<section id="section-{number}">\n<h2>{_text(section.title)} <small>{_text(section.kind)}</small></h2>\n'
        f'<p class="reading">{_text(section.how_to_read)}</p>\n',
        _facts(section),
        *(f"<p>{_text(sentence)}</p>\n" for sentence in section.sentences),
        _curves(section.lines) if section.lines else "",
        *(_table(table) for table in section.tables if len(table.rows) <= SHORT),
        *(_picture(path, section) for path in section.pictures),
        *(_folded(table) for table in section.tables if len(table.rows) > SHORT),
        _settings(section),
        f'<p class="source">{_text(section.folder)}</p>\n</section>\n',
    ]
    return "".join(parts)


def _facts(section: Section) -> str:
    known = {name: value for name, value in section.facts.items() if value is not None}
    if not known:
        return ""
    entries = "".join(f"<div><dt>{_text(name)}</dt><dd>{_number(value)}</dd></div>" for name, value in known.items())
    return f'<dl class="facts">{entries}</dl>\n'


def _folded(table: ResultTable) -> str:
    count = len(table.rows) + table.left_out
    return f"<details><summary>All {count} rows by {_text(table.columns[0])}</summary>{_table(table)}</details>\n"


def _table(table: ResultTable) -> str:
    first = table.rows[0] if table.rows else [""] * len(table.columns)
    head = "".join(_head(column, value) for column, value in zip(table.columns, first, strict=True))
    rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    more = f'<p class="source">and {table.left_out} more rows in the file</p>\n' if table.left_out else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n{more}'


def _head(column: str, below: Any) -> str:
    return f"<th{_aligned(below)}>{_text(column)}</th>"


def _cell(value: Any) -> str:
    return f"<td{_aligned(value)}>{_number(value)}</td>"


def _aligned(value: Any) -> str:
    return ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _picture(path: Path, section: Section) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = f"{section.kind} of {section.title}: {path.stem.replace('-', ' ')}"
    return (
        f'<figure><img alt="{_text(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(path.stem.replace('-', ' '))}</figcaption></figure>\n"
    )


def _settings(section: Section) -> str:
    if not section.settings:
        return ""
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_number(value)}</td></tr>"
        for name, value in sorted(section.settings.items())
        if value not in (None, "", False)
    )
    table = f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>The configuration</summary>{table}</details>\n"


# -- curves -------------------------------------------------------------------------------------------------------


def _curves(lines: Lines) -> str:
    """The curves as SVG, in the page's own colours; a legend below them."""
    xs = [x for each, _ in lines.values() for x in each]
    ys = [y for _, each in lines.values() for y in each if math.isfinite(y)]
    if not ys:
        return ""
    across, up = (min(xs), max(xs)), (min(ys), max(ys))
    drawn = "".join(
        f'<polyline class="line-{number}" points="{_points(x, y, across, up)}"/>'
        for number, (x, y) in enumerate(lines.values())
    )
    legend = "".join(f'<span class="line-{number}">{_text(name)}</span>' for number, name in enumerate(lines))
    return (
        f'<figure class="curves"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">'
        f"{_axes(across, up)}{drawn}</svg><figcaption>loss by step {legend}</figcaption></figure>\n"
    )


def _points(xs: Iterable[float], ys: Iterable[float], across: tuple[float, float], up: tuple[float, float]) -> str:
    return " ".join(f"{_x(x, across):.1f},{_y(y, up):.1f}" for x, y in zip(xs, ys, strict=True) if math.isfinite(y))


def _axes(across: tuple[float, float], up: tuple[float, float]) -> str:
    levels = [up[0] + (up[1] - up[0]) * number / TICKS for number in range(TICKS + 1)]
    steps = dict.fromkeys(round(across[0] + (across[1] - across[0]) * number / TICKS) for number in range(TICKS + 1))
    rows = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{_y(level, up):.1f}" y2="{_y(level, up):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{_y(level, up) + 4:.1f}" text-anchor="end">{level:.3g}</text>'
        for level in dict.fromkeys(levels)
    )
    columns = "".join(
        f'<text x="{_x(step, across):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{step:,}</text>' for step in steps
    )
    return f'<g class="axes">{rows}{columns}</g>'


def _x(value: float, across: tuple[float, float]) -> float:
    return LEFT + (WIDTH - LEFT - 2 * EDGE) * _share(value, across)


def _y(value: float, up: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - EDGE) * _share(value, up)


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5


# -- words --------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: Any) -> str:
    """Thousands separated, four significant digits; a dash where there is nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_number(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{_text(name)}={_number(each)}" for name, each in value.items())
    return _text(value)
