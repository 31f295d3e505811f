"""The report as one HTML page that needs nothing else: style and drawings are in it, and no script.

Drawings are made here from the JSON of the results, not taken from the PNG files beside them: they follow the page's
colours, light and dark, have readable words on a telephone, and results of runs without matplotlib have them too.
"""

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from loralab.analysis.report.collect import Collected
from loralab.analysis.report.section import Section
from loralab.analysis.report.summary import Ranked, Summary, summary
from loralab.analysis.report.tables import SHORT, settings_html, table_html
from loralab.analysis.report.words import number_text
from loralab.files.whole import write_text
from loralab.pictures.svg.drawing import Drawing, escaped, series_class

RANKED = 30
"""Rows of a ranking that are shown at once."""
LONG_FACT = 24
"""Letters that a column of facts has room for."""
MANY = 12
"""Sections above which the contents and all runs are folded."""


def write_report(collected: Collected, path: Path, title: str) -> None:
    """Write the page whole."""
    style = files("loralab.analysis.report").joinpath("report.css").read_text(encoding="utf-8")
    many = len(collected.sections) > MANY
    body = "".join(_section(section, number, many) for number, section in enumerate(collected.sections))
    write_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escaped(title)}</h1></header>\n<main>\n{_summary(summary(collected))}"
        f"{_contents(collected, many)}{body}</main>\n{_footer(collected)}</body>\n</html>\n",
    )


def _contents(collected: Collected, many: bool) -> str:
    entries = "".join(
        f'<li><a href="#section-{number}">{escaped(section.title)}</a> <small>{escaped(section.folder)}</small></li>'
        for number, section in enumerate(collected.sections)
    )
    head = f"<details{'' if many else ' open'}><summary>{len(collected.sections)} results</summary>"
    return f'<nav aria-label="Contents">{head}<ol>{entries}</ol></details></nav>\n'


def _footer(collected: Collected) -> str:
    ignored = "".join(f"<li>{escaped(each)}</li>" for each in collected.ignored)
    aside = f"<p>Left aside:</p><ul>{ignored}</ul>" if ignored else ""
    return f"<footer>{aside}<p>Written by loralab. This page loads nothing from anywhere.</p></footer>\n"


# -- the summary --------------------------------------------------------------------------------------------------


def _summary(found: Summary) -> str:
    parts = [
        *(f"<p>{escaped(sentence)}</p>\n" for sentence in found.sentences),
        *map(_ranked, found.rankings),
        _steps(found),
    ]
    return f'<section id="summary">\n<h2>Summary</h2>\n{"".join(parts)}</section>\n' if any(parts) else ""


def _ranked(ranked: Ranked) -> str:
    said = "".join(f"<p><strong>{escaped(sentence)}</strong></p>\n" for sentence in ranked.sentences[:1])
    said += "".join(f"<p>{escaped(sentence)}</p>\n" for sentence in ranked.sentences[1:])
    drawn = _drawings([ranked.drawing] if ranked.drawing else [])
    return f'<div class="ranking">\n{said}{table_html(ranked.table, RANKED)}{drawn}</div>\n'


def _steps(found: Summary) -> str:
    items = "".join(
        f"<li>{escaped(step.why)}<pre><code>{_command(step.command)}</code></pre></li>\n" for step in found.steps
    )
    return f'<h3>Next</h3>\n<ul class="steps">\n{items}</ul>\n' if items else ""


def _command(command: str) -> str:
    """Every word whole where it fits: a browser would break a line behind a hyphen."""
    return " ".join(f"<span>{escaped(word)}</span>" for word in command.split(" "))


# -- a section ----------------------------------------------------------------------------------------------------


def _section(section: Section, number: int, many: bool) -> str:
    head = f'<h2>{escaped(section.title)}</h2>\n<p class="source">{escaped(section.folder)}</p>\n'
    body = "".join(
        [
            f'<p class="reading">{escaped(section.how_to_read)}</p>\n',
            *(f"<p>{escaped(sentence)}</p>\n" for sentence in section.sentences),
            _facts(section),
            _drawings(section.drawings),
            *(_picture(path, section) for path in section.pictures),
            *map(table_html, sorted(section.tables, key=lambda table: len(table.rows) > SHORT)),
            settings_html(sorted(section.settings.items())),
        ]
    )
    if many and section.kind == "run":
        body = f"<details><summary>Figures, curve and configuration</summary>{body}</details>\n"
    return f'<section id="section-{number}">\n{head}{body}</section>\n'


def _facts(section: Section) -> str:
    known = {name: value for name, value in section.facts.items() if value is not None}
    if not known:
        return ""
    entries = "".join(
        f"<div{_wide(value)}><dt>{escaped(name)}</dt><dd>{number_text(value)}</dd></div>"
        for name, value in known.items()
    )
    return f'<dl class="facts">{entries}</dl>\n'


def _wide(value: Any) -> str:
    """A fact that would be broken within its words has a line of its own."""
    return ' class="long"' if isinstance(value, str) and len(value) > LONG_FACT else ""


def _drawings(drawings: Sequence[Drawing]) -> str:
    figures = "".join(
        f"<figure><figcaption>{escaped(drawing.title)}</figcaption>{drawing.svg}{_legend(drawing)}</figure>\n"
        for drawing in drawings
    )
    return f'<div class="drawings">{figures}</div>\n' if figures else ""


def _legend(drawing: Drawing) -> str:
    if len(drawing.legend) <= 1:
        return ""
    names = "".join(
        f'<li class="{series_class(number)}"><span>{escaped(name)}</span></li>'
        for number, name in drawing.legend.items()
    )
    return f'<ul class="legend">{names}</ul>'


def _picture(path: Path, section: Section) -> str:
    """What this version cannot draw: the PNG as the analysis wrote it, black on white."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escaped(section.title)}" src="data:image/png;base64,{data}"></figure>\n'
