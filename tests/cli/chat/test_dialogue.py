"""What was said, and the commands that change it."""

import pytest

from loralab.cli.chat.dialogue import COMMANDS, Dialogue
from loralab.errors import SpecError
from loralab.tasks.example import Message


def talked() -> Dialogue:
    dialogue = Dialogue(("sql", "poems"), "sql", "Be short.")
    dialogue.answered("one?", "1")
    dialogue.answered("two?", "2")
    return dialogue


def test_a_question_comes_after_all_that_was_said() -> None:
    said = [(turn.role, turn.content) for turn in talked().asked("three?")]
    assert said == [
        ("system", "Be short."),
        *(("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")),
        ("user", "three?"),
    ]


def test_a_question_that_was_not_answered_leaves_no_trace() -> None:
    dialogue = talked()
    dialogue.asked("three?")
    assert dialogue.turns[-1] == Message("assistant", "2")


def test_undo_takes_back_an_exchange() -> None:
    dialogue = talked()
    assert dialogue.obey("/undo") == "taken back: two?"
    assert [turn.content for turn in dialogue.turns] == ["one?", "1"]
    dialogue.obey("/undo")
    assert dialogue.obey("/undo") == "nothing was said yet"


def test_reset_keeps_the_system_message_and_the_speaker() -> None:
    dialogue = talked()
    dialogue.obey("/reset")
    assert [turn.role for turn in dialogue.asked("x")] == ["system", "user"]
    assert dialogue.who == "sql"


def test_adapters_take_turns() -> None:
    dialogue = talked()
    assert dialogue.obey("/adapter poems").startswith("poems answers from now on; what was said stays")
    assert dialogue.who == "poems"
    assert dialogue.obey("/base").startswith("the base answers")
    assert dialogue.who is None
    assert dialogue.obey("/adapter") == "adapters: sql, poems; the base answers"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/adapter poem", r"no adapter is called 'poem' \(did you mean poems\?\); adapters: sql, poems"),
        ("/rest", r"unknown command /rest \(did you mean reset\?\); there are /adapter, "),
        ("/", "unknown command /; there are"),
    ],
)
def test_what_there_is_not(command: str, message: str) -> None:
    dialogue = talked()
    with pytest.raises(SpecError, match=message):
        dialogue.obey(command)
    assert dialogue.who == "sql"


def test_help_explains_every_command() -> None:
    text = Dialogue().obey("/help")
    assert all(f"/{name}" in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_quit_ends_it() -> None:
    dialogue = talked()
    assert dialogue.obey("/quit") == ""
    assert dialogue.left
