"""A configuration dataclass becomes a help page: what is usually given first, what is for one method only last."""

from dataclasses import dataclass, field
from typing import Literal

from loralab.cli.help import help_page
from loralab.cli.showing import show_answer
from loralab.cli.verb import Verb


@dataclass(frozen=True)
class Sample:
    """A small configuration."""

    adapter: str = field(metadata={"positional": True})
    """Folder of the adapter."""
    model: str
    """An embedded name, a local folder, or a Hub id; a text long enough to be folded onto a second line."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Modules to adapt."""
    gate: float = field(default=0.5, metadata={"only_with": "multilora"})
    """A gate."""
    seed: int = field(default=0, metadata={"group": "run"})
    """A seed."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate goes."""
    ranks: int = field(default=1, metadata={"group": "own"})
    """A group of the verb's own."""
    rank: int = field(default=8, metadata={"group": "adapter"})
    """The rank."""


def page(*essentials: str, whole: bool = True) -> str:
    verb = Verb(Sample, lambda config: {}, show_answer, "loralab sample dir", essentials=essentials)
    return help_page("loralab sample", "Does it.", verb, whole=whole)


def titles(text: str) -> list[str]:
    return [line for line in text.splitlines() if line[:1].isalpha() and line.endswith(":")]


def test_it_fits_and_says_everything() -> None:
    text = page()
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("usage: loralab sample ADAPTER --model MODEL [flags]\n\nDoes it.\n")
    for expected in (
        "ADAPTER, --adapter PATH",
        "--targets A,B",
        "[q_proj,v_proj]",
        "--schedule linear|cosine",
        "[0.5]",
    ):
        assert expected in text


def test_groups_of_single_methods_come_last() -> None:
    groups = ["required:", "flags:", "own:", "adapter:", "run:", "only with multilora:", "every verb:", "example:"]
    assert titles(page()) == groups


def test_what_is_usually_given_comes_first_in_its_own_order() -> None:
    text = page("seed", "rank", "adapter")
    assert titles(text)[:3] == ["required:", "usually given:", "data:"]
    usual = text.partition("usually given:")[2].partition("\n\n")[0]
    assert usual.index("--seed") < usual.index("--rank")
    assert text.count("--rank N") == text.count("--adapter PATH") == 1


def test_the_short_page_names_what_it_leaves_out() -> None:
    text = page("rank", "targets", whole=False)
    assert titles(text) == ["required:", "usually given:", "own:", "more:", "every verb:", "example:"]
    assert "3 flags: data, run, and what only single methods have. --help-all" in text
    assert "--gate" not in text


def test_a_verb_of_few_flags_has_one_page() -> None:
    assert page(whole=False) == page(whole=True)
    assert "--help-all" not in page()
