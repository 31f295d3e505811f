"""The page in a real browser: asked, answered, changed, refused; wide and narrow, light and dark."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from browsers import chromium
from loralab.serving.http.page import POLICY
from loralab.serving.http.server import Server, ServerConfig
from serving.classifying.encoders import opened as opened_base
from serving.classifying.encoders import write_encoder
from serving.http.servers import ADMIN, PROMPT, made, served, write_place

KEY = "page-key"
LONG = "a-very-long-name-" * 7


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("served"), "sql", "chat", LONG)


@pytest.fixture(scope="module")
def server(place: Path) -> Server:
    return made(place, admin_token=ADMIN)


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    yield from served(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture
def page(url: str, browser: Any) -> Iterator[Any]:
    yield from opened(browser, url)


def opened(browser: Any, url: str, **settings: Any) -> Iterator[Any]:
    """The page, which asks no one but its server, fails nowhere and breaks no policy."""
    page = browser.new_page(**settings)
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if "Security Policy" in message.text else None)
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith((url, "data:")) else None)
    page.goto(url)
    page.get_by_text(re.compile("with .* adapter")).wait_for()
    yield page
    page.close()
    assert said == []


def sides(page: Any) -> list[Any]:
    return [page.locator(".side").nth(number) for number in range(2)]


def asked(page: Any, *names: str, prompt: str = PROMPT) -> list[str]:
    """The answers of two names, without what was asked."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("New tokens").fill("8")
    for side, name in zip(sides(page), names, strict=True):
        side.locator("select").select_option(name)
    page.get_by_role("button", name="Ask").click()
    for side in sides(page):
        side.get_by_text(re.compile("first after|is empty")).wait_for()
    return [str(side.locator(".answer").text_content()).removeprefix(prompt) for side in sides(page)]


def until(page: Any, expression: str) -> None:
    """Playwright's own waiting needs `eval`, which the page's policy forbids."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never came true: {expression}")


def row(page: Any, name: str) -> Any:
    return page.locator("#adapters tr", has_text=name)


def test_two_answers_stand_side_by_side(page: Any, url: str) -> None:
    body = {"model": "sql", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    expected = httpx2.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    base, sql = asked(page, "base", "sql")
    assert (sql, base != sql) == (expected, True)
    assert re.search(r"8 tokens · [\d.]+ tokens/s · first after [\d.]+ s", sides(page)[0].text_content())


def test_a_conversation_goes_through_the_template(page: Any) -> None:
    plain = asked(page, "sql", "chat")
    page.get_by_label("As a conversation").check()
    assert asked(page, "sql", "chat") != plain


def test_an_answer_comes_in_pieces_and_can_be_stopped(page: Any, server: Server) -> None:
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("New tokens").fill("100")
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const answer = document.querySelector(".answer");
            const stop = document.querySelector("#stop");
            new MutationObserver(() => {
                if (lengths.add(answer.textContent.length).size > 3) stop.click();
            }).observe(answer, {characterData: true, subtree: true, childList: true});
        }"""
    )
    page.get_by_role("button", name="Ask").click()
    until(page, "lengths.size > 3")
    page.get_by_role("button", name="Ask both").wait_for()
    assert page.evaluate("lengths.size") < 100
    assert server.service.is_alive


def test_what_is_refused_is_said(page: Any) -> None:
    page.get_by_label("Prompt").fill("x" * 200)
    page.get_by_role("button", name="Ask").click()
    for side in sides(page):
        side.get_by_text("at most 128 fit").wait_for()
        assert "problem" in side.locator(".speed").get_attribute("class")


def test_an_adapter_that_has_gone_is_said_to_be_unknown(page: Any, server: Server) -> None:
    page.get_by_label("Prompt").fill(PROMPT)
    sides(page)[1].locator("select").select_option("chat")
    server.registry.remove("chat")
    try:
        page.get_by_role("button", name="Ask").click()
        sides(page)[1].get_by_text("no adapter is called 'chat'").wait_for()
    finally:
        server.registry.add("chat", "chat")


def test_the_list_says_what_each_is(page: Any) -> None:
    asked(page, "base", "sql")
    row(page, "sql").get_by_text("in memory").wait_for()
    line = row(page, "sql")
    assert line.locator("td").nth(1).text_content() == "2"
    assert re.fullmatch(r"[\d.]+ kB", line.locator("td").nth(2).text_content())
    if line.get_by_role("button", name="Measure").count():
        line.get_by_role("button", name="Measure").click()
    line.get_by_text(re.compile(r"[\d.]+ %")).wait_for()


