"""The report: what it finds in folders, and that the page is whole, safe and quiet in a real browser."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from loralab.analysis.report.collect import sections
from loralab.analysis.report.page import write_report
from loralab.errors import NotFoundError, SpecError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run, a comparison, two analyses and a merged model, as the verbs write them."""
    content = {
        "run/run.json": {
            "config": {"method": "lora", "model": "<b>tiny</b>", "task": "jsonl", "rank": 4, "targets": None},
            "result": {
                "trainable_params": 1234,
                "total_params": 99999,
                "steps": 3,
                "tokens_per_second": 12.5,
                "peak_memory_bytes": 5 * 10**8,
                "metrics": {"loss": 1.25},
            },
        },
        "comparison/results.json": {
            "metric": "accuracy",
            "rows": [
                {
                    "label": "lora r=8",
                    "trainable_params": 1000,
                    "metrics": {"accuracy": {"mean": 71.5, "sd": 0.5}},
                    "seeds": [1, 2, 3],
                    "tokens_per_second": 10.0,
                    "peak_memory_bytes": 10**9,
                }
            ],
            "claims": [
                {"claim": "LoRA is enough", "held": True, "found": "accuracy 71.5"},
                {"claim": "Rank 1 is enough", "held": None, "found": "not tested in this comparison: it needs r=1"},
            ],
        },
        "run/analysis/amplification.json": {
            "adapter": "run",
            "kinds": {"q": {"modules": 2, "amplification": 2.5}},
            "modules": [{"amplification": 2.0 + number, "name": f"layers.{number}.q"} for number in range(20)],
        },
        "merged/loralab_merge.json": {"max_abs_logit_error": 1e-6, "argmax_agreement": 1.0},
    }
    for name, each in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(each))
    steps = [{"step": n, "split": "train", "loss": 3 - 0.5 * n} for n in (1, 2, 3)]
    steps.append({"step": 3, "split": "validation", "loss": 1.6})
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    Image.new("RGB", (300, 200), "orange").save(tmp_path / "run/analysis/amplification.png")
    (tmp_path / "comparison/cells/one").mkdir(parents=True)
    shutil.copy(tmp_path / "run/run.json", tmp_path / "comparison/cells/one/run.json")
    return tmp_path


def test_results_are_found_in_and_below_the_folders(results: Path) -> None:
    found = sections([str(results / "run"), str(results / "comparison"), str(results / "merged")])
    assert [(each.kind, each.title) for each in found] == [
        ("run", "run"),
        ("amplification", "analysis"),
        ("comparison", "comparison"),
        ("merge", "merged"),
    ]
    run, analysis, comparison, _ = found
    assert run.lines == {"training": ([1, 2, 3], [2.5, 2.0, 1.5]), "held out": ([3], [1.6])}
    assert (run.facts["held-out loss"], run.facts["trained parameters"]) == (1.25, 1234)
    assert analysis.pictures == [results / "run/analysis/amplification.png"]
    assert analysis.tables[1].columns == ["name", "amplification"]
    assert comparison.tables[0].rows == [["lora r=8", 1000, "71.50 ± 0.50", 3, 10.0, 1000.0]]
    assert comparison.sentences == [
        "LoRA is enough: held. Accuracy 71.5.",
        "Rank 1 is enough: not tested in this comparison: it needs r=1.",
    ]


def test_an_unfinished_run_says_so(results: Path) -> None:
    record = json.loads((results / "run/run.json").read_text())
    del record["result"]
    (results / "run/run.json").write_text(json.dumps(record))
    (run, *_) = sections([str(results / "run")])
    assert "has not ended" in run.sentences[0]


@pytest.mark.parametrize(
    ("text", "message"), [('{"half": ', "is not complete JSON"), ("[1]", "one JSON object, and holds a list")]
)
def test_damaged_results(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "spectrum.json").write_text(text)
    with pytest.raises(SpecError, match=message):
        sections([str(tmp_path)])


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds nothing that a report shows; .*run\.json, results\.json"):
        sections([str(tmp_path)])
    with pytest.raises(NotFoundError, match="no such folder"):
        sections([str(tmp_path / "nowhere")])


class _Addresses(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(results: Path) -> None:
    page = results / "report.html"
    write_report(sections([str(results)]), page, "a <report>")
    text, parser = page.read_text(), _Addresses()
    parser.feed(text)
    assert all(address.startswith(("#", "data:")) for address in parser.found)
    assert "url(" not in text
    assert not {"script", "iframe", "b"} & set(parser.tags)
    assert "<title>a &lt;report&gt;</title>" in text
    assert "&lt;b&gt;tiny&lt;/b&gt;" in text
    assert "All 20 rows by name" in text


@pytest.fixture
def browser() -> Iterator[object]:
    """Debian's Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_in_a_browser(results: Path, browser: object, width: int, scheme: str) -> None:
    page_file = results / "report.html"
    write_report(sections([str(results)]), page_file, "report")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[attr-defined]
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.locator("polyline").count() == 2
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(background.split("(")[1].split(",")[0])
    assert (red < 60) is (scheme == "dark")
    page.locator("summary").first.click()
    assert page.locator("details[open] table").count() == 1
