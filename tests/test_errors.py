"""errors.py: messages that a person reads, whatever the files hold that they are about."""

import pytest

import loralab as ll
from loralab.errors import LoralabError, NotFoundError, listed, some


@pytest.mark.parametrize("kind", LoralabError.__subclasses__())
def test_of_a_message_that_nobody_would_read_the_middle_is_left_out(kind: type[LoralabError]) -> None:
    long = f"the value {'x' * 10**6} is none; give a number"
    said = str(kind(long))
    assert len(said) < 4100
    assert said.startswith("the value xxx")
    assert said.endswith("is none; give a number")
    assert " … 996,033 characters … " in said
    assert str(kind("short")) == "short"
    assert isinstance(kind("short"), ll.LoralabError)


def test_of_a_folder_that_is_not_there_the_message_stands_as_it_is() -> None:
    with pytest.raises(FileNotFoundError, match=r"^no such folder$"):
        raise NotFoundError("no such folder")


def test_of_many_names_the_first_are_said() -> None:
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some(["a" * 300]) == "a" * 200 + "…"
    assert listed(["a", "b"]) == "a; b"
