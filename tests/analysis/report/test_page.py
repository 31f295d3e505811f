"""The page is whole, safe and quiet in a real browser, wide and narrow, light and dark."""

import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from browsers import chromium
from loralab.analysis.report.collect import collect
from loralab.analysis.report.page import write_report

LONG = "a_very_long_name_" * 12
BAD = "<script>alert(1)</script>"

Write = Callable[..., Path]


class _Addresses(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for name, value in attrs if name in ("src", "href")]


def written(folder: Path, title: str = "report") -> Path:
    page = folder / "report.html"
    write_report(collect([str(folder)]), page, title)
    return page


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(results: Path) -> None:
    text, parser = written(results, "a <report>").read_text(), _Addresses()
    parser.feed(text)
    assert all(address.startswith(("#", "data:")) for address in parser.found)
    assert "url(" not in text
    assert not {"script", "iframe", "b"} & set(parser.tags)
    assert "<title>a &lt;report&gt;</title>" in text
    assert "&lt;b&gt;tiny&lt;/b&gt;" in text
    assert "By module: all 20 rows" in text


def test_no_json_and_no_file_names_as_titles(results: Path) -> None:
    run = results / "run" / "run.json"
    record = json.loads(run.read_text())
    record["config"] |= {"rank_pattern": {"q": 4}, "targets": ["q", "v"]}
    run.write_text(json.dumps(record))
    Image.new("RGB", (30, 20)).save(results / "run/analysis/amplification.png")
    text = written(results).read_text()
    assert "{" not in text.split("</style>")[1]
    assert "Amplification of the update" in text
    assert "<img" not in text, "a drawing in the page's colours is in its place"


def test_a_picture_stands_in_for_what_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "doctor.json").write_text('{"findings": []}')
    Image.new("RGB", (30, 20)).save(tmp_path / "doctor.png")
    assert '<img alt="What is wrong with the adapter"' in written(tmp_path).read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    yield from chromium()


@pytest.fixture
def strange(results: Path, write_run: Write, write_rank: Callable[[Path, str], Path]) -> Path:
    """With what strangers have: many runs, names that are long, that are code, figures that are none."""
    rank = write_rank(write_run("r8", {"accuracy": 60.0}), "rank")
    for seed in range(20):
        write_run(f"many/{seed}", {"accuracy": 50.0 + seed % 3}, rank=1 + seed % 5, seed=seed)
    write_run(f"many/{BAD.replace('/', '')}", {"accuracy": float("nan")}, model=BAD, task=BAD)
    write_run("many/" + LONG[:120], None, model=LONG, task=LONG, data="/" + LONG)
    curve = {"module": f"model.layers.0.{LONG}", "energy": [0.5, 1.0], "effective_rank": 1.5, "rank": 2}
    (rank / "spectrum.json").write_text(json.dumps({"adapter": LONG, "modules": [curve]}))
    return results


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 700, 400])
def test_in_a_browser(strange: Path, browser: object, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[attr-defined]
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(written(strange).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth + 1)
        .map(each => each.textContent.slice(0, 100))"""
    assert page.evaluate(clipped) == []
    drawings = page.get_by_role("img")
    assert drawings.count() == page.locator("svg").count() > 20
    assert all(name.strip() for name in page.locator("svg").evaluate_all("all => all.map(e => e.ariaLabel)"))
    assert page.get_by_role("img", name="Loss by step").count() > 20
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    assert page.evaluate(smallest) >= 9, "pixels of a line of text"


def test_light_and_dark_are_other_colours(results: Path, browser: object) -> None:
    page = browser.new_page(color_scheme="light")  # type: ignore[attr-defined]
    page.goto(written(results).as_uri())
    look = """() => {
        const of = (where, what) => getComputedStyle(document.querySelector(where))[what];
        return [of('body', 'backgroundColor'), of('body', 'color'), of('polyline', 'stroke'), of('.axes text', 'fill')];
    }"""
    light = page.evaluate(look)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(look)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    brightness = [int(colour.split("(")[1].split(",")[0]) for colour in (light[0], dark[0], light[1], dark[1])]
    assert brightness[0] > 200 > 60 > brightness[1]
    assert brightness[2] < 60 < 200 < brightness[3]


def test_a_row_is_a_card_with_names_on_a_narrow_page(results: Path, browser: object) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800})  # type: ignore[attr-defined]
    page.goto(written(results / "comparison").as_uri())
    cells = "[...document.querySelectorAll('.stacked tbody tr:first-child td')]"
    named = page.evaluate(f"{cells}.map(each => getComputedStyle(each, '::before').content)")
    assert named == [f'"{name}"' for name in ("method", "trained", "accuracy", "seeds", "tokens/s", "memory, MB")]
    lines = page.evaluate(f"{cells}.map(each => each.getBoundingClientRect().top)")
    assert lines == sorted(set(lines)), "one below the other"


def test_a_long_fact_is_not_broken_within_its_words(tmp_path: Path, browser: object) -> None:
    files = ["README.md", "special_tokens_map.json", "tokenizer_config.json"]
    (tmp_path / "loralab_merge.json").write_text(
        json.dumps({"max_abs_logit_error": 1e-6, "tensors": 4, "written": files})
    )
    page = browser.new_page(viewport={"width": 1280, "height": 800})  # type: ignore[attr-defined]
    page.goto(written(tmp_path).as_uri())
    height = page.locator("dd", has_text="special_tokens_map.json").evaluate("each => each.clientHeight")
    assert height == page.locator("dd", has_text="4").first.evaluate("each => each.clientHeight"), "one line"


def test_long_tables_are_folded(results: Path, browser: object) -> None:
    page = browser.new_page()  # type: ignore[attr-defined]
    page.goto(written(results).as_uri())
    folded = page.locator("details", has_text="By module: all 20 rows")
    assert not folded.locator("table").is_visible()
    folded.locator("summary").click()
    assert folded.locator("table").is_visible()
