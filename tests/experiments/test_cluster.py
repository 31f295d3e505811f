"""Addresses at which no Ray cluster answers: an error, and soon."""

import socket
from collections.abc import Iterator
from time import perf_counter

import pytest

import loralab as ll
from loralab.experiments import cluster as clusters
from loralab.extras import lacking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking("cluster")), reason="Ray is not installed (the extra [cluster])"),
]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "refused"),
        ("nowhere.invalid:6379", "no Ray answers there"),
        ("127.0.0.1:99999", "no Ray answers there"),
        ("6379", "an address is HOST:PORT, or auto"),
        ("auto", "no Ray answers there"),
    ],
)
def test_where_nothing_is_there_is_an_error_at_once(address: str, said: str) -> None:
    started = perf_counter()
    with pytest.raises(ll.ProcessError, match=said), clusters.connected(address):
        pass
    assert perf_counter() - started < 20


def test_what_listens_and_is_no_ray_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ANSWERED_WITHIN", 8.0)
    with pytest.raises(ll.ProcessError, match="nothing in 8 s"), clusters.connected(silent):
        pass