def test_adapters_are_loaded_and_unloaded_with_the_token(page: Any) -> None:
    page.get_by_label("Name", exact=True).fill("fresh")
    page.get_by_label("Folder under").fill("sql")
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("the server asks for its admin token").wait_for()
    page.get_by_label("Admin token").fill(ADMIN)
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("fresh is loaded").wait_for()
    row(page, "fresh").get_by_role("button", name="Unload fresh").click()
    page.get_by_text("fresh is unloaded").wait_for()
    row(page, "fresh").wait_for(state="detached")
    page.get_by_label("Name", exact=True).fill("outside")
    page.get_by_label("Folder under").fill("../base")
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("outside of the folder").wait_for()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert kept == '[{},{},""]'


def test_a_key_is_asked_for(place: Path, browser: Any) -> None:
    for url in served(made(place, api_key=KEY)):
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("alert").get_by_text("the server asks for its API key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")
        page.get_by_text("with 3 adapters").wait_for()
        assert page.get_by_role("alert").count() == 0
        assert page.get_by_role("button", name="Load", exact=True).count() == 0, "nobody may change anything here"
        page.close()


def test_what_strangers_wrote_is_text(url: str, browser: Any) -> None:
    """Names and answers that would be markup."""
    bad = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    content = {"object": "list", "kind": "generation", "chat": True, "changes": True}
    one = {"id": bad, "rank": bad, "bytes": 1, "effect": 0.5, "requests": 0, "generated_tokens": 0, "in_memory": True}
    page = browser.new_page()
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.route("**/v1/adapters", lambda route: route.fulfill(json=content | {"base": {"id": bad}, "data": [one]}))
    answer = f'data: {{"choices": [{{"text": "{bad}"}}]}}\n\ndata: [DONE]\n\n'
    page.route("**/v1/completions", lambda route: route.fulfill(body=answer, content_type="text/event-stream"))
    page.goto(url)
    page.get_by_label("Prompt").fill(bad)
    page.get_by_role("button", name="Ask").click()
    sides(page)[1].get_by_text("1 token").wait_for()
    assert page.locator(".answer").nth(0).text_content() == bad + bad
    assert page.locator("main img, main script").count() == 0
    assert said == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_wide_and_narrow_light_and_dark(url: str, browser: Any, width: int, scheme: str) -> None:
    for page in opened(browser, url, viewport={"width": width, "height": 900}, color_scheme=scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        clipped = (
            "[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth + 1).length"
        )
        assert page.evaluate(clipped) == 0
        colours = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        paper, ink = (int(colour.split("(")[1].split(",")[0]) for colour in colours)
        assert (paper > 200 > 60 > ink) if scheme == "light" else (ink > 200 > 60 > paper)
        tops = page.locator(".side").evaluate_all("all => all.map(each => each.getBoundingClientRect().top)")
        assert (tops[0] == tops[1]) == (width == 1280), "side by side where there is room"


def test_it_is_used_by_keys_and_read_aloud(page: Any) -> None:
    nameless = """[...document.querySelectorAll('input, select, textarea, button, output')].filter(each =>
        !(each.labels?.length || each.ariaLabel || each.textContent.trim())).map(each => each.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("New tokens").fill("3")
    page.get_by_label("Prompt").press("Control+Enter")
    page.get_by_role("status").get_by_text("3 tokens").first.wait_for()


def test_the_policy_lets_nothing_else_in(url: str) -> None:
    answer = httpx2.get(url)
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_classifiers_are_compared_by_their_probabilities(tmp_path: Path, browser: Any) -> None:
    place = write_encoder("bert", tmp_path, mood=("bad", "good"), topic=("art", "law", "food"))
    loaded = opened_base(place)
    config = ServerConfig(name="base", folder=place / "adapters")
    for url in served(Server(loaded.model, loaded.tokenizer, config)):
        for page in opened(browser, url):
            page.get_by_label("Text", exact=True).fill("a fine film")
            for side, name in zip(sides(page), ("mood", "topic"), strict=True):
                side.locator("select").select_option(name)
            page.get_by_role("button", name="Ask").click()
            for side, labels in zip(sides(page), ({"bad", "good"}, {"art", "law", "food"}), strict=True):
                side.get_by_text("tokens read").wait_for()
                assert set(side.locator(".class b").all_text_contents()) == labels
            page.get_by_label("Second text").fill("a pair")
            sides(page)[0].locator("select").select_option("base")
            page.get_by_role("button", name="Ask").click()
            sides(page)[0].get_by_text("no head that was trained").wait_for()
