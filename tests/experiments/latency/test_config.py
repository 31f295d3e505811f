import pytest

from loralab.errors import SpecError
from loralab.experiments.latency.config import InputSize, LatencyConfig


def config(**changes: object) -> LatencyConfig:
    return LatencyConfig(model="m", **changes)


def test_the_settings_named_then_the_grid_each_once() -> None:
    asked = config(settings=("2x64", "1X128"), batches=(1, 2), sequences=(64, 128))
    asked.validate()
    assert list(map(str, asked.all_settings())) == ["2x64", "1x128", "1x64", "2x128"]
    assert asked.all_settings()[0] == InputSize(2, 64)
    assert asked.all_settings()[0].tokens == 128


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": ("16",)}, "setting '16': write batch and sequence like 16x256"),
        ({"settings": ("0x128",)}, "setting '0x128'"),
        ({"settings": ()}, "there are no settings"),
        ({"settings": (), "batches": (1,)}, "a grid has both batches and sequences"),
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": (10, 0)}, "sizes 0: it must be a whole number from 1"),
        ({"rank": 0}, "rank 0"),
        ({"rounds": 0}, "rounds 0"),
        ({"threads": 0}, "threads 0"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        config(**changes).validate()


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(SpecError, match=r"setting 'x'.*rank -1.*sizes is empty"):
        config(settings=("x",), rank=-1, sizes=()).validate()
