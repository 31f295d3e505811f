from loralab.tasks.example import Conversation, Example, Message


def test_answers_are_the_references_or_the_target() -> None:
    assert Example("a", " b", ("c", "d")).answers() == ("c", "d")
    assert Example("a", " b").answers() == ("b",)


def test_a_conversations_answer_is_its_last_turn() -> None:
    turns = (Message("user", "hi"), Message("assistant", " hello\n"))
    assert Conversation(turns).answers() == ("hello",)
