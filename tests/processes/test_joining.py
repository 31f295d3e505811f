"""How a process finds the others, and what is said where it does not."""

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from torch import distributed as dist

import loralab as ll
from loralab.processes.group import ALONE
from loralab.processes.joining import joined
from loralab.processes.place import ProcessPlace, is_started_by_launcher

SOON = timedelta(seconds=1)
Placed = Callable[..., None]


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Placed]:
    def place(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    place(MASTER_ADDR="127.0.0.1")
    yield place
    assert not dist.is_initialized()


def a_port() -> tuple[socket.socket, int]:
    """One that is taken as long as the socket is open."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening, listening.getsockname()[1]


def test_without_a_launcher_a_process_is_alone(placed: Placed) -> None:
    assert not is_started_by_launcher()
    assert ProcessPlace.here() == ProcessPlace(0, 1, 0)
    with joined() as processes:
        assert processes is ALONE
    placed(RANK="many", WORLD_SIZE="")
    assert ProcessPlace.here() == ProcessPlace(0, 1, 0)


def test_an_address_that_does_not_answer(placed: Placed) -> None:
    listening, port = a_port()
    listening.close()
    placed(RANK=1, WORLD_SIZE=2, MASTER_PORT=port)
    with (
        pytest.raises(
            ll.LoralabError, match=rf"process 1 of 2 did not meet the others at 127.0.0.1:{port} within 1 s"
        ) as raised,
        joined("cpu", SOON),
    ):
        pass
    assert ProcessPlace.here().says(raised.value)  # nobody else would


def test_a_port_in_use(placed: Placed) -> None:
    listening, port = a_port()
    placed(RANK=0, WORLD_SIZE=2, MASTER_PORT=port)
    with listening, pytest.raises(ll.LoralabError, match="MASTER_PORT that nobody else uses"), joined("cpu", SOON):
        pass


def test_no_address(placed: Placed) -> None:
    placed(RANK=0, WORLD_SIZE=2)
    with pytest.raises(ll.LoralabError, match=r"at 127\.0\.0\.1:no MASTER_PORT"), joined("cpu", SOON):
        pass


@pytest.mark.parametrize(
    ("variables", "device", "said"),
    [
        ({"RANK": 2, "WORLD_SIZE": 2}, "cpu", "RANK=2 and WORLD_SIZE=2"),
        ({"RANK": 0, "WORLD_SIZE": 2}, "cuda:1", "each takes the CUDA device of its number"),
        ({"RANK": 0, "WORLD_SIZE": 2}, "mps", "each takes the CUDA device of its number"),
    ],
)
def test_what_cannot_be(placed: Placed, variables: dict[str, int], device: str, said: str) -> None:
    placed(**variables)
    with pytest.raises(ll.SpecError, match=said), joined(device, SOON):
        pass


def test_who_says_an_error() -> None:
    first, other = ProcessPlace(0, 2, 0), ProcessPlace(1, 2, 1)
    error = ll.SpecError("of all")
    assert (first.says(error), other.says(error)) == (True, False)
    error.is_known_to_all = False
    assert other.says(error)
    error.is_of_a_lost_process = True
    assert not other.says(error)
