"""What processes do together, in two real ones, and alone."""

import pytest

import loralab as ll
from launched import die_alone, fail_alone, work_together
from loralab.processes.group import ALONE
from loralab.processes.launch import run_in_processes


def test_one_process_does_the_work() -> None:
    assert ALONE.map(lambda number: number + 1, [1, 2]) == [2, 3]
    assert (ALONE.first(lambda: "a"), ALONE.together(lambda: "b"), ALONE.gather(lambda: "c")) == ("a", "b", ["c"])
    assert (ALONE.largest(3), ALONE.own([1, 2]), ALONE.shares([1, 2])) == (3, [1, 2], [[1, 2]])
    ALONE.check_alike(lambda: pytest.fail("there is nothing to compare"))


@pytest.mark.slow
def test_two_processes_share_the_work() -> None:
    said = run_in_processes(2, work_together, 1)
    assert said["own"] == [0, 1]
    assert said["first"] == "of process 0"
    assert said["map"] == [9, 1, 4]
    assert said["largest"] == 10
    assert said["taken"] == [0, 0]
    assert (said["loss"], said["gradients"]) == (1.0, [[3, 3], None, [1, 1]])
    assert said["together"] == said["gather"] == ["SpecError: asked for too much True"] * 2
    assert said["bug"] == ["ProcessError: process 1 of 2 failed: ValueError: a bug True", "ValueError: a bug None"]
    assert "a file is 1 in process 1 and 0 in process 0" in str(said["alike"])
    assert "torch" not in str(said["alike"])


@pytest.mark.slow
def test_what_one_process_alone_meets_is_said_with_its_number() -> None:
    with pytest.raises(ll.LoralabError, match="process 1 of 2: its image is broken"):
        run_in_processes(2, fail_alone, ll.DataError("its image is broken"))
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: KeyError: 'a bug'"):
        run_in_processes(2, fail_alone, KeyError("a bug"))


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_and_is_named() -> None:
    with pytest.raises(ll.LoralabError, match=r"process 1 of 2 .* was ended by signal 9 \(SIGKILL\)"):
        run_in_processes(2, die_alone)
